//! What a daemon that was killed left in the kernel, for the next one to go on with: the record of whose the maps are,
//! and the routes' names. Promises that maps of another layout, or half-made ones, are never taken over: the record is
//! pinned last, and compared before anything else is looked at.

use std::{fs, io, os::unix::fs::MetadataExt as _, path::PathBuf};

use aya::{
    maps::{Array, Map, MapData, MapError, MapInfo},
    pin::PinError,
};
use proxy_ebpf::nat::{self, RouteName, names};

use super::{
    bpffs::PinDir,
    layout::{self, NatSizes, Unlike, room},
};

#[derive(Debug, thiserror::Error)]
pub enum LifeError {
    #[error(
        "{path} holds the connections of another switchmaster: {what}. Start that one again, or end them: \
         `switchmaster purge --pin-dir {path}`"
    )]
    Other { path: PathBuf, what: String },
    #[error("the map {0} cannot be used: {1}")]
    Map(&'static str, #[source] MapError),
    #[error("the map {0} cannot be pinned: {1}")]
    Pin(&'static str, #[source] PinError),
    #[error("{path} cannot be prepared: {source}")]
    Folder { path: PathBuf, source: io::Error },
}

/// Source ports of each address, both included.
pub type Ports = (u16, u16);

pub struct Life {
    names: Array<MapData, RouteName>,
    seed: u64,
}

impl std::fmt::Debug for Life {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Life").finish_non_exhaustive()
    }
}

impl Life {
    /// What another daemon left, if anything was finished. To be asked before anything is loaded.
    pub fn find(pins: &PinDir, sizes: NatSizes, ports: Ports) -> Result<Option<Self>, LifeError> {
        if !layout::has(&pins.maps(), names::LIFE) {
            return Ok(None);
        }
        let other = |what: String| LifeError::Other { path: pins.path().to_owned(), what };
        let record = record(pins)?;
        if let Some(difference) = difference(record, this(ports)) {
            return Err(other(difference));
        }
        layout::check(pins, sizes).map_err(|unlike: Unlike| other(unlike.to_string()))?;
        let seed = record.map_or(0, |record| record.seed);
        Ok(Some(Self { names: open(pins, names::ROUTE_NAMES)?, seed }))
    }

    /// Whether this build can read what is there.
    pub fn is_ours(pins: &PinDir, ports: Ports) -> Result<bool, LifeError> {
        let there = layout::has(&pins.maps(), names::LIFE);
        Ok(there && difference(record(pins)?, this(ports)).is_none())
    }

    /// Of the first daemon: when all maps are pinned, and nothing is attached yet. `seed`: what the programs were told.
    pub fn begin(pins: &PinDir, sizes: NatSizes, ports: Ports, seed: u64) -> Result<Self, LifeError> {
        let pin = |name| move |error| LifeError::Pin(name, error);
        let map = |name| move |error| LifeError::Map(name, error);
        let list = Array::<_, RouteName>::create(room(sizes.routes), 0).map_err(map(names::ROUTE_NAMES))?;
        list.pin(pins.maps().join(names::ROUTE_NAMES)).map_err(pin(names::ROUTE_NAMES))?;
        let mut record = Array::create(1, 0).map_err(map(names::LIFE))?;
        record.set(0, nat::Life { seed, ..this(ports) }, 0).map_err(map(names::LIFE))?;
        record.pin(pins.maps().join(names::LIFE)).map_err(pin(names::LIFE))?;
        Ok(Self { names: open(pins, names::ROUTE_NAMES)?, seed })
    }

    /// That of the flows' index.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// The routes' names by number; empty where there never was one.
    pub fn names(&self) -> Result<Vec<String>, LifeError> {
        let names = (0..self.names.len()).map(|number| Ok(text(&self.names.get(&number, 0)?)));
        names.collect::<Result<_, MapError>>().map_err(|error| LifeError::Map(names::ROUTE_NAMES, error))
    }

    pub fn name(&mut self, number: u32, name: &str) -> Result<(), LifeError> {
        let mut bytes: RouteName = [0; _];
        for (byte, letter) in bytes.iter_mut().zip(name.bytes()) {
            *byte = letter;
        }
        self.names.set(number, bytes, 0).map_err(|error| LifeError::Map(names::ROUTE_NAMES, error))
    }
}

fn text(name: &RouteName) -> String {
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// What this build leaves to the next one.
fn this(ports: Ports) -> nat::Life {
    // Where /proc is hidden all namespaces look alike: nothing is lost but the check.
    let netns = fs::metadata("/proc/self/ns/net").map_or(0, |namespace| namespace.ino());
    nat::Life { abi: nat::ABI, first_port: ports.0, last_port: ports.1, netns, seed: 0 }
}

/// `None`: it is a record of another size.
fn record(pins: &PinDir) -> Result<Option<nat::Life>, LifeError> {
    let map = |error| LifeError::Map(names::LIFE, error);
    let info = MapInfo::from_pin(pins.maps().join(names::LIFE)).map_err(map)?;
    if info.value_size() as usize != size_of::<nat::Life>() {
        return Ok(None);
    }
    open::<nat::Life>(pins, names::LIFE)?.get(&0, 0).map(Some).map_err(map)
}

fn open<T: aya::Pod>(pins: &PinDir, name: &'static str) -> Result<Array<MapData, T>, LifeError> {
    let map = MapData::from_pin(pins.maps().join(name)).and_then(|map| Array::try_from(Map::Array(map)));
    map.map_err(|error| LifeError::Map(name, error))
}

/// Why the one cannot go on with what the other left. It takes over the seed.
fn difference(found: Option<nat::Life>, ours: nat::Life) -> Option<String> {
    match found {
        None => Some("its record has another size than this version's".to_owned()),
        Some(found) if found.abi != ours.abi => {
            Some(format!("its layout has the number {}, and this version's {}", found.abi, ours.abi))
        }
        Some(found) if found.netns != ours.netns => Some("it ran in another network namespace".to_owned()),
        Some(found) if (found.first_port, found.last_port) != (ours.first_port, ours.last_port) => {
            Some(format!("its source ports are {} to {}", found.first_port, found.last_port))
        }
        Some(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_layout_namespace_and_ports_are_gone_on_with() {
        let ours = nat::Life { abi: 3, first_port: 10, last_port: 20, netns: 7, seed: 0 };
        assert_eq!(difference(Some(nat::Life { seed: 5, ..ours }), ours), None);
        for (found, says) in [
            (nat::Life { abi: 4, ..ours }, "number 4"),
            (nat::Life { netns: 8, ..ours }, "namespace"),
            (nat::Life { last_port: 21, ..ours }, "10 to 21"),
        ] {
            let said = difference(Some(found), ours).unwrap();
            assert!(said.contains(says), "{said}");
        }
        assert!(difference(None, ours).unwrap().contains("size"));
    }

    #[test]
    fn a_name_comes_back_as_it_went() {
        let mut longest: RouteName = [b'x'; _];
        assert_eq!(text(&longest).len(), longest.len());
        longest[6..].fill(0);
        assert_eq!((text(&longest), text(&[0; _])), ("xxxxxx".to_owned(), String::new()));
    }
}
