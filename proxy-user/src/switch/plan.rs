//! From a verdict to what one route should lead to. Pure.

use super::slot::SlotState;
use crate::{
    config::{Fallback, Lag, Route, TargetRole},
    election::{Reason, Replica, Target, Verdict, Way},
};

/// A node that a route should lead to, and what may pass.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Wanted {
    pub(super) target: Target,
    pub(super) way: Way,
    /// On another daemon's word alone.
    pub(super) taken_over: bool,
}

pub(super) fn wanted(route: &Route, verdict: &Verdict) -> Vec<Wanted> {
    match route.target {
        TargetRole::Master => master(verdict).into_iter().collect(),
        TargetRole::Replica => replicas(route, verdict),
    }
}

/// Whether `slot`, the route's `index`-th, is the place for `wanted`. The master has one place, for
/// whoever it is; a replica has its own.
pub(super) fn slot_of(route: &Route, wanted: &Wanted, slot: &SlotState, index: usize) -> bool {
    match route.target {
        TargetRole::Master => index == 0,
        TargetRole::Replica => slot.is_for(wanted.target.addr),
    }
}

fn master(verdict: &Verdict) -> Option<Wanted> {
    let target = verdict.master.clone()?;
    let taken_over = verdict.reason == Reason::TakenOver;
    (verdict.way != Way::Closed).then_some(Wanted { target, way: verdict.way, taken_over })
}

fn replicas(route: &Route, verdict: &Verdict) -> Vec<Wanted> {
    let most = if is_vouched_for(verdict) { Way::Open } else { Way::Established };
    let each = verdict.replicas.iter().filter_map(|replica| self::replica(route, replica));
    let mut wanted: Vec<Wanted> = each.map(|wanted| Wanted { way: wanted.way.min(most), ..wanted }).collect();
    if route.fallback == Fallback::Master
        && let Some(mut master) = master(verdict)
    {
        // While a replica is sound the master takes no new client; those it has may stay.
        if wanted.iter().any(|wanted| wanted.way == Way::Open) {
            master.way = master.way.min(Way::Established);
        }
        wanted.push(master);
    }
    wanted
}

/// Whether it is clear which group's replicas these are: its master is proven, or was until it fell silent. Else a replica takes
/// nobody new, as a master would not.
fn is_vouched_for(verdict: &Verdict) -> bool {
    match verdict.way {
        Way::Open | Way::Paused => true,
        Way::Established => verdict.reason == Reason::ProbeLost,
        Way::Closed => false,
    }
}

fn replica(route: &Route, replica: &Replica) -> Option<Wanted> {
    let way = match (replica.keep, replica.sound && near(route.max_lag, replica)) {
        (false, _) => return None,
        (true, true) => Way::Open,
        (true, false) => Way::Established,
    };
    // The epoch is the master's; a replica's connections outlive a change of it.
    let target = Target { addr: replica.addr, epoch: 0, id: replica.id.clone() };
    Some(Wanted { target, way, taken_over: false })
}

/// A lag that cannot be known does not exclude: an ACL may hide it from us.
fn near(max: Lag, replica: &Replica) -> bool {
    match max {
        Lag::Time(max) => replica.lag_seconds.is_none_or(|lag| lag <= max.as_secs()),
        Lag::Bytes(max) => replica.lag_bytes.is_none_or(|lag| lag <= max),
    }
}
