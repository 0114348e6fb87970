//! What `/api/v1/status` says, and what `switchmaster status` reads. Fields are only ever added: a
//! client of another version must still understand it, so every one has a default.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    config::{Name, TargetRole},
    election::{Verdict, Way},
};

pub use crate::events::Master;

/// Asked for each request; must answer without waiting.
pub trait StatusSource: Send + Sync {
    fn status(&self) -> Status;
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    pub version: String,
    pub uptime_ms: u64,
    pub ready: bool,
    /// What readiness waits for.
    pub waiting_for: Vec<String>,
    pub groups: Vec<Group>,
    pub routes: Vec<Route>,
    /// What would outlive the daemon; absent: nothing, it has no place in the kernel.
    pub pins: Option<Pins>,
    /// Absent: the daemon knows no steering.
    pub steering: Option<AtCgroup>,
    /// As steering.
    pub bypass: Option<Bypass>,
}

/// Whether clients on the daemon's host are led to nodes without a hop, or need no TCP to nodes on that host.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AtCgroup {
    pub on: bool,
    /// Where it is attached.
    pub cgroup: String,
    /// Why it is not on.
    pub reason: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bypass {
    #[serde(flatten)]
    pub stands: AtCgroup,
    /// Clients that have dialled a node themselves, and need no TCP to it.
    pub direct: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Pins {
    pub folder: String,
    pub links: usize,
    pub maps: usize,
    /// Flows of a daemon that was killed were gone on with.
    pub taken_over: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Group {
    pub name: String,
    /// `open`, `established`, `paused` or `closed`.
    pub way: String,
    pub reason: String,
    /// How long it has been so.
    pub since_ms: u64,
    pub master: Option<Master>,
    pub replicas: Vec<Replica>,
    /// How often discovery asks now: `steady`, `fast` or `hurry`.
    pub pace: String,
    /// These three as discovery describes them.
    pub sentinels: Vec<Value>,
    pub nodes: Vec<Value>,
    /// Configured names, with the addresses they resolve to.
    pub names: Vec<Value>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Replica {
    pub addr: SocketAddr,
    #[serde(default)]
    pub id: Option<String>,
    #[serde(default)]
    pub sound: bool,
    #[serde(default)]
    pub lag_seconds: Option<u64>,
    #[serde(default)]
    pub lag_bytes: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Route {
    pub name: String,
    pub listen: Vec<String>,
    pub group: String,
    /// `master` or `replica`.
    pub target: String,
    pub datapath: String,
    /// Why this datapath: what `auto` found.
    pub datapath_reason: String,
    /// As in the kernel's map: `open`, `established`, `paused` or `closed`.
    pub state: String,
    pub generation: u64,
    pub connections: u64,
    /// Those of them that steering led to their node: they have no hop.
    pub steered: u64,
    /// Those of these whose requests go to their node, on the same host, without TCP.
    pub bypassed: u64,
    pub parked: u64,
    pub severed: u64,
    /// By reason, those that ever occurred.
    pub refused: BTreeMap<String, u64>,
    pub switches: u64,
    pub targets: Vec<RouteTarget>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RouteTarget {
    pub addr: SocketAddr,
    pub state: String,
    pub generation: u64,
    pub connections: u64,
}

impl Group {
    /// A group as its verdict has it; `since` is when the verdict's way or reason last changed.
    /// What discovery knows is left empty, for the caller to fill.
    pub fn from_verdict(name: &Name, verdict: &Verdict, since: Instant, now: Instant) -> Self {
        Self {
            name: name.to_string(),
            way: way_word(verdict.way).to_owned(),
            reason: verdict.reason.word().to_owned(),
            since_ms: milliseconds(now.saturating_duration_since(since)),
            master: verdict.master.as_ref().map(Master::from),
            replicas: verdict.replicas.iter().map(Replica::from).collect(),
            ..Self::default()
        }
    }
}

impl From<&crate::election::Replica> for Replica {
    fn from(it: &crate::election::Replica) -> Self {
        Self { addr: it.addr, id: it.id.clone(), sound: it.sound, lag_seconds: it.lag_seconds, lag_bytes: it.lag_bytes }
    }
}

pub fn way_word(way: Way) -> &'static str {
    match way {
        Way::Open => "open",
        Way::Established => "established",
        Way::Paused => "paused",
        Way::Closed => "closed",
    }
}

pub fn target_word(target: TargetRole) -> &'static str {
    match target {
        TargetRole::Master => "master",
        TargetRole::Replica => "replica",
    }
}

/// Saturating: a status never fails for a clock.
pub fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
