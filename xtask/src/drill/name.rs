//! The drills and the sides that can stand one.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;
use switchmaster_tests::Style;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Drill {
    /// SENTINEL FAILOVER
    Planned,
    /// SIGKILL to the master
    Kill,
    /// SIGSTOP to the master, later SIGCONT
    Freeze,
    /// REPLICAOF on the master behind the Sentinels' back
    Demote,
    /// The master cut off from Sentinels and replicas, but not from proxy and clients
    Partition,
    /// Two masters, and one Sentinel of three
    NoMajority,
    /// The first Sentinel dies together with the master
    SentinelLoss,
    /// Four hundred connections from the proxy's first instant on
    Start,
    /// Five planned failovers in a minute
    Flap,
    /// Planned, with a thousand idle subscribers and ten idle publishers
    Crowd,
}

impl Drill {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Kill => "kill",
            Self::Freeze => "freeze",
            Self::Demote => "demote",
            Self::Partition => "partition",
            Self::NoMajority => "no-majority",
            Self::SentinelLoss => "sentinel-loss",
            Self::Start => "start",
            Self::Flap => "flap",
            Self::Crowd => "crowd",
        }
    }

    /// What befalls the cluster, for headings.
    pub(super) fn blow(self) -> &'static str {
        match self {
            Self::Planned => "SENTINEL FAILOVER is ordered",
            Self::Kill => "the master is killed",
            Self::Freeze => "the master is stopped (SIGSTOP)",
            Self::Demote => "the master is told REPLICAOF",
            Self::Partition => "the master is cut off from its peers",
            Self::NoMajority => "two masters, one Sentinel of three",
            Self::SentinelLoss => "the master and the first Sentinel are killed",
            Self::Start => "the proxy is started",
            Self::Flap => "five SENTINEL FAILOVER in a minute",
            Self::Crowd => "SENTINEL FAILOVER is ordered, a thousand are idle",
        }
    }

    /// Idle subscribers and idle publishers.
    pub(super) fn crowd(self) -> (usize, usize) {
        if self == Self::Crowd { (1000, 10) } else { (90, 10) }
    }

    /// Whether its connections end by themselves, with the node they are on.
    pub(super) fn ends_connections(self) -> bool {
        matches!(self, Self::Kill | Self::SentinelLoss)
    }
}

/// When the daemon goes to a new master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Commit {
    /// Once the majority of the Sentinels names it
    Majority,
    /// As soon as it says itself that it is master
    Early,
}

impl Commit {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Majority => "majority",
            Self::Early => "early",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Peer {
    /// A check of each node's role
    #[value(alias = "haproxy")]
    HaproxyRole,
    /// Backends that count the Sentinels which name a node
    HaproxyQuorum,
    /// As the redis-ha chart configures it
    HaproxyChart,
    None,
}

/// Who stands between the clients and the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Ours(Commit),
    Peer(Style),
}

impl Side {
    /// Ours in each of these ways, then the peers.
    pub(super) fn all(commits: &[Commit], peers: &[Peer]) -> Vec<Self> {
        let style = |peer: &Peer| match peer {
            Peer::HaproxyRole => Some(Style::Role),
            Peer::HaproxyQuorum => Some(Style::Quorum),
            Peer::HaproxyChart => Some(Style::Chart),
            Peer::None => None,
        };
        let ours = commits.iter().copied().map(Self::Ours);
        ours.chain(peers.iter().filter_map(style).map(Self::Peer)).collect()
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ours(Commit::Majority) => "switchmaster (majority)",
            Self::Ours(Commit::Early) => "switchmaster (early)",
            Self::Peer(Style::Role) => "haproxy-role",
            Self::Peer(Style::Quorum) => "haproxy-quorum",
            Self::Peer(Style::Chart) => "haproxy-chart",
        })
    }
}

impl Serialize for Side {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
