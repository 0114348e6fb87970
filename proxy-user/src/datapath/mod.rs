//! How the bytes of a connection move once both its ends are connected. A datapath never knows
//! Sentinel; it knows leases. Promises for every datapath: bytes arrive once, in order, or the
//! connection ends by RST; a half-close is passed on after the bytes before it; nothing moves
//! while the lease is not free; a pause loses nothing and ends nothing.

mod bypass;
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
mod spaces;
mod splice;
mod steering;
mod syn;
mod tc;
mod tcp_info;
mod worker;
mod xdp;

use std::{
    net::{IpAddr, SocketAddr, TcpStream},
    sync::Arc,
    time::{Duration, Instant},
};

use proxy_ebpf::TargetKey;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

pub use self::{
    bypass::{
        Bypass, Error as BypassError, Setup as BypassSetup, discard as discard_bypass,
        discard_elsewhere as discard_bypass_elsewhere, selftest as selftest_bypass,
    },
    copy::Copy,
    selftest::{SelfTestError, selftest},
    sockmap::{Error as SockmapError, Sockmap},
    steering::{
        Error as SteeringError, Prepared as PreparedSteering, Route as SteeringRoute, Setup as SteeringSetup, Steering,
        discard as discard_steering, discard_elsewhere as discard_steering_elsewhere,
    },
    syn::{Arrival, Ends, Onward, Syn, SynError, SynGate, Syns, Turn},
    tc::{Claim, Error as TcError, Hold, Parts as TcParts, Setup as TcSetup, Tc},
    xdp::{Error as XdpError, Panel as XdpPanel, Standing as XdpStanding, Xdp},
};
use crate::target::{Lease, Load};

/// A client and the node it was connected to, both as [`crate::socket::tune`] leaves them.
#[derive(Debug)]
pub struct Connection {
    pub client: TcpStream,
    pub node: TcpStream,
    pub lease: Lease,
    pub traffic: Arc<Traffic>,
    /// Zero: never.
    pub idle_timeout: Duration,
    pub place: Place,
}

/// A client whose node is still to be dialled.
#[derive(Debug)]
pub struct Call {
    pub client: TcpStream,
    pub node: SocketAddr,
    pub lease: Lease,
    pub traffic: Arc<Traffic>,
    /// Zero: never.
    pub idle_timeout: Duration,
    pub place: Place,
    pub caller: Box<dyn Caller>,
}

/// Who has a client's node dialled, and hears how that went, once.
pub trait Caller: Send + std::fmt::Debug {
    /// Whether new connections are still made to the node under this lease.
    fn stands(&self, lease: &Lease) -> bool;
    /// The datapath moves the client's bytes now.
    fn reached(&self, generation: u64);
    /// The client is given back.
    fn missed(&self, client: TcpStream, place: Place, lease: Lease, why: Missed);
}

/// Why a client's node was not reached.
#[derive(Debug)]
pub enum Missed {
    /// Nothing was begun: there is no file for it, or nobody who dials.
    Unbegun,
    /// Its node is none any more, or nothing may pass there now.
    Moved,
    /// It has failed, or takes its time.
    Begun(std::io::Result<TcpStream>),
}

impl Call {
    pub(crate) fn miss(self, why: Missed) {
        let Self { client, lease, place, caller, .. } = self;
        caller.missed(client, place, lease, why);
    }
}

/// Its place among the route's `max_connections`, until this is dropped.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
    _claim: Claim,
}

impl Place {
    pub fn new(permit: OwnedSemaphorePermit, claim: Claim) -> Self {
        Self { _permit: permit, _claim: claim }
    }
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
    /// The latest generation at the time of the order: who carries it out late finds connections of later ones, which live.
    pub latest: u64,
    /// Each worker reports once, when its clients are reset; all are when the channel closes.
    pub done: mpsc::UnboundedSender<Severed>,
}

/// A slot that a node holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Share {
    pub key: TargetKey,
    pub node: SocketAddr,
    /// It takes new connections.
    pub open: bool,
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
    /// Dials the node and takes the pair over; what is not reached within [`crate::socket::HANDSHAKE`], or fails, or has
    /// moved meanwhile, goes back to the caller. A datapath that does not dial gives it back at once.
    fn dial(&self, call: Call) {
        call.miss(Missed::Unbegun);
    }
    fn sever(&self, order: &Sever);
    /// The gate of `key`, which was paused, is open again: what stood still goes on at once.
    fn resume(&self, key: TargetKey);
    /// A node that the map may lead to one day: what takes time is made ready.
    fn meet(&self, _node: SocketAddr) {}
    /// The map will lead `key` to this node next, and leads nowhere yet: what the kernel has to know of the way
    /// there is written now.
    fn lead(&self, _key: TargetKey, _node: SocketAddr) {}
    /// Among which slots new connections of a route are to be shared out now, and which others it has. The map says so
    /// already, slot by slot.
    fn share(&self, _route: u32, _slots: &[Share]) {}
    /// Counts the connections of a slot, together with those that it carries without one of ours.
    fn load(&self, _key: TargetKey) -> Load {
        Load::default()
    }
    /// The slot to which it would lead this client by its address, among the usable ones; None: it has no such rule.
    fn drawn_to(&self, _client: IpAddr, _usable: &dyn Fn(TargetKey) -> bool) -> Option<TargetKey> {
        None
    }
    /// Its connections go on when the daemon is killed, and the next one finds them.
    fn outlives(&self) -> bool {
        false
    }
    /// The listener takes no more clients: neither is a new connection made elsewhere.
    fn close(&self) {}
    /// Connections that it carries without one of ours: they are in nobody's `adopt`.
    fn flows(&self) -> u64 {
        0
    }
    /// Those among them whose clients were led to their node, and have no hop.
    fn steered(&self) -> u64 {
        0
    }
    /// Those among these whose requests are bypassed.
    fn bypassed(&self) -> u64 {
        0
    }
    /// Bytes of payload of those, to nodes and to clients.
    fn carried(&self) -> [u64; 2] {
        [0; 2]
    }
    /// When the first of those was established, or led to its node, under the generation that came last.
    fn first_flow(&self) -> Option<Instant> {
        None
    }
    /// The SYNs of the route, where it takes them aside: its listener asks once, and parks them from then on.
    fn syns(&self) -> Option<Syns> {
        None
    }
    /// A place for a connection that the listener accepts, where those without count too; None: all `most` are taken.
    fn claim(&self, _most: u32) -> Option<Claim> {
        Some(Claim::default())
    }
}
