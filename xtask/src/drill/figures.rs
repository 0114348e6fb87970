//! The figures of a round, by name. docs/drills.md says how each is counted.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

macro_rules! figures {
    ($($name:ident = $word:literal $unit:literal $says:literal),+ $(,)?) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub(super) enum Figure { $($name),+ }

        impl Figure {
            pub(super) const ALL: &[Self] = &[$(Self::$name),+];

            /// Its key in the JSON file.
            pub(super) fn word(self) -> &'static str {
                match self { $(Self::$name => $word),+ }
            }

            pub(super) fn unit(self) -> &'static str {
                match self { $(Self::$name => $unit),+ }
            }

            /// What it is, for the table.
            pub(super) fn says(self) -> &'static str {
                match self { $(Self::$name => $says),+ }
            }
        }
    };
}

figures! {
    AckedThenLost = "acked_then_lost" "" "acknowledged writes that the surviving master lacks",
    PublishedThenLost = "published_then_lost" "" "acknowledged publishes that it never had",
    Gap = "gap_ms" "ms" "last good write to next",
    RoleChange = "role_change_ms" "ms" "the servers' own time: blow to role change",
    Majority = "majority_ms" "ms" "the servers' own time: blow to majority",
    RoleToGood = "role_change_to_good_ms" "ms" "role change to first good write",
    MajorityToGood = "majority_to_good_ms" "ms" "majority to first good write",
    FenceAfterRole = "fence_after_role_change_ms" "ms" "role change to fence",
    OldAcks = "old_master_acks_after_new" "" "writes acknowledged by the old master after the new one existed",
    OldPublishes = "old_master_publishes_after_new" "" "publishes acknowledged by it then",
    AcksAfterFence = "acks_after_fence" "" "sent after the fence and acknowledged by the old master",
    Wrong = "wrong_role_connections" "" "new connections answered by a wrong node",
    SeverP50 = "sever_p50_ms" "ms" "idle connections severed, p50",
    SeverP99 = "sever_p99_ms" "ms" "idle connections severed, p99",
    NeverSevered = "idle_never_severed" "" "idle connections on another node that were never severed",
    Parked = "parked" "" "connections parked (the proxy's count)",
    Unled = "unled" "" "local clients that the listener has for good, having come back before anybody was led",
    Refused = "refused" "" "new connections turned away, as clients see it",
    RefusedByProxy = "refused_by_proxy" "" "connections turned away (the proxy's count)",
    Cut = "cut" "" "new connections reset before an answer",
    Answered = "answered" "" "connections that were answered",
    Bytes = "reply_bytes" "" "bytes that clients got",
    Landed = "writes_landed" "" "writes that reached a node",
    Waiting = "waiting" "" "connections still waiting at the end",
    FirstRight = "first_right_ms" "ms" "start to the first right answer",
    Acked = "acked" "" "writes acknowledged in the round",
    Stall = "stall_ms" "ms" "longest stall of one of the machine's own CPUs until then",
    Memory = "memory_growth_kib" "KiB" "growth of the proxy's memory",
    Files = "open_files_growth" "" "growth of its open files",
    Threads = "threads_growth" "" "growth of its threads",
    Tasks = "tasks_growth" "" "growth of its tasks",
}

/// Infinity stands for "never".
#[derive(Debug, Clone, Default)]
pub(super) struct Figures(BTreeMap<Figure, f64>);

impl Figures {
    pub(super) fn set(&mut self, figure: Figure, value: f64) {
        self.0.insert(figure, value);
    }

    /// Leaves the figure out if it could not be measured.
    pub(super) fn note(&mut self, figure: Figure, value: Option<f64>) {
        if let Some(value) = value {
            self.set(figure, value);
        }
    }

    pub(super) fn count(&mut self, figure: Figure, count: usize) {
        self.set(figure, count as f64);
    }

    pub(super) fn remove(&mut self, figure: Figure) {
        self.0.remove(&figure);
    }

    pub(super) fn get(&self, figure: Figure) -> Option<f64> {
        self.0.get(&figure).copied()
    }
}

impl Serialize for Figures {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let value = |value: f64| {
            if value.is_infinite() {
                serde_json::Value::from("never")
            } else {
                ((value * 1000.0).round() / 1000.0).into()
            }
        };
        serializer.collect_map(self.0.iter().map(|(figure, number)| (figure.word(), value(*number))))
    }
}

/// With as many digits as the unit deserves.
pub(super) fn show(figure: Figure, value: f64) -> String {
    match figure.unit() {
        _ if value.is_infinite() => "never".to_owned(),
        "ms" => format!("{value:.1} ms"),
        "" => format!("{value:.0}"),
        unit => format!("{value:.0} {unit}"),
    }
}
