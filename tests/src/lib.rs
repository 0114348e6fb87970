//! The harness: network namespaces, real Redis and Sentinel, the daemon and its peers, and clients
//! that keep account of what they saw. Blocking throughout: a test is a thread.
//! Everything it starts or makes is gone when it is dropped, also after a panic, SIGINT or SIGKILL
//! (what a killed test could not remove, the next one sweeps). Needs root.

pub mod client;
pub mod daemon;
pub mod flood;
pub mod http;
pub mod instrument;
pub mod lab;
mod local;
pub mod memory;
pub mod netns;
pub mod node;
mod patient;
pub mod peer;
pub mod process;
pub mod redis;
pub mod sweep;
pub mod wait;

pub use self::{
    client::{Client, Subscriber, Writer},
    daemon::Daemon,
    flood::Flood,
    lab::Lab,
    local::LocalWay,
    netns::{Namespace, Spoke, World},
    node::FakeNode,
    patient::Patient,
    peer::{HaProxy, Nat, Nginx, Style, Twemproxy},
    redis::{Cluster, Spec},
};

/// A module of one test for each way, named after the function that does them all.
#[doc(hidden)]
#[macro_export]
macro_rules! tests_of {
    ($test:ident: $($way:ident)+) => {
        mod $test {
            $(#[test]
            fn $way() {
                super::$test(stringify!($way));
            })+
        }
    };
}

/// Each named function, which takes a datapath's name, becomes a module of one test for each datapath.
#[macro_export]
macro_rules! on_each_datapath {
    ($($test:ident),+ $(,)?) => {
        $($crate::tests_of!($test: copy sockmap tc xdp);)+
    };
}

/// The same, and also for clients on the daemon's own host: led to a node there, and bypassed too.
#[macro_export]
macro_rules! on_each_way {
    ($($test:ident),+ $(,)?) => {
        $($crate::tests_of!($test: copy sockmap tc xdp steered bypassed);)+
    };
}

/// The same, for what only a datapath with connections of its own does.
#[macro_export]
macro_rules! on_each_proxy {
    ($($test:ident),+ $(,)?) => {
        $($crate::tests_of!($test: copy sockmap);)+
    };
}
