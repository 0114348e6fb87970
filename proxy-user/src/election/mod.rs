//! Who is master, decided from what Sentinels and nodes say. Pure: a function of (state,
//! observation, time), so that every rule is a table test. Promises: never two targets, never a
//! lower epoch, never a target that did not itself say master, never open without a majority.
//! Never does I/O, and never reads a clock. `docs/election.md` gives the rules and their reasons.

mod address;
mod ballot;
mod majority;
mod node;
mod observation;
mod roster;
mod rules;
mod ruling;
mod sole;
#[cfg(test)]
mod tests;
mod verdict;

use std::{net::SocketAddr, time::Instant};

pub use self::{
    address::canonical,
    observation::{Failure, NodeReport, Observation, ReplicaLink, Role, SentinelView},
    rules::Rules,
    verdict::{Reason, Replica, Target, Verdict, Way},
};
use self::{
    majority::Majority,
    node::Thresholds,
    roster::Roster,
    ruling::{Call, Held, Incumbent, Ruling, Standing},
};

/// The election of one group. Feed it every observation in order; act whenever it says that the
/// verdict changed; call [`Election::tick`] at [`Election::deadline`].
///
/// Early arming (a pause between the first sign of a failover and the decision) has its place in
/// `settle`: between the ruling and the verdict, where it may lower an open way but never raise one.
#[derive(Debug, Clone)]
pub struct Election {
    rules: Rules,
    roster: Roster,
    majority: Majority,
    incumbent: Option<Incumbent>,
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
            rules,
            incumbent: None,
            dropped: None,
            now: None,
            deadline: None,
            verdict: Verdict::closed(),
        }
    }

    /// Takes one observation in. True if the verdict changed.
    pub fn observe(&mut self, observation: Observation, now: Instant) -> bool {
        match observation {
            Observation::Sentinels(known) => self.majority.ballot.seat(known),
            Observation::View(from, view) => self.majority.ballot.cast(from, &view),
            Observation::SentinelLost(from, _) => self.majority.ballot.withdraw(from),
            Observation::Nodes(known) => self.roster.enlist(known),
            Observation::Node(from, report) => self.roster.report(from, report),
            Observation::NodeLost(from, _) => self.roster.failure(from),
        }
        self.settle(now)
    }

    /// Lets time pass. True if the verdict changed.
    pub fn tick(&mut self, now: Instant) -> bool {
        self.settle(now)
    }

    /// When time alone will next change something.
    pub fn deadline(&self) -> Option<Instant> {
        self.deadline
    }

    pub fn verdict(&self) -> &Verdict {
        &self.verdict
    }

    fn settle(&mut self, now: Instant) -> bool {
        let now = self.now.map_or(now, |latest| latest.max(now));
        self.now = Some(now);
        let ruling = self.rule(now);
        self.deadline = ruling.wake;
        let (way, reason) = self.apply(ruling.call);
        let master = self.incumbent.as_ref().map(|incumbent| incumbent.target.clone());
        let replicas = self.roster.replicas(master.as_ref().map(|master| master.addr));
        let verdict = Verdict { way, master, reason, replicas };
        let changed = verdict != self.verdict;
        self.verdict = verdict;
        changed
    }

    /// Rules 7 and 8 first: a master that is none any more is no incumbent for the other rules.
    fn rule(&mut self, now: Instant) -> Ruling {
        let held = match self.incumbent.as_mut().map(|incumbent| incumbent.standing(&self.roster)) {
            None => Held::Nobody,
            Some(Standing::SaysMaster) => Held::SaysMaster,
            Some(Standing::Silent) => Held::Silent,
            Some(Standing::RoleLost) => self.drop_incumbent(Reason::RoleLost),
            Some(Standing::Stranger) => self.drop_incumbent(Reason::Stranger),
        };
        let target = self.incumbent.as_ref().map(|incumbent| &incumbent.target);
        if self.rules.sentinels {
            self.majority.rule(&self.roster, target, held, now)
        } else {
            sole::rule(&self.roster, target, held)
        }
    }

    fn drop_incumbent(&mut self, reason: Reason) -> Held {
        self.dropped = self.incumbent.take().map(|incumbent| (incumbent.target.addr, reason));
        Held::Nobody
    }

    fn apply(&mut self, call: Call) -> (Way, Reason) {
        match call {
            Call::Follow(target) => {
                self.incumbent = Some(Incumbent::new(target));
                self.dropped = None;
                (Way::Open, Reason::Proven)
            }
            Call::Keep(way, reason) => (way, reason),
            Call::Close(reason, candidate) => {
                self.incumbent = None;
                (Way::Closed, self.explain(reason, candidate))
            }
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
