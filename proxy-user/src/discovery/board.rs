//! The latest word of every Sentinel and node, and what went before it in numbers. No I/O, no tasks; a
//! lock around it is held for moments only.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    dial::Peer,
    fault::{Fault, word},
    pace::{Pace, Signs},
    probe_round::Probe,
    report::Poll,
    status::{NameStatus, NodeStatus, SentinelStatus, State, Status, role_word},
};
use crate::{
    config::HostPort,
    election::{Failure, NodeReport, Role, SentinelView},
};

/// A server that comes and goes is not logged more often than this.
const LOG_GAP: Duration = Duration::from_secs(10);

/// What a report changed, for the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    CameUp,
    WentDown,
}

/// What a Sentinel and a node have in common: they answer, or fail for a reason.
#[derive(Debug, Default)]
struct Health {
    asked: u64,
    failed: BTreeMap<Failure, u64>,
    seen: Option<Instant>,
    failure: Option<Failure>,
    error: Option<String>,
    logged: Option<(Instant, Option<Failure>)>,
}

impl Health {
    fn answered(&mut self, at: Instant) -> Change {
        self.asked += 1;
        self.seen = Some(at);
        self.failure = None;
        self.change(at)
    }

    fn lost(&mut self, at: Instant, fault: &Fault) -> Change {
        self.asked += 1;
        *self.failed.entry(fault.failure).or_default() += 1;
        self.failure = Some(fault.failure);
        self.error = Some(fault.text.clone());
        self.change(at)
    }

    /// Logged when the state or the reason differs from what was logged last, rate-limited.
    fn change(&mut self, at: Instant) -> Change {
        let due = self
            .logged
            .is_none_or(|(logged, state)| state != self.failure && at.saturating_duration_since(logged) >= LOG_GAP);
        if !due {
            return Change::Nothing;
        }
        self.logged = Some((at, self.failure));
        if self.failure.is_none() { Change::CameUp } else { Change::WentDown }
    }

    fn state(&self) -> State {
        match (self.failure, self.seen) {
            (Some(_), _) => State::Lost,
            (None, Some(_)) => State::Answering,
            (None, None) => State::Asking,
        }
    }

    fn seen_ms_ago(&self, now: Instant) -> Option<u64> {
        self.seen.map(|at| u64::try_from(now.saturating_duration_since(at).as_millis()).unwrap_or(u64::MAX))
    }
}

#[derive(Debug)]
struct SentinelRecord {
    name: Option<String>,
    health: Health,
    id: Option<String>,
    counted: bool,
    subscribed: bool,
    subscription_logged: Option<Instant>,
    view: Option<SentinelView>,
    events: u64,
}

#[derive(Debug)]
struct NodeRecord {
    name: Option<String>,
    health: Health,
    report: Option<NodeReport>,
    latency: Option<Duration>,
    master_offset: Option<u64>,
}

#[derive(Debug)]
pub(super) struct Board {
    group: String,
    pub(super) pace: Pace,
    names: BTreeMap<usize, (NameStatus, Option<Instant>)>,
    pub(super) failed_tasks: u64,
    sentinels: BTreeMap<SocketAddr, SentinelRecord>,
    nodes: BTreeMap<SocketAddr, NodeRecord>,
}

impl Board {
    pub(super) fn new(group: &str) -> Self {
        Self {
            group: group.to_owned(),
            pace: Pace::Fast,
            names: BTreeMap::new(),
            failed_tasks: 0,
            sentinels: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    pub(super) fn add_sentinel(&mut self, peer: &Peer) {
        let record = SentinelRecord {
            name: peer.host.as_deref().map(str::to_owned),
            health: Health::default(),
            id: None,
            counted: false,
            subscribed: false,
            subscription_logged: None,
            view: None,
            events: 0,
        };
        self.sentinels.insert(peer.addr, record);
    }

    pub(super) fn add_node(&mut self, peer: &Peer) {
        let name = peer.host.as_deref().map(str::to_owned);
        let record = NodeRecord { name, health: Health::default(), report: None, latency: None, master_offset: None };
        self.nodes.insert(peer.addr, record);
    }

    pub(super) fn remove_sentinel(&mut self, addr: SocketAddr) {
        self.sentinels.remove(&addr);
    }

    pub(super) fn remove_node(&mut self, addr: SocketAddr) {
        self.nodes.remove(&addr);
    }

    pub(super) fn add_name(&mut self, place: usize, at: &HostPort) {
        let status = NameStatus { name: format!("{}:{}", at.host, at.port), addrs: Vec::new(), error: None };
        self.names.insert(place, (status, None));
    }

    /// True if a failure is worth a line in the log.
    pub(super) fn resolved(&mut self, place: usize, at: Instant, answer: &Result<Vec<SocketAddr>, Fault>) -> bool {
        let Some((status, logged)) = self.names.get_mut(&place) else { return false };
        match answer {
            Ok(addrs) => {
                status.addrs.clone_from(addrs);
                status.error = None;
                false
            }
            Err(fault) => {
                let due = logged.is_none_or(|logged| at.saturating_duration_since(logged) >= LOG_GAP * 6);
                status.error = Some(fault.text.clone());
                if due {
                    *logged = Some(at);
                }
                due
            }
        }
    }

    pub(super) fn count(&mut self, counted: &[SocketAddr]) {
        for (addr, record) in &mut self.sentinels {
            record.counted = counted.contains(addr);
        }
    }

    /// Also says whether the Sentinel's view of the master is another than before.
    pub(super) fn polled(&mut self, addr: SocketAddr, at: Instant, poll: &Poll) -> (Change, bool) {
        let Some(record) = self.sentinels.get_mut(&addr) else { return (Change::Nothing, false) };
        let news = record.view.as_ref() != Some(&poll.view);
        record.view = Some(poll.view.clone());
        if poll.id.is_some() {
            record.id.clone_from(&poll.id);
        }
        (record.health.answered(at), news)
    }

    pub(super) fn poll_failed(&mut self, addr: SocketAddr, at: Instant, fault: &Fault) -> Change {
        let Some(record) = self.sentinels.get_mut(&addr) else { return Change::Nothing };
        record.view = None;
        record.health.lost(at, fault)
    }

    /// True if a broken subscription is worth a line in the log: the Sentinel answers all the same.
    pub(super) fn subscription(&mut self, addr: SocketAddr, at: Instant, up: bool) -> bool {
        let Some(record) = self.sentinels.get_mut(&addr) else { return false };
        record.subscribed = up;
        let due = record.subscription_logged.is_none_or(|logged| at.saturating_duration_since(logged) >= LOG_GAP * 6);
        let worth = !up && due && record.view.is_some();
        if worth {
            record.subscription_logged = Some(at);
        }
        worth
    }

    pub(super) fn heard(&mut self, addr: SocketAddr) {
        if let Some(record) = self.sentinels.get_mut(&addr) {
            record.events += 1;
        }
    }

    /// Fills in the replica's lag in bytes, and keeps the report.
    pub(super) fn probed(&mut self, addr: SocketAddr, at: Instant, latency: Duration, probe: &mut Probe) -> Change {
        if let (Role::Replica(link), Some(own)) = (&mut probe.report.role, probe.replica_offset) {
            let master = link.master.and_then(|master| self.nodes.get(&master)).and_then(|node| node.master_offset);
            // The offsets were read one after the other: a replica may seem ahead of its master.
            link.lag_bytes = master.map(|offset| offset.saturating_sub(own));
        }
        let Some(record) = self.nodes.get_mut(&addr) else { return Change::Nothing };
        match (&probe.report.role, probe.master_offset) {
            (Role::Master, None) => {}
            (_, offset) => record.master_offset = offset,
        }
        record.report = Some(probe.report.clone());
        record.latency = Some(latency);
        record.health.answered(at)
    }

    pub(super) fn probe_failed(&mut self, addr: SocketAddr, at: Instant, fault: &Fault) -> Change {
        let Some(record) = self.nodes.get_mut(&addr) else { return Change::Nothing };
        record.report = None;
        record.latency = None;
        record.health.lost(at, fault)
    }

    pub(super) fn signs(&self, last_event: Option<Instant>, hurry_until: Option<Instant>) -> Signs<'_> {
        Signs {
            views: self.sentinels.values().filter_map(|record| record.view.as_ref()).collect(),
            nodes: self.nodes.iter().filter_map(|(addr, record)| Some((*addr, record.report.as_ref()?))).collect(),
            last_event,
            hurry_until,
        }
    }

    pub(super) fn status(&self, now: Instant) -> Status {
        Status {
            group: self.group.clone(),
            pace: self.pace.word(),
            sentinels: self.sentinels.iter().map(|(addr, record)| record.status(*addr, now)).collect(),
            nodes: self.nodes.iter().map(|(addr, record)| record.status(*addr, now)).collect(),
            names: self.names.values().map(|(status, _)| status.clone()).collect(),
            failed_tasks: self.failed_tasks,
        }
    }
}

impl SentinelRecord {
    fn status(&self, addr: SocketAddr, now: Instant) -> SentinelStatus {
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
    fn status(&self, addr: SocketAddr, now: Instant) -> NodeStatus {
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
