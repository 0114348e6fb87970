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

#[cfg(test)]
mod tests {
    use super::Rules;
    use crate::config::{Access, Check, Commit, Group, HostPort, Source};

    #[test]
    fn a_group_gives_its_rules() {
        let members = vec![HostPort { host: "10.0.0.1".into(), port: 6379 }];
        let group = |source| Group {
            name: "mymaster".into(),
            source,
            commit: Commit::Early,
            quorum_grace: std::time::Duration::from_secs(7),
            check: Check { rise: 2, fall: 4, ..Check::default() },
            require_backlog: true,
            node_access: Access::default(),
            sentinel_access: Access::default(),
        };
        let nodes = Rules::from(&group(Source::Nodes(members.clone())));
        assert!(!nodes.sentinels && nodes.require_backlog);
        assert_eq!((nodes.rise, nodes.fall, nodes.quorum_grace.as_secs()), (2, 4, 7));
        assert_eq!(nodes.commit, Commit::Early);
        let sentinels = Rules::from(&group(Source::Sentinels(members)));
        assert!(sentinels.sentinels && !sentinels.require_backlog, "a backlog is asked for without Sentinels only");
    }
}
