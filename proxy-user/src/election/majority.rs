//! Rules 1 to 4, for a group run by Sentinels: follow whom a strict majority names and who says
//! master itself; never at a lower epoch than before; and without a majority let nothing new through
//! for longer than the grace.

mod credit;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use self::credit::Credit;
use super::{
    arming::AFTER_ROLE,
    ballot::{Agreed, Ballot, Count},
    roster::Roster,
    ruling::{Call, Held, Ruling},
    verdict::{Reason, Target, Way},
};

#[derive(Debug, Clone)]
pub(super) struct Majority {
    pub(super) ballot: Ballot,
    grace: Duration,
    /// The highest epoch ever decided.
    floor: u64,
    /// Since when no majority upholds the incumbent.
    unsupported: Option<Instant>,
    contest: Option<Contest>,
    credit: Option<Credit>,
    deposed: Option<Deposed>,
}

/// Who was closed because a successor had shown itself. Votes come and go while it spreads; that the old one
/// is named once more by those who are left is no reason to go back while another node is master.
#[derive(Debug, Clone, Copy)]
struct Deposed {
    addr: SocketAddr,
    epoch: u64,
    until: Instant,
}

/// A majority's candidate whom a minority at a higher epoch does not name.
#[derive(Debug, Clone)]
struct Contest {
    addr: SocketAddr,
    epoch: u64,
    since: Instant,
}

/// What keeps the majority's candidate from being followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Obstacle {
    /// Its epoch is below one that was decided before.
    Stale,
    /// A minority at a higher epoch names another node, and that node says master too: a failover
    /// that the majority has yet to hear of.
    Overtaken {
        until: Option<Instant>,
    },
    /// The same without the node's word. It may become news; once the grace is over it is none.
    Contested {
        until: Option<Instant>,
    },
    Unconfirmed,
}

impl Obstacle {
    fn reason(self) -> Reason {
        match self {
            Self::Stale => Reason::StaleEpoch,
            Self::Overtaken { .. } => Reason::TwoMasters,
            Self::Contested { .. } => Reason::Disagreement,
            Self::Unconfirmed => Reason::Unconfirmed,
        }
    }
}

impl Majority {
    pub(super) fn new(grace: Duration) -> Self {
        Self {
            ballot: Ballot::default(),
            grace,
            floor: 0,
            unsupported: None,
            contest: None,
            credit: None,
            deposed: None,
        }
    }

    pub(super) fn rule(&mut self, roster: &Roster, incumbent: Option<&Target>, held: Held, now: Instant) -> Ruling {
        let count = self.ballot.count();
        self.watch_contest(&count, now);
        self.watch_credit(&count, roster, incumbent, now);
        if let Count::Agreed(agreed) = &count
            && is_news(agreed, incumbent)
            && self.obstacle(agreed, roster, now).is_none()
            && let Some(node) = roster.confirmed(agreed.addr)
        {
            return self.follow(agreed, node.id());
        }
        match incumbent {
            Some(target) => self.judge(&count, roster, target, held, now),
            None => {
                self.unsupported = None;
                self.shut(&count, roster, now)
            }
        }
    }

    fn follow(&mut self, agreed: &Agreed, id: Option<&str>) -> Ruling {
        self.floor = agreed.epoch;
        self.unsupported = None;
        (self.credit, self.deposed) = (None, None);
        Call::Follow(Target { addr: agreed.addr, epoch: agreed.epoch, id: id.map(str::to_owned) }).into()
    }

    /// A majority has reached this epoch before our time.
    pub(super) fn inherit(&mut self, epoch: u64) {
        self.floor = self.floor.max(epoch);
    }

    /// The highest epoch that any majority has reached.
    pub(super) fn floor(&self) -> u64 {
        self.floor
    }

    pub(super) fn depose(&mut self, target: &Target, now: Instant) {
        let is_known = |it: &Deposed| (it.addr, it.epoch) == (target.addr, target.epoch) && now < it.until;
        if self.credit.is_none() && !self.deposed.as_ref().is_some_and(is_known) {
            self.deposed = Some(Deposed { addr: target.addr, epoch: target.epoch, until: now + AFTER_ROLE });
        }
    }

    fn is_deposed(&self, agreed: &Agreed, roster: &Roster, now: Instant) -> Option<Deposed> {
        self.deposed.filter(|it| it.holds(agreed, now) && roster.has_other_master(agreed.addr))
    }

    /// Whether a majority names this node.
    pub(super) fn upholds(&self, addr: SocketAddr) -> bool {
        matches!(self.ballot.count(), Count::Agreed(agreed) if agreed.addr == addr)
    }

    /// Whether the incumbent may stay.
    fn judge(&mut self, count: &Count, roster: &Roster, target: &Target, held: Held, now: Instant) -> Ruling {
        if let Some(credit) = self.credit {
            return self.trust(credit, count, roster, target, held, now);
        }
        match count {
            Count::Agreed(agreed) if agreed.addr == target.addr => {
                self.unsupported = None;
                // Who was followed on credit, which has run out meanwhile, is decided now like any other.
                self.floor = self.floor.max(agreed.epoch.min(target.epoch));
                if overtaken(agreed, roster) {
                    self.depose(target, now);
                    return self.shut(count, roster, now);
                }
                if self.is_deposed(agreed, roster, now).is_some() {
                    return self.shut(count, roster, now);
                }
                match held {
                    Held::Silent => Call::Keep(Way::Established, Reason::ProbeLost).into(),
                    Held::SaysMaster | Held::Nobody => Call::Keep(Way::Open, Reason::Proven).into(),
                }
            }
            // Deposed: what it acknowledges from here on is lost, whether or not its successor is proven yet.
            Count::Agreed(agreed) if agreed.epoch >= self.floor => self.shut(count, roster, now),
            Count::Agreed(_) | Count::Unheard | Count::TooFew | Count::Split => {
                self.outlast(count, roster, target, held, now)
            }
        }
    }

    /// Rule 4: nobody upholds the incumbent, nobody deposes it.
    fn outlast(&mut self, count: &Count, roster: &Roster, target: &Target, held: Held, now: Instant) -> Ruling {
        let since = *self.unsupported.get_or_insert(now);
        if roster.masters().any(|addr| addr != target.addr) {
            return self.shut(count, roster, now);
        }
        if held == Held::Silent {
            return Call::Keep(Way::Established, Reason::ProbeLost).into();
        }
        let reason = match self.why_shut(count, roster, now).0 {
            // Other Sentinels than those who were heard: something was known, so this is no start.
            Reason::Starting => Reason::NoMajority,
            reason => reason,
        };
        if self.is_over(since, now) {
            return Call::Keep(Way::Established, reason).into();
        }
        Ruling { call: Call::Keep(Way::Open, reason), wake: self.end(since) }
    }

    fn shut(&self, count: &Count, roster: &Roster, now: Instant) -> Ruling {
        let (reason, candidate) = self.why_shut(count, roster, now);
        let wake = match count {
            Count::Agreed(agreed) => match self.obstacle(agreed, roster, now) {
                Some(Obstacle::Contested { until } | Obstacle::Overtaken { until }) => until,
                _ => None,
            },
            _ => None,
        };
        Ruling { call: Call::Close(reason, candidate), wake }
    }

    fn why_shut(&self, count: &Count, roster: &Roster, now: Instant) -> (Reason, Option<SocketAddr>) {
        let reason = match count {
            Count::Agreed(agreed) => {
                let obstacle = self.obstacle(agreed, roster, now).unwrap_or(Obstacle::Unconfirmed);
                return (obstacle.reason(), Some(agreed.addr));
            }
            Count::Unheard => Reason::Starting,
            _ if roster.masters().nth(1).is_some() => Reason::TwoMasters,
            Count::TooFew => Reason::NoMajority,
            Count::Split => Reason::Disagreement,
        };
        (reason, None)
    }

    fn obstacle(&self, agreed: &Agreed, roster: &Roster, now: Instant) -> Option<Obstacle> {
        if agreed.epoch < self.floor {
            return Some(Obstacle::Stale);
        }
        if overtaken(agreed, roster) {
            return Some(Obstacle::Overtaken { until: None });
        }
        if self.credit.is_some_and(|credit| credit.addr != agreed.addr) {
            let two = roster.says_master(agreed.addr);
            return Some(if two { Obstacle::Overtaken { until: None } } else { Obstacle::Unconfirmed });
        }
        if let Some(deposed) = self.is_deposed(agreed, roster, now) {
            return Some(Obstacle::Overtaken { until: Some(deposed.until) });
        }
        if let Some(contest) = self.contest.as_ref().filter(|contest| !self.is_over(contest.since, now)) {
            return Some(Obstacle::Contested { until: self.end(contest.since) });
        }
        roster.confirmed(agreed.addr).is_none().then_some(Obstacle::Unconfirmed)
    }

    /// A contest lasts as long as the same candidate is contested, by whomever and at whatever epoch:
    /// a Sentinel that invents ever higher epochs cannot hold up a decision for longer than the grace.
    fn watch_contest(&mut self, count: &Count, now: Instant) {
        self.contest = match (count, self.contest.take()) {
            (Count::Agreed(agreed), before) if !agreed.rivals.is_empty() => Some(match before {
                Some(contest) if contest.addr == agreed.addr && contest.epoch == agreed.epoch => contest,
                _ => Contest { addr: agreed.addr, epoch: agreed.epoch, since: now },
            }),
            _ => None,
        };
    }

    fn end(&self, since: Instant) -> Option<Instant> {
        since.checked_add(self.grace)
    }

    fn is_over(&self, since: Instant, now: Instant) -> bool {
        now.saturating_duration_since(since) >= self.grace
    }
}

impl Deposed {
    fn holds(self, agreed: &Agreed, now: Instant) -> bool {
        now < self.until && agreed.addr == self.addr && agreed.epoch <= self.epoch
    }
}

fn overtaken(agreed: &Agreed, roster: &Roster) -> bool {
    agreed.rivals.iter().any(|rival| roster.says_master(*rival))
}

/// Whether following the candidate would change anything. A higher epoch for a master that a Sentinel
/// doubts is the eve of another one: following it would sever twice.
fn is_news(agreed: &Agreed, incumbent: Option<&Target>) -> bool {
    incumbent.is_none_or(|target| agreed.addr != target.addr || (agreed.epoch > target.epoch && !agreed.doubted))
}
