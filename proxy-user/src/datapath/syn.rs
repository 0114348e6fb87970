//! SYNs that a packet datapath takes aside while a route leads nowhere: the listener parks them beside the clients
//! that it has accepted, and says when each goes on. A SYN is its client's only sign of life; no socket belongs to it.

use std::{fmt, net::SocketAddr, sync::Arc};

use tokio::sync::mpsc;

/// Whose connection a SYN begins: the client's address, and the one that it dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ends {
    pub client: SocketAddr,
    pub door: SocketAddr,
}

/// A SYN as it came in, ready to come in again.
#[derive(Clone, PartialEq, Eq)]
pub struct Syn {
    pub ends: Ends,
    pub sequence: u32,
    /// The interface that it came in at.
    pub ifindex: u32,
    /// From its Ethernet header on, with every checksum right.
    pub frame: Vec<u8>,
}

impl fmt::Debug for Syn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ends, sequence, .. } = self;
        write!(f, "SYN {sequence} {} -> {}", ends.client, ends.door)
    }
}

/// What a client did whose SYN may be parked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    Syn(Syn),
    /// It sent RST: it gives up the attempt whose RST may have this sequence number.
    Gone(Ends, u32),
}

/// Where a parked SYN goes on to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Onward {
    /// Where the route leads.
    Node,
    /// To the listener's socket, which says why not.
    Listener,
}

/// What becomes of the SYNs that come in from now on; see [`proxy_ebpf::parking::turn`], also for who is led without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// While the route leads somewhere they go there; else they are taken aside.
    Free,
    /// They are taken aside: others go first.
    Held,
    /// They are taken aside: a rate holds for all who arrive.
    Paced,
    /// They are the listener's: there is no room for them.
    Full,
    /// Everybody is the listener's.
    Listener,
}

#[derive(Debug, thiserror::Error)]
#[error("the kernel takes a parked SYN not back: {0}")]
pub struct SynError(pub String);

/// The way of a route's SYNs, in and out.
pub trait SynGate: Send + Sync + fmt::Debug {
    fn set(&self, turn: Turn);
    /// Has the SYN come in again. If it cannot go on then, it is taken aside again.
    fn send(&self, syn: &Syn, onward: Onward) -> Result<(), SynError>;
}

/// What a route's listener gets to park SYNs.
#[derive(Debug)]
pub struct Syns {
    pub gate: Arc<dyn SynGate>,
    pub arrivals: mpsc::Receiver<Arrival>,
}
