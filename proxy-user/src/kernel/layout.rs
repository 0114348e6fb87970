//! The maps of the packet datapaths as this build has them, and those that are pinned compared with them. All are pinned
//! but the counters and parked SYNs: flows outlive the daemon, and the next one goes on with their maps.
//! aya takes a pinned map for the right one unseen, so nothing is loaded before `check` has looked.

use std::path::{Path, PathBuf};

use aya::{
    Ebpf, EbpfLoader,
    maps::{MapError, MapInfo},
};
use aya_obj::{Object, ParseError};
use proxy_ebpf::{
    balance::{self, names as sharing},
    bypass::names as bypass,
    index, names,
    nat::names as nat,
    parking::names as parking,
    steering::names as steering,
};

use super::{
    bpffs::PinDir,
    load::{BYPASS, Error, STEERING, TC, XDP},
};

/// Networks in the `allow` of a route, as many as the configuration takes.
const MOST_NETS: u32 = 4096;
/// Addresses of routes, and nodes, in all namespaces together: an entry takes memory only once it is there.
const MOST_DIALLED: u32 = 1 << 16;
/// The maps of steering that outlive the daemon, with the sockets that it has led.
const OF_STEERING: [&str; 4] = [steering::DIALLED, steering::REACHED, steering::STEERED, steering::STEERS];
/// And of the bypass, with the sockets that it knows.
pub const OF_BYPASS: [&str; 8] = [
    bypass::NODES,
    bypass::SOCKETS,
    bypass::ENDS,
    bypass::PATHS,
    bypass::ORDERS,
    bypass::CLIENTS,
    bypass::SUMS,
    bypass::LATE,
];
/// Room for routes that a later configuration adds.
const LEAST_ROUTES: u32 = 64;

#[derive(Debug, thiserror::Error)]
pub(super) enum Unlike {
    #[error("its map {name} is another ({found}; this one's: {ours})")]
    Map { name: String, found: String, ours: String },
    #[error("its map {name} cannot be read: {source}")]
    Unread { name: String, source: MapError },
    #[error("the daemon was built wrongly: {0}")]
    Object(#[from] ParseError),
}

/// How many entries the maps must hold.
#[derive(Debug, Clone, Copy)]
pub struct NatSizes {
    pub routes: u32,
    pub flows: u32,
}

/// For how many routes there is room where a configuration has so many.
pub(super) fn room(routes: u32) -> u32 {
    routes.next_power_of_two().max(LEAST_ROUTES)
}

/// Entries of `targets` for so many routes.
pub fn targets(routes: u32) -> u32 {
    room(routes) * balance::SLOTS
}

/// A map of the object, and where it is pinned.
struct Definition {
    name: String,
    path: PathBuf,
    map: aya_obj::Map,
    entries: u32,
}

fn definitions(object: &[u8], pins: &PinDir, sizes: NatSizes) -> Result<Vec<Definition>, ParseError> {
    let maps = Object::parse(object)?.maps.into_iter();
    // The program counts anew, as the daemon does; who waits for a daemon that is dead comes again by itself; what interfaces
    // there are each daemon sees for itself; and a name on bpffs has no dots.
    let its_own = [nat::PACKETS, nat::OUTS, parking::PARKED, parking::SYN_TURNS];
    let pinned = maps.filter(|(name, _)| !its_own.contains(&name.as_str()) && !name.contains('.'));
    Ok(pinned.map(|(name, map)| Definition::new(name, map, pins, sizes)).collect())
}

/// What an object pins beside them.
fn beside(object: &[u8], its: &[&str], pins: &PinDir, sizes: NatSizes) -> Result<Vec<Definition>, ParseError> {
    let maps = Object::parse(object)?.maps.into_iter().filter(|(name, _)| its.contains(&name.as_str()));
    Ok(maps.map(|(name, map)| Definition::new(name, map, pins, sizes)).collect())
}

fn entries(name: &str, own: u32, sizes: NatSizes) -> u32 {
    let routes = room(sizes.routes);
    match name {
        nat::FLOWS => sizes.flows,
        nat::FLOW_OF => index::buckets(sizes.flows),
        nat::TAKEN => sizes.flows.div_ceil(u64::BITS),
        nat::USAGE | nat::FIRSTS => routes,
        nat::ALLOW => routes * MOST_NETS,
        nat::EGRESS | nat::GATES | names::TARGETS | sharing::LOADS => targets(sizes.routes),
        // One for each family.
        sharing::BALANCE | sharing::TURN | sharing::MAGLEV => balance::of_route(routes, false),
        steering::STEERS | bypass::CLIENTS => targets(sizes.routes),
        steering::DIALLED | steering::REACHED => MOST_DIALLED,
        _ => own,
    }
}

/// Whether every map is pinned, and as this build would have made it, or larger. With fewer flows than this configuration
/// wants it goes on all the same: some of its own addresses then have no places until the next start from nothing.
pub(super) fn check(pins: &PinDir, sizes: NatSizes) -> Result<(), Unlike> {
    definitions(TC, pins, sizes)?.iter().try_for_each(|one| {
        let grows = [nat::FLOWS, nat::FLOW_OF, nat::TAKEN].contains(&one.name.as_str());
        one.check(if grows { 1 } else { one.entries })
    })?;
    // An earlier daemon may have done without.
    let others = [beside(STEERING, &OF_STEERING, pins, sizes)?, beside(BYPASS, &OF_BYPASS, pins, sizes)?];
    let mut there = others.into_iter().flatten().filter(|one| one.path.exists());
    there.try_for_each(|one| one.check(one.entries))
}

impl Definition {
    fn new(name: String, map: aya_obj::Map, pins: &PinDir, sizes: NatSizes) -> Self {
        let folder = if name == names::TARGETS { pins.path().to_owned() } else { pins.maps() };
        Self { path: folder.join(&name), entries: entries(&name, map.max_entries(), sizes), name, map }
    }

    fn check(&self, least: u32) -> Result<(), Unlike> {
        let unread = |source| Unlike::Unread { name: self.name.clone(), source };
        let found = MapInfo::from_pin(&self.path).map_err(unread)?;
        let its = (found.map_type().map_err(unread)? as u32, found.key_size(), found.value_size());
        let ours = (self.map.map_type(), self.map.key_size(), self.map.value_size());
        if its == ours && found.max_entries() >= least {
            return Ok(());
        }
        let describe = |(kind, key, value), entries| format!("type {kind}, {key} and {value} bytes, {entries} entries");
        let (found, ours) = (describe(its, found.max_entries()), describe(ours, self.entries));
        Err(Unlike::Map { name: self.name.clone(), found, ours })
    }

    /// How many entries it has, or will have.
    fn size(&self) -> u32 {
        MapInfo::from_pin(&self.path).map_or(self.entries, |found| found.max_entries())
    }
}

/// For how many route numbers there is room: as an earlier daemon made it, whose numbers go on.
fn numbers(pins: &PinDir, routes: u32) -> u32 {
    MapInfo::from_pin(pins.maps().join(nat::USAGE)).map_or_else(|_| room(routes), |found| found.max_entries())
}

/// `seed`: that of the flows' index, which lives as long as the maps.
pub fn load_tc(sizes: NatSizes, pins: &PinDir, seed: u64) -> Result<Ebpf, Error> {
    load(TC, sizes, pins, seed)
}

/// Loads the program in front of tc, with tc's maps and some of its own, which go with it.
pub fn load_xdp(tc: &Ebpf, pins: &PinDir, seed: u64) -> Result<Ebpf, Error> {
    // Maps find from one object into another by their pins only; these are gone when this returns.
    let lent = pins.lend(tc.maps())?;
    let mut loader = EbpfLoader::new();
    for name in lent.names() {
        loader.map_pin_path(name, lent.path().join(name));
    }
    let buckets = MapInfo::from_pin(lent.path().join(nat::FLOW_OF)).map_err(|error| Error::Map(nat::FLOW_OF, error))?;
    let mask = buckets.max_entries() - 1;
    find_flows(&mut loader, &seed, &mask);
    Ok(loader.load(XDP)?)
}

/// Loads the programs of steering, with tc's maps and some of its own, which outlive it.
pub fn load_steering(tc: &Ebpf, sizes: NatSizes, pins: &PinDir, seed: u64) -> Result<Ebpf, Error> {
    load_beside(STEERING, &OF_STEERING, tc, sizes, pins, Some(seed))
}

/// Loads the programs of the bypass in the same way. Where there is steering, they know whom that has led.
pub fn load_bypass(tc: &Ebpf, sizes: NatSizes, pins: &PinDir) -> Result<Ebpf, Error> {
    let led = Some(steering::STEERED).filter(|name| has(&pins.maps(), name));
    let its: Vec<&str> = OF_BYPASS.into_iter().chain(led).collect();
    load_beside(BYPASS, &its, tc, sizes, pins, None)
}

/// The same with maps of its own, which nothing outlives: for the self-test.
pub fn load_bypass_alone() -> Result<Ebpf, Error> {
    Ok(EbpfLoader::new().load(BYPASS)?)
}

fn load_beside(
    object: &[u8],
    its: &[&str],
    tc: &Ebpf,
    sizes: NatSizes,
    pins: &PinDir,
    seed: Option<u64>,
) -> Result<Ebpf, Error> {
    let definitions = beside(object, its, pins, sizes).map_err(aya::EbpfError::from)?;
    let lent = pins.lend(tc.maps())?;
    let mut loader = EbpfLoader::new();
    for name in lent.names() {
        loader.map_pin_path(name, lent.path().join(name));
    }
    for map in &definitions {
        loader.map_pin_path(&map.name, map.path.as_path()).map_max_entries(&map.name, map.size());
    }
    let mask = 0;
    if let Some(seed) = &seed {
        find_flows(&mut loader, seed, &mask);
    }
    Ok(loader.load(object)?)
}

/// Loads a packet program, with the maps that are pinned, or else pins those that it makes: several share them by name.
fn load(object: &[u8], sizes: NatSizes, pins: &PinDir, seed: u64) -> Result<Ebpf, Error> {
    let definitions = definitions(object, pins, sizes).map_err(aya::EbpfError::from)?;
    let mut loader = EbpfLoader::new();
    for map in &definitions {
        loader.map_pin_path(&map.name, map.path.as_path()).map_max_entries(&map.name, map.size());
    }
    loader.map_max_entries(parking::SYN_TURNS, numbers(pins, sizes.routes));
    let size = |name: &str| {
        let map = definitions.iter().find(|map| map.name == name);
        map.map_or_else(|| entries(name, 1, sizes), Definition::size)
    };
    let mask = size(nat::FLOW_OF) - 1;
    find_flows(&mut loader, &seed, &mask);
    Ok(loader.load(object)?)
}

/// Tells a program how the flows' index is made.
fn find_flows<'a>(loader: &mut EbpfLoader<'a>, seed: &'a u64, mask: &'a u32) {
    loader.override_global(index::names::SEED, seed, true).override_global(index::names::MASK, mask, true);
}

/// Whether a folder has a map of this name.
pub(super) fn has(folder: &Path, name: &str) -> bool {
    folder.join(name).exists()
}
