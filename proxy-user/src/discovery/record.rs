//! What is kept of one Sentinel and of one node, and how people see it.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    dial::Peer,
    fault::word,
    health::Health,
    status::{NodeStatus, SentinelStatus, role_word},
};
use crate::election::{NodeReport, Role, SentinelView};

#[derive(Debug)]
pub(super) struct SentinelRecord {
    pub(super) name: Option<String>,
    pub(super) health: Health,
    pub(super) id: Option<String>,
    pub(super) counted: bool,
    pub(super) subscribed: bool,
    pub(super) subscription_logged: Option<Instant>,
    pub(super) view: Option<SentinelView>,
    pub(super) events: u64,
}

#[derive(Debug)]
pub(super) struct NodeRecord {
    pub(super) name: Option<String>,
    pub(super) health: Health,
    pub(super) report: Option<NodeReport>,
    pub(super) latency: Option<Duration>,
    pub(super) master_offset: Option<u64>,
    pub(super) histories: Vec<String>,
    /// It said so last, silent or not.
    pub(super) was_master: bool,
}

impl SentinelRecord {
    pub(super) fn new(peer: &Peer) -> Self {
        Self {
            name: peer.host.as_deref().map(str::to_owned),
            health: Health::default(),
            id: None,
            counted: false,
            subscribed: false,
            subscription_logged: None,
            view: None,
            events: 0,
        }
    }

    pub(super) fn status(&self, addr: SocketAddr, now: Instant) -> SentinelStatus {
        SentinelStatus {
            addr,
            name: self.name.clone(),
            id: self.id.clone(),
            state: self.health.state(),
            counted: self.counted,
            subscribed: self.subscribed,
            master: self.view.as_ref().map(|view| view.master),
            epoch: self.view.as_ref().map(|view| view.epoch),
            master_down: self.view.as_ref().is_some_and(|view| view.master_down),
            polls: self.health.asked,
            polls_failed: self.health.failed.values().sum(),
            events: self.events,
            failure: self.health.failure.map(word),
            error: self.health.error.clone(),
            seen_ms_ago: self.health.seen_ms_ago(now),
        }
    }
}

impl NodeRecord {
    pub(super) fn new(peer: &Peer) -> Self {
        let name = peer.host.as_deref().map(str::to_owned);
        Self {
            name,
            health: Health::default(),
            report: None,
            latency: None,
            master_offset: None,
            histories: Vec::new(),
            was_master: false,
        }
    }

    pub(super) fn status(&self, addr: SocketAddr, now: Instant) -> NodeStatus {
        let role = self.report.as_ref().map(|report| &report.role);
        let link = match role {
            Some(Role::Replica(link)) => Some(link),
            _ => None,
        };
        NodeStatus {
            addr,
            name: self.name.clone(),
            state: self.health.state(),
            role: role.map(role_word),
            id: self.report.as_ref().and_then(|report| report.id.clone()),
            link_up: link.map(|link| link.up),
            lag_seconds: link.and_then(|link| link.lag_seconds),
            lag_bytes: link.and_then(|link| link.lag_bytes),
            latency_us: self.latency.map(|latency| u64::try_from(latency.as_micros()).unwrap_or(u64::MAX)),
            probes: self.health.asked,
            probes_failed: self.health.failed.iter().map(|(failure, count)| (word(*failure), *count)).collect(),
            failure: self.health.failure.map(word),
            error: self.health.error.clone(),
            seen_ms_ago: self.health.seen_ms_ago(now),
        }
    }
}
