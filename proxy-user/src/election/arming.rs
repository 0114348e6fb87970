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
};

/// How long one sign keeps the group armed, and all signs together at a stretch.
pub(super) const ARMED: Duration = Duration::from_secs(5);
pub(super) const LONGEST_ARMED: Duration = Duration::from_secs(30);
/// How long a Sentinel's word alone stops the group: the promotion follows 50 to 100 ms after the sign.
pub(super) const BEFORE_ROLE: Duration = Duration::from_secs(1);
/// How long a change of role stops it: the leader sees the new role within a second, the others hear of it
/// within two more. Whoever is not named by then is a master behind the Sentinels' backs.
pub(super) const AFTER_ROLE: Duration = Duration::from_secs(5);
/// A Sentinel after whose word no role changed stops nothing for this long; for the shorter time if its
/// polls bore it out, as when the replica hangs.
pub(super) const DISTRUST: Duration = Duration::from_secs(30);
const BRIEF_DISTRUST: Duration = Duration::from_secs(5);
/// A role that is older than this belongs to no failover that begins now.
const RECENT: Duration = ARMED;
/// So many calm answers of the Sentinel that gave the sign end the pause: the first may have been on its
/// way before the sign was.
const CALM_ANSWERS: u8 = 2;

#[derive(Debug, Clone, Default)]
pub(super) struct Arming {
    armed: Option<Armed>,
    /// The group is fenced for a change of role.
    role: Option<RoleFence>,
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
struct RoleFence {
    until: Instant,
    /// A Sentinel has seen it; the node itself has not answered us since.
    unseen: Option<Unseen>,
}

#[derive(Debug, Clone, Copy)]
struct Unseen {
    by: SocketAddr,
    node: SocketAddr,
}

/// The group is fenced by this Sentinel's word. Each has its own: one that gives up does not end another's.
#[derive(Debug, Clone, Copy)]
struct WordFence {
    until: Instant,
    calm_answers: u8,
}

/// What one Sentinel has said of failovers.
#[derive(Debug, Clone, Default)]
struct Witness {
    /// Up to this epoch its word has had its effect.
    spent: u64,
    /// Its word that the role of that epoch has changed, too.
    vouched: bool,
    fence: Option<WordFence>,
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
    pub(super) heard: Instant,
}

impl Witness {
    /// Ends its pause, after which no role has changed.
    fn lift(&mut self, now: Instant) {
        if self.fence.take().is_some() {
            self.distrusted_until = Some(now + if self.doubts { BRIEF_DISTRUST } else { DISTRUST });
        }
    }
}

impl Arming {
    /// A known Sentinel has spoken of the master in force; `floor` is the highest epoch of any majority.
    pub(super) fn hear(&mut self, from: SocketAddr, sign: &Sign, floor: u64, roster: &Roster, now: Instant) {
        match (sign.kind, sign.epoch.filter(|epoch| *epoch > floor)) {
            (SignKind::Aborted, _) => self.aborted(from, now),
            (SignKind::Stirring, _) | (_, None) => self.stir(now),
            (SignKind::Chosen | SignKind::Promoted, Some(epoch)) => {
                self.announced(from, epoch, sign.replica, now);
                if let (SignKind::Promoted, Some(node)) = (sign.kind, sign.replica) {
                    self.vouched(from, epoch, node, roster, now);
                }
            }
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
        if let (false, Some(fence)) = (doubts, &mut witness.fence) {
            fence.calm_answers += 1;
            if fence.calm_answers >= CALM_ANSWERS {
                witness.lift(now);
            }
        }
    }

    /// A Sentinel does not answer: what it thinks now is not known.
    pub(super) fn lost(&mut self, from: SocketAddr) {
        if let Some(witness) = self.witnesses.get_mut(&from) {
            witness.doubts = false;
        }
    }

    /// Nobody is known to doubt the master any more.
    pub(super) fn calm(&mut self) {
        self.witnesses.values_mut().for_each(|witness| witness.doubts = false);
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

    /// Believed for an epoch newer than any majority's only, once an epoch, and not from whom it led to
    /// nothing the last time.
    fn announced(&mut self, from: SocketAddr, epoch: u64, replica: Option<SocketAddr>, now: Instant) {
        let witness = self.witnesses.entry(from).or_default();
        if let Some(replica) = replica {
            let same = witness.promise.filter(|it| (it.replica, it.epoch) == (replica, epoch));
            witness.promise = same.or(Some(Promise { replica, epoch, heard: now }));
        }
        let believed = epoch > witness.spent && witness.distrusted_until.is_none_or(|until| until <= now);
        if !believed {
            self.stir(now);
            return self.forget_timeless();
        }
        (witness.spent, witness.vouched) = (epoch, false);
        // Anew, whatever the stretch so far: how often this can be is bounded above.
        self.armed = Some(Armed { since: now, until: now + ARMED });
        if self.role.is_none() {
            witness.fence = Some(WordFence { until: now + BEFORE_ROLE, calm_answers: 0 });
        }
    }

    /// A promise ends with the stretch in which it was heard: without one it would have no end.
    fn forget_timeless(&mut self) {
        if self.armed.is_none() {
            self.witnesses.values_mut().for_each(|witness| witness.promise = None);
        }
    }

    /// The Sentinel has seen the new role. If the node does not answer us, that is all there is to go by;
    /// if it answers, its own word is.
    fn vouched(&mut self, from: SocketAddr, epoch: u64, node: SocketAddr, roster: &Roster, now: Instant) {
        let Some(witness) = self.witnesses.get_mut(&from).filter(|it| it.spent == epoch && !it.vouched) else { return };
        witness.vouched = true;
        if self.role.is_none() && !roster.denies(node) {
            self.role = Some(RoleFence { until: now + AFTER_ROLE, unseen: Some(Unseen { by: from, node }) });
        }
    }

    pub(super) fn aborted(&mut self, from: SocketAddr, now: Instant) {
        let witness = self.witnesses.entry(from).or_default();
        witness.promise = None;
        witness.lift(now);
        if self.role.is_some_and(|fence| fence.unseen.is_some_and(|unseen| unseen.by == from)) {
            self.role = None;
        }
    }

    /// Lets time pass, and looks at the roles of all nodes but `master`.
    pub(super) fn step(&mut self, roster: &mut Roster, master: Option<SocketAddr>, now: Instant) {
        let turned = master.and_then(|master| roster.turned(master));
        let seen = self.role.is_some_and(|fence| fence.unseen.is_none());
        // First: the role may come in the very moment in which the word runs out.
        if !seen && turned.is_some_and(|at| now < at + RECENT) && self.is_expected(now) {
            self.role = Some(RoleFence { until: now + AFTER_ROLE, unseen: None });
            self.witnesses.values_mut().for_each(|witness| witness.fence = None);
        }
        if let Some(fence) = self.role {
            let unsaid = fence.unseen.map_or(turned.is_none(), |unseen| roster.denies(unseen.node));
            if unsaid || fence.until <= now {
                self.role = None;
                roster.forget_turns();
                if let Some(witness) = fence.unseen.and_then(|unseen| self.witnesses.get_mut(&unseen.by)) {
                    witness.distrusted_until = Some(now + DISTRUST);
                }
            }
        }
        for witness in self.witnesses.values_mut() {
            if witness.fence.is_some_and(|fence| fence.until <= now) {
                witness.lift(now);
            }
        }
        if let Some(armed) = self.armed.filter(|armed| armed.until <= now) {
            self.armed = None;
            self.rest_until = Some(now + (now - armed.since));
            self.forget_timeless();
        }
    }

    /// Somebody is followed: all that was said concerned who was followed before.
    pub(super) fn decided(&mut self, roster: &mut Roster) {
        roster.forget_turns();
        (self.armed, self.role, self.rest_until) = (None, None, None);
        self.witnesses
            .values_mut()
            .for_each(|witness| *witness = Witness { spent: witness.spent, ..Witness::default() });
    }

    /// Nobody is followed any more: there is nothing to pause.
    pub(super) fn closed(&mut self) {
        self.role = None;
        self.witnesses.values_mut().for_each(|witness| witness.fence = None);
    }

    /// A change of role is no surprise: a sign was given, or a Sentinel still doubts the master.
    fn is_expected(&self, now: Instant) -> bool {
        self.armed.is_some_and(|armed| now < armed.until) || self.witnesses.values().any(|witness| witness.doubts)
    }

    pub(super) fn paused(&self) -> bool {
        self.fences().next().is_some()
    }

    /// A role has changed as the failover wants it, and whoever is named next is to be known soon.
    pub(super) fn holds(&self) -> bool {
        self.role.is_some()
    }

    /// When each fence there is ends.
    fn fences(&self) -> impl Iterator<Item = Instant> + '_ {
        let words = self.witnesses.values().filter_map(|witness| witness.fence.map(|fence| fence.until));
        words.chain(self.role.map(|fence| fence.until))
    }

    /// Until when every node is to be asked each few milliseconds.
    pub(super) fn hurry_until(&self) -> Option<Instant> {
        self.fences().chain(self.armed.map(|armed| armed.until)).max()
    }

    /// When time alone will change something.
    pub(super) fn wake(&self) -> Option<Instant> {
        self.fences().chain(self.armed.map(|armed| armed.until)).min()
    }

    /// Who is being promoted, by the word of a Sentinel whose failover is still on. Epochs only ever grow,
    /// so of two the higher one is the later.
    pub(super) fn promises(&self) -> impl Iterator<Item = Promise> + '_ {
        self.witnesses.values().filter_map(|witness| witness.promise)
    }
}
