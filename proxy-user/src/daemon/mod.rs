//! The composition root: builds every part from the configuration, connects them left to right, and
//! takes them down in the reverse order. Nothing is forwarded before a master is proven, and no
//! port is bound before the kernel's side stands.

mod control;
mod drain;
mod group;
mod house;
mod limits;
mod packets;
mod paths;

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;

use self::{
    control::Control,
    drain::Tasks,
    group::{Counted, GroupState, Start},
    house::{House, RouteState},
};
use crate::{
    admin::{self, Readiness, Views},
    cli::Failure,
    config::{self, Config},
    discovery::{self, Seen},
    election::Rules,
    events::{Log, Writer},
    listener::Listener,
    metrics::{self, Metrics},
    switch::Switch,
};

/// Observations that may wait for the election of one group.
const SEEN_BUFFER: usize = 1024;
/// What each step of the end may take; what is late goes down with the process.
const AT_MOST: Duration = Duration::from_secs(3);

/// Runs until SIGTERM or SIGINT, then drains for at most `drain`.
pub async fn run(mut config: Config, drain: Duration, pin_dir: &Path) -> Result<()> {
    let signals = drain::Signals::new().context("signals")?;
    // A flow of packets takes no file.
    let flows: Vec<u32> = config.routes.iter().map(|route| route.max_connections).collect();
    limits::fit_open_files(&mut config.routes, config.groups.len());
    let paths = {
        let (config, pin_dir) = (config.clone(), pin_dir.to_path_buf());
        tokio::task::spawn_blocking(move || paths::choose(&config, &flows, &pin_dir)).await??
    };
    let listeners = config.routes.iter().map(bind).collect::<Result<Vec<_>>>()?;
    let admin = config.admin.as_ref().map(|admin| admin::Listener::bind(&admin.listen)).transpose()?;

    let (stop_clients, stop) = (CancellationToken::new(), CancellationToken::new());
    let (metrics, readiness) = (Metrics::new(), Readiness::default());
    let (events, writer) = events(config.state_dir.as_deref(), &metrics)?;
    let writer = writer.map(|writer| tokio::task::spawn_blocking(|| writer.run()));
    let mut switch = Switch::new(paths.targets);
    let control = Control::start(config.groups.len()).context("the threads of the groups")?;
    metrics.count_tasks_of(control.runtimes());
    let mut starts = Vec::new();
    let mut groups = Vec::new();
    for (index, group) in config.groups.iter().enumerate() {
        let (out, seen) = mpsc::channel::<Seen>(SEEN_BUFFER);
        let latch = readiness.latch(format!("group {}: no master is proven yet", group.name));
        metrics.group(&group.name);
        let tally = Box::new(Counted { group: Arc::clone(&group.name), metrics: metrics.clone() });
        let timeline = events.timeline(Arc::clone(&group.name));
        let _there = control.of(index).enter();
        let discovery = discovery::start(group, out, tally, stop.clone());
        groups.push(GroupState::new(Arc::clone(&group.name), discovery, timeline));
        starts.push((Rules::from(group), seen, latch));
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
    let kept = switch.take_over(&paths.numbers).context("the targets that an earlier daemon left")?;
    // Dropped when every group has proven its master, or given it up.
    let hold = paths.tc.as_ref().filter(|_| paths.taken_over).map(|tc| {
        tc.take_over(kept, switch.latest());
        tc.hold()
    });
    let starts: Vec<Start> = (starts.into_iter().enumerate())
        .map(|(group, (rules, seen, latch))| {
            let inherited = hold.as_ref().zip(switch.taken_over(group));
            Start::new(rules, seen, latch, inherited.map(|(hold, found)| (Arc::clone(hold), found)))
        })
        .collect();
    drop(hold);
    let house = Arc::new(House {
        started: Instant::now(),
        groups,
        routes,
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        events: Arc::clone(&events),
        sockmap: paths.sockmap,
        tc: paths.tc,
        pins: paths.pins.as_ref().map(|pins| (pins.path().to_owned(), paths.taken_over)),
        xdp: paths.xdp,
        steering: paths.steering,
        bypass: paths.bypass,
        switch: Mutex::new(switch),
    });
    let source: Arc<dyn metrics::Source> = Arc::<House>::clone(&house);
    metrics.read_from(&source);
    drop(source);

    let mut tasks = Tasks { groups: JoinSet::new(), listeners: JoinSet::new() };
    for (index, start) in starts.into_iter().enumerate() {
        tasks.groups.spawn_on(group::run(Arc::clone(&house), index, start, stop.clone()), control.of(index));
    }
    for (((listener, slots), chosen), route) in listeners.into_iter().zip(slots).zip(paths.chosen).zip(&house.routes) {
        let (counts, traffic) = (Arc::clone(&route.counts), Arc::clone(&route.traffic));
        tracing::info!(route = %route.config.name, listen = ?route.listen, datapath = route.datapath, "listening");
        tasks.listeners.spawn(listener.run(slots, chosen.datapath, counts, traffic, stop_clients.clone()));
    }
    let views = Views { metrics, readiness: readiness.clone(), status: Arc::<House>::clone(&house), events };
    let admin = admin.map(|listener| tokio::spawn(admin::serve(listener, views, stop.clone())));

    let result = drain::until_told(&house, signals, &mut tasks, &stop_clients, drain).await;
    // The elections end first: none may open a route again behind the resets.
    stop.cancel();
    let _out_of_time = timeout(AT_MOST, async { while tasks.groups.join_next().await.is_some() {} }).await;
    tasks.groups.abort_all();
    let severing = house.switch().close_all();
    for severing in severing {
        let _out_of_time = timeout(AT_MOST, house::account(house.metrics.clone(), severing, None)).await;
    }
    tasks.listeners.abort_all();
    // What a switch just before has begun is told of by now.
    let _out_of_time = timeout(AT_MOST, tokio::task::spawn_blocking(move || control.stop())).await;
    house.events.close();
    if let Some(writer) = writer {
        let _out_of_time = timeout(AT_MOST, writer).await;
    }
    if let Some(admin) = admin {
        let _out_of_time = timeout(AT_MOST, admin).await;
    }
    if let Some(tc) = house.tc.clone() {
        // Joins a thread: at most for a turn of it.
        let _panicked = tokio::task::spawn_blocking(move || tc.stop()).await;
    }
    if let Some(pins) = paths.pins {
        pins.release();
    }
    tracing::info!("stopped");
    result
}

/// Where events are kept, and what writes them to disk, if anything does.
fn events(state_dir: Option<&Path>, metrics: &Metrics) -> Result<(Arc<Log>, Option<Writer>)> {
    let tally = Arc::new(metrics.clone());
    Ok(match state_dir {
        None => (Log::in_memory(tally), None),
        Some(dir) => match Log::on_disk(dir, Arc::<Metrics>::clone(&tally)) {
            Ok((log, writer)) => (log, Some(writer)),
            Err(error) if error.is_fault() => {
                tracing::warn!(%error, "events are kept in memory only until the next start");
                (Log::in_memory(tally), None)
            }
            Err(error) => return Err(error.into()),
        },
    })
}

fn bind(route: &config::Route) -> Result<Listener> {
    Listener::bind(route).map_err(|error| match error.source.kind() {
        io::ErrorKind::PermissionDenied => Failure::Privilege {
            what: format!("listening on {}", error.address),
            privilege: "CAP_NET_BIND_SERVICE".to_owned(),
            remedy: "grant it, or choose a port of 1024 or above".to_owned(),
        }
        .into(),
        _ => error.into(),
    })
}
