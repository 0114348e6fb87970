//! What the running daemon consists of, and how it looks from outside: status and metrics are read
//! from here when somebody asks.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::{Duration, Instant},
};

use proxy_ebpf::counter;
use tokio::time::{sleep, timeout};

use super::group::GroupState;
use crate::{
    admin::{Readiness, Status, StatusSource, status},
    config::{self, TargetRole},
    datapath::{Bypass, Sockmap, Steering, Tc, Traffic, XdpPanel},
    discovery,
    events::{Aftermath, Event, Log, Tally},
    kernel,
    listener::{self, Counts},
    metrics::{
        BypassSample, GroupSample, Metrics, NodeRole, NodeSample, RouteSample, SentinelSample, Snapshot, Source,
    },
    switch::{Severing, SlotView, Switch},
};

/// How long the event of a switch waits for a first client before it is told without one: whoever
/// follows the events hears of it within a second.
const FIRST_CLIENT: Duration = Duration::from_millis(700);

/// How long a fence waits for the kernel to hold back what the old node answers to clients of this host. Mostly it does so
/// already, from the first sign on.
const PATIENCE: Duration = Duration::from_millis(2);

/// How often the kernel is asked for a first flow; it knows when that was.
const LOOK: Duration = Duration::from_millis(50);

/// Waits until there is one.
async fn seen(flow: impl Fn() -> Option<Instant>) -> Instant {
    loop {
        if let Some(at) = flow() {
            return at;
        }
        sleep(LOOK).await;
    }
}

pub(super) struct House {
    pub(super) started: Instant,
    pub(super) groups: Vec<GroupState>,
    pub(super) routes: Vec<RouteState>,
    pub(super) metrics: Metrics,
    pub(super) readiness: Readiness,
    pub(super) events: Arc<Log>,
    pub(super) sockmap: Option<Arc<Sockmap>>,
    pub(super) tc: Option<Arc<Tc>>,
    /// The folder of our pins, and whether another daemon's flows were among them.
    pub(super) pins: Option<(PathBuf, bool)>,
    pub(super) xdp: Option<Arc<XdpPanel>>,
    /// Or why there is none.
    pub(super) steering: Result<Arc<Steering>, String>,
    pub(super) bypass: Result<Arc<Bypass>, String>,
    pub(super) switch: Mutex<Switch>,
}

pub(super) struct RouteState {
    pub(super) config: config::Route,
    pub(super) datapath: &'static str,
    pub(super) datapath_reason: String,
    pub(super) listen: Vec<String>,
    pub(super) counts: Arc<Counts>,
    pub(super) traffic: Arc<Traffic>,
}

impl House {
    pub(super) fn switch(&self) -> MutexGuard<'_, Switch> {
        self.switch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until then a group may be fenced any moment; `now`: it is about to be.
    pub(super) fn expect_switch(&self, until: Instant, now: bool) {
        let Ok(steering) = &self.steering else { return };
        steering.expect_switch(until);
        if now && !steering.holds_answers(PATIENCE) {
            tracing::warn!(
                "clients on this host may hear what the old master answers in the first moments of this pause"
            );
        }
    }

    /// Connections that a datapath has, of all routes.
    pub(super) fn connections(&self) -> u64 {
        let switch = self.switch();
        let of = |route: usize| {
            let accepted: u64 = switch.slots(route).iter().map(|slot| u64::from(slot.connections)).sum();
            accepted + switch.flows(route)
        };
        (0..self.routes.len()).map(of).sum()
    }

    /// Notes when the first client of each route to the master is connected under the new target.
    pub(super) fn await_first_connections(&self, group: usize, flip: Instant, aftermath: &Aftermath) {
        let to_master = |route: &&RouteState| route.config.group == group && route.config.target == TargetRole::Master;
        for (number, route) in self.routes.iter().enumerate().filter(|(_, route)| to_master(route)) {
            let (mut first, aftermath) = (route.counts.first_of_generation(), aftermath.clone());
            let (name, datapath) = (Arc::clone(&route.config.name), self.switch().datapath(number));
            tokio::spawn(async move {
                let is_new = |at: &Instant| *at >= flip;
                let flow = || datapath.as_ref().and_then(|it| it.first_flow()).filter(is_new);
                let accepted = first.wait_for(|first| first.as_ref().is_some_and(is_new));
                let accepted = async { accepted.await.ok().and_then(|at| *at) };
                let connected = async {
                    tokio::select! {
                        at = accepted => at.into_iter().chain(flow()).min(),
                        at = seen(flow) => Some(at),
                    }
                };
                if let Ok(Some(at)) = timeout(FIRST_CLIENT, connected).await {
                    aftermath.connected(&name, at);
                }
            });
        }
    }

    fn group_status(&self, group: &GroupState, now: Instant) -> status::Group {
        let standing = group.standing();
        let seen = group.discovery.status();
        status::Group {
            pace: seen.pace.to_owned(),
            sentinels: values(&seen.sentinels),
            nodes: values(&seen.nodes),
            names: values(&seen.names),
            ..status::Group::from_verdict(&group.name, &standing.verdict, standing.since, now)
        }
    }

    fn route_status(&self, number: usize, route: &RouteState) -> status::Route {
        let (slots, way, flows, steered, bypassed) = {
            let switch = self.switch();
            (
                switch.slots(number),
                switch.way(number),
                switch.flows(number),
                switch.steered(number),
                switch.bypassed(number),
            )
        };
        let counts = route.counts.snapshot();
        let group = &self.groups[route.config.group];
        status::Route {
            name: route.config.name.to_string(),
            listen: route.listen.clone(),
            group: group.name.to_string(),
            target: status::target_word(route.config.target).to_owned(),
            datapath: route.datapath.to_owned(),
            datapath_reason: route.datapath_reason.clone(),
            state: status::way_word(way).to_owned(),
            generation: slots.iter().map(|slot| slot.generation).max().unwrap_or(0),
            connections: flows + slots.iter().map(|slot| u64::from(slot.connections)).sum::<u64>(),
            steered,
            bypassed,
            parked: counts.parked_now,
            severed: self.metrics.severed_total(&route.config.name),
            refused: counts
                .refused
                .iter()
                .filter(|(_, count)| *count > 0)
                .map(|(reason, count)| (reason.label().to_owned(), *count))
                .collect(),
            switches: self.metrics.switches_total(&group.name),
            targets: slots.iter().map(target).collect(),
        }
    }

    fn route_sample(&self, number: usize, route: &RouteState) -> RouteSample {
        let counts: listener::Snapshot = route.counts.snapshot();
        let (slots, flows, steered, bypassed, [to_node, to_client]) = {
            let switch = self.switch();
            (
                switch.slots(number),
                switch.flows(number),
                switch.steered(number),
                switch.bypassed(number),
                switch.carried(number),
            )
        };
        let mut targets = BTreeMap::new();
        for target in slots.iter().map(target) {
            *targets.entry(target.addr).or_default() += target.connections;
        }
        RouteSample {
            name: Arc::clone(&route.config.name),
            datapath: route.datapath,
            connections: flows + slots.iter().map(|slot| u64::from(slot.connections)).sum::<u64>(),
            steered,
            bypassed,
            targets,
            parked: counts.parked_now,
            to_node: to_node + route.traffic.to_node.load(Ordering::Relaxed),
            to_client: to_client + route.traffic.to_client.load(Ordering::Relaxed),
            accepted: counts.accepted,
            refused: counts.refused.iter().map(|(it, count)| (it.label(), *count)).collect(),
            unparked: counts.parked.iter().map(|(it, count)| (it.label(), *count)).collect(),
            accept_errors: counts.accept_errors.iter().map(|(it, count)| (it.label(), *count)).collect(),
        }
    }
}

impl StatusSource for House {
    fn status(&self) -> Status {
        let now = Instant::now();
        Status {
            uptime_ms: status::milliseconds(now.duration_since(self.started)),
            groups: self.groups.iter().map(|group| self.group_status(group, now)).collect(),
            routes: self.routes.iter().enumerate().map(|(number, route)| self.route_status(number, route)).collect(),
            pins: self.pins.as_ref().and_then(|(folder, taken_over)| pins_status(folder, *taken_over)),
            steering: Some(at_cgroup(self.steering.as_ref().map(|it| it.cgroup()))),
            bypass: Some(status::Bypass {
                stands: at_cgroup(self.bypass.as_ref().map(|it| it.cgroup())),
                direct: self.bypass.as_ref().map_or(0, |it| it.direct()),
            }),
            ..Status::default()
        }
    }
}

fn at_cgroup(stands: Result<&Path, &String>) -> status::AtCgroup {
    match stands {
        Ok(cgroup) => status::AtCgroup { on: true, cgroup: cgroup.display().to_string(), reason: String::new() },
        Err(reason) => status::AtCgroup { on: false, cgroup: String::new(), reason: reason.clone() },
    }
}

fn pins_status(folder: &Path, taken_over: bool) -> Option<status::Pins> {
    let pinned = kernel::pinned(folder).ok()?;
    let (links, maps) = (pinned.links.len(), pinned.maps.len());
    Some(status::Pins { folder: folder.display().to_string(), links, maps, taken_over })
}

impl Source for House {
    fn snapshot(&self) -> Snapshot {
        // For the next scrape: this one must not wait.
        if let Some(sockmap) = &self.sockmap {
            sockmap.refresh();
        }
        Snapshot {
            groups: self.groups.iter().map(group_sample).collect(),
            routes: self.routes.iter().enumerate().map(|(number, route)| self.route_sample(number, route)).collect(),
            sockmap: self.sockmap.as_ref().and_then(|sockmap| {
                let counters = sockmap.counters().ok()?;
                <[u64; counter::COUNT as usize]>::try_from(counters).ok()
            }),
            packets: self.tc.as_ref().and_then(|tc| tc.packets().ok()),
            xdp: self.xdp.as_ref().and_then(|xdp| xdp.fates().ok()),
            steering: self.steering.as_ref().ok().and_then(|steering| steering.counts().ok()),
            bypass: self.bypass.as_ref().ok().and_then(|bypass| {
                let counts = bypass.counts().ok()?;
                Some(BypassSample { counts, direct: bypass.direct(), waiting: bypass.waiting() })
            }),
        }
    }
}

fn group_sample(group: &GroupState) -> GroupSample {
    let standing = group.standing();
    let seen = group.discovery.status();
    GroupSample {
        name: Arc::clone(&group.name),
        way: standing.verdict.way,
        reason: standing.verdict.reason,
        epoch: standing.last.as_ref().map_or(0, |master| master.epoch),
        master: standing.verdict.master,
        sentinels: seen.sentinels.iter().map(sentinel_sample).collect(),
        nodes: seen.nodes.iter().map(node_sample).collect(),
    }
}

fn sentinel_sample(sentinel: &discovery::SentinelStatus) -> SentinelSample {
    SentinelSample {
        addr: sentinel.addr,
        up: sentinel.state == discovery::State::Answering,
        epoch: sentinel.epoch,
        master: sentinel.master,
        polls: vec![
            ("answered", sentinel.polls.saturating_sub(sentinel.polls_failed)),
            ("failed", sentinel.polls_failed),
        ],
        events: sentinel.events,
    }
}

fn node_sample(node: &discovery::NodeStatus) -> NodeSample {
    let failed: u64 = node.probes_failed.iter().map(|(_, count)| count).sum();
    let mut probes = vec![("answered", node.probes.saturating_sub(failed))];
    probes.extend(node.probes_failed.iter().copied());
    NodeSample {
        addr: node.addr,
        role: NodeRole::from_word(node.role),
        probes,
        lag_seconds: node.lag_seconds,
        lag_bytes: node.lag_bytes,
    }
}

fn target(slot: &SlotView) -> status::RouteTarget {
    status::RouteTarget {
        addr: slot.addr,
        state: status::way_word(slot.way).to_owned(),
        generation: slot.generation,
        connections: u64::from(slot.connections) + slot.flows,
    }
}

fn values<T: serde::Serialize>(list: &[T]) -> Vec<serde_json::Value> {
    list.iter().filter_map(|item| serde_json::to_value(item).ok()).collect()
}

/// Carries what events tell into the metrics.
impl Tally for Metrics {
    fn ended(&self, event: &Event) {
        self.event(event);
    }

    fn unwritten(&self) {
        self.event_unwritten();
    }
}

/// Waits for the resets of one route and writes down what came of them.
pub(super) async fn account(metrics: Metrics, mut severing: Severing, aftermath: Option<Aftermath>) {
    let (mut connections, mut last) = (0, severing.since);
    let mut first: Option<Instant> = None;
    while let Some(report) = severing.reports.recv().await {
        connections += report.connections as u64;
        last = last.max(report.last);
        first = first.into_iter().chain(report.first).min();
    }
    if let (Some(aftermath), Some(first)) = (aftermath, first) {
        aftermath.severed(&severing.route, connections, first, last);
    }
    if connections > 0 {
        let took = last.duration_since(severing.since);
        metrics.severed(&severing.route, connections, took);
        tracing::info!(route = %severing.route, connections, took_us = took.as_micros() as u64, "connections were reset");
    }
}
