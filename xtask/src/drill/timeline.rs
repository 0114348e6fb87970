//! A round moment by moment, and what was answered tenth of a second by tenth: what the picture shows.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::{
    account::{Moments, ms, signed_ms},
    evidence::Evidence,
    stalls::Stall,
};
use crate::{journal::Journal, signs::Signs};

/// One bar of the picture.
pub(super) const BUCKET: Duration = Duration::from_millis(100);
const SIGNS: [&str; 9] = [
    "+sdown",
    "+odown",
    "+try-failover",
    "+elected-leader",
    "+selected-slave",
    "+failover-state-send-slaveof-noone",
    "+promoted-slave",
    "+switch-master",
    "+convert-to-slave",
];

/// A moment of a round, in milliseconds from the blow.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Mark {
    pub(super) ms: f64,
    pub(super) what: String,
}

/// A tenth of a second: its acknowledged writes, or where there is no writer the connections that were looked at in it.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub(super) struct Bucket {
    pub(super) ms: f64,
    /// On the surviving master, acknowledged by another node; or nobody's, still waiting.
    pub(super) before: u32,
    /// Acknowledged by the surviving master itself; or answered by the master.
    pub(super) after: u32,
    /// Acknowledged and lost; or answered by a wrong node.
    pub(super) lost: u32,
}

/// The bucket of a moment, `since_first` after the first one begins; those before it are made where they are missing.
pub(super) fn bucket(buckets: &mut Vec<Bucket>, first: f64, since_first: Duration) -> &mut Bucket {
    let index = (since_first.as_micros() / BUCKET.as_micros()) as usize;
    while buckets.len() <= index {
        buckets.push(Bucket { ms: ms(BUCKET) * buckets.len() as f64 + first, ..Bucket::default() });
    }
    &mut buckets[index]
}

pub(super) fn timeline(
    evidence: &Evidence,
    moments: &Moments,
    severed: Option<(Instant, Instant)>,
    (signs, stalls): (&Signs, &[Stall]),
) -> Vec<Mark> {
    let mut marks = vec![Mark { ms: 0.0, what: evidence.drill.blow().to_owned() }];
    let mut mark = |at: Option<Instant>, what: String| {
        marks.extend(at.map(|at| Mark { ms: signed_ms(evidence.at, at), what }));
    };
    for channel in SIGNS {
        mark(signs.first(evidence.at, channel).map(|sign| sign.at), format!("first {channel}"));
    }
    for (at, node) in evidence.sightings.crowned(evidence.at) {
        mark(Some(at), format!("node{node} says master"));
    }
    mark(evidence.sightings.demoted(evidence.old, evidence.at), format!("node{} says replica", evidence.old));
    if let Some((at, node)) = evidence.sightings.majority(evidence.old, evidence.at) {
        mark(Some(at), format!("the Sentinels' majority names node{node}"));
    }
    for (at, says) in evidence.journal.iter().flat_map(Journal::changes) {
        mark(Some(at), format!("the proxy is {says}"));
    }
    mark(severed.map(|(first, _)| first), "first idle connection ends".to_owned());
    mark(severed.map(|(_, last)| last), "last idle connection ends".to_owned());
    mark(evidence.gap().map(|(last, _)| last), "last good write before the gap".to_owned());
    let left = evidence.writes.outages.iter().map(|outage| outage.from).find(|from| *from >= evidence.at);
    mark(left, "the writer is cut off".to_owned());
    mark(moments.first_good, "first good write on the new master".to_owned());
    let cut = evidence.subscriber.cuts.iter().find(|cut| **cut >= evidence.at).copied();
    let back = cut.and_then(|cut| evidence.subscriber.numbers.iter().find(|(at, _)| *at > cut)).map(|(at, _)| *at);
    mark(cut, "the subscriber is cut off".to_owned());
    mark(back, "the subscriber hears again".to_owned());
    mark(evidence.lost().next().map(|ack| ack.acked), "first acknowledged write that is lost".to_owned());
    mark(evidence.lost().last().map(|ack| ack.acked), "last acknowledged write that is lost".to_owned());
    mark(evidence.unheard().next().map(|ack| ack.acked), "first acknowledged publish that is lost".to_owned());
    mark(evidence.unheard().last().map(|ack| ack.acked), "last acknowledged publish that is lost".to_owned());
    for (what, record) in [("write", &evidence.writes), ("publish", &evidence.publishes)] {
        if let Some(ack) = evidence.by_the_deposed(record).next() {
            let (port, sent) = (ack.node, signed_ms(evidence.at, ack.sent));
            mark(
                Some(ack.acked),
                format!("port {port}, no longer the master, acknowledges a {what} sent at {sent:.1} ms"),
            );
        }
    }
    for stall in stalls {
        mark(Some(stall.from), format!("CPU {} stands still for {:.1} ms", stall.cpu, ms(stall.to - stall.from)));
    }
    marks.sort_by(|a, b| a.ms.total_cmp(&b.ms));
    marks
}

pub(super) fn buckets(evidence: &Evidence) -> Vec<Bucket> {
    let mut buckets: Vec<Bucket> = Vec::new();
    let zero = evidence.at - Duration::from_secs(1);
    for ack in evidence.writes.acks.iter().filter(|ack| ack.acked >= zero) {
        let bucket = bucket(&mut buckets, -1000.0, ack.acked - zero);
        match (evidence.held.contains(&ack.number), ack.node == evidence.ports[evidence.new]) {
            (false, _) => bucket.lost += 1,
            (true, false) => bucket.before += 1,
            (true, true) => bucket.after += 1,
        }
    }
    buckets
}
