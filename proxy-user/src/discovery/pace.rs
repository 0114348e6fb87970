//! How often to ask. Pure: derived from what discovery itself saw last.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    config::Check,
    election::{NodeReport, Role, SentinelView},
};

/// An event of the group keeps the pace up this long.
pub(super) const AFTERMATH: Duration = Duration::from_secs(5);
/// Between probes in a hurry.
const HURRY: Duration = Duration::from_millis(5);
/// Between polls in a hurry. A Sentinel tells of each step by an event; this is for when one is lost.
const HURRIED_POLL: Duration = Duration::from_millis(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Pace {
    Steady,
    /// Something is going on, or amiss.
    Fast,
    /// The role of a node may change any moment, and milliseconds count.
    Hurry,
}

impl Pace {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Fast => "fast",
            Self::Hurry => "hurry",
        }
    }

    /// Between two probes of a node that answers.
    pub(super) fn probing(self, check: &Check) -> Duration {
        match self {
            Self::Steady => check.interval,
            Self::Fast => check.fast_interval.min(check.interval),
            Self::Hurry => HURRY.min(check.fast_interval),
        }
    }

    /// Between two probes of a node that says master: what it says any more is what must be known soonest.
    pub(super) fn probing_master(self, check: &Check) -> Duration {
        self.max(Self::Fast).probing(check)
    }

    /// Between two probes of a node that does not answer: soon, until it counts as down.
    pub(super) fn probing_silent(failures: u32, check: &Check) -> Duration {
        if failures < check.fall { check.fast_interval.min(check.down_interval) } else { check.down_interval }
    }

    /// Between two polls of a Sentinel.
    pub(super) fn polling(self, check: &Check) -> Duration {
        match self {
            Self::Hurry => HURRIED_POLL.min(check.fast_interval),
            pace => pace.probing(check),
        }
    }
}

/// What the pace follows from.
#[derive(Debug)]
pub(super) struct Signs<'a> {
    /// Of the Sentinels that answer.
    pub(super) views: Vec<&'a SentinelView>,
    /// Of the nodes that answer.
    pub(super) nodes: BTreeMap<SocketAddr, &'a NodeReport>,
    pub(super) last_event: Option<Instant>,
    pub(super) hurry_until: Option<Instant>,
}

pub(super) fn pace(signs: &Signs<'_>, now: Instant) -> Pace {
    if signs.hurry_until.is_some_and(|until| now < until) {
        return Pace::Hurry;
    }
    let recent = signs.last_event.is_some_and(|at| now.saturating_duration_since(at) < AFTERMATH);
    if recent || !settled(signs) { Pace::Fast } else { Pace::Steady }
}

/// One master, named by every Sentinel that answers, not flagged, and saying so itself.
fn settled(signs: &Signs<'_>) -> bool {
    let masters: Vec<&SocketAddr> =
        signs.nodes.iter().filter(|(_, report)| report.role == Role::Master).map(|(addr, _)| addr).collect();
    let [master] = masters.as_slice() else { return false };
    signs.views.iter().all(|view| view.master == **master && !view.master_down)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addr(n: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, n], 6379))
    }

    fn view(n: u8, master_down: bool) -> SentinelView {
        SentinelView { master: addr(n), epoch: 1, master_down }
    }

    fn report(role: Role) -> NodeReport {
        NodeReport { role, id: None, backlog_active: None }
    }

    fn of(views: &[SentinelView], masters: &[u8]) -> Pace {
        let (master, loading) = (report(Role::Master), report(Role::Loading));
        let nodes = (1..=3).map(|n| (addr(n), if masters.contains(&n) { &master } else { &loading })).collect();
        let signs = Signs { views: views.iter().collect(), nodes, last_event: None, hurry_until: None };
        pace(&signs, Instant::now())
    }

    #[test]
    fn steady_only_when_all_agree_and_the_master_says_so() {
        for (views, masters, expected) in [
            (vec![view(1, false), view(1, false)], vec![1], Pace::Steady),
            (vec![view(1, false), view(2, false)], vec![1], Pace::Fast),
            (vec![view(1, false), view(1, true)], vec![1], Pace::Fast),
            (vec![view(1, false)], vec![2], Pace::Fast),
            (vec![view(1, false)], vec![1, 2], Pace::Fast),
            (vec![view(1, false)], vec![], Pace::Fast),
            (vec![], vec![1], Pace::Steady),
            (vec![], vec![], Pace::Fast),
        ] {
            assert_eq!(of(&views, &masters), expected, "{views:?} {masters:?}");
        }
    }

    #[test]
    fn the_master_is_watched_closely_and_the_down_are_left_alone() {
        let check = Check::default();
        let master = [Pace::Steady, Pace::Fast, Pace::Hurry].map(|pace| pace.probing_master(&check));
        assert_eq!(master, [check.fast_interval, check.fast_interval, HURRY]);
        let silent = [1, 2, 3, 99].map(|failures| Pace::probing_silent(failures, &check));
        assert_eq!(silent, [check.fast_interval, check.fast_interval, check.down_interval, check.down_interval]);
        let polls = [Pace::Steady, Pace::Fast, Pace::Hurry].map(|pace| pace.polling(&check));
        assert_eq!(polls, [check.interval, check.fast_interval, HURRIED_POLL]);
    }

    #[test]
    fn events_and_hurry_wear_off() {
        let master = report(Role::Master);
        let start = Instant::now();
        let signs = Signs {
            views: vec![],
            nodes: BTreeMap::from([(addr(1), &master)]),
            last_event: Some(start),
            hurry_until: Some(start + Duration::from_secs(1)),
        };
        assert_eq!(pace(&signs, start), Pace::Hurry);
        assert_eq!(pace(&signs, start + Duration::from_secs(2)), Pace::Fast);
        assert_eq!(pace(&signs, start + AFTERMATH), Pace::Steady);
    }
}
