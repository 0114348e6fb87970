//! An event as it is kept, sent and read back. Fields are only ever added: every reader takes what
//! another version wrote.

use std::{net::SocketAddr, time::Duration};

use serde::{Deserialize, Serialize};

use crate::election::Target;

/// One thing that happened to a group, from its first sign to the last thing it brought about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Grows by one with each event of the daemon, whatever its group; 0 while it is going on.
    #[serde(default)]
    pub seq: u64,
    pub group: String,
    /// `start`, `failover`, or the reason word of the state that began it.
    #[serde(default)]
    pub cause: String,
    #[serde(default)]
    pub outcome: Outcome,
    /// The first mark by the wall clock, UTC (RFC 3339). Everything else is an offset from it, by a
    /// clock that no one sets.
    #[serde(default)]
    pub at: String,
    /// Who was master before, if anybody was.
    #[serde(default)]
    pub from: Option<Master>,
    /// Who is master after it.
    #[serde(default)]
    pub to: Option<Master>,
    /// Connections that were ended by RST.
    #[serde(default)]
    pub severed: u64,
    /// In the order of their times.
    #[serde(default)]
    pub stages: Vec<Mark>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub stage: Stage,
    pub offset_us: u64,
    /// Which Sentinel or node said it, or which route it happened to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub what: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Master {
    pub addr: SocketAddr,
    /// Sentinel's config-epoch; 0 without Sentinels.
    #[serde(default)]
    pub epoch: u64,
    #[serde(default)]
    pub id: Option<String>,
}

/// How an event ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// The first master since the start.
    Opened,
    /// Another master, or another server or term of office at the same address.
    Switched,
    /// The same master as before, after a time without new connections, or without any.
    Reopened,
    /// Signs, a fence perhaps, and then nothing came of it: no connection was lost.
    Aborted,
    /// The daemon ended first.
    Interrupted,
    /// Not at all yet.
    #[default]
    #[serde(other)]
    Ongoing,
}

/// What a mark marks. In the order in which a failover by the book has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// The daemon began to look.
    Started,
    FirstSign,
    /// Probes became fast.
    Armed,
    /// From here on the old master gets no byte; nothing is ended.
    Fenced,
    /// A node said another role than before.
    RoleChange,
    /// New connections wait, established ones pass.
    Held,
    /// Nothing passes; established connections are ended.
    Closed,
    /// A strict majority of the Sentinels names the new master.
    Majority,
    /// The new target is written: from here on the old generation moves no byte.
    Flip,
    /// The same master is open again.
    Resumed,
    FirstSevered,
    LastSevered,
    /// The first client is connected to the new master.
    FirstConnection,
    /// What somebody said, beside the stages. The only one that may be there more than once.
    #[serde(other)]
    Said,
}

impl Stage {
    pub const ALL: [Self; 14] = [
        Self::Started,
        Self::FirstSign,
        Self::Armed,
        Self::Fenced,
        Self::RoleChange,
        Self::Held,
        Self::Closed,
        Self::Majority,
        Self::Flip,
        Self::Resumed,
        Self::FirstSevered,
        Self::LastSevered,
        Self::FirstConnection,
        Self::Said,
    ];

    /// The word of the JSON, and the label of the metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::FirstSign => "first-sign",
            Self::Armed => "armed",
            Self::Fenced => "fenced",
            Self::RoleChange => "role-change",
            Self::Held => "held",
            Self::Closed => "closed",
            Self::Majority => "majority",
            Self::Flip => "flip",
            Self::Resumed => "resumed",
            Self::FirstSevered => "first-severed",
            Self::LastSevered => "last-severed",
            Self::FirstConnection => "first-connection",
            Self::Said => "said",
        }
    }
}

impl Outcome {
    pub const ENDED: [Self; 5] = [Self::Opened, Self::Switched, Self::Reopened, Self::Aborted, Self::Interrupted];

    pub fn word(self) -> &'static str {
        match self {
            Self::Ongoing => "ongoing",
            Self::Opened => "opened",
            Self::Switched => "switched",
            Self::Reopened => "reopened",
            Self::Aborted => "aborted",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Event {
    /// When a stage was, after the first mark.
    pub fn offset(&self, stage: Stage) -> Option<Duration> {
        let mark = self.stages.iter().find(|mark| mark.stage == stage)?;
        Some(Duration::from_micros(mark.offset_us))
    }

    /// How long after `since` a stage was first reached; nothing before it counts.
    pub fn after(&self, stage: Stage, since: Duration) -> Option<Duration> {
        let marks = self.stages.iter().filter(|mark| mark.stage == stage);
        marks.filter_map(|mark| Duration::from_micros(mark.offset_us).checked_sub(since)).min()
    }
}

impl From<&Target> for Master {
    fn from(target: &Target) -> Self {
        Self { addr: target.addr, epoch: target.epoch, id: target.id.clone() }
    }
}
