//! One group's loop: what discovery sees goes into the election, and what the election decides is
//! carried out at once.

#[cfg(test)]
mod tests;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::house::House;
use crate::{
    admin::{Latch, status},
    clock,
    config::Name,
    datapath::Hold,
    discovery::{Discovery, Seen, Tally},
    election::{Election, Inherited, Reason, Rules, Target, Verdict, Way},
    events::{Change, Timeline},
    metrics::Metrics,
    switch::HEARD,
};

/// Carries what discovery counts into the metrics. A task that died is no lost readiness: it is started
/// again at once, and what it could not ask meanwhile counts as lost in the election.
#[derive(Debug)]
pub(super) struct Counted {
    pub(super) group: Name,
    pub(super) metrics: Metrics,
}

impl Tally for Counted {
    fn probed(&self, node: SocketAddr, took: Duration) {
        self.metrics.node_probed(&self.group, node, took);
    }

    fn task_failed(&self) {
        self.metrics.task_failed("discovery");
    }
}

/// A group as the rest of the daemon sees it.
#[derive(Debug)]
pub(super) struct GroupState {
    pub(super) name: Name,
    pub(super) discovery: Discovery,
    pub(super) timeline: Timeline,
    standing: Mutex<Standing>,
}

#[derive(Debug, Clone)]
pub(super) struct Standing {
    pub(super) verdict: Verdict,
    /// When way or reason last changed.
    pub(super) since: Instant,
    /// The last master, also while closed: a return to it is no switch.
    pub(super) last: Option<Target>,
}

impl GroupState {
    pub(super) fn new(name: Name, discovery: Discovery, timeline: Timeline) -> Self {
        let standing = Standing { verdict: Verdict::closed(), since: clock::now(), last: None };
        Self { name, discovery, timeline, standing: Mutex::new(standing) }
    }

    pub(super) fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes a verdict on; true if it names another master than the last.
    fn take(&self, verdict: &Verdict) -> bool {
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        if (standing.verdict.way, standing.verdict.reason) != (verdict.way, verdict.reason) {
            standing.since = clock::now();
        }
        standing.verdict = verdict.clone();
        let switched = match (&standing.last, &verdict.master) {
            (Some(last), Some(master)) => !last.is_same(master),
            _ => false,
        };
        if verdict.master.is_some() {
            standing.last.clone_from(&verdict.master);
        }
        switched
    }
}

/// What a group's loop begins with.
#[derive(Debug)]
pub(super) struct Start {
    pub(super) election: Election,
    pub(super) seen: mpsc::Receiver<Seen>,
    pub(super) unproven: Option<Latch>,
    /// Until the master is proven here, or takes no new connections: else the heartbeat would vouch for it.
    pub(super) hold: Option<Arc<Hold>>,
}

impl Start {
    /// `inherited`: what another daemon had in force.
    pub(super) fn new(
        rules: Rules,
        seen: mpsc::Receiver<Seen>,
        unproven: Latch,
        inherited: Option<(Arc<Hold>, (Target, Way))>,
    ) -> Self {
        let (election, hold) = match inherited {
            None => (Election::new(rules), None),
            Some((hold, (master, found))) => {
                let since = clock::now();
                let inherited = Inherited { master, found, open_until: hold.orphaned_at(), since };
                (Election::resume(rules, inherited, since), Some(hold))
            }
        };
        Self { election, seen, unproven: Some(unproven), hold }
    }
}

/// Runs until `stop`. If discovery ends before, nobody would notice a failover any more: the group is
/// closed, and the daemon ends with it.
pub(super) async fn run(house: Arc<House>, index: usize, start: Start, stop: CancellationToken) {
    let Start { mut election, mut seen, mut unproven, mut hold } = start;
    let mut hurried = None;
    let mut heard = Some(clock::now() + HEARD);
    let timeline = &house.groups[index].timeline;
    if let Some(master) = &election.verdict().master {
        timeline.took_over(master);
        follow(&house, index, election.verdict());
        hold.take_if(|_| !is_open_unproven(election.verdict()));
    }
    loop {
        let deadline = election.deadline();
        let changed = tokio::select! {
            seen = seen.recv() => match seen {
                Some(seen) => {
                    timeline.saw(&seen);
                    election.observe(seen.observation, seen.at)
                }
                None => break,
            },
            () = until(deadline) => {
                timeline.time_passed();
                election.tick(clock::now())
            }
            () = until(heard) => {
                heard = None;
                settle(&house, index, election.verdict());
                false
            }
            () = stop.cancelled() => break,
        };
        let hurry = election.hurry_until();
        if hurry.is_some() && hurried.is_none() {
            timeline.armed(true, clock::now());
        }
        let fenced = changed && election.verdict().way == Way::Paused;
        if let Some(until) = hurry.filter(|_| fenced || hurry != hurried) {
            house.expect_switch(until, fenced);
        }
        if changed {
            follow(&house, index, election.verdict());
        }
        if hurry.is_none() && hurried.is_some() {
            timeline.armed(false, clock::now());
        }
        if hurry != hurried {
            hurried = hurry;
            house.groups[index].discovery.hurry(hurry.unwrap_or_else(clock::now));
        }
        unproven.take_if(|_| is_open_proven(election.verdict()));
        hold.take_if(|_| !is_open_unproven(election.verdict()));
    }
    if !stop.is_cancelled() {
        follow(&house, index, &Verdict::closed());
    }
}

fn follow(house: &Arc<House>, index: usize, verdict: &Verdict) {
    let group = &house.groups[index];
    let before = group.standing().verdict;
    let (at, severing) = {
        let mut switch = house.switch();
        (clock::now(), switch.follow(index, verdict))
    };
    // What another daemon proved is no news; that it is proven here is.
    let nothing = Verdict::closed();
    let told = |verdict| if is_taken_over(verdict) { &nothing } else { verdict };
    let aftermath = group.timeline.followed(Change { before: told(&before), after: told(verdict), at });
    if group.take(verdict) {
        house.metrics.switched(&group.name);
    }
    if before.reason != verdict.reason || before.way != verdict.way || before.master != verdict.master {
        tell(group, &before, verdict);
    }
    for severing in severing {
        tokio::spawn(super::house::account(house.metrics.clone(), severing, aftermath.clone()));
    }
    // Whoever only goes on has its connections already.
    let anew = before.way == Way::Closed || before.master != verdict.master;
    if let Some(aftermath) = aftermath.filter(|_| verdict.way == Way::Open && anew) {
        house.await_first_connections(index, at, &aftermath);
    }
}

/// The same verdict once more: the slots that waited for word of their replicas wait no longer.
fn settle(house: &Arc<House>, index: usize, verdict: &Verdict) {
    let severing = house.switch().follow(index, verdict);
    for severing in severing {
        tokio::spawn(super::house::account(house.metrics.clone(), severing, None));
    }
}

fn is_taken_over(verdict: &Verdict) -> bool {
    verdict.reason == Reason::TakenOver
}

fn is_open_proven(verdict: &Verdict) -> bool {
    verdict.way == Way::Open && !is_taken_over(verdict)
}

fn is_open_unproven(verdict: &Verdict) -> bool {
    verdict.way == Way::Open && is_taken_over(verdict)
}

fn tell(group: &GroupState, before: &Verdict, verdict: &Verdict) {
    let describe = |verdict: &Verdict| match &verdict.master {
        Some(master) => format!("{} (epoch {}, id {})", master.addr, master.epoch, master.id.as_deref().unwrap_or("-")),
        None => "-".to_owned(),
    };
    let (way, reason) = (status::way_word(verdict.way), verdict.reason.word());
    let (master, was) = (describe(verdict), describe(before));
    if verdict.way < before.way {
        tracing::warn!(
            group = %group.name, way, reason, master, was,
            "the group takes no new clients; docs/operations.md says what the reason means and what to do"
        );
    } else {
        tracing::info!(group = %group.name, way, reason, master, was, "the group's state");
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}
