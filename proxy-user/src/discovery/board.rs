//! The latest word of every Sentinel and node, and what went before it in numbers. No I/O, no tasks; a
//! lock around it is held for moments only.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    dial::Peer,
    fault::Fault,
    health::{Change, LOG_GAP},
    pace::{Pace, Signs},
    probe_round::Probe,
    record::{NodeRecord, SentinelRecord},
    report::Poll,
    status::{NameStatus, Status},
};
use crate::{config::HostPort, election::Role};

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

    /// One whose task died and is started again keeps its record.
    pub(super) fn add_sentinel(&mut self, peer: &Peer) {
        self.sentinels.entry(peer.addr).or_insert_with(|| SentinelRecord::new(peer));
    }

    pub(super) fn add_node(&mut self, peer: &Peer) {
        self.nodes.entry(peer.addr).or_insert_with(|| NodeRecord::new(peer));
    }

    pub(super) fn remove_sentinel(&mut self, addr: SocketAddr) {
        self.sentinels.remove(&addr);
    }

    pub(super) fn remove_node(&mut self, addr: SocketAddr) {
        self.nodes.remove(&addr);
    }

    pub(super) fn add_name(&mut self, place: usize, at: &HostPort) {
        let status = NameStatus { name: format!("{}:{}", at.host, at.port), addrs: Vec::new(), error: None };
        self.names.entry(place).or_insert((status, None));
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

    /// Fills in what only the other nodes show of a replica, and keeps the report.
    pub(super) fn probed(&mut self, addr: SocketAddr, at: Instant, latency: Duration, probe: &mut Probe) -> Change {
        if let Role::Replica(link) = &mut probe.report.role {
            link.stray = link.up && link.master.is_some_and(|master| self.is_strange(master, &probe.histories));
        }
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
        record.histories.clone_from(&probe.histories);
        record.was_master = match &probe.report.role {
            Role::Master => true,
            Role::Replica(_) => false,
            Role::Loading => record.was_master,
        };
        record.report = Some(probe.report.clone());
        record.latency = Some(latency);
        record.health.answered(at)
    }

    /// Whether a replica's master is none of the group's. By an address that we do not know it may be all the same (a second
    /// network, a port that is mapped): its data set tells, if both sides say theirs. Without a proof it is not.
    fn is_strange(&self, master: SocketAddr, histories: &[String]) -> bool {
        let known = SocketAddr::new(master.ip().to_canonical(), master.port());
        if let Some(node) = self.nodes.get(&known) {
            // A replica of one that is astray.
            return matches!(&node.report, Some(report) if matches!(&report.role, Role::Replica(link) if link.stray));
        }
        let of_masters = self.nodes.values().filter(|record| record.was_master).flat_map(|record| &record.histories);
        let mut of_masters = of_masters.peekable();
        let is_known = !histories.is_empty() && of_masters.peek().is_some();
        is_known && !of_masters.any(|history| histories.contains(history))
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
