//! The pinned map `targets`: the one place where the kernel programs learn where a route leads; and `gates`, where packets
//! are told in one word what it says of their flows. Both have one writer, and the gate is written first: that one store is
//! the fence, whatever becomes of the daemon after it. A new flow needs both.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicU64, Ordering},
};

use aya::{
    Ebpf,
    maps::{HashMap, MapData, MapError},
};
use proxy_ebpf::{
    Target, TargetKey,
    balance::{SLOTS, of_slot},
    names,
    nat::{gate, names as nat},
    state,
};

use super::{load::Error, mapping::Mapping};

/// The writer of the map; there is one, and the switch owns it.
pub struct KernelTargets {
    map: HashMap<MapData, TargetKey, Target>,
    /// Where packets are translated.
    gates: Option<Mapping<AtomicU64>>,
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
        Ok(Self { map, gates: None })
    }

    #[cfg(test)]
    pub fn over(map: MapData) -> Self {
        Self { map: HashMap::try_from(aya::maps::Map::HashMap(map)).unwrap(), gates: None }
    }

    /// From now on every entry has its gate. Where an earlier daemon was killed between the two, both are shut: it was about
    /// to leave this target, or to go to it.
    pub fn set_gates(&mut self, map: &MapData) -> Result<(), Error> {
        let gates = Mapping::<AtomicU64>::new(nat::GATES, map)?;
        let of_map = |error| Error::Map(names::TARGETS, error);
        let mut differ = self.entries().map_err(of_map)?;
        for (at, gate) in (0..).zip(gates.iter()) {
            let key = TargetKey { route: at / SLOTS, slot: at % SLOTS };
            let word = gate.load(Ordering::Acquire);
            match differ.get(&key).map(gate::word) {
                Some(same) if same == word => _ = differ.remove(&key),
                _ => gate.store(gate::SHUT, Ordering::Release),
            }
        }
        self.gates = Some(gates);
        self.shut(|key| differ.contains_key(&key)).map_err(of_map)
    }

    fn set_gate(&self, key: TargetKey, word: u64) {
        let gates = self.gates.as_ref();
        if let Some(gate) = gates.and_then(|gates| gates.get(of_slot(key.route, key.slot) as usize)) {
            // No later write, of `targets` or anything else, comes before it.
            gate.swap(word, Ordering::SeqCst);
        }
    }

    /// Shuts these entries: nothing passes under them any more. They stay: who comes next has to see the highest
    /// generation that there was.
    pub fn shut(&mut self, is_over: impl Fn(TargetKey) -> bool) -> Result<(), MapError> {
        for (key, entry) in self.entries()?.into_iter().filter(|(key, _)| is_over(*key)) {
            self.write(key, Target { live: 0, state: state::CLOSED, ..entry })?;
        }
        Ok(())
    }

    /// Replaces an entry in one step: a program sees the old one or the new one, never a mixture. Where the kernel
    /// refuses, there is no entry afterwards, and nothing passes: a removal needs no memory.
    pub fn write(&mut self, key: TargetKey, target: Target) -> Result<(), MapError> {
        self.set_gate(key, gate::word(&target));
        let written = self.map.insert(key, target, 0);
        if written.is_err() {
            self.set_gate(key, gate::SHUT);
            let _absent_is_as_good = self.map.remove(&key);
        }
        written
    }

    /// All entries, in the order of their keys.
    pub fn entries(&self) -> Result<BTreeMap<TargetKey, Target>, MapError> {
        self.map.iter().collect()
    }

    pub fn read(&self, key: TargetKey) -> Result<Target, MapError> {
        self.map.get(&key, 0)
    }
}

/// The address of an entry; `None` where there never was one.
pub fn decode(target: &Target) -> Option<SocketAddr> {
    let [a, b, c, d, ..] = target.addr;
    let ip = match i32::from(target.family) {
        libc::AF_INET => IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        libc::AF_INET6 => IpAddr::V6(Ipv6Addr::from(target.addr)),
        _ => return None,
    };
    Some(SocketAddr::new(ip, u16::from_be_bytes(target.port)))
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
