//! The traffic suite: real sockets through the real daemon, in namespaces, every test once for each
//! datapath and judged by the bytes alone. `copy` is the reference; a datapath that differs is wrong.

mod bypass;
mod conntrack;
mod cost;
mod express;
mod flood;
mod ground;
mod half_close;
mod handover;
mod integrity;
mod limits;
mod lost_syn;
mod moved;
mod mtu;
mod offload;
mod order;
mod overlap;
mod pattern;
mod peered;
mod reset;
mod snat;
mod stage;
mod stall;
mod switch;

use switchmaster_tests::{on_each_datapath, on_each_proxy, on_each_way};
