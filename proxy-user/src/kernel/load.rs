//! Loads an embedded object, with its maps sized from the configuration and `targets` pinned.

use aya::{Ebpf, EbpfError, EbpfLoader};
use proxy_ebpf::names;

use super::{
    bpffs::{BpffsError, PinDir},
    btf::{BtfError, Types},
    life::LifeError,
    mapping::MappingError,
};

/// The objects, built by this very build (`build.rs`).
static SOCKMAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockmap.o"));
pub(super) static TC: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/tc.o"));
static RELEASE: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/release.o"));
pub(super) static STEERING: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steering.o"));
pub(super) static BYPASS: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/bypass.o"));
pub(super) static XDP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/xdp.o"));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error("the kernel refuses the object: {0}")]
    Load(#[from] EbpfError),
    #[error("the map {0} cannot be used: {1}")]
    Map(&'static str, aya::maps::MapError),
    #[error(transparent)]
    Mapping(#[from] MappingError),
    #[error(transparent)]
    Life(#[from] LifeError),
    #[error(transparent)]
    Types(#[from] BtfError),
}

/// Beyond this the open files run out first.
const MOST_CONNECTIONS: u32 = 1 << 20;
/// Of connections whose clients a switch has reset, and who are back before the closes.
const MOST_TWICE: u32 = 1 << 14;

/// How many entries the maps must hold.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub targets: u32,
    pub connections: u32,
}

/// Without a folder nothing is pinned: the self-test's own short-lived copy.
pub fn load(sizes: Sizes, pins: Option<&PinDir>) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    let unread = Types::of_kernel()?.offset("tcp_sock", &["copied_seq"])?;
    loader.override_global(names::COPIED_SEQ, &unread, true);
    let connections = sizes.connections.clamp(16, MOST_CONNECTIONS);
    let sockets = (connections + connections.min(MOST_TWICE)) * 2;
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

/// Loads the program that sends parked SYNs on. It has no map, and is attached to nothing.
pub fn load_release() -> Result<Ebpf, Error> {
    Ok(EbpfLoader::new().load(RELEASE)?)
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
