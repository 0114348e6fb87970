//! What the operator may choose about an election.

use std::time::Duration;

use crate::config::{Commit, Group, Source};

#[derive(Debug, Clone)]
pub struct Rules {
    /// The group is run by Sentinels; otherwise its nodes are a fixed list.
    pub sentinels: bool,
    pub commit: Commit,
    /// How long an open way survives without a majority, and how long a minority at a higher epoch
    /// holds up a decision.
    pub quorum_grace: Duration,
    /// Consecutive good reports before a node is proven.
    pub rise: u32,
    /// Consecutive failed probes before a node counts as lost.
    pub fall: u32,
    /// Without Sentinels: a master must have an active replication backlog to be followed.
    pub require_backlog: bool,
}

impl From<&Group> for Rules {
    fn from(group: &Group) -> Self {
        let sentinels = matches!(group.source, Source::Sentinels(_));
        Self {
            sentinels,
            commit: group.commit,
            quorum_grace: group.quorum_grace,
            rise: group.check.rise,
            fall: group.check.fall,
            require_backlog: group.require_backlog && !sentinels,
        }
    }
}
