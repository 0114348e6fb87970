//! Loads an embedded object, with its maps sized from the configuration and `targets` pinned.

use aya::{Ebpf, EbpfError, EbpfLoader};
use proxy_ebpf::names;

use super::bpffs::{BpffsError, PinDir};

/// The objects, built by this very build (`build.rs`).
static SOCKMAP: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sockmap.o"));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error("the kernel refuses the object: {0}")]
    Load(#[from] EbpfError),
    #[error("the map {0} cannot be used: {1}")]
    Map(&'static str, aya::maps::MapError),
}

/// How many entries the maps must hold.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub targets: u32,
    pub connections: u32,
}

/// Without a folder nothing is pinned: the self-test's own short-lived copy.
pub fn load(sizes: Sizes, pins: Option<&PinDir>) -> Result<Ebpf, Error> {
    let mut loader = EbpfLoader::new();
    let sockets = sizes.connections.max(16) * 2;
    loader.map_max_entries(names::TARGETS, sizes.targets.max(1));
    for map in [names::LINKS, names::METERS, names::PEERS, names::SPLICED] {
        loader.map_max_entries(map, sockets);
    }
    if let Some(pins) = pins {
        loader.map_pin_path(names::TARGETS, pins.path().join(names::TARGETS));
    }
    Ok(loader.load(SOCKMAP)?)
}
