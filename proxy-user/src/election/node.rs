//! What one node has said, and how far that can be relied on: `rise` reports to be proven, `fall`
//! failures to be lost, and another server at the same address starts from nothing (rule 8).

use std::{net::SocketAddr, time::Instant};

use super::{
    observation::{NodeReport, ReplicaLink, Role},
    rules::Rules,
    verdict::Replica,
};

/// How many reports or failures in a row count.
#[derive(Debug, Clone)]
pub(super) struct Thresholds {
    /// For a master. None where a majority of Sentinels vouches for it: then its latest word is enough.
    pub(super) master_rise: u32,
    pub(super) replica_rise: u32,
    pub(super) fall: u32,
    pub(super) require_backlog: bool,
}

impl From<&Rules> for Thresholds {
    fn from(rules: &Rules) -> Self {
        let rise = rules.rise.max(1);
        Self {
            master_rise: if rules.sentinels { 0 } else { rise },
            replica_rise: rise,
            fall: rules.fall.max(1),
            require_backlog: rules.require_backlog && !rules.sentinels,
        }
    }
}

#[derive(Debug, Clone, Default)]
pub(super) struct Node {
    /// Its latest words; a failed probe does not unsay them.
    said: Option<Role>,
    /// The latest id seen. A report without one says nothing about who answers.
    id: Option<String>,
    /// The latest value seen while it says master.
    backlog_active: Option<bool>,
    /// In a row, up to now.
    failures: u32,
    master_reports: u32,
    replica_reports: u32,
    stray_reports: u32,
    /// `fall` was reached, and `rise` not since.
    lost: bool,
    sound: bool,
    /// It said replica at least once, so a replica route may have connections to it.
    replica: bool,
    /// The latest report showed another server than the one before.
    stranger: bool,
    /// When it first said master after it had said replica, if nobody has made anything of it yet.
    turned: Option<Instant>,
}

impl Node {
    pub(super) fn report(&mut self, report: NodeReport, limits: &Thresholds, now: Instant) {
        let stranger = is_other(self.id.as_deref(), report.id.as_deref());
        if stranger {
            *self = Self { replica: self.replica, ..Self::default() };
        }
        self.stranger = stranger;
        let was_replica = matches!(self.said, Some(Role::Replica(_)));
        self.turned = match report.role {
            Role::Master => self.turned.or(was_replica.then_some(now)),
            Role::Replica(_) | Role::Loading => None,
        };
        self.id = report.id.or(self.id.take());
        self.failures = 0;
        match &report.role {
            Role::Master => self.count_master(report.backlog_active, limits),
            Role::Replica(link) => self.count_replica(link, limits),
            Role::Loading => self.count_nothing(),
        }
        self.said = Some(report.role);
    }

    /// The report that reveals a stranger does not count for it: whoever watches sees it closed once.
    fn count_master(&mut self, backlog_active: Option<bool>, limits: &Thresholds) {
        self.count_for_replica(false, limits);
        self.stray_reports = 0;
        self.master_reports = if self.stranger { 0 } else { self.master_reports.saturating_add(1) };
        self.backlog_active = backlog_active.or(self.backlog_active);
        self.lost &= self.master_reports < limits.master_rise;
    }

    fn count_replica(&mut self, link: &ReplicaLink, limits: &Thresholds) {
        self.forget_mastership();
        self.replica = true;
        self.lost = false;
        self.stray_reports = if link.stray { self.stray_reports.saturating_add(1) } else { 0 };
        self.count_for_replica(link.up && !link.stray && !self.stranger, limits);
    }

    fn count_nothing(&mut self) {
        self.forget_mastership();
        self.replica_reports = 0;
        self.sound = false;
        self.lost = false;
    }

    fn count_for_replica(&mut self, good: bool, limits: &Thresholds) {
        self.replica_reports = if good { self.replica_reports.saturating_add(1) } else { 0 };
        self.sound = good && (self.sound || self.replica_reports >= limits.replica_rise);
    }

    fn forget_mastership(&mut self) {
        self.master_reports = 0;
        self.backlog_active = None;
    }

    pub(super) fn failure(&mut self, limits: &Thresholds) {
        self.failures = self.failures.saturating_add(1);
        self.master_reports = 0;
        self.replica_reports = 0;
        if self.failures >= limits.fall {
            self.lost = true;
            self.sound = false;
            self.backlog_active = None;
        }
    }

    /// It was asked at least once, with or without success.
    pub(super) fn asked(&self) -> bool {
        self.said.is_some() || self.failures > 0
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    pub(super) fn said(&self) -> Option<&Role> {
        self.said.as_ref()
    }

    pub(super) fn lost(&self) -> bool {
        self.lost
    }

    /// Its word still stands, `rise` or not: what a second master is judged by.
    pub(super) fn says_master(&self, limits: &Thresholds) -> bool {
        self.said == Some(Role::Master) && self.failures < limits.fall
    }

    /// When it turned master. Its silence since does not undo it: only another word of its own does.
    pub(super) fn turned(&self) -> Option<Instant> {
        self.turned
    }

    /// It answers, and does not say master.
    pub(super) fn denies(&self) -> bool {
        self.failures == 0 && self.said.as_ref().is_some_and(|role| *role != Role::Master)
    }

    pub(super) fn forget_turn(&mut self) {
        self.turned = None;
    }

    /// It may count as a master at all where nobody vouches for it.
    pub(super) fn has_backlog(&self, limits: &Thresholds) -> bool {
        !limits.require_backlog || self.backlog_active == Some(true)
    }

    /// It may be followed: its very last probe succeeded and said master, often enough in a row.
    pub(super) fn confirmed(&self, limits: &Thresholds) -> bool {
        let risen = self.master_reports >= limits.master_rise;
        self.said == Some(Role::Master) && self.failures == 0 && risen && self.has_backlog(limits)
    }

    pub(super) fn as_replica(&self, addr: SocketAddr, limits: &Thresholds) -> Option<Replica> {
        if !self.replica {
            return None;
        }
        let link = match &self.said {
            Some(Role::Replica(link)) => Some(link),
            _ => None,
        };
        let lag = |of: fn(&ReplicaLink) -> Option<u64>| link.and_then(of);
        Some(Replica {
            addr,
            id: self.id.clone(),
            sound: self.sound,
            keep: link.is_some() && !self.stranger && self.stray_reports < limits.fall,
            lag_seconds: lag(|link| link.lag_seconds),
            lag_bytes: lag(|link| link.lag_bytes),
        })
    }
}

/// An id that is not visible is not another id.
pub(super) fn is_other(before: Option<&str>, now: Option<&str>) -> bool {
    matches!((before, now), (Some(before), Some(now)) if before != now)
}
