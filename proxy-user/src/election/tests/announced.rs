//! The model's part for rule 5: what was announced, whether a pause has a reason and an end, and what
//! `commit = "early"` may follow. Plain lists, as the rest of the model.

use std::{
    collections::HashSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::election::{Sign, SignKind, Target, Verdict, Way};

/// No sign has an effect for longer.
const MEMORY: Duration = Duration::from_secs(36);
/// Five Sentinels, each a second, and a change of role.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
const TERM: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Default)]
pub(super) struct Announced {
    signs: Vec<(Instant, Sign)>,
    /// Who doubts the master in force, and until when anybody did.
    doubting: HashSet<SocketAddr>,
    doubted: Option<Instant>,
    paused: Option<Instant>,
    /// Who is followed on a Sentinel's word, at which epoch, and since when.
    credit: Option<(SocketAddr, u64, Instant)>,
}

impl Announced {
    pub(super) fn hear(&mut self, sign: &Sign, now: Instant) {
        self.signs.push((now, sign.clone()));
    }

    pub(super) fn doubt(&mut self, from: SocketAddr, doubts: bool) {
        if doubts {
            self.doubting.insert(from);
        } else {
            self.doubting.remove(&from);
        }
    }

    /// A pause has a reason and an end, and is of the very master that was in force.
    pub(super) fn check_pause(&mut self, before: &Verdict, after: &Verdict, now: Instant) -> Result<(), String> {
        self.signs.retain(|(at, _)| now - *at < MEMORY);
        if !self.doubting.is_empty() {
            self.doubted = Some(now);
        }
        if after.way != Way::Paused {
            self.paused = None;
            return Ok(());
        }
        if after.master != before.master {
            return Err("a pause came with a decision".into());
        }
        let doubted = self.doubted.is_some_and(|at| now - at < MEMORY);
        if self.signs.is_empty() && !doubted {
            return Err("a pause without a sign".into());
        }
        let since = *self.paused.get_or_insert(now);
        if now - since >= LONGEST_PAUSE { Err("a pause without an end".into()) } else { Ok(()) }
    }

    /// Whether a Sentinel has said of this node that it replaces the master at this epoch.
    pub(super) fn promised(&self, target: &Target, was: Option<&Target>, floor: u64) -> bool {
        let named = |sign: &Sign| {
            matches!(sign.kind, SignKind::Chosen | SignKind::Promoted)
                && sign.replica == Some(target.addr)
                && sign.epoch == Some(target.epoch)
                && was.is_none_or(|was| sign.master == was.addr)
        };
        target.epoch > floor && self.signs.iter().any(|(_, sign)| named(sign))
    }

    pub(super) fn lend(&mut self, target: &Target, now: Instant) {
        self.credit = Some((target.addr, target.epoch, now));
    }

    /// Who was lent to is followed no more and says that it is no master: a majority that names it later redeems nothing.
    pub(super) fn forfeit(&mut self, in_force: Option<SocketAddr>, claims: impl Fn(SocketAddr) -> bool) {
        self.credit = self.credit.filter(|credit| in_force == Some(credit.0) || claims(credit.0));
    }

    pub(super) fn settle(&mut self) {
        self.credit = None;
    }

    /// Credit that a majority has honoured gives the epoch that is reached; it is gone once anybody was named anew.
    pub(super) fn review(&mut self, candidate: Option<(SocketAddr, u64)>, floor: u64) -> Option<u64> {
        let (addr, epoch) = candidate.filter(|it| it.1 > floor)?;
        let credit = self.credit.take()?;
        (credit.0 == addr).then_some(epoch.min(credit.1))
    }

    pub(super) fn on_credit(&self, addr: SocketAddr, now: Instant) -> bool {
        self.credit.is_some_and(|credit| credit.0 == addr && now - credit.2 < TERM)
    }

    pub(super) fn was_lent(&self, addr: SocketAddr) -> bool {
        self.credit.is_some_and(|credit| credit.0 == addr)
    }
}
