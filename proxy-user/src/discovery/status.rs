//! What discovery knows, for people and for `status --json`. A copy made on request; holds no secret.

use std::net::SocketAddr;

use serde::Serialize;

use crate::election::Role;

/// One group as discovery sees it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    pub group: String,
    /// `steady`, `fast` or `hurry`.
    pub pace: &'static str,
    pub sentinels: Vec<SentinelStatus>,
    pub nodes: Vec<NodeStatus>,
    /// Configured names that are not addresses.
    pub names: Vec<NameStatus>,
    /// Tasks that ended by a bug; each was started again.
    pub failed_tasks: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SentinelStatus {
    pub addr: SocketAddr,
    /// As configured or announced, where that is a name.
    pub name: Option<String>,
    pub id: Option<String>,
    pub state: State,
    /// It is one of those that the majority is counted over. Not so: another address of one that is.
    pub counted: bool,
    pub subscribed: bool,
    pub master: Option<SocketAddr>,
    pub epoch: Option<u64>,
    pub master_down: bool,
    pub polls: u64,
    pub polls_failed: u64,
    pub events: u64,
    /// The word for the last failure, while it lasts.
    pub failure: Option<&'static str>,
    /// The last error, even if it is over.
    pub error: Option<String>,
    pub seen_ms_ago: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NodeStatus {
    pub addr: SocketAddr,
    pub name: Option<String>,
    pub state: State,
    /// `master`, `replica` or `loading`, as it last said.
    pub role: Option<&'static str>,
    pub id: Option<String>,
    pub link_up: Option<bool>,
    pub lag_seconds: Option<u64>,
    pub lag_bytes: Option<u64>,
    pub latency_us: Option<u64>,
    pub probes: u64,
    /// Failed probes by the word for the failure.
    pub probes_failed: Vec<(&'static str, u64)>,
    pub failure: Option<&'static str>,
    pub error: Option<String>,
    pub seen_ms_ago: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct NameStatus {
    pub name: String,
    pub addrs: Vec<SocketAddr>,
    pub error: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Not yet asked, or not yet answered.
    Asking,
    Answering,
    Lost,
}

pub fn role_word(role: &Role) -> &'static str {
    match role {
        Role::Master => "master",
        Role::Replica(_) => "replica",
        Role::Loading => "loading",
    }
}
