//! How nodes are reached: written before `targets` leads to them. Each own address that a node sees gets source ports
//! and places for its flows, once and for as long as the maps live.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use aya::{
    maps::{ArrayOfMaps, HashMap as Table, Map, MapData, MapError, Queue},
    pin::PinError,
};
use proxy_ebpf::{
    TargetKey,
    nat::{Address, Egress, MOST_SNATS, MOST_SNATS_KNOWN, Snat, names},
};

use super::{
    address::{decode, encode},
    egress::{EgressError, way_to},
    globals::Globals,
    pool::{Pool, PoolError},
    ports::{self, PortRange},
    sockets::{SocketsError, ports_on, takes},
};

#[derive(Debug, thiserror::Error)]
pub enum ExitError {
    #[error(transparent)]
    Egress(#[from] EgressError),
    #[error(transparent)]
    Sockets(#[from] SocketsError),
    #[error(transparent)]
    Pool(#[from] PoolError),
    #[error("the kernel refuses a map entry: {0}")]
    Map(#[from] MapError),
    #[error("the queue of free ports cannot be pinned: {0}")]
    Pin(#[from] PinError),
    #[error("the pin of an earlier queue of free ports cannot be removed: {0}")]
    Unpin(#[from] io::Error),
    #[error("packets from {node} come in at interface {ifindex}, which the program cannot be attached to")]
    Unattached { node: IpAddr, ifindex: u32 },
    #[error("{node} is to see us from one of the addresses in snat, and this host has none of them now")]
    Absent { node: IpAddr },
    #[error("nodes would see us from more than {known} addresses, and there is no room for the flows of {address}")]
    Full { known: usize, address: IpAddr },
}

/// The maps that this writes.
pub struct Maps {
    pub egress: Table<MapData, TargetKey, Egress>,
    pub snat_of: Table<MapData, Address, u32>,
    pub globals: Arc<Globals>,
    pub free: ArrayOfMaps<MapData, Queue<MapData, u32>>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

/// What the configuration says of this host's addresses.
#[derive(Debug, Default)]
pub struct Wanted {
    /// Those that the nodes of a route shall see, by its number, where it lists any.
    pub listed: BTreeMap<u32, Vec<IpAddr>>,
    /// What the daemon listens on, or is about to: a port of that is nobody's source port.
    pub listening: Vec<SocketAddr>,
}

impl Wanted {
    /// Those that clients dial on an address.
    fn ports_on(&self, address: IpAddr) -> impl Iterator<Item = u16> {
        self.listening.iter().filter(move |at| takes(at.ip(), address)).map(SocketAddr::port)
    }
}

pub struct Exits {
    maps: Maps,
    range: PortRange,
    wanted: Wanted,
    /// Addresses of this host now.
    ours: BTreeSet<IpAddr>,
    /// Those that could not be made ready; asked again when `ours` changes.
    refused: BTreeSet<IpAddr>,
    /// How many flows there is room for.
    places: u32,
    /// Where the queues of free ports are pinned: nobody may open those in `free` without CAP_SYS_ADMIN.
    pins: PathBuf,
    known: Vec<Snat>,
    fresh: Vec<(Snat, Pool)>,
    /// Interfaces that the program is attached to.
    attached: BTreeSet<u32>,
    led: HashMap<TargetKey, SocketAddr>,
    /// What the kernel has of that.
    written: HashMap<TargetKey, Egress>,
}

impl std::fmt::Debug for Exits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exits").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Exits {
    pub fn new(maps: Maps, range: PortRange, places: u32, pins: PathBuf, wanted: Wanted) -> Self {
        let (known, fresh) = (Vec::new(), Vec::new());
        let (attached, ours, refused) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
        let (led, written) = (HashMap::new(), HashMap::new());
        Self { maps, range, wanted, ours, refused, places, pins, known, fresh, attached, led, written }
    }

    /// Goes on with the addresses of an earlier daemon, and the nodes that it led to. Returns the places whose ports
    /// sockets of this host hold: they are not to be given back.
    pub fn take_over(&mut self, led: &BTreeMap<TargetKey, SocketAddr>) -> Result<HashSet<u32>, ExitError> {
        self.led.extend(led.iter().map(|(key, node)| (*key, *node)));
        let mut withheld = HashSet::new();
        let globals = Arc::clone(&self.maps.globals);
        for (number, snat) in (0..).zip(&globals.snats) {
            let snat = snat.get();
            if snat.ports == 0 {
                break;
            }
            let place = |port: u16| snat.first + u32::from(port.wrapping_sub(snat.first_port));
            withheld.extend(self.held(decode(snat.addr))?.into_iter().map(place));
            self.fresh.push((snat, Pool::new(snat, open(&self.pin(number))?)?));
            // The last step of `add`, before which the other daemon may have been killed.
            self.maps.snat_of.insert(snat.addr, number, 0)?;
            self.known.push(snat);
        }
        Ok(withheld)
    }

    fn pin(&self, number: u32) -> PathBuf {
        self.pins.join(format!("{}_{number}", names::FREE))
    }

    /// A node that may be led to: the ports of an address that only it sees take too long to fill for a switch.
    pub fn meet(&mut self, route: u32, node: IpAddr) {
        // The last places are for those that are led to.
        if self.places / self.range.count() > self.known.len() as u32 + 1 {
            // Whoever leads there is told why it fails.
            let _prepared = self.way(route, node);
        }
    }

    /// Prepares the way to a node for the flows of `key`; without one they are left to the listener.
    pub fn lead(&mut self, key: TargetKey, node: SocketAddr) -> Result<(), ExitError> {
        self.led.insert(key, node);
        let prepared = self.way(key.route, node.ip()).and_then(|egress| {
            // Written only if it is another one: the memory of what is replaced is another entry's next.
            if self.written.get(&key) != Some(&egress) {
                self.maps.egress.insert(key, egress, 0)?;
                self.written.insert(key, egress);
            }
            Ok(())
        });
        if prepared.is_err() {
            // Nothing there to be removed is as good.
            let _absent = self.maps.egress.remove(&key);
            self.written.remove(&key);
        }
        prepared
    }

    /// The same again for every node that is led to, as routes and interfaces are now. Returns what went wrong.
    pub fn renew(&mut self, attached: BTreeSet<u32>, ours: &BTreeSet<IpAddr>) -> Vec<(SocketAddr, ExitError)> {
        self.attached = attached;
        if self.ours != *ours {
            self.ours.clone_from(ours);
            self.refused.clear();
        }
        self.prepare_next();
        let led: Vec<_> = self.led.iter().map(|(key, node)| (*key, *node)).collect();
        led.into_iter().filter_map(|(key, node)| Some((node, self.lead(key, node).err()?))).collect()
    }

    /// The ports of addresses that are new since this was last asked.
    pub fn fresh(&mut self) -> Vec<(Snat, Pool)> {
        std::mem::take(&mut self.fresh)
    }

    /// Fills the ports of one listed address that has none yet, which takes some 25 ms: a switch may be waiting. True if
    /// there was one.
    pub fn prepare_next(&mut self) -> bool {
        let is_next =
            |own: &&IpAddr| self.ours.contains(own) && self.known(**own).is_none() && !self.refused.contains(own);
        let Some(next) = self.wanted.listed.values().flatten().find(is_next).copied() else { return false };
        if let Err(error) = self.add(next) {
            tracing::warn!(%error, address = %next, "nodes will not see this address");
            self.refused.insert(next);
        }
        true
    }

    /// Source ports of an address that are somebody's, or are to be.
    fn held(&self, address: IpAddr) -> Result<BTreeSet<u16>, SocketsError> {
        Ok(ports::held(self.range, ports_on(address)?.into_iter().chain(self.wanted.ports_on(address))))
    }

    fn known(&self, address: IpAddr) -> Option<u8> {
        let encoded = encode(address);
        self.known.iter().position(|snat| snat.addr == encoded).map(|number| number as u8)
    }

    fn way(&mut self, route: u32, node: IpAddr) -> Result<Egress, ExitError> {
        let way = way_to(node)?;
        if !self.attached.contains(&way.ifindex) {
            return Err(ExitError::Unattached { node, ifindex: way.ifindex });
        }
        let listed = self.wanted.listed.get(&route).into_iter().flatten().filter(|own| own.is_ipv4() == node.is_ipv4());
        let listed: Vec<IpAddr> = listed.take(MOST_SNATS).copied().collect();
        let ours = if listed.is_empty() {
            // Or the route lists addresses of the other family only.
            vec![way.source]
        } else {
            listed.into_iter().filter(|own| self.ours.contains(own)).collect()
        };
        let mut numbers: Vec<u8> = ours.iter().filter_map(|own| self.known(*own)).collect();
        if numbers.is_empty() {
            // The others follow one by one.
            let first = ours.first().ok_or(ExitError::Absent { node })?;
            numbers.push(self.add(*first)?);
        }
        let mut egress = Egress { ifindex: way.ifindex, count: numbers.len() as u32, snats: [0; MOST_SNATS] };
        egress.snats[..numbers.len()].copy_from_slice(&numbers);
        Ok(egress)
    }

    fn add(&mut self, address: IpAddr) -> Result<u8, ExitError> {
        let (number, count) = (self.known.len() as u32, self.range.count());
        let first = number * count;
        if self.places - first < count || number as usize == MOST_SNATS_KNOWN {
            return Err(ExitError::Full { known: self.known.len(), address });
        }
        let snat = Snat { addr: encode(address), first, first_port: self.range.first, ports: count as u16 };
        let held = self.held(address)?;
        let queue = self.queue(number, count)?;
        self.maps.free.set(number, &queue, 0)?;
        self.maps.globals.snats[number as usize].set(&snat);
        let mut pool = Pool::new(snat, queue)?;
        let filled = pool.fill(&held, rand::random())?;
        self.maps.snat_of.insert(snat.addr, number, 0)?;
        self.known.push(snat);
        tracing::info!(%address, ports = filled, held = held.len(), "nodes see this address; source ports are ours");
        self.fresh.push((snat, pool));
        // Below `MOST_SNATS_KNOWN`, 256.
        Ok(number as u8)
    }

    /// An empty queue, pinned. Another may be there whose daemon was killed before anything knew of it.
    fn queue(&self, number: u32, count: u32) -> Result<Queue<MapData, u32>, ExitError> {
        let pin = self.pin(number);
        match fs::remove_file(&pin) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        Queue::<_, u32>::create(count, 0)?.pin(&pin)?;
        Ok(open(&pin)?)
    }
}

fn open(pin: &Path) -> Result<Queue<MapData, u32>, MapError> {
    Queue::try_from(Map::Queue(MapData::from_pin(pin)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_dial_is_nobody_s_source_port() {
        let listening = ["0.0.0.0:16379", "10.0.0.1:16380", "[fd00::1]:16381"].map(|text| text.parse().unwrap());
        let wanted = Wanted { listening: listening.into(), ..Wanted::default() };
        for (address, ports) in [
            ("10.0.0.1", vec![16_379, 16_380]),
            ("10.0.0.2", vec![16_379]),
            ("fd00::1", vec![16_381]),
            ("fd00::2", vec![]),
        ] {
            let found: Vec<u16> = wanted.ports_on(address.parse().unwrap()).collect();
            assert_eq!(found, ports, "{address}");
        }
    }
}
