//! What the election says of a group.

use std::net::SocketAddr;

/// The state of a group, complete: the switch needs nothing else.
#[derive(Debug, Clone, PartialEq)]
pub struct Verdict {
    pub way: Way,
    /// The master, as long as any connection may use it. None only while `way` is `Closed`.
    pub master: Option<Target>,
    /// Why it is so, for the operator.
    pub reason: Reason,
    /// Every node that has said replica and is not the master now, sound or not. A node that is not
    /// listed keeps no connection of a replica route.
    pub replicas: Vec<Replica>,
}

impl Verdict {
    /// Nothing may pass, and nobody is known: the state before the first observation.
    pub fn closed() -> Self {
        Self { way: Way::Closed, master: None, reason: Reason::Starting, replicas: Vec::new() }
    }
}

/// What may pass to the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Nothing: established connections are severed, new ones are parked.
    Closed,
    /// Nothing for now: established connections stand still and lose nothing, new ones are parked.
    Paused,
    /// Established connections live on, new ones are parked.
    Established,
    /// Everything.
    Open,
}

/// A proven master. Two targets that differ in any field are two generations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    pub addr: SocketAddr,
    /// Sentinel's config-epoch; 0 without Sentinels.
    pub epoch: u64,
    /// The server's own id, if it may be read.
    pub id: Option<String>,
}

impl Target {
    /// The same server in the same term of office. An id that is hidden, or seen for the first time,
    /// is no other id.
    pub fn is_same(&self, other: &Self) -> bool {
        let same_id = match (&self.id, &other.id) {
            (Some(id), Some(other)) => id == other,
            _ => true,
        };
        self.addr == other.addr && self.epoch == other.epoch && same_id
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Replica {
    pub addr: SocketAddr,
    pub id: Option<String>,
    /// Says replica, link up, not loading, passed `rise` probes. Lag is judged for each route.
    pub sound: bool,
    /// Established connections may stay: false once it says anything but replica.
    pub keep: bool,
    pub lag_seconds: Option<u64>,
    pub lag_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// Nothing is known yet.
    Starting,
    /// The master is proven.
    Proven,
    /// Too few Sentinels answer to make a majority.
    NoMajority,
    /// A majority answers, but no one address has a majority at the highest epoch.
    Disagreement,
    /// The candidate has not (yet) said master itself.
    Unconfirmed,
    /// Sentinels speak of a lower epoch than the one in force.
    StaleEpoch,
    /// More than one node says master.
    TwoMasters,
    /// No node says master.
    NoMaster,
    /// The master says it is none any more.
    RoleLost,
    /// Another server answers at the master's address.
    Stranger,
    /// The master's probes fail.
    ProbeLost,
    /// A failover is announced, or a replica has just turned master: paused until it is decided.
    Failover,
    /// An earlier daemon had proven it and was killed; this one has yet to prove it.
    TakenOver,
    /// Followed before a majority named it (`commit = "early"`), which has not come yet.
    Early,
}

impl Reason {
    /// The word used in logs, status and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Proven => "proven",
            Self::NoMajority => "no-majority",
            Self::Disagreement => "disagreement",
            Self::Unconfirmed => "unconfirmed",
            Self::StaleEpoch => "stale-epoch",
            Self::TwoMasters => "two-masters",
            Self::NoMaster => "no-master",
            Self::RoleLost => "role-lost",
            Self::Stranger => "stranger",
            Self::ProbeLost => "probe-lost",
            Self::Failover => "failover",
            Self::TakenOver => "taken-over",
            Self::Early => "early",
        }
    }
}
