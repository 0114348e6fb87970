//! The daemon's half of the packet datapaths (the ABI: `proxy_ebpf::nat`): what it reads of the flows that the
//! kernel keeps, and what it does for them. Everything that a packet needs at once is the kernel program's.
//!
//! - `keeper`: the thread that does all this in turn; `heart`: its sign of life for the kernel;
//! - `doors`: what clients dial; `egress`, `exits`: how a node is reached, and as whom;
//! - `globals`: what all packets are told: the heartbeat, doors, own addresses;
//! - `balancer`, `maglev`: among which slots new flows are shared out; `loads`: how much each slot has to do;
//! - `ports`, `sockets`: the source ports that are ours alone;
//! - `flows`, `index`, `pool`: the table of flows, where each client's is, and its free places; `collector`: frees what has ended, by the rules in `fate`; `carried`: their bytes;
//! - `audit`: puts right what a killed daemon left half done; `numbers`: by which number each route goes on;
//! - `segment`, `reset`: the RST to both ends of a flow;
//! - `aside`, `syn`: SYNs that wait for a node, out of the kernel and in again;
//! - `native`: which interfaces a program at XDP can work on; `outs`: which of them the program may send by itself, and which veths it passes by; `links`, `veth`: what both ask.
//!
//! The maps outlive the daemon (`kernel::life`); the next one is told by `datapath::tc` what of them it goes on with.
//!
//! Tested, and called by nobody yet: `watch` (changes of the network; the keeper looks every second), and of
//! `reservation` all but the check (ports reserved for as long as we run).
//!
//! Never knows Sentinel or the election: who lives and who has ended is told to it.

pub mod address;
pub mod aside;
pub mod audit;
pub mod balancer;
pub mod carried;
pub mod claim;
pub mod collector;
pub mod doors;
pub mod egress;
pub mod exits;
pub mod fate;
pub mod flows;
pub mod globals;
pub mod heart;
pub mod index;
pub mod keeper;
pub mod links;
pub mod loads;
pub mod maglev;
pub mod native;
pub(crate) mod netlink;
pub mod numbers;
pub mod outs;
pub mod pool;
pub mod ports;
pub mod reservation;
pub mod reset;
pub mod segment;
pub mod sockets;
pub mod syn;
pub mod ticks;
mod veth;
pub mod watch;

#[cfg(test)]
mod tests;
