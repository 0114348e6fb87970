//! Tells the program among which slots it shares new flows of a route out: the list at once, and the tables of source-hash,
//! which take milliseconds to fill, when the keeper has nothing more urgent. Either may lag behind `targets`, which
//! alone says what is open.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use aya::maps::{Array, ArrayOfMaps, MapData, MapError};
use proxy_ebpf::{
    TargetKey,
    balance::{Balance, LOOKS, Looks, SLOTS, Table, kind, of_route},
};

use super::{
    address::encode,
    maglev::{Member, fill},
};
use crate::{config, datapath::Share};

/// The maps that this writes.
pub struct Maps {
    pub balance: Array<MapData, Balance>,
    pub maglev: ArrayOfMaps<MapData, Array<MapData, Table>>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

pub struct Balancer {
    maps: Mutex<Maps>,
    /// By [`of_route`].
    wheels: RwLock<Vec<Wheel>>,
}

/// The table of a route and a family.
#[derive(Default, Clone)]
struct Wheel {
    /// Who is to be in it; none where the route is not shared out by a table.
    wanted: Vec<Member>,
    /// Who is, or could not be.
    filled: Vec<Member>,
    table: Option<Arc<Table>>,
}

impl std::fmt::Debug for Balancer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Balancer").finish_non_exhaustive()
    }
}

/// A route's `balance`, as the program has it.
pub fn kind_of(balance: config::Balance) -> u32 {
    match balance {
        config::Balance::RoundRobin => kind::ROUND_ROBIN,
        config::Balance::LeastConnections => kind::LEAST_CONNECTIONS,
        config::Balance::SourceHash => kind::SOURCE_HASH,
    }
}

impl Balancer {
    pub fn new(maps: Maps) -> Self {
        let wheels = vec![Wheel::default(); maps.balance.len() as usize];
        Self { maps: Mutex::new(maps), wheels: RwLock::new(wheels) }
    }

    /// Writes which slots of a route take new flows. True: tables have to be filled.
    pub fn share(&self, route: u16, kind: u32, places: &[Share]) -> Result<bool, MapError> {
        let mut stale = false;
        for v6 in [false, true] {
            let at = of_route(u32::from(route), v6);
            self.maps.lock().unwrap_or_else(PoisonError::into_inner).balance.set(at, record(kind, places, v6), 0)?;
            let mut wheels = self.wheels.write().unwrap_or_else(PoisonError::into_inner);
            if kind == kind::SOURCE_HASH
                && let Some(wheel) = wheels.get_mut(at as usize)
            {
                wheel.wanted = members(places, v6);
                stale |= wheel.is_stale();
            }
        }
        Ok(stale)
    }

    /// Fills one table whose nodes are others now. False: there was none.
    pub fn fill(&self) -> Result<bool, MapError> {
        let stale = {
            let wheels = self.wheels.read().unwrap_or_else(PoisonError::into_inner);
            wheels.iter().position(Wheel::is_stale).map(|at| (at, wheels[at].wanted.clone()))
        };
        let Some((at, members)) = stale else { return Ok(false) };
        let table = fill(&members);
        let written = self.write(at as u32, &table);
        let mut wheels = self.wheels.write().unwrap_or_else(PoisonError::into_inner);
        // Also where it failed: it is not tried again and again.
        wheels[at].filled = members;
        wheels[at].table = Some(Arc::from(table));
        written.map(|()| true)
    }

    /// A program that looks a client up meanwhile finds the old table or the new one.
    fn write(&self, at: u32, table: &Table) -> Result<(), MapError> {
        let mut inner = Array::<MapData, Table>::create(1, 0)?;
        inner.set(0, table, 0)?;
        self.maps.lock().unwrap_or_else(PoisonError::into_inner).maglev.set(at, &inner, 0)
    }

    /// The slot that the program would lead this client to, if all of the usable ones are open.
    pub fn drawn_to(&self, route: u16, client: IpAddr, usable: &dyn Fn(TargetKey) -> bool) -> Option<TargetKey> {
        let client = client.to_canonical();
        let at = of_route(u32::from(route), client.is_ipv6());
        let table = self.wheels.read().unwrap_or_else(PoisonError::into_inner).get(at as usize)?.table.clone()?;
        let mut looks = Looks::of(&encode(client));
        (0..LOOKS)
            .map(|_| table[looks.next_place() as usize])
            .map(|slot| TargetKey { route: u32::from(route), slot: u32::from(slot) })
            .find(|key| usable(*key))
    }
}

impl Wheel {
    fn is_stale(&self) -> bool {
        self.wanted != self.filled
    }
}

fn of_family(places: &[Share], v6: bool) -> impl Iterator<Item = (SocketAddr, u16, bool)> {
    let slots = places.iter().filter(move |place| place.node.is_ipv6() == v6 && place.key.slot < SLOTS);
    slots.map(|place| (place.node, place.key.slot as u16, place.open))
}

/// Everybody, also who takes no new clients now: they come back to it.
fn members(places: &[Share], v6: bool) -> Vec<Member> {
    of_family(places, v6).map(|(node, slot, _)| (node, slot)).collect()
}

fn record(kind: u32, places: &[Share], v6: bool) -> Balance {
    let mut record = Balance { kind, count: 0, slots: [0; SLOTS as usize] };
    let open = of_family(places, v6).filter(|(.., open)| *open);
    for (place, (_, slot, _)) in record.slots.iter_mut().zip(open) {
        *place = slot;
        record.count += 1;
    }
    record
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(slot: u32, node: &str, open: bool) -> Share {
        Share { key: TargetKey { route: 3, slot }, node: node.parse().unwrap(), open }
    }

    #[test]
    fn each_family_has_the_open_slots_of_its_own_nodes() {
        let places = [
            place(0, "10.0.0.1:1", true),
            place(1, "[::1]:1", true),
            place(4, "10.0.0.2:1", false),
            place(7, "10.0.0.3:1", true),
        ];
        let four = record(kind::ROUND_ROBIN, &places, false);
        assert_eq!((four.kind, four.count, &four.slots[..3]), (kind::ROUND_ROBIN, 2, &[0, 7, 0][..]));
        let six = record(kind::ROUND_ROBIN, &places, true);
        assert_eq!((six.count, six.slots[0]), (1, 1));
        assert_eq!(members(&places, false).iter().map(|(_, slot)| *slot).collect::<Vec<_>>(), [0, 4, 7]);
    }

    #[test]
    fn no_more_slots_are_meant_than_there_are() {
        let places: Vec<Share> = (0..300).map(|slot| place(slot, "10.0.0.1:1", true)).collect();
        assert_eq!(record(kind::ROUND_ROBIN, &places, false).count, SLOTS);
    }
}
