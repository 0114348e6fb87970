//! How the bytes of a connection move once both its ends are connected. A datapath never knows
//! Sentinel; it knows leases. Promises for every datapath: bytes arrive once, in order, or the
//! connection ends by RST; a half-close is passed on after the bytes before it; nothing moves
//! while the lease is not free; a pause loses nothing and ends nothing.

mod copy;
mod crew;
mod end;
mod flow;
mod handover;
mod mailbox;
mod pair;
mod relay;
mod room;
mod selftest;
mod sockmap;
mod splice;
mod tcp_info;
mod worker;

use std::{
    net::TcpStream,
    sync::Arc,
    time::{Duration, Instant},
};

use proxy_ebpf::TargetKey;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub use self::{
    copy::Copy,
    selftest::{SelfTestError, selftest},
    sockmap::{Error as SockmapError, Sockmap},
};
use crate::target::Lease;

/// A client and the node it was connected to, both non-blocking.
#[derive(Debug)]
pub struct Connection {
    pub client: TcpStream,
    pub node: TcpStream,
    pub lease: Lease,
    pub traffic: Arc<Traffic>,
    /// Zero: never.
    pub idle_timeout: Duration,
    /// Its place among the route's `max_connections`.
    pub place: OwnedSemaphorePermit,
}

/// Payload bytes of a route, both ways.
#[derive(Debug, Default)]
pub struct Traffic {
    pub to_node: std::sync::atomic::AtomicU64,
    pub to_client: std::sync::atomic::AtomicU64,
}

/// An order to end by RST every connection under `key` whose generation is not `keep`.
#[derive(Debug, Clone)]
pub struct Sever {
    pub key: TargetKey,
    pub keep: u64,
    /// Each worker reports once; the order is carried out when the channel closes.
    pub done: mpsc::UnboundedSender<Severed>,
}

#[derive(Debug, Clone, Copy)]
pub struct Severed {
    pub connections: usize,
    /// None if there was none.
    pub first: Option<Instant>,
    pub last: Instant,
}

pub trait Datapath: Send + Sync + std::fmt::Debug {
    /// The name used in the configuration, in logs and metrics.
    fn name(&self) -> &'static str;
    /// Takes over a connected pair: from here on the datapath moves its bytes and ends it.
    fn adopt(&self, connection: Connection);
    fn sever(&self, order: &Sever);
    /// The gate of `key`, which was paused, is open again: what stood still goes on at once.
    fn resume(&self, key: TargetKey);
}
