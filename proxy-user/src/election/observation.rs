//! What discovery saw. The only thing that the election ever learns of the world.

use std::net::SocketAddr;

/// One thing seen of a group, by one Sentinel or one node.
#[derive(Debug, Clone, PartialEq)]
pub enum Observation {
    /// The Sentinels there are: configured ones and all that any reachable one knows of, each counted
    /// once (by its run id). The majority is counted over this set.
    Sentinels(Vec<SocketAddr>),
    /// A Sentinel answered for this group.
    View(SocketAddr, SentinelView),
    /// A Sentinel does not answer, or cannot answer for this group: it has no view until it does again.
    SentinelLost(SocketAddr, Failure),
    /// The nodes there are. A node that left the list is forgotten.
    Nodes(Vec<SocketAddr>),
    /// A node answered a role probe.
    Node(SocketAddr, NodeReport),
    /// A node's probe failed.
    NodeLost(SocketAddr, Failure),
    /// A Sentinel published something about a failover of this group.
    Sign(SocketAddr, Sign),
}

/// What a Sentinel published. A sign never decides who is master: it quickens the probes, and may pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sign {
    pub kind: SignKind,
    /// The epoch of the failover that the sign belongs to, if it was heard when the failover began.
    pub epoch: Option<u64>,
    /// The master that it speaks of: the one to be replaced.
    pub master: SocketAddr,
    /// The replica that is to be the next master, where the sign names it.
    pub replica: Option<SocketAddr>,
    /// Where it was published: Sentinel's own word for it.
    pub channel: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SignKind {
    /// Something is amiss or under way; no role changes yet.
    Stirring,
    /// A replica is chosen: its role changes with the Sentinel's next step, 50 to 100 ms later.
    Chosen,
    /// The replica says master.
    Promoted,
    /// The failover was given up.
    Aborted,
}

/// What one Sentinel says of a group. The epoch is that of the address, never a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SentinelView {
    /// Where it sends clients.
    pub master: SocketAddr,
    /// `config-epoch`.
    pub epoch: u64,
    /// This Sentinel itself thinks the master down (`s_down`, `o_down`), or a failover is on.
    pub master_down: bool,
}

/// What one node says of itself.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeReport {
    pub role: Role,
    /// `run_id`, where the node's ACL lets us see it. Another id at the same address is another server
    /// (rule 8). Never `master_replid`: that changes at a promotion while the server stays the same.
    pub id: Option<String>,
    /// `repl_backlog_active`, where INFO may be read.
    pub backlog_active: Option<bool>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Role {
    Master,
    Replica(ReplicaLink),
    /// Alive, but its data set is still being read: neither a master nor a replica yet.
    Loading,
}

/// A replica's side of replication.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplicaLink {
    pub master: Option<SocketAddr>,
    /// That master is none of the group's: what the replica holds is somebody else's data.
    pub stray: bool,
    pub up: bool,
    /// Seconds since the master was last heard of (`master_last_io_seconds_ago`).
    pub lag_seconds: Option<u64>,
    /// Bytes behind the master's offset, where both offsets are known.
    pub lag_bytes: Option<u64>,
}

/// Why something could not be asked. Kept short and comparable; the log has the whole error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Failure {
    Unreachable,
    TimedOut,
    /// Wrong password, or NOPERM.
    Denied,
    /// Not what it should be: no Sentinel, no Redis, a garbled or oversized reply.
    Protocol,
    /// A Sentinel that does not know the master name.
    UnknownGroup,
    /// The name does not resolve.
    Unresolved,
    Tls,
}
