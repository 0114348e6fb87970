//! Which datapath each route gets. A named one that cannot work is an error; only `auto` falls back,
//! and says why.

use std::{io, num::NonZero, path::Path, sync::Arc, thread::available_parallelism};

use anyhow::{Context as _, Result, anyhow};

use crate::{
    cli::Failure,
    config::{Config, DatapathChoice},
    datapath::{Copy, Datapath, SelfTestError, Sockmap, selftest},
    kernel::{self, BpffsError, KernelTargets, PinDir, Sizes},
};

const SLOTS_A_ROUTE: u32 = 256;
const MOST_WORKERS: usize = 8;

/// What this process has of the kernel, and a datapath for each route.
pub(super) struct Paths {
    pub(super) chosen: Vec<Chosen>,
    pub(super) targets: Option<KernelTargets>,
    pub(super) sockmap: Option<Arc<Sockmap>>,
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

pub(super) fn choose(config: &Config, pin_dir: &Path) -> Result<Paths> {
    let workers = available_parallelism().map_or(1, NonZero::get).min(MOST_WORKERS);
    for route in &config.routes {
        if let DatapathChoice::Xdp | DatapathChoice::Tc = route.datapath {
            let name = if route.datapath == DatapathChoice::Xdp { "xdp" } else { "tc" };
            return Err(anyhow!(
                "route {}: the datapath {name} is not in this version; use \"auto\", \"sockmap\" or \"copy\"",
                route.name
            ));
        }
    }
    let wanted = config.routes.iter().any(|route| route.datapath != DatapathChoice::Copy);
    let in_kernel = match enter_kernel(config, pin_dir, workers) {
        Err(error) if wanted && is_in_use(&error) => return Err(error),
        other => other,
    };
    let copy = Arc::new(Copy::start(workers).context("the copy datapath does not start")?);
    let mut chosen = Vec::new();
    for route in &config.routes {
        chosen.push(match (route.datapath, &in_kernel) {
            (DatapathChoice::Copy, _) => Chosen { datapath: Arc::<Copy>::clone(&copy), reason: "configured".to_owned() },
            (DatapathChoice::Auto, Err(error)) => {
                let reason = format!("sockmap cannot work here: {error:#}");
                tracing::warn!(route = %route.name, reason, "auto: this route is served by copy; `switchmaster doctor` tells more");
                Chosen { datapath: Arc::<Copy>::clone(&copy), reason }
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
            Paths { chosen, targets: Some(kernel.targets), sockmap: Some(kernel.sockmap), _pins: Some(kernel.pins) }
        }
        Err(error) => {
            tracing::info!(reason = format!("{error:#}"), "the targets are not published in a BPF map");
            Paths { chosen, targets: None, sockmap: None, _pins: None }
        }
    })
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
    let targets = u32::try_from(config.routes.len())?.saturating_mul(SLOTS_A_ROUTE);
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
