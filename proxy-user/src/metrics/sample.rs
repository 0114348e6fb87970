//! The state of the daemon as one scrape sees it. The daemon fills it from the election's verdict,
//! from discovery's status and from the kernel's counters; nothing here is kept between scrapes.

use std::{collections::BTreeMap, net::SocketAddr};

use proxy_ebpf::{bypass, counter, nat::packet, steering, xdp::fate};

use crate::{
    config::Name,
    election::{Reason, Role, Target, Way},
};

/// Asked at each scrape; must answer without waiting.
pub trait Source: Send + Sync {
    fn snapshot(&self) -> Snapshot;
}

#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub groups: Vec<GroupSample>,
    pub routes: Vec<RouteSample>,
    /// The sums over all CPUs of the kernel's `counters` map; None while sockmap is not loaded.
    pub sockmap: Option<[u64; counter::COUNT as usize]>,
    /// The same of the packet program's `packets`; None while no route has one.
    pub packets: Option<[u64; packet::COUNT as usize]>,
    /// And of the program at XDP; None while it serves no route.
    pub xdp: Option<[u64; fate::COUNT as usize]>,
    /// And of the programs at the cgroup; None without steering.
    pub steering: Option<[u64; steering::count::COUNT as usize]>,
    /// And of the bypass; None without.
    pub bypass: Option<BypassSample>,
}

#[derive(Debug, Clone)]
pub struct BypassSample {
    /// By `proxy_ebpf::bypass::count`.
    pub counts: [u64; bypass::count::COUNT as usize],
    /// Clients that have dialled a node themselves.
    pub direct: u64,
    /// What waits for readers, in bytes.
    pub waiting: u64,
}

#[derive(Debug, Clone)]
pub struct GroupSample {
    pub name: Name,
    pub way: Way,
    pub reason: Reason,
    pub master: Option<Target>,
    /// The highest epoch decided so far.
    pub epoch: u64,
    pub sentinels: Vec<SentinelSample>,
    pub nodes: Vec<NodeSample>,
}

#[derive(Debug, Clone)]
pub struct SentinelSample {
    pub addr: SocketAddr,
    /// It answers for this group now.
    pub up: bool,
    pub epoch: Option<u64>,
    /// Whom it names.
    pub master: Option<SocketAddr>,
    /// `answered` and `failed`.
    pub polls: Counts,
    pub events: u64,
}

#[derive(Debug, Clone)]
pub struct NodeSample {
    pub addr: SocketAddr,
    pub role: NodeRole,
    /// `answered`, and the failed ones by discovery's word for the failure.
    pub probes: Counts,
    pub lag_seconds: Option<u64>,
    pub lag_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct RouteSample {
    pub name: Name,
    pub datapath: &'static str,
    /// Connections paired with a node now.
    pub connections: u64,
    /// Those of them that have no hop.
    pub steered: u64,
    pub bypassed: u64,
    /// The same by node: of a route to replicas there are several.
    pub targets: BTreeMap<SocketAddr, u64>,
    /// Connections that wait for a target now.
    pub parked: u64,
    pub to_node: u64,
    pub to_client: u64,
    pub accepted: u64,
    /// Clients turned away, by reason.
    pub refused: Counts,
    /// Waits that ended, by outcome.
    pub unparked: Counts,
    /// Failed accept(2) calls, by kind.
    pub accept_errors: Counts,
}

/// Counters by a label value. The values come from a table in the source, so they are bounded.
pub type Counts = Vec<(&'static str, u64)>;

/// What a node last said it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeRole {
    Master,
    Replica,
    Loading,
    /// It does not answer.
    Unknown,
}

impl NodeRole {
    pub const ALL: [Self; 4] = [Self::Master, Self::Replica, Self::Loading, Self::Unknown];

    /// From discovery's word; None: it does not answer.
    pub fn from_word(word: Option<&str>) -> Self {
        Self::ALL.into_iter().find(|it| word == Some(it.word())).unwrap_or(Self::Unknown)
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::Master => "master",
            Self::Replica => "replica",
            Self::Loading => "loading",
            Self::Unknown => "unknown",
        }
    }
}

impl From<Option<&Role>> for NodeRole {
    fn from(role: Option<&Role>) -> Self {
        match role {
            Some(Role::Master) => Self::Master,
            Some(Role::Replica(_)) => Self::Replica,
            Some(Role::Loading) => Self::Loading,
            None => Self::Unknown,
        }
    }
}

/// Every reason a group can give, for a series each.
pub(super) const REASONS: [Reason; 14] = [
    Reason::Starting,
    Reason::Proven,
    Reason::NoMajority,
    Reason::Disagreement,
    Reason::Unconfirmed,
    Reason::StaleEpoch,
    Reason::TwoMasters,
    Reason::NoMaster,
    Reason::RoleLost,
    Reason::Stranger,
    Reason::ProbeLost,
    Reason::Failover,
    Reason::TakenOver,
    Reason::Early,
];
