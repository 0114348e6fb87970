//! The pinned map `targets`: the one place where the kernel programs learn where a route leads.

use std::net::{IpAddr, SocketAddr};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use proxy_ebpf::{Target, TargetKey, names};

use super::load::Error;

/// The writer of the map; there is one, and the switch owns it.
pub struct KernelTargets {
    map: HashMap<MapData, TargetKey, Target>,
}

impl std::fmt::Debug for KernelTargets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KernelTargets").finish_non_exhaustive()
    }
}

impl KernelTargets {
    pub fn open(object: &mut Ebpf) -> Result<Self, Error> {
        let map = object
            .take_map(names::TARGETS)
            .unwrap_or_else(|| unreachable!("the object is our own build and has the map"));
        let map = HashMap::try_from(map).map_err(|error| Error::Map(names::TARGETS, error))?;
        Ok(Self { map })
    }

    /// Replaces an entry in one step: a program sees the old one or the new one, never a mixture. Where the kernel
    /// refuses, there is no entry afterwards, and nothing passes: a removal needs no memory.
    pub fn write(&mut self, key: TargetKey, target: Target) -> Result<(), MapError> {
        let written = self.map.insert(key, target, 0);
        if written.is_err() {
            let _absent_is_as_good = self.map.remove(&key);
        }
        written
    }

    pub fn read(&self, key: TargetKey) -> Result<Target, MapError> {
        self.map.get(&key, 0)
    }
}

/// An address as the ABI has it.
pub fn encode(addr: SocketAddr) -> (u16, [u8; 2], [u8; 16]) {
    let mut bytes = [0; 16];
    let family = match addr.ip() {
        IpAddr::V4(ip) => {
            bytes[..4].copy_from_slice(&ip.octets());
            libc::AF_INET
        }
        IpAddr::V6(ip) => {
            bytes = ip.octets();
            libc::AF_INET6
        }
    };
    (family as u16, addr.port().to_be_bytes(), bytes)
}
