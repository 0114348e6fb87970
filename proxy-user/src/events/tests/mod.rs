//! Timelines fed with what a group's task would tell them, and the log on real files.

mod disk;
mod log;
mod stages;
mod witness;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::*;
use crate::{
    discovery::Seen,
    election::{
        NodeReport, Observation, Reason, ReplicaLink, Role, SentinelView, Sign, SignKind, Target, Verdict, Way,
    },
};

#[derive(Debug, Default)]
struct Told {
    ended: AtomicUsize,
    unwritten: AtomicUsize,
}

impl Tally for Told {
    fn ended(&self, _: &Event) {
        self.ended.fetch_add(1, Ordering::Relaxed);
    }
    fn unwritten(&self) {
        self.unwritten.fetch_add(1, Ordering::Relaxed);
    }
}

/// Node 1, 2, ... and Sentinel 1, 2, ...
fn node(number: u8) -> SocketAddr {
    ([10, 0, 0, number], 6379).into()
}

fn sentinel(number: u8) -> SocketAddr {
    ([10, 0, 0, number], 26379).into()
}

fn target(number: u8, epoch: u64) -> Target {
    Target { addr: node(number), epoch, id: None }
}

fn verdict(way: Way, master: Option<Target>, reason: Reason) -> Verdict {
    Verdict { way, master, reason, replicas: Vec::new() }
}

fn open(number: u8, epoch: u64) -> Verdict {
    verdict(Way::Open, Some(target(number, epoch)), Reason::Proven)
}

fn paused() -> Verdict {
    verdict(Way::Paused, Some(target(1, 7)), Reason::Failover)
}

fn view(from: u8, names: u8, epoch: u64, master_down: bool) -> Observation {
    Observation::View(sentinel(from), SentinelView { master: node(names), epoch, master_down })
}

/// What Sentinel `from` publishes of node 1: that node 2 is to follow it.
fn sign(from: u8, channel: &'static str) -> Observation {
    let (kind, replica) = match channel {
        "+selected-slave" => (SignKind::Chosen, Some(node(2))),
        "-failover-abort-slave-timeout" => (SignKind::Aborted, None),
        _ => (SignKind::Stirring, None),
    };
    Observation::Sign(sentinel(from), Sign { kind, epoch: Some(8), master: node(1), replica, channel })
}

/// Makes one event: another master.
fn flip(timeline: &Timeline, epoch: u64) {
    let (before, after) = (Verdict::closed(), open(1, epoch));
    drop(timeline.followed(Change { before: &before, after: &after, at: Instant::now() }));
}

fn replica() -> Role {
    Role::Replica(ReplicaLink { master: None, stray: false, up: true, lag_seconds: None, lag_bytes: None })
}

fn says(number: u8, role: Role) -> Observation {
    Observation::Node(node(number), NodeReport { role, id: None, backlog_active: None })
}

/// A group that follows node 1 in epoch 7, seen by three Sentinels.
struct Scene {
    log: Arc<Log>,
    told: Arc<Told>,
    timeline: Timeline,
    verdict: Verdict,
    start: Instant,
}

impl Scene {
    fn empty() -> Self {
        let told = Arc::new(Told::default());
        let log = Log::in_memory(Arc::clone(&told) as Arc<dyn Tally>);
        let timeline = log.timeline("mymaster".into());
        Self { log, told, timeline, verdict: Verdict::closed(), start: Instant::now() }
    }

    fn new() -> Self {
        let mut scene = Self::empty();
        scene.saw(0, Observation::Sentinels([1, 2, 3].map(sentinel).into()));
        scene.saw(0, Observation::Nodes([1, 2].map(node).into()));
        for from in [1, 2, 3] {
            scene.saw(0, view(from, 1, 7, false));
        }
        scene.saw(0, says(1, Role::Master));
        scene.saw(0, says(2, replica()));
        drop(scene.follow(0, open(1, 7)));
        scene
    }

    fn at(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn saw(&self, ms: u64, observation: Observation) {
        self.timeline.saw(&Seen { at: self.at(ms), observation });
    }

    /// A sign that comes to nothing.
    fn sign(&self, ms: u64, channel: &'static str) {
        self.saw(ms, sign(1, channel));
    }

    fn follow(&mut self, ms: u64, verdict: Verdict) -> Option<Aftermath> {
        let change = Change { before: &self.verdict, after: &verdict, at: self.at(ms) };
        let aftermath = self.timeline.followed(change);
        self.verdict = verdict;
        aftermath
    }

    fn events(&self) -> Vec<Event> {
        self.log.page(None, MOST_EVENTS).events
    }

    /// The newest event, which is the `number`-th.
    fn newest(&self, number: usize) -> Event {
        let events = self.events();
        assert_eq!(events.len(), number, "{events:#?}");
        events.into_iter().next_back().unwrap()
    }
}

/// The stages with their milliseconds, without what was only said.
fn stages(event: &Event) -> Vec<(Stage, u64)> {
    let stages = event.stages.iter().filter(|mark| mark.stage != Stage::Said);
    stages.map(|mark| (mark.stage, mark.offset_us / 1000)).collect()
}
