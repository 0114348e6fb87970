//! Which datapath each route gets. A named one that cannot work is an error; only `auto` falls back,
//! and says why.

use std::{io, num::NonZero, path::Path, sync::Arc, thread::available_parallelism};

use anyhow::{Context as _, Result, anyhow};
use proxy_ebpf::balance::{SLOTS, kind};

use crate::{
    cli::Failure,
    config::{Config, DatapathChoice, Route, TargetRole},
    datapath::{Copy, Datapath, SelfTestError, Sockmap, Tc, selftest},
    kernel::{self, BpffsError, KernelTargets, PinDir, Sizes},
    nat,
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
    /// Last: the pins go when everything else is gone.
    pub(super) _pins: Option<PinDir>,
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
}

/// `flows` is how many connections each route was meant to have, before open files set a limit to those that it accepts.
pub(super) fn choose(config: &Config, flows: &[u32], pin_dir: &Path) -> Result<Paths> {
    let workers = available_parallelism().map_or(1, NonZero::get).min(MOST_WORKERS);
    config.routes.iter().try_for_each(in_this_version)?;
    let wanted = config.routes.iter().any(|route| route.datapath != DatapathChoice::Copy);
    let in_kernel = match enter_kernel(config, pin_dir, workers) {
        Err(error) if wanted && is_in_use(&error) => return Err(error),
        other => other,
    };
    let copy = Arc::new(Copy::start(workers).context("the copy datapath does not start")?);
    let tc = match &in_kernel {
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
                let tc = tc.as_ref().with_context(|| format!("route {}: no packet program", route.name))?;
                let datapath = Arc::new(tc.route(u16::try_from(number)?, flows[number], balance(route)));
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
    Ok(match in_kernel {
        Ok(kernel) => {
            Paths { chosen, targets: Some(kernel.targets), sockmap: Some(kernel.sockmap), tc, _pins: Some(kernel.pins) }
        }
        Err(error) => {
            tracing::info!(reason = format!("{error:#}"), "the targets are not published in a BPF map");
            Paths { chosen, targets: None, sockmap: None, tc: None, _pins: None }
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

/// The packet program for the routes that ask for it, with sockmap beneath for what it leaves to the listener.
fn start_tc(config: &Config, flows: &[u32], kernel: &InKernel) -> Result<Option<Arc<Tc>>> {
    let mut routes = Vec::new();
    for (number, route) in config.routes.iter().enumerate().filter(|(_, route)| route.datapath == DatapathChoice::Tc) {
        routes.push(nat::keeper::Route {
            number: u16::try_from(number)?,
            listen: route.listen.clone(),
            max_connections: flows[number],
            allow: route.allow.clone(),
            idle_timeout: route.idle_timeout,
        });
    }
    if routes.is_empty() {
        return Ok(None);
    }
    let places = MOST_ADDRESSES * nat::ports::DEFAULT.count();
    let object = kernel::load_tc(u32::try_from(config.routes.len())?, places, &kernel.pins)?;
    let beneath = Arc::<Sockmap>::clone(&kernel.sockmap);
    let tc = Tc::start(object, kernel::load_release()?, routes, beneath).context("the datapath tc does not start")?;
    Ok(Some(Arc::new(tc)))
}

/// Two daemons must not write one map: not even `auto` goes on beside another.
fn is_in_use(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error| matches!(error, BpffsError::InUse { .. }))
}

fn enter_kernel(config: &Config, pin_dir: &Path, workers: usize) -> Result<InKernel> {
    let pins = PinDir::claim(pin_dir)?;
    let tested = selftest().map_err(|error| match error {
        SelfTestError::Failed { .. } => anyhow!(error).context("the self-test of sockmap failed on this kernel"),
        other => anyhow!(other),
    })?;
    let spliced = config.routes.iter().filter(|route| route.datapath != DatapathChoice::Copy);
    let connections = spliced.map(|route| route.max_connections).fold(0, u32::saturating_add);
    let targets = u32::try_from(config.routes.len())?.saturating_mul(SLOTS);
    let mut object = kernel::load(Sizes { targets, connections }, Some(&pins))?;
    let targets = KernelTargets::open(&mut object)?;
    let sockmap = Arc::new(Sockmap::start(object, workers)?);
    Ok(InKernel { targets, sockmap, pins, tested })
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
