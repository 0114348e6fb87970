//! The figures of a round, from its evidence.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use serde::Serialize;

use super::{
    dialers::Outcome,
    evidence::Evidence,
    figures::{Figure, Figures},
    stage::Counters,
    stalls::Stall,
    timeline::{Bucket, Mark, buckets, timeline},
};
use crate::{journal::Journal, signs::Signs};

/// So late a log line, or a look of the watch, may be: a cause that close behind its effect is the cause. Who logs a switch waits
/// for a processor until those who reset the connections leave it one.
const LATE: Duration = Duration::from_millis(30);

#[derive(Debug, Serialize)]
pub(super) struct Round {
    pub(super) figures: Figures,
    pub(super) timeline: Vec<Mark>,
    pub(super) buckets: Vec<Bucket>,
}

/// `addresses` are the nodes'; `counted` is what the proxy counted since the blow.
pub(super) fn settle(evidence: &Evidence, addresses: &[SocketAddr], signs: &Signs, counted: Option<Counters>) -> Round {
    let mut figures = Figures::default();
    let moments = Moments::of(evidence, addresses[evidence.new]);
    lost_and_gap(evidence, &moments, &mut figures);
    let severed = severed(evidence, &moments, &mut figures);
    figures.count(Figure::Wrong, evidence.wrong());
    figures.count(Figure::Refused, evidence.dials_that(|outcome| matches!(outcome, Outcome::Refused(_))));
    figures.count(Figure::Cut, evidence.dials_that(|outcome| matches!(outcome, Outcome::Cut(_))));
    if let Some(counted) = counted {
        figures.set(Figure::Parked, counted.parked as f64);
        figures.set(Figure::RefusedByProxy, counted.refused as f64);
    }
    let end = severed.map(|(_, last)| last).max(moments.first_good);
    let stalls: Vec<Stall> = evidence.stalls_until(end).collect();
    let longest = stalls.iter().map(|stall| ms(stall.to - stall.from)).max_by(f64::total_cmp);
    figures.set(Figure::Stall, longest.unwrap_or(0.0));
    let timeline = timeline(evidence, &moments, severed, (signs, &stalls));
    Round { figures, timeline, buckets: buckets(evidence) }
}

/// The moments that most figures are taken from.
pub(super) struct Moments {
    role_change: Option<Instant>,
    visible: Option<Instant>,
    pub(super) majority: Option<Instant>,
    fence: Option<Instant>,
    pub(super) first_good: Option<Instant>,
}

impl Moments {
    fn of(evidence: &Evidence, new: SocketAddr) -> Self {
        let fenced = evidence.journal.as_ref().and_then(Journal::fenced).map(|(at, _)| at);
        Self {
            role_change: evidence.role_change(),
            visible: evidence.visible(),
            majority: evidence.majority(),
            // Whoever opens towards the new master without having stopped before fences by that.
            fence: fenced.into_iter().chain(evidence.flip(new)).min(),
            first_good: evidence.first_good(evidence.new, evidence.at).map(|ack| ack.acked),
        }
    }
}

fn lost_and_gap(evidence: &Evidence, moments: &Moments, figures: &mut Figures) {
    let since_blow = |at: Option<Instant>| at.map(|at| signed_ms(evidence.at, at));
    let between = |from: Option<Instant>, to: Option<Instant>| Some(signed_ms(from?, to?));
    figures.count(Figure::AckedThenLost, evidence.lost().count());
    figures.count(Figure::PublishedThenLost, evidence.unheard().count());
    figures.note(Figure::Gap, evidence.gap().map(|(_, gap)| ms(gap)));
    figures.note(Figure::RoleChange, since_blow(moments.role_change));
    figures.note(Figure::Majority, since_blow(moments.majority));
    let worst = evidence
        .crowned()
        .into_iter()
        .map(|(at, node)| evidence.first_good(node, at).map_or(f64::INFINITY, |ack| signed_ms(at, ack.acked)));
    figures.note(Figure::RoleToGood, worst.max_by(f64::total_cmp));
    figures.note(Figure::MajorityToGood, between(moments.majority, moments.first_good));
    figures.note(Figure::FenceAfterRole, between(moments.visible, moments.fence));
    figures.count(Figure::OldAcks, evidence.by_the_deposed(&evidence.writes).count());
    figures.count(Figure::OldPublishes, evidence.by_the_deposed(&evidence.publishes).count());
    figures.note(Figure::AcksAfterFence, moments.fence.map(|fence| evidence.after_fence(fence) as f64));
    figures.count(Figure::Acked, evidence.writes.acks.len());
}

/// Idle connections: counted from the decision that ended them. Returns the first and the last.
fn severed(evidence: &Evidence, moments: &Moments, figures: &mut Figures) -> Option<(Instant, Instant)> {
    let mut ends: Vec<Instant> = evidence.ends.iter().map(|end| end.at).filter(|at| *at >= evidence.at).collect();
    ends.sort_unstable();
    let first = ends.first().copied();
    let decisions: Vec<Instant> = match &evidence.journal {
        _ if evidence.drill.ends_connections() => Vec::new(),
        Some(journal) => journal.changes().into_iter().map(|(at, _)| at).collect(),
        // A proxy that gives no account of its decisions is measured from the Sentinels'.
        None => moments.majority.into_iter().collect(),
    };
    let before = decisions.into_iter().filter(|at| first.is_none_or(|first| *at <= first + LATE));
    // A line that was late does not make the rest quicker.
    let zero = before.max().map_or(evidence.at, |decision| first.map_or(decision, |first| decision.min(first)));
    let quantile = |part: f64| {
        let rank = ((evidence.crowd.saturating_sub(1)) as f64 * part).round() as usize;
        ends.get(rank).map_or(f64::INFINITY, |at| signed_ms(zero, *at).max(0.0))
    };
    figures.set(Figure::SeverP50, quantile(0.5));
    figures.set(Figure::SeverP99, quantile(0.99));
    figures.count(Figure::NeverSevered, evidence.crowd - ends.len().min(evidence.crowd));
    first.zip(ends.last().copied())
}

pub(super) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// From one moment to another, negative if that one was earlier.
pub(super) fn signed_ms(from: Instant, to: Instant) -> f64 {
    to.checked_duration_since(from).map_or_else(|| -ms(from - to), ms)
}
