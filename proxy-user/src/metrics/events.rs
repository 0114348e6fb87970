//! Events as figures: how many ended how, and the stages of each switch as histograms. What is measured
//! from the first sign holds the Sentinels' own time; the steps around the flip are the daemon's.

use std::{sync::Arc, time::Duration};

use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::Labels;
use crate::{
    config::Name,
    events::{Event, Outcome, Stage},
};

/// From a write to a map to the election of slow Sentinels.
const BUCKETS: [f64; 16] =
    [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];

/// The label, and the two stages it is between.
pub(super) const STEPS: [(&str, Stage, Stage); 11] = [
    ("sign-to-fence", Stage::FirstSign, Stage::Fenced),
    ("fence-to-flip", Stage::Fenced, Stage::Flip),
    ("fence-to-resumed", Stage::Fenced, Stage::Resumed),
    ("role-change-to-fence", Stage::RoleChange, Stage::Fenced),
    ("role-change-to-flip", Stage::RoleChange, Stage::Flip),
    ("majority-to-flip", Stage::Majority, Stage::Flip),
    ("closed-to-first-severed", Stage::Closed, Stage::FirstSevered),
    ("closed-to-last-severed", Stage::Closed, Stage::LastSevered),
    ("flip-to-first-severed", Stage::Flip, Stage::FirstSevered),
    ("flip-to-last-severed", Stage::Flip, Stage::LastSevered),
    ("flip-to-first-connection", Stage::Flip, Stage::FirstConnection),
];

/// Stages that a switch may have, by which it is shown where its time went.
pub(super) fn staged(stage: Stage) -> bool {
    !matches!(stage, Stage::Started | Stage::Resumed | Stage::Said)
}

type Histograms = Family<Labels<2>, Histogram, fn() -> Histogram>;

pub(super) struct Events {
    ended: Family<Labels<2>, Counter>,
    stages: Histograms,
    steps: Histograms,
    unwritten: Counter,
}

impl Events {
    pub(super) fn register(ours: &mut Registry) -> Self {
        let new_histogram: fn() -> Histogram = || Histogram::new(BUCKETS);
        let events = Self {
            ended: Family::default(),
            stages: Family::new_with_constructor(new_histogram),
            steps: Family::new_with_constructor(new_histogram),
            unwritten: Counter::default(),
        };
        ours.register("events", "Events of a group that ended, by outcome", events.ended.clone());
        let help = "From the first sign of a switch to each stage";
        ours.register_with_unit("switch_stage", help, Unit::Seconds, events.stages.clone());
        let help = "Between two stages of a switch";
        ours.register_with_unit("switch_step", help, Unit::Seconds, events.steps.clone());
        ours.register("events_unwritten", "Events that did not reach the disk", events.unwritten.clone());
        events
    }

    /// Makes the counters exist at zero.
    pub(super) fn group(&self, name: &Name) {
        for outcome in Outcome::ENDED {
            drop(self.ended.get_or_create(&labels(name, "outcome", outcome.word())));
        }
    }

    pub(super) fn forget(&self, name: &Name) {
        for outcome in Outcome::ENDED {
            self.ended.remove(&labels(name, "outcome", outcome.word()));
        }
        for stage in Stage::ALL {
            self.stages.remove(&labels(name, "stage", stage.word()));
        }
        for (step, ..) in STEPS {
            self.steps.remove(&labels(name, "step", step));
        }
    }

    pub(super) fn ended(&self, event: &Event) {
        let group: Name = event.group.as_str().into();
        self.ended.get_or_create(&labels(&group, "outcome", event.outcome.word())).inc();
        if event.outcome == Outcome::Switched {
            // Not from the event's first mark: that may be a quorum lost hours before.
            let sign = event.offset(Stage::FirstSign).unwrap_or_default();
            for stage in Stage::ALL.into_iter().filter(|stage| staged(*stage)) {
                observe(&self.stages, &labels(&group, "stage", stage.word()), event.after(stage, sign));
            }
        }
        // A failover that came to nothing held clients up all the same.
        if !matches!(event.outcome, Outcome::Switched | Outcome::Aborted) {
            return;
        }
        for (step, from, to) in STEPS {
            // In `early` the majority comes after the flip: that is no step.
            let took = event.offset(to).zip(event.offset(from)).and_then(|(to, from)| to.checked_sub(from));
            observe(&self.steps, &labels(&group, "step", step), took);
        }
    }

    pub(super) fn unwritten(&self) {
        self.unwritten.inc();
    }
}

fn labels(group: &Name, key: &'static str, value: &'static str) -> Labels<2> {
    [("group", Arc::clone(group)), (key, Arc::from(value))]
}

fn observe(histograms: &Histograms, labels: &Labels<2>, took: Option<Duration>) {
    if let Some(took) = took {
        histograms.get_or_create(labels).observe(took.as_secs_f64());
    }
}
