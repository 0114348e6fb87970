//! How nodes are reached: written before `targets` leads to them. Each own address that a node sees gets source ports
//! and places for its flows, once and for as long as the maps live.

use std::net::{IpAddr, SocketAddr};

use aya::maps::{Array, ArrayOfMaps, HashMap, MapData, MapError, Queue};
use proxy_ebpf::{
    TargetKey,
    nat::{Address, Egress, Snat},
};

use super::{
    address::encode,
    egress::{EgressError, way_to},
    pool::{Pool, PoolError},
    ports::{self, PortRange},
    sockets::{SocketsError, ports_on},
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
    #[error("nodes would see us from more than {known} addresses, and there is no room for the flows of {address}")]
    Full { known: usize, address: IpAddr },
}

/// The maps that this writes.
pub struct Maps {
    pub egress: HashMap<MapData, TargetKey, Egress>,
    pub snat_of: HashMap<MapData, Address, u32>,
    pub snats: Array<MapData, Snat>,
    pub free: ArrayOfMaps<MapData, Queue<MapData, u32>>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

pub struct Exits {
    maps: Maps,
    range: PortRange,
    /// How many flows there is room for.
    places: u32,
    known: Vec<Snat>,
}

impl std::fmt::Debug for Exits {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Exits").field("known", &self.known).finish_non_exhaustive()
    }
}

impl Exits {
    pub fn new(maps: Maps, range: PortRange, places: u32) -> Self {
        Self { maps, range, places, known: Vec::new() }
    }

    /// Prepares the way to a node for the flows of `key`. Returns the ports of an address that is new.
    pub fn lead(&mut self, key: TargetKey, node: SocketAddr) -> Result<Option<(Snat, Pool)>, ExitError> {
        let way = way_to(node.ip())?;
        let address = encode(way.source);
        let (number, new) = match self.known.iter().position(|snat| snat.addr == address) {
            Some(number) => (number as u32, None),
            None => {
                let (number, snat, pool) = self.add(way.source)?;
                (number, Some((snat, pool)))
            }
        };
        self.maps.egress.insert(key, Egress { ifindex: way.ifindex, snat: number }, 0)?;
        Ok(new)
    }

    /// No new flow goes to the node of `key` any more.
    pub fn forget(&mut self, key: TargetKey) {
        // Nothing there to be removed is as good.
        let _absent = self.maps.egress.remove(&key);
    }

    fn add(&mut self, address: IpAddr) -> Result<(u32, Snat, Pool), ExitError> {
        let (number, count) = (self.known.len() as u32, self.range.count());
        let first = number * count;
        if self.places - first < count || number == self.maps.snats.len() {
            return Err(ExitError::Full { known: self.known.len(), address });
        }
        let snat = Snat { addr: encode(address), first, first_port: self.range.first, ports: count as u16 };
        let held = ports::held(self.range, ports_on(address)?);
        let queue = Queue::create(count, 0)?;
        self.maps.free.set(number, &queue, 0)?;
        self.maps.snats.set(number, snat, 0)?;
        let mut pool = Pool::new(snat, queue)?;
        let filled = pool.fill(&held)?;
        self.maps.snat_of.insert(snat.addr, number, 0)?;
        self.known.push(snat);
        tracing::info!(%address, ports = filled, held = held.len(), "nodes see this address; source ports are ours");
        Ok((number, snat, pool))
    }
}
