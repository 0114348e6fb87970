//! The state of the daemon as one scrape sees it. The daemon fills it from the election's verdict,
//! from discovery's status and from the kernel's counters; nothing here is kept between scrapes.

use std::{collections::BTreeMap, net::SocketAddr};

use proxy_ebpf::counter;

use crate::{
    config::Name,
    election::{Failure, Reason, Role, Target, Way},
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
    pub polls: BTreeMap<Outcome, u64>,
    pub events: u64,
}

#[derive(Debug, Clone)]
pub struct NodeSample {
    pub addr: SocketAddr,
    pub role: NodeRole,
    pub probes: BTreeMap<Outcome, u64>,
    pub lag_seconds: Option<u64>,
    pub lag_bytes: Option<u64>,
}

#[derive(Debug, Clone)]
pub struct RouteSample {
    pub name: Name,
    pub datapath: &'static str,
    /// Connections paired with a node now.
    pub connections: u64,
    /// Connections that wait for a target now.
    pub parked: u64,
    pub to_node: u64,
    pub to_client: u64,
}

/// How a question to a node or a Sentinel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    Answered,
    Failed(Failure),
}

impl Outcome {
    pub const ALL: [Self; 8] = [
        Self::Answered,
        Self::Failed(Failure::Unreachable),
        Self::Failed(Failure::TimedOut),
        Self::Failed(Failure::Denied),
        Self::Failed(Failure::Protocol),
        Self::Failed(Failure::UnknownGroup),
        Self::Failed(Failure::Unresolved),
        Self::Failed(Failure::Tls),
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::Answered => "answered",
            Self::Failed(Failure::Unreachable) => "unreachable",
            Self::Failed(Failure::TimedOut) => "timed-out",
            Self::Failed(Failure::Denied) => "denied",
            Self::Failed(Failure::Protocol) => "protocol",
            Self::Failed(Failure::UnknownGroup) => "unknown-group",
            Self::Failed(Failure::Unresolved) => "unresolved",
            Self::Failed(Failure::Tls) => "tls",
        }
    }
}

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
pub(super) const REASONS: [Reason; 11] = [
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
];
