//! Which datapath each route gets. A named one that cannot work is an error; only `auto` falls back,
//! and says why.

use std::{
    collections::BTreeMap, io, net::SocketAddr, num::NonZero, path::Path, sync::Arc, thread::available_parallelism,
};

use anyhow::{Context as _, Result, anyhow};
use proxy_ebpf::{TargetKey, balance::kind};

use crate::{
    admin::status,
    cli::Failure,
    config::{Config, DatapathChoice, Route, TargetRole},
    datapath::{Copy, Datapath, SelfTestError, Sockmap, Tc, TcSetup, selftest},
    kernel::{self, BpffsError, KernelTargets, Life, LifeError, NatSizes, PinDir, Sizes},
    nat::{self, numbers::numbers, ports},
    purge::{PORTS, purge},
};

const MOST_WORKERS: usize = 8;
/// Own addresses that nodes see a packet datapath under: one for each interface that leads to nodes, in either family.
const MOST_ADDRESSES: u32 = 4;

/// What this process has of the kernel, and a datapath for each route.
pub(super) struct Paths {
    pub(super) chosen: Vec<Chosen>,
    pub(super) targets: Option<KernelTargets>,
    pub(super) sockmap: Option<Arc<Sockmap>>,
    pub(super) tc: Option<Arc<Tc>>,
    /// By which number the kernel knows each route.
    pub(super) numbers: Vec<u32>,
    /// Flows of an earlier daemon go on.
    pub(super) taken_over: bool,
    /// Last: the pins go when everything else is gone.
    pub(super) pins: Option<PinDir>,
}

#[derive(Debug, Clone)]
pub(super) struct Chosen {
    pub(super) datapath: Arc<dyn Datapath>,
    pub(super) reason: String,
}

struct InKernel {
    targets: KernelTargets,
    sockmap: Arc<Sockmap>,
    pins: PinDir,
    tested: String,
    left: Option<Life>,
}

/// The packet datapath, and how the routes are numbered for it.
struct Packets {
    tc: Arc<Tc>,
    numbers: Vec<u32>,
}

/// `flows` is how many connections each route was meant to have, before open files set a limit to those that it accepts.
pub(super) fn choose(config: &Config, flows: &[u32], pin_dir: &Path) -> Result<Paths> {
    let workers = available_parallelism().map_or(1, NonZero::get).min(MOST_WORKERS);
    config.routes.iter().try_for_each(in_this_version)?;
    let wanted = config.routes.iter().any(|route| route.datapath != DatapathChoice::Copy);
    let mut in_kernel = match enter_kernel(config, pin_dir, workers) {
        Err(error) if wanted && is_another_s(&error) => return Err(error),
        other => other,
    };
    let copy = Arc::new(Copy::start(workers).context("the copy datapath does not start")?);
    let taken_over = in_kernel.as_ref().is_ok_and(|kernel| kernel.left.is_some());
    let packets = match &mut in_kernel {
        Ok(kernel) => start_tc(config, flows, kernel)?,
        Err(_) => None,
    };
    let mut chosen = Vec::new();
    for (number, route) in config.routes.iter().enumerate() {
        chosen.push(match (route.datapath, &in_kernel) {
            (DatapathChoice::Copy, _) => Chosen { datapath: Arc::<Copy>::clone(&copy), reason: "configured".to_owned() },
            (DatapathChoice::Auto, Err(error)) => {
                let reason = format!("sockmap cannot work here: {error:#}");
                tracing::warn!(route = %route.name, reason, "auto: this route is served by copy; `switchmaster doctor` tells more");
                Chosen { datapath: Arc::<Copy>::clone(&copy), reason }
            }
            (DatapathChoice::Tc, Ok(_)) => {
                let packets = packets.as_ref().with_context(|| format!("route {}: no packet program", route.name))?;
                let datapath = Arc::new(packets.tc.route(u16::try_from(packets.numbers[number])?, flows[number], balance(route)));
                Chosen { datapath, reason: "configured".to_owned() }
            }
            (_, Ok(kernel)) => {
                let reason = format!("self-test passed: {}", kernel.tested);
                tracing::info!(route = %route.name, reason, "this route is served by sockmap");
                Chosen { datapath: Arc::<Sockmap>::clone(&kernel.sockmap), reason }
            }
            (_, Err(error)) => return Err(refuse(&route.name, error)),
        });
    }
    let (tc, numbers) = match packets {
        Some(packets) => (Some(packets.tc), packets.numbers),
        None => (None, (0..u32::try_from(config.routes.len())?).collect()),
    };
    Ok(match in_kernel {
        Ok(kernel) => Paths {
            chosen,
            targets: Some(kernel.targets),
            sockmap: Some(kernel.sockmap),
            tc,
            numbers,
            taken_over,
            pins: Some(kernel.pins),
        },
        Err(error) => {
            tracing::info!(reason = format!("{error:#}"), "the targets are not published in a BPF map");
            Paths { chosen, targets: None, sockmap: None, tc: None, numbers, taken_over: false, pins: None }
        }
    })
}

fn in_this_version(route: &Route) -> Result<()> {
    if route.datapath != DatapathChoice::Xdp {
        return Ok(());
    }
    let why = "the datapath xdp is not in this version";
    Err(anyhow!("route {}: {why}; use \"auto\", \"tc\", \"sockmap\" or \"copy\"", route.name))
}

/// How the packet program shares out a route's new flows.
fn balance(route: &Route) -> u32 {
    match route.target {
        TargetRole::Master => kind::MASTER,
        TargetRole::Replica => nat::balancer::kind_of(route.balance),
    }
}

/// What makes a route the same one for the next daemon.
fn name(config: &Config, route: &Route) -> String {
    let target = status::target_word(route.target);
    format!("{} to the {target} of {}", route.name, config.groups[route.group].name)
}

fn is_tc(route: &Route) -> bool {
    route.datapath == DatapathChoice::Tc
}

fn sizes(config: &Config) -> Result<NatSizes> {
    Ok(NatSizes { routes: u32::try_from(config.routes.len())?, flows: MOST_ADDRESSES * ports::DEFAULT.count() })
}

/// The packet program for the routes that ask for it, with sockmap beneath for what it leaves to the listener.
fn start_tc(config: &Config, flows: &[u32], kernel: &mut InKernel) -> Result<Option<Packets>> {
    if !config.routes.iter().any(is_tc) {
        return Ok(None);
    }
    let sizes = sizes(config)?;
    let object = kernel::load_tc(sizes, &kernel.pins)?;
    let taken_over = kernel.left.is_some();
    let mut life = match kernel.left.take() {
        Some(life) => life,
        None => Life::begin(&kernel.pins, sizes, PORTS)?,
    };
    let names: Vec<String> = config.routes.iter().map(|route| name(config, route)).collect();
    let left = life.names()?;
    let numbers = numbers(&names, &left);
    // Before an address of ours leads to a number that was another route's, and before it has our name.
    let goes_on = |key: TargetKey| {
        let route = numbers.iter().position(|number| *number == key.route);
        route.is_some_and(|at| left.get(key.route as usize) == Some(&names[at]) && is_tc(&config.routes[at]))
    };
    kernel.targets.shut(|key| !goes_on(key))?;
    for (name, number) in names.iter().zip(&numbers) {
        life.name(*number, name)?;
    }
    let left = if taken_over { Some(led(config, &numbers, &kernel.targets)?) } else { None };
    let setup =
        TcSetup { links: kernel.pins.links(), maps: kernel.pins.maps(), orphan_grace: config.orphan_grace, left };
    let routes = tc_routes(config, flows, &numbers)?;
    let beneath = Arc::<Sockmap>::clone(&kernel.sockmap);
    let tc =
        Tc::start(object, kernel::load_release()?, routes, beneath, setup).context("the datapath tc does not start")?;
    Ok(Some(Packets { tc: Arc::new(tc), numbers }))
}

fn tc_routes(config: &Config, flows: &[u32], numbers: &[u32]) -> Result<Vec<nat::keeper::Route>> {
    let routes = config.routes.iter().zip(flows).zip(numbers).filter(|((route, _), _)| is_tc(route));
    let route = |((route, flows), number): ((&Route, &u32), &u32)| {
        Ok(nat::keeper::Route {
            number: u16::try_from(*number)?,
            listen: route.listen.clone(),
            max_connections: *flows,
            allow: route.allow.clone(),
            idle_timeout: route.idle_timeout,
        })
    };
    routes.map(route).collect()
}

/// Where an earlier daemon led the routes of this configuration.
fn led(config: &Config, numbers: &[u32], targets: &KernelTargets) -> Result<BTreeMap<TargetKey, SocketAddr>> {
    let ours: Vec<u32> = config.routes.iter().zip(numbers).filter(|(it, _)| is_tc(it)).map(|(_, it)| *it).collect();
    let entries = targets.entries()?.into_iter().filter(|(key, _)| ours.contains(&key.route));
    Ok(entries.filter_map(|(key, entry)| Some((key, kernel::decode(&entry)?))).collect())
}

/// Two daemons must not write one map, nor one end what it does not understand: not even `auto` goes on beside another.
fn is_another_s(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error| matches!(error, BpffsError::InUse { .. }))
        || error.downcast_ref().is_some_and(|error| matches!(error, LifeError::Other { .. }))
}

fn enter_kernel(config: &Config, pin_dir: &Path, workers: usize) -> Result<InKernel> {
    let mut pins = PinDir::claim(pin_dir)?;
    let left = Life::find(&pins, sizes(config)?, PORTS)?;
    let left = left.filter(|_| config.routes.iter().any(is_tc));
    if left.is_none() {
        // Half made, or of no use for this configuration.
        let purged = purge(&mut pins)?;
        if !purged.is_nothing() {
            let (links, maps) = (purged.pinned.links.len(), purged.pinned.maps.len());
            let connections = purged.told.unwrap_or_default();
            tracing::info!(links, maps, connections, "what an earlier daemon left is of no use and was removed");
        }
    }
    pins.make_folders()?;
    let tested = selftest().map_err(|error| match error {
        SelfTestError::Failed { .. } => anyhow!(error).context("the self-test of sockmap failed on this kernel"),
        other => anyhow!(other),
    })?;
    let spliced = config.routes.iter().filter(|route| route.datapath != DatapathChoice::Copy);
    let connections = spliced.map(|route| route.max_connections).fold(0, u32::saturating_add);
    let targets = kernel::targets(u32::try_from(config.routes.len())?);
    let mut object = kernel::load(Sizes { targets, connections }, Some(&pins))?;
    let targets = KernelTargets::open(&mut object)?;
    let sockmap = Arc::new(Sockmap::start(object, workers)?);
    Ok(InKernel { targets, sockmap, pins, tested, left })
}

/// The error of a route whose named datapath cannot work.
fn refuse(route: &str, error: &anyhow::Error) -> anyhow::Error {
    let denied = error.chain().any(|cause| {
        cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            || cause.source().is_none() && cause.to_string().contains("EPERM")
    });
    let what = format!("route {route}: the datapath sockmap ({error:#})");
    if denied {
        let privilege =
            "the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (and CAP_SYS_ADMIN where bpffs is not mounted)"
                .to_owned();
        let remedy = "grant them, or set datapath = \"copy\", which needs none".to_owned();
        return Failure::Privilege { what, privilege, remedy }.into();
    }
    anyhow!("{what}; set datapath = \"copy\" or \"auto\", or see `switchmaster doctor`")
}
