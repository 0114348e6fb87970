//! The counters of a route, looked up once so that counting is one atomic addition.
//! The enums here are the bounded label values; each has one word, used in status and logs too.

use std::{collections::BTreeMap, fmt, io, sync::Arc, time::Duration};

use nix::errno::Errno;
use prometheus_client::{
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::{Registry, Unit},
};

use super::{Labels, SEVER_BUCKETS};
use crate::config::Name;

/// Why a client was turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Refusal {
    NotAllowed,
    MaxConnections,
    ParkFull,
    ParkTimeout,
    ConnectFailed,
    ConnectTimeout,
    /// The target changed while the connection to it was being made, once too often.
    Switched,
    Draining,
}

impl Refusal {
    pub const ALL: [Self; 8] = [
        Self::NotAllowed,
        Self::MaxConnections,
        Self::ParkFull,
        Self::ParkTimeout,
        Self::ConnectFailed,
        Self::ConnectTimeout,
        Self::Switched,
        Self::Draining,
    ];

    pub fn word(self) -> &'static str {
        match self {
            Self::NotAllowed => "not-allowed",
            Self::MaxConnections => "max-connections",
            Self::ParkFull => "park-full",
            Self::ParkTimeout => "park-timeout",
            Self::ConnectFailed => "connect-failed",
            Self::ConnectTimeout => "connect-timeout",
            Self::Switched => "switched",
            Self::Draining => "draining",
        }
    }
}

/// How the wait of a parked client ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ParkOutcome {
    /// It went on to a target.
    Released,
    TimedOut,
    /// The client itself hung up.
    Left,
    Draining,
}

impl ParkOutcome {
    pub const ALL: [Self; 4] = [Self::Released, Self::TimedOut, Self::Left, Self::Draining];

    pub fn word(self) -> &'static str {
        match self {
            Self::Released => "released",
            Self::TimedOut => "timed-out",
            Self::Left => "left",
            Self::Draining => "draining",
        }
    }
}

pub(super) struct Families {
    connections: Family<Labels<1>, Counter>,
    severed: Family<Labels<1>, Counter>,
    parked: Family<Labels<2>, Counter>,
    refused: Family<Labels<2>, Counter>,
    accept_errors: Family<Labels<2>, Counter>,
    sever_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
}

impl Families {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let new_histogram: fn() -> Histogram = || Histogram::new(SEVER_BUCKETS);
        let families = Self {
            connections: Family::default(),
            severed: Family::default(),
            parked: Family::default(),
            refused: Family::default(),
            accept_errors: Family::default(),
            sever_seconds: Family::new_with_constructor(new_histogram),
        };
        registry.register("connections", "Connections accepted", families.connections.clone());
        registry.register("severed", "Connections ended by RST at a switch", families.severed.clone());
        registry.register("parked", "Connections that waited for a target, by how that ended", families.parked.clone());
        registry.register("refused", "Connections turned away, by reason", families.refused.clone());
        registry.register("accept_errors", "Failed accept(2) calls, by errno", families.accept_errors.clone());
        registry.register_with_unit(
            "sever",
            "From the decision to the last RST of a switch",
            Unit::Seconds,
            families.sever_seconds.clone(),
        );
        families
    }

    pub(super) fn route(&self, name: &Name) -> RouteMetrics {
        let route = [("route", Arc::clone(name))];
        RouteMetrics(Arc::new(Counters {
            name: Arc::clone(name),
            connections: self.connections.get_or_create_owned(&route),
            severed: self.severed.get_or_create_owned(&route),
            parked: ParkOutcome::ALL.map(|it| self.parked.get_or_create_owned(&pair(name, "outcome", it.word()))),
            refused: Refusal::ALL.map(|it| self.refused.get_or_create_owned(&pair(name, "reason", it.word()))),
            accept_errors: self.accept_errors.clone(),
            sever_seconds: self.sever_seconds.get_or_create_owned(&route),
        }))
    }

    pub(super) fn forget(&self, name: &Name) {
        let route = [("route", Arc::clone(name))];
        self.connections.remove(&route);
        self.severed.remove(&route);
        self.sever_seconds.remove(&route);
        for outcome in ParkOutcome::ALL {
            self.parked.remove(&pair(name, "outcome", outcome.word()));
        }
        for reason in Refusal::ALL {
            self.refused.remove(&pair(name, "reason", reason.word()));
        }
        // Every errno that accept(2) may give is below 134 on Linux.
        for errno in 1..134 {
            self.accept_errors.remove(&pair(name, "errno", &errno_word(errno)));
        }
    }
}

/// A cheap handle on one route's counters.
#[derive(Clone)]
pub struct RouteMetrics(Arc<Counters>);

struct Counters {
    name: Name,
    connections: Counter,
    severed: Counter,
    parked: [Counter; ParkOutcome::ALL.len()],
    refused: [Counter; Refusal::ALL.len()],
    accept_errors: Family<Labels<2>, Counter>,
    sever_seconds: Histogram,
}

impl RouteMetrics {
    pub fn accepted(&self) {
        self.0.connections.inc();
    }

    pub fn refused(&self, reason: Refusal) {
        self.0.refused[reason as usize].inc();
    }

    /// A parked client's wait is over.
    pub fn unparked(&self, outcome: ParkOutcome) {
        self.0.parked[outcome as usize].inc();
    }

    /// A switch ended `connections` of this route, the last one `took` after the decision.
    pub fn severed(&self, connections: u64, took: Duration) {
        self.0.severed.inc_by(connections);
        self.0.sever_seconds.observe(took.as_secs_f64());
    }

    pub fn accept_failed(&self, error: &io::Error) {
        let word = errno_word(error.raw_os_error().unwrap_or(0));
        self.0.accept_errors.get_or_create(&pair(&self.0.name, "errno", &word)).inc();
    }

    pub fn connections_total(&self) -> u64 {
        self.0.connections.get()
    }

    pub fn severed_total(&self) -> u64 {
        self.0.severed.get()
    }

    /// For the status: the reasons that ever occurred.
    pub fn refused_total(&self) -> BTreeMap<String, u64> {
        let counted = Refusal::ALL.iter().map(|it| (it.word().to_owned(), self.0.refused[*it as usize].get()));
        counted.filter(|(_, count)| *count > 0).collect()
    }
}

impl fmt::Debug for RouteMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RouteMetrics").field(&self.0.name).finish()
    }
}

fn pair(route: &Name, key: &'static str, value: &str) -> Labels<2> {
    [("route", Arc::clone(route)), (key, Arc::from(value))]
}

/// The name as errno(3) has it; numbers without one share `UnknownErrno`.
fn errno_word(number: i32) -> String {
    format!("{:?}", Errno::from_raw(number))
}
