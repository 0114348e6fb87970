//! The composition root: builds every part from the configuration, connects them left to right, and
//! takes them down in the reverse order. Nothing is forwarded before a master is proven, and no
//! port is bound before the kernel's side stands.

mod drain;
mod group;
mod house;
mod limits;
mod paths;

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use self::{
    group::{Counted, GroupState},
    house::{House, RouteState},
};
use crate::{
    admin::{self, Readiness, Views},
    config::Config,
    discovery::{self, Seen},
    election::Rules,
    listener::Listener,
    metrics::Metrics,
    switch::Switch,
};

/// Observations that may wait for the election of one group.
const SEEN_BUFFER: usize = 1024;

/// Runs until SIGTERM or SIGINT, then drains for at most `drain`.
pub async fn run(config: Config, drain: Duration, pin_dir: &Path) -> Result<()> {
    let signals = drain::Signals::new().context("signals")?;
    limits::raise_open_files(&config);
    let paths = {
        let (config, pin_dir) = (config.clone(), pin_dir.to_path_buf());
        tokio::task::spawn_blocking(move || paths::choose(&config, &pin_dir)).await??
    };
    let listeners = config.routes.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
    let admin = config.admin.as_ref().map(|admin| admin::Listener::bind(&admin.listen)).transpose()?;

    let (stop_clients, stop) = (CancellationToken::new(), CancellationToken::new());
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let mut switch = Switch::new(paths.targets);
    let mut discoveries = Vec::new();
    let mut groups = Vec::new();
    for group in &config.groups {
        let (out, seen) = mpsc::channel::<Seen>(SEEN_BUFFER);
        let latch = readiness.latch(format!("group {}: no master is proven yet", group.name));
        metrics.group(&group.name);
        let tally = Box::new(Counted { group: Arc::clone(&group.name), metrics: metrics.clone() });
        groups.push(GroupState::new(Arc::clone(&group.name), discovery::start(group, out, tally, stop.clone())));
        discoveries.push((Rules::from(group), seen, latch));
    }
    let mut routes = Vec::new();
    let mut slots = Vec::new();
    for ((route, listener), chosen) in config.routes.iter().zip(&listeners).zip(&paths.chosen) {
        metrics.route(&route.name);
        slots.push(switch.add(route.clone(), Arc::clone(&chosen.datapath)));
        routes.push(RouteState {
            config: route.clone(),
            datapath: chosen.datapath.name(),
            datapath_reason: chosen.reason.clone(),
            listen: listener.addresses().iter().map(ToString::to_string).collect(),
            counts: Arc::default(),
            traffic: Arc::default(),
        });
    }
    let house = Arc::new(House {
        started: Instant::now(),
        groups,
        routes,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        sockmap: paths.sockmap,
        switch: Mutex::new(switch),
    });
    metrics.read_from(Arc::<House>::clone(&house));

    let mut group_tasks = JoinSet::new();
    for (index, (rules, seen, latch)) in discoveries.into_iter().enumerate() {
        group_tasks.spawn(group::run(Arc::clone(&house), index, rules, seen, stop.clone(), Some(latch)));
    }
    let mut listener_tasks = JoinSet::new();
    for (((listener, slots), chosen), route) in listeners.into_iter().zip(slots).zip(paths.chosen).zip(&house.routes) {
        let (counts, traffic) = (Arc::clone(&route.counts), Arc::clone(&route.traffic));
        tracing::info!(route = %route.config.name, listen = ?route.listen, datapath = route.datapath, "listening");
        listener_tasks.spawn(listener.run(slots, chosen.datapath, counts, traffic, stop_clients.clone()));
    }
    let views = Views { metrics, readiness: readiness.clone(), status: Arc::<House>::clone(&house) };
    let admin = admin.map(|listener| tokio::spawn(admin::serve(listener, views, stop.clone())));

    let result = drain::until_told(&house, signals, &mut listener_tasks, &stop_clients, drain).await;
    stop.cancel();
    if let Some(admin) = admin {
        let _stopped = tokio::time::timeout(Duration::from_secs(3), admin).await;
    }
    let _stopped =
        tokio::time::timeout(Duration::from_secs(3), async { while group_tasks.join_next().await.is_some() {} }).await;
    drop((group_tasks, listener_tasks));
    result
}
