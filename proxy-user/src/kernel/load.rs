//! Loads an embedded object, with its maps sized from the configuration and `targets` pinned.

use aya::{Ebpf, EbpfError, EbpfLoader};
use proxy_ebpf::{
    balance::{self, names as sharing},
    names,
    nat::names as nat,
    parking::names as parking,
    xdp::names as xdp,
};

use super::bpffs::{BpffsError, PinDir};

/// The objects, built by this very build (`build.rs`).
static SOCKMAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockmap.o"));
static TC: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tc.o"));
static RELEASE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/release.o"));
static XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp.o"));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error("the kernel refuses the object: {0}")]
    Load(#[from] EbpfError),
    #[error("the map {0} cannot be used: {1}")]
    Map(&'static str, aya::maps::MapError),
}

/// Beyond this the open files run out first.
const MOST_CONNECTIONS: u32 = 1 << 20;

/// Networks in the `allow` of a route, as many as the configuration takes.
const MOST_NETS: u32 = 4096;

/// How many entries the maps must hold.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub targets: u32,
    pub connections: u32,
}

/// Without a folder nothing is pinned: the self-test's own short-lived copy.
pub fn load(sizes: Sizes, pins: Option<&PinDir>) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    let sockets = sizes.connections.clamp(16, MOST_CONNECTIONS) * 2;
    loader.map_max_entries(names::TARGETS, sizes.targets.max(1));
    for map in [names::LINKS, names::METERS, names::PEERS, names::SPLICED] {
        loader.map_max_entries(map, sockets);
    }
    if let Some(pins) = pins {
        loader.map_pin_path(names::TARGETS, pins.path().join(names::TARGETS));
    }
    #[cfg_attr(not(feature = "kernel-log"), expect(unused_mut, reason = "only the log changes the object"))]
    let mut object = loader.load(SOCKMAP)?;
    #[cfg(feature = "kernel-log")]
    follow_log(&mut object);
    Ok(object)
}

/// Loads the packet program, which reads the `targets` that `load` has pinned. `flows` is how many there can be.
pub fn load_tc(routes: u32, flows: u32, pins: &PinDir) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    loader.map_pin_path(names::TARGETS, pins.path().join(names::TARGETS));
    loader.map_max_entries(nat::FLOWS, flows).map_max_entries(nat::FLOW_OF, flows);
    loader.map_max_entries(nat::TAKEN, flows.div_ceil(u64::BITS));
    loader.map_max_entries(nat::USAGE, routes.max(1)).map_max_entries(nat::ALLOW, routes.max(1) * MOST_NETS);
    loader.map_max_entries(parking::SYN_TURNS, routes.max(1));
    let slots = routes.max(1) * balance::SLOTS;
    loader.map_max_entries(nat::EGRESS, slots).map_max_entries(sharing::LOADS, slots);
    // One for each family.
    let families = balance::of_route(routes.max(1), false);
    for map in [sharing::BALANCE, sharing::TURN, sharing::MAGLEV] {
        loader.map_max_entries(map, families);
    }
    Ok(loader.load(TC)?)
}

/// Loads the program that sends parked SYNs on. It has no map, and is attached to nothing.
pub fn load_release() -> Result<Ebpf, Error> {
    Ok(EbpfLoader::new().load(RELEASE)?)
}

/// Loads the accelerator of `tc`, none of whose maps was taken yet: it has the same ones, and a few of its own.
pub fn load_xdp(tc: &Ebpf, routes: u32, pins: &PinDir) -> Result<Ebpf, Error> {
    // Maps find from one object into another by their pins only; these are gone when this returns.
    let lent = pins.lend(tc.maps())?;
    let mut loader = EbpfLoader::new();
    for name in lent.names() {
        loader.map_pin_path(name, lent.path().join(name));
    }
    loader.map_max_entries(xdp::BY_XDP, routes.max(1));
    Ok(loader.load(XDP)?)
}

/// Writes the programs' log lines to the daemon's log. Without a runtime (`doctor`) nobody reads them.
#[cfg(feature = "kernel-log")]
fn follow_log(object: &mut Ebpf) {
    use tokio::io::{Interest, unix::AsyncFd};

    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let _entered = runtime.enter();
    let logger = match aya_log::EbpfLogger::init(object) {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "the kernel programs have no log"),
    };
    // SAFETY: the logger owns its ring buffer, and gives out that one descriptor as long as it lives.
    let mut logger = match unsafe { AsyncFd::register_with_interest(logger, Interest::READABLE) } {
        Ok(logger) => logger,
        Err(error) => return tracing::warn!(%error, "the log of the kernel programs cannot be read"),
    };
    runtime.spawn(async move {
        while let Ok(mut ready) = logger.readable_mut().await {
            ready.get_inner_mut().flush();
            ready.clear_ready();
        }
    });
}
