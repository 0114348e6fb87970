//! What Prometheus may read of the daemon. Promises: label values come from the configuration, from
//! tables in this crate, or are addresses of nodes and Sentinels that exist now; a series ends with
//! the thing it speaks of. Events are counted as they happen; states are read when a scrape asks.

mod events;
mod gather;
mod process;
mod sample;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak},
    time::Duration,
};

use prometheus_client::{
    encoding::text::{encode_eof, encode_registry},
    metrics::{counter::Counter, family::Family, histogram::Histogram, info::Info},
    registry::{Registry, Unit},
};

use tokio::runtime::Handle;

pub use self::sample::{
    BypassSample, Counts, GroupSample, NodeRole, NodeSample, RouteSample, SentinelSample, Snapshot, Source,
};
use crate::{config::Name, events::Event};

/// What a response that carries [`Metrics::encode`] says it is.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// From 100 us, a good probe on a local network, to above any sensible time-out.
const PROBE_BUCKETS: [f64; 11] = [0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.05, 0.1, 0.5, 2.0];
/// From a few connections to thousands: the bar is 0.2 s for 5,000.
const SEVER_BUCKETS: [f64; 10] = [0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 1.0];
/// Nodes are pruned at each scrape; without a scraper this bounds what is kept.
const MAX_PROBED: usize = 4096;

pub(crate) type Labels<const N: usize> = [(&'static str, Arc<str>); N];
type Probed = BTreeMap<(Name, SocketAddr), Histogram>;

/// A cheap handle: clones count into the same place.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    ours: Registry,
    process: Registry,
    shared: Arc<Shared>,
    severed: Family<Labels<1>, Counter>,
    sever_seconds: Family<Labels<1>, Histogram, fn() -> Histogram>,
    switches: Family<Labels<1>, Counter>,
    failures: Family<Labels<1>, Counter>,
    events: events::Events,
}

/// What the collector reads at scrape time.
#[derive(Default)]
struct Shared {
    /// Not held: what it speaks of has the metrics, and must end before they do.
    source: OnceLock<Weak<dyn Source>>,
    probed: Mutex<Probed>,
    /// Whose tasks count beside those of the runtime that asks.
    runtimes: Mutex<Vec<Handle>>,
}

impl Metrics {
    pub fn new() -> Self {
        let mut ours = Registry::with_prefix("switchmaster");
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        ours.register("build", "Which switchmaster this is", build);
        let severed = Family::default();
        ours.register("severed", "Connections ended by RST at a switch", severed.clone());
        let new_histogram: fn() -> Histogram = || Histogram::new(SEVER_BUCKETS);
        let sever_seconds = Family::new_with_constructor(new_histogram);
        let help = "From the decision to the last RST of a switch";
        ours.register_with_unit("sever", help, Unit::Seconds, sever_seconds.clone());
        let switches = Family::default();
        ours.register("switches", "Times a group went to another master", switches.clone());
        let failures = Family::default();
        ours.register("task_failures", "Tasks of the daemon that ended by an error or a panic", failures.clone());
        let events = events::Events::register(&mut ours);
        let shared = Arc::new(Shared::default());
        ours.register_collector(Box::new(gather::Gather(Arc::clone(&shared))));
        let mut process = Registry::default();
        process.register_collector(Box::new(process::Process(Arc::clone(&shared))));
        Self(Arc::new(Inner { ours, process, shared, severed, sever_seconds, switches, failures, events }))
    }

    /// Names what is asked for the state of groups and routes at each scrape. The first call counts.
    pub fn read_from(&self, source: &Arc<dyn Source>) {
        if self.0.shared.source.set(Arc::downgrade(source)).is_err() {
            tracing::debug!("the metrics already have a source");
        }
    }

    /// The tasks of these runtimes are counted too.
    pub fn count_tasks_of(&self, runtimes: impl Iterator<Item = Handle>) {
        self.0.shared.runtimes().extend(runtimes);
    }

    /// Makes the route's series exist at zero, so that a first switch shows as a rise.
    pub fn route(&self, name: &Name) {
        drop(self.0.severed.get_or_create(&[("route", Arc::clone(name))]));
    }

    pub fn forget_route(&self, name: &Name) {
        self.0.severed.remove(&[("route", Arc::clone(name))]);
        self.0.sever_seconds.remove(&[("route", Arc::clone(name))]);
    }

    /// A switch ended `connections` of the route, the last one `took` after the decision.
    pub fn severed(&self, route: &Name, connections: u64, took: Duration) {
        let labels = [("route", Arc::clone(route))];
        self.0.severed.get_or_create(&labels).inc_by(connections);
        self.0.sever_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// For the status.
    pub fn severed_total(&self, route: &Name) -> u64 {
        self.0.severed.get(&[("route", Arc::clone(route))]).map_or(0, |it| it.get())
    }

    /// Makes the group's series exist at zero, so that a first switch shows as a rise.
    pub fn group(&self, name: &Name) {
        self.0.events.group(name);
        drop(self.0.switches.get_or_create(&[("group", Arc::clone(name))]));
    }

    pub fn forget_group(&self, name: &Name) {
        self.0.switches.remove(&[("group", Arc::clone(name))]);
        self.0.events.forget(name);
        self.0.shared.probed().retain(|(group, _), _| group != name);
    }

    pub fn switched(&self, group: &Name) {
        self.0.switches.get_or_create(&[("group", Arc::clone(group))]).inc();
    }

    /// For the status.
    pub fn switches_total(&self, group: &Name) -> u64 {
        self.0.switches.get(&[("group", Arc::clone(group))]).map_or(0, |it| it.get())
    }

    /// A node answered a probe after this long.
    pub fn node_probed(&self, group: &Name, node: SocketAddr, took: Duration) {
        let key = (Arc::clone(group), node);
        let mut probed = self.0.shared.probed();
        if let Some(histogram) = probed.get(&key) {
            histogram.observe(took.as_secs_f64());
        } else if probed.len() < MAX_PROBED {
            let histogram = Histogram::new(PROBE_BUCKETS);
            histogram.observe(took.as_secs_f64());
            probed.insert(key, histogram);
        }
    }

    /// `task` is a name from the source, such as `discovery` or `listener`.
    pub fn task_failed(&self, task: &'static str) {
        self.0.failures.get_or_create(&[("task", Arc::from(task))]).inc();
    }

    /// An event ended.
    pub fn event(&self, event: &Event) {
        self.0.events.ended(event);
    }

    /// An event did not reach the disk.
    pub fn event_unwritten(&self) {
        self.0.events.unwritten();
    }

    /// Everything, in the OpenMetrics text format.
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(16 * 1024);
        encode_registry(&mut text, &self.0.ours)?;
        encode_registry(&mut text, &self.0.process)?;
        encode_eof(&mut text)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Shared {
    /// A panic elsewhere leaves the map whole: every change to it is one call.
    fn probed(&self) -> MutexGuard<'_, Probed> {
        self.probed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn runtimes(&self) -> MutexGuard<'_, Vec<Handle>> {
        self.runtimes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shared")
    }
}
