//! `commit = "early"`: following somebody before a majority names it, and until when. Promises that no more is lent than
//! one Sentinel's and the node's own word are worth: it has an end, and raises no floor.

use std::{net::SocketAddr, time::Instant};

use super::Majority;
use crate::election::{
    arming::{AFTER_ROLE, Promise},
    ballot::Count,
    roster::Roster,
    ruling::{Call, Held, Ruling},
    verdict::{Reason, Target, Way},
};

/// A target that was followed on a Sentinel's and its own word (`commit = "early"`), until a majority
/// names it or anybody else at a newer epoch than the last majority had.
#[derive(Debug, Clone, Copy)]
pub(super) struct Credit {
    pub(super) addr: SocketAddr,
    epoch: u64,
    /// The majority should have heard of it by then.
    until: Option<Instant>,
}

impl Majority {
    /// Follows a replica that a Sentinel promotes and that says master, before the majority knows. The floor
    /// stays: it is raised by majorities alone, so that a word that comes to nothing binds nobody.
    pub(in crate::election) fn lend(&mut self, promise: Promise, roster: &Roster, now: Instant) -> Option<Ruling> {
        let overruled = matches!(self.ballot.count(), Count::Agreed(agreed) if agreed.addr != promise.replica && agreed.epoch > self.floor);
        let node = roster.confirmed(promise.replica)?;
        if overruled || promise.epoch <= self.floor || self.credit.is_some() {
            return None;
        }
        self.unsupported = None;
        let until = now.checked_add(AFTER_ROLE);
        self.credit = Some(Credit { addr: promise.replica, epoch: promise.epoch, until });
        let target = Target { addr: promise.replica, epoch: promise.epoch, id: node.id().map(str::to_owned) };
        Some(Ruling { call: Call::Follow(target), wake: until })
    }

    /// Whether who is followed is followed on credit.
    pub(in crate::election) fn lends(&self) -> bool {
        self.credit.is_some()
    }

    /// The credit ends when a majority has spoken, when the target itself says that it is no master, and when
    /// its time is over while it says nothing.
    pub(super) fn watch_credit(&mut self, count: &Count, roster: &Roster, incumbent: Option<&Target>, now: Instant) {
        let Some(credit) = self.credit else { return };
        let spoken = match count {
            // At whatever epoch: Sentinels that were set up anew count from 0.
            Count::Agreed(agreed) if agreed.addr == credit.addr => {
                self.floor = self.floor.max(agreed.epoch.min(credit.epoch));
                true
            }
            Count::Agreed(agreed) => agreed.epoch > self.floor,
            _ => false,
        };
        let followed = incumbent.is_some_and(|target| target.addr == credit.addr);
        let over = credit.until.is_some_and(|until| until <= now);
        if spoken || (over || !followed) && !roster.says_master(credit.addr) {
            self.credit = None;
        }
    }

    /// The majority's word is still that of before the failover: the old master's does not count against the
    /// new one. When the time is up it does, and rule 4 takes over.
    pub(super) fn trust(
        &mut self,
        credit: Credit,
        count: &Count,
        roster: &Roster,
        target: &Target,
        held: Held,
        now: Instant,
    ) -> Ruling {
        if credit.until.is_some_and(|until| until <= now) {
            return self.outlast(count, roster, target, held, now);
        }
        let call = match held {
            Held::Silent => Call::Keep(Way::Established, Reason::ProbeLost),
            Held::SaysMaster | Held::Nobody => Call::Keep(Way::Open, Reason::Early),
        };
        Ruling { call, wake: credit.until }
    }
}
