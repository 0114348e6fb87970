//! The addresses that clients dial, as entries of `globals` and `door_of`: pure.
//! A door keeps its number as long as the daemon, and its successors, know it: a flow's record has that number.
//! So a door that nobody listens at any more keeps its number too, until there is no other left.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
};

use proxy_ebpf::nat::{Door, Endpoint};

use super::address::{encode, endpoint, socket_address};

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum DoorsError {
    #[error(
        "{listen} of route {second} is an address of route {first} already: an address is one route's alone; \
         change the `listen` of one of them"
    )]
    Taken { listen: SocketAddr, first: u16, second: u16 },
    #[error(
        "{wanted} addresses are listened at, and there is room for {room}: name addresses in `listen` instead of 0.0.0.0 or [::]"
    )]
    Full { wanted: usize, room: u32 },
}

/// What a route listens at.
#[derive(Debug, Clone, Copy)]
pub struct Listen<'a> {
    pub route: u16,
    pub at: &'a [SocketAddr],
    pub max_connections: u32,
    pub by_xdp: bool,
}

/// The doors of these routes, with wildcards expanded to the host's own addresses. A named address goes before
/// a wildcard, as it does in the kernel's choice of a listener.
pub fn wanted(routes: &[Listen<'_>], own: &BTreeSet<IpAddr>) -> Result<BTreeMap<SocketAddr, Door>, DoorsError> {
    let (mut doors, mut wild) = (BTreeMap::new(), BTreeMap::new());
    for route in routes {
        for &listen in route.at {
            let ip = listen.ip().to_canonical();
            if link_local(ip) {
                continue;
            }
            if !ip.is_unspecified() {
                put(&mut doors, route, SocketAddr::new(ip, listen.port()))?;
                continue;
            }
            for &ip in own.iter().filter(|own| own.is_ipv4() == ip.is_ipv4()) {
                put(&mut wild, route, SocketAddr::new(ip, listen.port()))?;
            }
        }
    }
    wild.append(&mut doors);
    Ok(wild)
}

/// Names a host on one link only, and packets do not say which: left to the listener.
fn link_local(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local())
}

fn put(doors: &mut BTreeMap<SocketAddr, Door>, route: &Listen<'_>, at: SocketAddr) -> Result<(), DoorsError> {
    let door = Door {
        addr: encode(at.ip()),
        port: at.port().to_be_bytes(),
        route: route.route,
        max_connections: route.max_connections,
        open: 1,
        by_xdp: u32::from(route.by_xdp),
    };
    match doors.insert(at, door) {
        Some(other) if other.route != route.route => {
            Err(DoorsError::Taken { listen: at, first: other.route, second: route.route })
        }
        _ => Ok(()),
    }
}

/// One step to bring the maps up to date. They are to be done in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Remove from `door_of`.
    Shut(Endpoint),
    /// Write to the doors of `globals` at this place.
    Write(u32, Door),
    /// Insert into `door_of`, leading to this place.
    Open(Endpoint, u32),
}

/// Which door has which number.
#[derive(Debug)]
pub struct Doors {
    /// By number.
    places: Vec<Door>,
    /// Those that are listened at.
    open: HashMap<Endpoint, u32>,
    /// As many as the maps hold.
    room: u32,
}

impl Doors {
    pub fn new(room: u32) -> Self {
        Self { places: Vec::new(), open: HashMap::new(), room }
    }

    /// The doors that an earlier daemon left in the maps.
    pub fn adopt(
        room: u32,
        doors: impl IntoIterator<Item = Door>,
        open: impl IntoIterator<Item = (Endpoint, u32)>,
    ) -> Self {
        let mut places: Vec<Door> = doors.into_iter().collect();
        // The rest of the array was never written.
        let used = places.iter().rposition(|door| door.port != [0; 2]).map_or(0, |last| last + 1);
        places.truncate(used);
        let open = open.into_iter().filter(|(_, place)| (*place as usize) < places.len()).collect();
        Self { places, open, room }
    }

    pub fn get(&self, place: u16) -> Option<&Door> {
        self.places.get(usize::from(place))
    }

    /// Whether it is listened at.
    pub fn is_open(&self, place: u16) -> bool {
        self.open.values().any(|open| *open == u32::from(place))
    }

    /// What has to change so that exactly the doors `wanted` are open.
    pub fn update(&mut self, wanted: &BTreeMap<SocketAddr, Door>) -> Result<Vec<Change>, DoorsError> {
        if wanted.len() > self.room as usize {
            return Err(DoorsError::Full { wanted: wanted.len(), room: self.room });
        }
        let mut changes = Vec::new();
        let places = &mut self.places;
        self.open.retain(|end, place| {
            let stays = wanted.contains_key(&socket_address(end.addr, end.port));
            if !stays {
                let door = &mut places[*place as usize];
                (door.open, door.by_xdp) = (0, 0);
                changes.extend([Change::Shut(*end), Change::Write(*place, *door)]);
            }
            stays
        });
        let mut opening = Vec::new();
        for (at, door) in wanted {
            let end = endpoint(*at);
            match self.open.get(&end) {
                Some(&place) if self.places[place as usize] != *door => self.write(place, *door, &mut changes),
                Some(_) => {}
                None => opening.push((end, *door)),
            }
        }
        self.open(opening, &mut changes);
        Ok(changes)
    }

    /// Each gets the number that it had, else a new one, else that of a door which is shut.
    fn open(&mut self, opening: Vec<(Endpoint, Door)>, changes: &mut Vec<Change>) {
        let taken: BTreeSet<u32> = self.open.values().copied().collect();
        let mut shut: BTreeMap<u32, Endpoint> = (0..).zip(self.places.iter().map(end_of)).collect();
        shut.retain(|place, _| !taken.contains(place));
        let had: HashMap<Endpoint, u32> = shut.iter().map(|(place, end)| (*end, *place)).collect();
        let (again, new): (Vec<_>, Vec<_>) = opening.into_iter().partition(|(end, _)| had.contains_key(end));
        for (end, door) in again.into_iter().chain(new) {
            let place = match had.get(&end) {
                Some(&place) => place,
                None if self.places.len() < self.room as usize => self.places.len() as u32,
                None => match shut.keys().next() {
                    Some(&place) => place,
                    None => unreachable!("no more doors are wanted than there are numbers"),
                },
            };
            shut.remove(&place);
            self.write(place, door, changes);
            self.open.insert(end, place);
            changes.push(Change::Open(end, place));
        }
    }

    fn write(&mut self, place: u32, door: Door, changes: &mut Vec<Change>) {
        match self.places.get_mut(place as usize) {
            Some(old) => *old = door,
            None => self.places.push(door),
        }
        changes.push(Change::Write(place, door));
    }
}

fn end_of(door: &Door) -> Endpoint {
    Endpoint { addr: door.addr, port: door.port, _pad: [0; 2] }
}
