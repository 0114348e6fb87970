//! Rule 5: between the first sign of a failover and its decision. Armed, every node is asked each few
//! milliseconds; fenced, nothing passes, so that what the old master has acknowledged reaches its successor
//! before that is promoted. Promises that every state ends by time alone, that what one Sentinel can cause
//! by itself is bounded, and that nobody is followed here: a pause only lowers what the other rules allow.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::{
    observation::{Sign, SignKind},
    roster::Roster,
    verdict::Target,
};

/// How long one sign keeps the group armed, and all signs together at a stretch.
pub(super) const ARMED: Duration = Duration::from_secs(5);
pub(super) const LONGEST_ARMED: Duration = Duration::from_secs(30);
/// How long a Sentinel's word alone stops the group: the promotion follows 50 to 100 ms after the sign.
pub(super) const BEFORE_ROLE: Duration = Duration::from_secs(1);
/// How long a change of role stops it: the leader sees the new role within a second, the others hear of it
/// within two more. Whoever is not named by then is a master behind the Sentinels' backs.
pub(super) const AFTER_ROLE: Duration = Duration::from_secs(5);
/// A Sentinel after whose word no role changed stops nothing for this long.
pub(super) const DISTRUST: Duration = Duration::from_secs(30);
/// So many calm answers of the Sentinel that gave the sign end the pause: the first may have been on its
/// way before the sign was.
const CALM_ANSWERS: u8 = 2;

#[derive(Debug, Clone, Default)]
pub(super) struct Arming {
    armed: Option<Armed>,
    fence: Option<Fence>,
    /// After a stretch, weak signs do not arm for as long as the stretch was.
    rest_until: Option<Instant>,
    /// By Sentinel; only known ones.
    witnesses: BTreeMap<SocketAddr, Witness>,
}

#[derive(Debug, Clone, Copy)]
struct Armed {
    since: Instant,
    until: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Fence {
    until: Instant,
    cause: Cause,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Word { by: SocketAddr, calm_answers: u8 },
    Role,
}

/// What one Sentinel has said of failovers.
#[derive(Debug, Clone, Default)]
struct Witness {
    /// Up to this epoch its word has had its effect.
    spent: u64,
    distrusted_until: Option<Instant>,
    /// It thinks the master down, or is failing it over: only the beginning of that is a sign.
    doubts: bool,
    promise: Option<Promise>,
}

/// A replica that a Sentinel promotes, and the epoch it will have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Promise {
    pub(super) replica: SocketAddr,
    pub(super) epoch: u64,
}

impl Arming {
    /// A known Sentinel has spoken of the master in force.
    pub(super) fn hear(&mut self, from: SocketAddr, sign: &Sign, target: &Target, now: Instant) {
        match sign.kind {
            SignKind::Stirring => self.stir(now),
            SignKind::Chosen | SignKind::Promoted => self.announced(from, sign, target, now),
            SignKind::Aborted => self.aborted(from, now),
        }
    }

    /// A known Sentinel names the master in force; `doubts`: it thinks it down, or is failing it over.
    pub(super) fn answered(&mut self, from: SocketAddr, doubts: bool, now: Instant) {
        let witness = self.witnesses.entry(from).or_default();
        let before = std::mem::replace(&mut witness.doubts, doubts);
        // A replica that is slow to take its new role is waited for as long as it is promoted.
        if doubts && (!before || witness.promise.is_some()) {
            return self.stir(now);
        }
        // The failover is over, and the master is the one it was.
        if let (false, Some(Fence { cause: Cause::Word { by, calm_answers }, .. })) = (doubts, &mut self.fence)
            && *by == from
        {
            *calm_answers += 1;
            if *calm_answers >= CALM_ANSWERS {
                self.lift(now);
            }
        }
    }

    /// A Sentinel does not answer: what it thinks now is not known.
    pub(super) fn lost(&mut self, from: SocketAddr) {
        if let Some(witness) = self.witnesses.get_mut(&from) {
            witness.doubts = false;
        }
    }

    /// Forgets Sentinels that are none any more.
    pub(super) fn retain(&mut self, known: impl Fn(SocketAddr) -> bool) {
        self.witnesses.retain(|from, _| known(*from));
    }

    /// A reason to look more closely, nothing more: whoever gives such signs all the time gets half of it.
    pub(super) fn stir(&mut self, now: Instant) {
        if self.armed.is_some() || self.rest_until.is_none_or(|until| until <= now) {
            self.arm(now);
        }
    }

    fn arm(&mut self, now: Instant) {
        let since = self.armed.map_or(now, |armed| armed.since);
        self.armed = Some(Armed { since, until: (now + ARMED).min(since + LONGEST_ARMED) });
    }

    /// Believed for an epoch newer than the one in force only, once an epoch, and not from whom it led to
    /// nothing the last time.
    fn announced(&mut self, from: SocketAddr, sign: &Sign, target: &Target, now: Instant) {
        let Some(epoch) = sign.epoch.filter(|epoch| *epoch > target.epoch) else { return self.stir(now) };
        let witness = self.witnesses.entry(from).or_default();
        if let Some(replica) = sign.replica {
            witness.promise = Some(Promise { replica, epoch });
        }
        let believed = epoch > witness.spent && witness.distrusted_until.is_none_or(|until| until <= now);
        if !believed {
            return self.stir(now);
        }
        witness.spent = epoch;
        // Anew, whatever the stretch so far: how often this can be is bounded above.
        self.armed = Some(Armed { since: now, until: now + ARMED });
        let cause = Cause::Word { by: from, calm_answers: 0 };
        self.fence.get_or_insert(Fence { until: now + BEFORE_ROLE, cause });
    }

    fn aborted(&mut self, from: SocketAddr, now: Instant) {
        self.witnesses.entry(from).or_default().promise = None;
        if self.fence.is_some_and(|fence| matches!(fence.cause, Cause::Word { by, .. } if by == from)) {
            self.lift(now);
        }
    }

    /// Ends a pause after which no role has changed.
    fn lift(&mut self, now: Instant) {
        if let Some(Fence { cause: Cause::Word { by, .. }, .. }) = self.fence.take()
            && let Some(witness) = self.witnesses.get_mut(&by)
        {
            witness.distrusted_until = Some(now + DISTRUST);
        }
    }

    /// Lets time pass, and looks at the roles of all nodes but `master`.
    pub(super) fn step(&mut self, roster: &mut Roster, master: Option<SocketAddr>, now: Instant) {
        let turned = master.is_some_and(|master| roster.turned(master));
        if self.fence.is_some_and(|fence| fence.until <= now || fence.cause == Cause::Role && !turned) {
            if self.fence.is_some_and(|fence| fence.cause == Cause::Role) {
                roster.forget_turns();
            }
            self.lift(now);
        } else if turned && self.is_expected(now) && self.fence.is_none_or(|fence| fence.cause != Cause::Role) {
            self.fence = Some(Fence { until: now + AFTER_ROLE, cause: Cause::Role });
        }
        if let Some(armed) = self.armed.filter(|armed| armed.until <= now) {
            self.armed = None;
            self.rest_until = Some(now + (now - armed.since));
            self.witnesses.values_mut().for_each(|witness| witness.promise = None);
        }
    }

    /// Somebody is followed: all that was said concerned who was followed before.
    pub(super) fn decided(&mut self, roster: &mut Roster) {
        roster.forget_turns();
        (self.armed, self.fence, self.rest_until) = (None, None, None);
        self.witnesses
            .values_mut()
            .for_each(|witness| *witness = Witness { spent: witness.spent, ..Witness::default() });
    }

    /// Nobody is followed any more: there is nothing to pause.
    pub(super) fn closed(&mut self) {
        self.fence = None;
    }

    /// A change of role is no surprise: a sign was given, or a Sentinel still doubts the master.
    fn is_expected(&self, now: Instant) -> bool {
        self.armed.is_some_and(|armed| now < armed.until) || self.witnesses.values().any(|witness| witness.doubts)
    }

    pub(super) fn paused(&self) -> bool {
        self.fence.is_some()
    }

    /// Until when every node is to be asked each few milliseconds.
    pub(super) fn hurry_until(&self) -> Option<Instant> {
        self.armed.map(|armed| armed.until).max(self.fence.map(|fence| fence.until))
    }

    /// When time alone will change something.
    pub(super) fn wake(&self) -> Option<Instant> {
        let ends = [self.armed.map(|armed| armed.until), self.fence.map(|fence| fence.until)];
        ends.into_iter().flatten().min()
    }

    /// Who is being promoted, by the word of a Sentinel whose failover is still on. Epochs only ever grow,
    /// so of two the higher one is the later.
    pub(super) fn promises(&self) -> impl Iterator<Item = Promise> + '_ {
        self.witnesses.values().filter_map(|witness| witness.promise)
    }
}
