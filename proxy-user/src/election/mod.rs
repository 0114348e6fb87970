//! Who is master, decided from what Sentinels and nodes say. Pure: a function of (state,
//! observation, time), so that every rule is a table test. Promises: never two targets, never a
//! lower epoch, never a target that did not itself say master, never open without a majority, or, where
//! the operator chose `early`, the word of a Sentinel and of the replica that it promotes.
//! Never does I/O, and never reads a clock. `docs/election.md` gives the rules and their reasons.

mod address;
mod arming;
mod ballot;
mod inherited;
mod majority;
mod node;
mod observation;
mod roster;
mod rules;
mod ruling;
mod sole;
#[cfg(test)]
pub(crate) mod tests;
mod verdict;

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::config::Commit;

pub use self::{
    address::canonical,
    inherited::Inherited,
    observation::{Failure, NodeReport, Observation, ReplicaLink, Role, SentinelView, Sign, SignKind},
    rules::Rules,
    verdict::{Reason, Replica, Target, Verdict, Way},
};
use self::{
    arming::{Arming, Promise},
    inherited::Bound,
    majority::Majority,
    node::Thresholds,
    roster::Roster,
    ruling::{Call, Held, Incumbent, Ruling, Standing},
};

/// How long before a Sentinel's word about it a role may have changed: `+promoted-slave` comes a second late.
const BEFORE_WORD: Duration = Duration::from_secs(2);

/// The election of one group. Feed it every observation in order; act whenever it says that the
/// verdict changed; call [`Election::tick`] at [`Election::deadline`].
#[derive(Debug, Clone)]
pub struct Election {
    rules: Rules,
    roster: Roster,
    majority: Majority,
    arming: Arming,
    incumbent: Option<Incumbent>,
    /// The incumbent is in force on an earlier daemon's word alone.
    inherited: Option<Inherited>,
    /// The rules have closed the group while a change of role holds it: only a majority for the incumbent can bring it back.
    condemned: bool,
    /// Why the last incumbent was dropped, until another one is followed.
    dropped: Option<(SocketAddr, Reason)>,
    /// The latest time seen: a caller whose clock steps back must not stretch or undo a grace.
    now: Option<Instant>,
    deadline: Option<Instant>,
    verdict: Verdict,
}

impl Election {
    pub fn new(rules: Rules) -> Self {
        let thresholds = Thresholds::from(&rules);
        Self {
            majority: Majority::new(rules.quorum_grace),
            roster: Roster::new(thresholds),
            arming: Arming::default(),
            rules,
            incumbent: None,
            inherited: None,
            condemned: false,
            dropped: None,
            now: None,
            deadline: None,
            verdict: Verdict::closed(),
        }
    }

    /// Goes on where another daemon was killed, with the master that it had proven: what may pass to that is less,
    /// until it is proven anew.
    pub fn resume(rules: Rules, inherited: Inherited, now: Instant) -> Self {
        let mut election = Self::new(rules);
        let master = inherited.master.clone();
        election.majority.inherit(master.epoch);
        election.incumbent = Some(Incumbent::new(master.clone()));
        let (way, reason) = (inherited.way(now), Reason::TakenOver);
        election.verdict = Verdict { way, master: Some(master), reason, replicas: Vec::new() };
        election.deadline = inherited.wake(now);
        election.inherited = Some(inherited);
        election
    }

    /// Takes one observation in. True if the verdict changed.
    pub fn observe(&mut self, observation: Observation, now: Instant) -> bool {
        // A clock that steps back stands still.
        let now = self.now.map_or(now, |latest| latest.max(now));
        match observation {
            Observation::Sentinels(known) => {
                self.majority.ballot.seat(known);
                let ballot = &self.majority.ballot;
                self.arming.retain(|from| ballot.knows(from));
            }
            Observation::View(from, view) => self.view(from, &view, now),
            Observation::Sign(from, sign) => self.sign(from, sign, now),
            Observation::SentinelLost(from, _) => {
                self.majority.ballot.withdraw(from);
                self.arming.lost(canonical(from));
            }
            Observation::Nodes(known) => self.roster.enlist(known),
            Observation::Node(from, report) => self.roster.report(from, report, now),
            Observation::NodeLost(from, _) => self.roster.failure(from),
        }
        self.settle(now)
    }

    fn view(&mut self, from: SocketAddr, view: &SentinelView, now: Instant) {
        self.majority.ballot.cast(from, view);
        let in_force = self.incumbent.as_ref().is_some_and(|it| it.target.addr == canonical(view.master));
        if in_force && self.believes(from) {
            self.arming.answered(canonical(from), view.master_down, now);
        }
    }

    /// Believed from a known Sentinel about the master in force; about anybody else it is old news.
    fn sign(&mut self, from: SocketAddr, mut sign: Sign, now: Instant) {
        if !self.believes(from) {
            return;
        }
        (sign.master, sign.replica) = (canonical(sign.master), sign.replica.map(canonical));
        match &self.incumbent {
            // Nobody is in force, but a promise may be: an abort takes it back.
            None if sign.kind == SignKind::Aborted => self.arming.aborted(canonical(from), now),
            None => self.arming.stir(now),
            Some(incumbent) if incumbent.target.addr == sign.master => {
                self.arming.hear(canonical(from), &sign, self.majority.floor(), &self.roster, now);
            }
            Some(_) => {}
        }
    }

    fn believes(&self, from: SocketAddr) -> bool {
        self.rules.sentinels && self.majority.ballot.knows(from)
    }

    /// Lets time pass. True if the verdict changed.
    pub fn tick(&mut self, now: Instant) -> bool {
        self.settle(now)
    }

    /// When time alone will next change something.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    /// Until when every node should be asked each few milliseconds; None, or past: no need.
    pub fn hurry_until(&self) -> Option<Instant> {
        self.arming.hurry_until()
    }

    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    fn settle(&mut self, now: Instant) -> bool {
        let now = self.now.map_or(now, |latest| latest.max(now));
        self.now = Some(now);
        let (mut way, mut reason, mut wake) = self.judge(now);
        if self.is_condemned() {
            self.drop_condemned();
            (way, reason, wake) = self.judge(now);
        }
        let inherited = self.inherited.as_ref().and_then(|inherited| inherited.wake(now));
        self.deadline = wake.into_iter().chain(self.arming.wake()).chain(inherited).min();
        let master = self.incumbent.as_ref().map(|incumbent| incumbent.target.clone());
        let replicas = self.roster.replicas(master.as_ref().map(|master| master.addr));
        let verdict = Verdict { way, master, reason, replicas };
        let changed = verdict != self.verdict;
        self.verdict = verdict;
        changed
    }

    /// What may pass now, why, and when time alone would change that.
    fn judge(&mut self, now: Instant) -> (Way, Reason, Option<Instant>) {
        let ruling = self.rule(now);
        let (way, reason) = self.apply(ruling.call);
        let (way, reason) = self.inherit(way, reason, now);
        let (way, reason) = self.pause(way, reason, now);
        (way, reason, ruling.wake)
    }

    /// The hold is over, and nobody but time has spoken for the incumbent.
    fn is_condemned(&self) -> bool {
        let upheld = |it: &Incumbent| self.majority.upholds(it.target.addr);
        self.condemned && !self.arming.holds() && self.incumbent.as_ref().is_some_and(|it| !upheld(it))
    }

    fn drop_condemned(&mut self) {
        (self.incumbent, self.inherited) = (None, None);
        self.condemned = false;
    }

    /// Rules 7 and 8 first: a master that is none any more is no incumbent for the other rules.
    fn rule(&mut self, now: Instant) -> Ruling {
        let held = match self.incumbent.as_mut().map(|incumbent| incumbent.standing(&self.roster)) {
            None => Held::Nobody,
            Some(Standing::SaysMaster) => Held::SaysMaster,
            Some(Standing::Silent) => Held::Silent,
            Some(Standing::RoleLost) => self.drop_incumbent(Reason::RoleLost, now),
            Some(Standing::Stranger) => self.drop_incumbent(Reason::Stranger, now),
        };
        let target = self.incumbent.as_ref().map(|incumbent| &incumbent.target);
        if !self.rules.sentinels {
            return sole::rule(&self.roster, target, held);
        }
        let ruling = self.majority.rule(&self.roster, target, held, now);
        match ruling.call {
            Call::Keep(..) | Call::Close(..) if self.rules.commit == Commit::Early => self.early(now).unwrap_or(ruling),
            _ => ruling,
        }
    }

    /// Rule 5, `commit = "early"`: a Sentinel has said whom it promotes and at which epoch, and that node has
    /// turned master.
    fn early(&mut self, now: Instant) -> Option<Ruling> {
        let turned = |addr| self.roster.get(addr).and_then(node::Node::turned);
        let kept = |it: &Promise| turned(it.replica).is_some_and(|at| it.heard <= at + BEFORE_WORD);
        let promise = self.arming.promises().filter(kept).max_by_key(|it| it.epoch)?;
        self.majority.lend(promise, &self.roster, now)
    }

    /// Lowers what the other rules allow, as long as the master is in force on another daemon's word.
    fn inherit(&mut self, way: Way, reason: Reason, now: Instant) -> (Way, Reason) {
        let Some(inherited) = &self.inherited else { return (way, reason) };
        let is_in_force =
            way != Way::Closed && self.incumbent.as_ref().is_some_and(|it| it.target.is_same(&inherited.master));
        let bound = match is_in_force {
            true => inherited.bound(way, reason, &self.roster, self.rules.sentinels, now),
            // Another is followed, or nobody: that was decided here.
            false => Bound::Lifted,
        };
        match bound {
            Bound::Lifted => {
                self.inherited = None;
                (way, reason)
            }
            Bound::To(way) => (way, Reason::TakenOver),
            Bound::Over => {
                (self.inherited, self.incumbent) = (None, None);
                (Way::Closed, reason)
            }
        }
    }

    /// Rule 5: lowers what the other rules allow, and never raises it: where nobody is followed any more, who was connected is
    /// held for as long as a decision is near, and then dials once, to where that leads.
    fn pause(&mut self, way: Way, reason: Reason, now: Instant) -> (Way, Reason) {
        if way == Way::Closed {
            self.depose(now);
            // A hold goes on; none begins with what closes the group.
            self.incumbent.take_if(|_| !self.arming.holds());
        }
        let master = self.incumbent.as_ref().map(|incumbent| incumbent.target.addr);
        self.arming.step(&mut self.roster, master, now);
        match way {
            Way::Closed => {
                self.condemned = master.is_some() && self.arming.holds();
                if self.condemned {
                    return (Way::Paused, Reason::Failover);
                }
                self.incumbent = None;
                self.arming.closed();
                (way, reason)
            }
            Way::Open | Way::Established if self.arming.paused() => (Way::Paused, Reason::Failover),
            Way::Open | Way::Established | Way::Paused => {
                // Whoever is brought back is so by a majority, or `is_condemned` sees it.
                if self.condemned && master.is_some_and(|master| self.majority.upholds(master)) {
                    self.condemned = false;
                    // The failover has come to nothing, and with it all doubts that are not said anew.
                    self.arming.calm();
                }
                (way, reason)
            }
        }
    }

    fn drop_incumbent(&mut self, reason: Reason, now: Instant) -> Held {
        self.depose(now);
        self.dropped = self.incumbent.take().map(|incumbent| (incumbent.target.addr, reason));
        Held::Nobody
    }

    /// Whom a successor is about to replace is not followed again at once, should a vote be missing now.
    fn depose(&mut self, now: Instant) {
        if let Some(incumbent) = self.incumbent.as_ref().filter(|_| self.arming.paused()) {
            self.majority.depose(&incumbent.target, now);
        }
    }

    fn apply(&mut self, call: Call) -> (Way, Reason) {
        match call {
            Call::Follow(target) => {
                self.incumbent = Some(Incumbent::new(target));
                self.condemned = false;
                self.dropped = None;
                self.arming.decided(&mut self.roster);
                (Way::Open, if self.majority.lends() { Reason::Early } else { Reason::Proven })
            }
            Call::Keep(way, reason) => (way, reason),
            Call::Close(reason, candidate) => (Way::Closed, self.explain(reason, candidate)),
        }
    }

    /// "It lost its role" helps more than "it has not said master", and both are true at once.
    fn explain(&self, reason: Reason, candidate: Option<SocketAddr>) -> Reason {
        match self.dropped {
            Some((addr, why))
                if matches!(reason, Reason::Unconfirmed | Reason::NoMaster)
                    && candidate.is_none_or(|candidate| candidate == addr) =>
            {
                why
            }
            _ => reason,
        }
    }
}
