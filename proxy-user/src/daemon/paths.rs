//! Which datapath each route gets. A named one that cannot work is an error; only `auto` falls back,
//! and says why.

use std::{io, num::NonZero, path::Path, sync::Arc, thread::available_parallelism};

use anyhow::{Context as _, Result, anyhow};

use super::packets::{self, Packets};
use crate::{
    cli::Failure,
    config::{self, Config, DatapathChoice, Route},
    datapath::{Bypass, Copy, Datapath, SelfTestError, Sockmap, Steering, Tc, TcError, XdpPanel, selftest},
    kernel::{self, BpffsError, KernelTargets, Life, LifeError, PinDir, Sizes},
    nat::reset::ResetError,
    purge::{PORTS, purge},
};

const MOST_WORKERS: usize = 8;

/// What this process has of the kernel, and a datapath for each route.
pub(super) struct Paths {
    pub(super) chosen: Vec<Chosen>,
    pub(super) targets: Option<KernelTargets>,
    pub(super) sockmap: Option<Arc<Sockmap>>,
    pub(super) tc: Option<Arc<Tc>>,
    pub(super) xdp: Option<Arc<XdpPanel>>,
    /// Or why there is none.
    pub(super) steering: Result<Arc<Steering>, String>,
    /// As steering.
    pub(super) bypass: Result<Arc<Bypass>, String>,
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

pub(super) struct InKernel {
    pub(super) targets: KernelTargets,
    pub(super) sockmap: Arc<Sockmap>,
    pub(super) pins: PinDir,
    tested: String,
    /// What an earlier daemon left to go on with.
    pub(super) left: Option<Life>,
}

/// `flows` is how many connections each route was meant to have, before open files set a limit to those that it accepts.
pub(super) fn choose(config: &Config, flows: &[u32], pin_dir: &Path) -> Result<Paths> {
    let workers = available_parallelism().map_or(1, NonZero::get).min(MOST_WORKERS);
    let wanted = config.routes.iter().any(|route| route.datapath != DatapathChoice::Copy);
    let mut in_kernel = match enter_kernel(config, pin_dir, workers) {
        Err(error) if wanted && is_another_s(&error) => return Err(error),
        // They would go on translating by targets that nobody writes.
        Err(error) if kernel::pinned(pin_dir).is_ok_and(|left| !left.links.is_empty()) => {
            return Err(error.context(
                "an earlier daemon's programs are still attached, and this one cannot take them over; `switchmaster purge` removes them",
            ));
        }
        other => other,
    };
    let copy = Arc::new(Copy::start(workers).context("the copy datapath does not start")?);
    let taken_over = in_kernel.as_ref().is_ok_and(|kernel| kernel.left.is_some());
    let packets = match &mut in_kernel {
        Ok(kernel) => packets::start(config, flows, kernel)?,
        Err(error) if config.local.steering == config::Steering::On => {
            return Err(refuse_steering(error));
        }
        Err(error) => Packets::none(config, |_| String::new(), packets::no_local(config, &format!("{error:#}")))?,
    };
    let mut chosen = Vec::new();
    for (at, (route, served)) in config.routes.iter().zip(&packets.of).enumerate() {
        let is_translated = served.is_ok();
        let one = match (route.datapath, &in_kernel, served) {
            (DatapathChoice::Copy, ..) => {
                Chosen { datapath: Arc::<Copy>::clone(&copy), reason: "configured".to_owned() }
            }
            (_, _, Ok(chosen)) => chosen.clone(),
            (choice, Ok(kernel), Err(why)) => {
                let tested = format!("self-test passed: {}", kernel.tested);
                let reason = if choice == DatapathChoice::Auto { format!("{why}; {tested}") } else { tested };
                Chosen { datapath: Arc::<Sockmap>::clone(&kernel.sockmap), reason }
            }
            (DatapathChoice::Auto, Err(error), _) => {
                let needs = if is_denied(error) { format!(" (it needs {CAPABILITIES})") } else { String::new() };
                let reason = format!("sockmap cannot work here{needs}: {error:#}");
                Chosen { datapath: Arc::<Copy>::clone(&copy), reason }
            }
            (choice, Err(error), _) => return Err(refuse(route, choice, error)),
        };
        announce(route, &one);
        chosen.push(if is_translated { one } else { packets.before(at, route, flows[at], one)? });
    }
    let Packets { tc, xdp, numbers, steering, bypass, .. } = packets;
    match &steering {
        Ok(steering) => {
            tracing::info!(cgroup = %steering.cgroup().display(), "steering: clients of this host are led to nodes");
        }
        Err(reason) if config.local.steering == config::Steering::Auto => {
            tracing::info!(reason, "auto: clients of this host go to the listener");
        }
        Err(_) => {}
    }
    match &bypass {
        Ok(bypass) => {
            let (cgroup, tested) = (bypass.cgroup().display(), bypass.tested());
            tracing::info!(%cgroup, tested, "bypass: clients and nodes of this host need no TCP between them");
        }
        Err(reason) if config.local.bypass => {
            tracing::warn!(reason, "the bypass cannot work here: clients and nodes of this host go on with TCP");
        }
        Err(_) => {}
    }
    Ok(match in_kernel {
        Ok(kernel) => Paths {
            chosen,
            targets: Some(kernel.targets),
            sockmap: Some(kernel.sockmap),
            taken_over: taken_over && tc.is_some(),
            tc,
            xdp,
            steering,
            bypass,
            numbers,
            pins: Some(kernel.pins),
        },
        Err(error) => {
            tracing::info!(reason = format!("{error:#}"), "the targets are not published in a BPF map");
            Paths {
                chosen,
                targets: None,
                sockmap: None,
                tc: None,
                xdp: None,
                steering,
                bypass,
                numbers,
                taken_over: false,
                pins: None,
            }
        }
    })
}

/// What `auto` fell back to is worth a warning only where nothing of the kernel's is left.
fn announce(route: &Route, chosen: &Chosen) {
    let (route, datapath, reason) = (&route.name, chosen.datapath.name(), &chosen.reason);
    if datapath == "copy" && reason != "configured" {
        tracing::warn!(%route, reason, "auto: this route is served by copy; `switchmaster doctor` tells more");
    } else {
        tracing::info!(%route, datapath, reason, "the datapath of this route");
    }
}

/// Two daemons must not write one map, nor one end what it does not understand: not even `auto` goes on beside another.
fn is_another_s(error: &anyhow::Error) -> bool {
    error.downcast_ref().is_some_and(|error| matches!(error, BpffsError::InUse { .. }))
        || error.downcast_ref().is_some_and(|error| matches!(error, LifeError::Other { .. }))
}

fn enter_kernel(config: &Config, pin_dir: &Path, workers: usize) -> Result<InKernel> {
    let mut pins = PinDir::claim(pin_dir)?;
    let left = Life::find(&pins, packets::sizes(config, &pins)?, PORTS)?;
    let left = left.filter(|_| packets::goes_on(config, &pins));
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

const CAPABILITIES: &str =
    "the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON (and CAP_SYS_ADMIN where bpffs is not mounted)";

/// Whether privileges are what is missing.
fn is_denied(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        matches!(cause.downcast_ref(), Some(TcError::Reset(ResetError::Privilege)))
            || cause.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
            || cause.source().is_none() && cause.to_string().contains("EPERM")
    })
}

/// The error of steering that was asked for and cannot work.
pub(super) fn refuse_steering(error: &anyhow::Error) -> anyhow::Error {
    let what = format!("steering ({error:#})");
    if is_denied(error) {
        let privilege = "the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, a cgroup that no other program keeps for itself, and for namespaces = \"all\" CAP_SYS_ADMIN".to_owned();
        let remedy = "grant them, or set steering = \"off\"; `switchmaster doctor` tells more".to_owned();
        return Failure::Privilege { what, privilege, remedy }.into();
    }
    anyhow!("{what} cannot work here; set steering = \"off\" or \"auto\", or see `switchmaster doctor`")
}

/// The error of a route whose named datapath cannot work.
pub(super) fn refuse(route: &Route, choice: DatapathChoice, error: &anyhow::Error) -> anyhow::Error {
    let denied = is_denied(error);
    let beneath = if choice == DatapathChoice::Sockmap { "" } else { " with sockmap beneath it" };
    let what = format!("route {}: the datapath {choice}{beneath} ({error:#})", route.name);
    if denied {
        let privilege = match choice {
            DatapathChoice::Tc | DatapathChoice::Xdp => format!("CAP_NET_RAW, and {CAPABILITIES}"),
            _ => CAPABILITIES.to_owned(),
        };
        let remedy = "grant them, or set datapath = \"copy\", which needs none".to_owned();
        return Failure::Privilege { what, privilege, remedy }.into();
    }
    anyhow!("{what}; set datapath = \"copy\" or \"auto\", or see `switchmaster doctor`")
}
