//! A master that another daemon had proven when it was killed. Its connections live on, for they are in the kernel's
//! hands; what is new has to be proven here. Promises: never more than that daemon allowed, new connections only
//! until the time that it would have had, and that a pause ends, one way or the other.

use std::time::Instant;

use super::{
    arming::{AFTER_ROLE, BEFORE_ROLE},
    roster::Roster,
    verdict::{Reason, Target, Way},
};

#[derive(Debug, Clone)]
pub struct Inherited {
    pub master: Target,
    /// What was allowed when the other daemon died.
    pub found: Way,
    /// Until when new connections may go to the master on that daemon's word.
    pub open_until: Instant,
    /// When this daemon began.
    pub since: Instant,
}

/// What becomes of a verdict on an inherited master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// The master is proven here too, or is none any more.
    Lifted,
    To(Way),
    /// Nobody could say in time whether it still is the master.
    Over,
}

impl Inherited {
    /// As long as nothing is known.
    pub(super) fn way(&self, now: Instant) -> Way {
        match self.found {
            Way::Open if now >= self.open_until => Way::Established,
            found => found,
        }
    }

    /// `way` and `reason` are what the rules make of it as the incumbent.
    pub(super) fn bound(&self, way: Way, reason: Reason, roster: &Roster, sentinels: bool, now: Instant) -> Bound {
        // Without Sentinels whoever is followed stays, also beside a second master; but a first word is not enough.
        let said = match sentinels {
            true => reason == Reason::Proven,
            false => matches!(reason, Reason::Proven | Reason::TwoMasters) && roster.all_asked(),
        };
        let proven = way == Way::Open && said && roster.confirmed(self.master.addr).is_some();
        if self.found == Way::Paused {
            return self.end_pause(proven, roster, now);
        }
        if proven { Bound::Lifted } else { Bound::To(self.way(now)) }
    }

    /// A failover was announced to the other daemon. What it waited for may have happened meanwhile and be on its
    /// way to us: so the pause goes on for as long as it could have.
    fn end_pause(&self, proven: bool, roster: &Roster, now: Instant) -> Bound {
        let waited = now.saturating_duration_since(self.since);
        let least = if roster.has_other_master(self.master.addr) { AFTER_ROLE } else { BEFORE_ROLE };
        match waited {
            waited if proven && waited >= least => Bound::Lifted,
            waited if waited < AFTER_ROLE => Bound::To(Way::Paused),
            _ => Bound::Over,
        }
    }

    /// When time alone changes something next.
    pub(super) fn wake(&self, now: Instant) -> Option<Instant> {
        let ends = match self.found {
            Way::Open => vec![self.open_until],
            Way::Paused => vec![self.since + BEFORE_ROLE, self.since + AFTER_ROLE],
            Way::Established | Way::Closed => Vec::new(),
        };
        ends.into_iter().filter(|end| *end > now).min()
    }
}
