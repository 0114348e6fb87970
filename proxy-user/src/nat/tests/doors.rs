//! Listen addresses become doors, and doors keep their numbers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use proxy_ebpf::nat::Door;

use super::super::{
    address::{encode, endpoint},
    doors::*,
};

fn at(list: &[&str]) -> Vec<SocketAddr> {
    list.iter().map(|text| text.parse().unwrap()).collect()
}

fn own() -> BTreeSet<IpAddr> {
    ["10.0.0.1", "10.0.0.2", "2001:db8::1"].iter().map(|text| text.parse().unwrap()).collect()
}

/// The doors of routes 0, 1, ... by address.
fn routes(listen: &[&[&str]]) -> Result<BTreeMap<String, u16>, DoorsError> {
    let listen: Vec<_> = listen.iter().map(|list| at(list)).collect();
    let routes: Vec<_> = (0..)
        .zip(&listen)
        .map(|(route, at)| Listen { route, at, max_connections: 7 + u32::from(route), by_xdp: false })
        .collect();
    let doors = wanted(&routes, &own())?;
    for (at, door) in &doors {
        assert_eq!((door.addr, door.port), (encode(at.ip()), at.port().to_be_bytes()));
        assert_eq!(door.max_connections, 7 + u32::from(door.route));
    }
    Ok(doors.into_iter().map(|(at, door)| (at.to_string(), door.route)).collect())
}

fn listed(doors: &[(&str, u16)]) -> BTreeMap<String, u16> {
    doors.iter().map(|(at, route)| ((*at).to_owned(), *route)).collect()
}

#[test]
fn wildcards_are_the_host_s_own_addresses_of_their_family() {
    assert_eq!(routes(&[&["0.0.0.0:1"]]).unwrap(), listed(&[("10.0.0.1:1", 0), ("10.0.0.2:1", 0)]));
    assert_eq!(routes(&[&["[::]:1"]]).unwrap(), listed(&[("[2001:db8::1]:1", 0)]));
    assert_eq!(
        routes(&[&["0.0.0.0:1", "[::]:1", "127.0.0.1:2"], &["10.0.0.9:1", "0.0.0.0:2"]]).unwrap(),
        listed(&[
            ("10.0.0.1:1", 0),
            ("10.0.0.2:1", 0),
            ("[2001:db8::1]:1", 0),
            ("127.0.0.1:2", 0),
            ("10.0.0.9:1", 1),
            ("10.0.0.1:2", 1),
            ("10.0.0.2:2", 1),
        ])
    );
}

#[test]
fn a_named_address_goes_before_a_wildcard() {
    for order in [[&["0.0.0.0:1"], &["10.0.0.2:1"]], [&["10.0.0.2:1"], &["0.0.0.0:1"]]] {
        let named = order.iter().position(|list| list[0] == "10.0.0.2:1").unwrap() as u16;
        let doors = routes(&[order[0], order[1]]).unwrap();
        assert_eq!(doors, listed(&[("10.0.0.1:1", 1 - named), ("10.0.0.2:1", named)]));
    }
}

#[test]
fn a_link_local_address_is_left_to_the_listener() {
    assert_eq!(routes(&[&["[fe80::1%2]:1", "10.0.0.1:1"]]).unwrap(), listed(&[("10.0.0.1:1", 0)]));
}

#[test]
fn an_address_is_one_route_s_alone() {
    let taken = |listen| DoorsError::Taken { listen, first: 0, second: 1 };
    assert_eq!(routes(&[&["10.0.0.1:1"], &["10.0.0.1:1"]]), Err(taken(([10, 0, 0, 1], 1).into())));
    assert_eq!(routes(&[&["0.0.0.0:1"], &["0.0.0.0:1"]]), Err(taken(([10, 0, 0, 1], 1).into())));
    assert_eq!(routes(&[&["10.0.0.1:1", "10.0.0.1:1"]]).unwrap().len(), 1, "said twice by the same one");
}

fn doors_at(list: &[&str]) -> BTreeMap<SocketAddr, Door> {
    wanted(&[Listen { route: 0, at: &at(list), max_connections: 1, by_xdp: false }], &own()).unwrap()
}

/// The numbers under which doors are opened, and the addresses that are shut.
fn opened(changes: &[Change]) -> (Vec<u32>, usize) {
    let open = changes.iter().filter_map(|change| match change {
        Change::Open(_, place) => Some(*place),
        _ => None,
    });
    (open.collect(), changes.iter().filter(|change| matches!(change, Change::Shut(_))).count())
}

#[test]
fn a_door_says_whether_its_flows_are_xdp_s() {
    let [first, second] = [at(&["10.0.0.1:1"]), at(&["10.0.0.1:2"])];
    let mut doors = Doors::new(4);
    let mut writes = |by_xdp: [bool; 2]| -> Vec<(u16, u32)> {
        let listen = [(0, &first), (1, &second)];
        let routes =
            listen.map(|(route, at)| Listen { route, at, max_connections: 1, by_xdp: by_xdp[usize::from(route)] });
        let changes = doors.update(&wanted(&routes, &own()).unwrap()).unwrap();
        let write = |change: &Change| match change {
            Change::Write(_, door) => Some((door.route, door.by_xdp)),
            _ => None,
        };
        changes.iter().filter_map(write).collect()
    };
    assert_eq!(writes([false, false]), [(0, 0), (1, 0)]);
    assert_eq!(writes([false, true]), [(1, 1)]);
    assert_eq!(writes([false, true]), []);
    assert_eq!(writes([false, false]), [(1, 0)]);
}

#[test]
fn a_door_is_written_before_anything_leads_to_it() {
    let wanted = doors_at(&["10.0.0.1:1"]);
    let (at, door) = wanted.iter().next().unwrap();
    let changes = Doors::new(4).update(&wanted).unwrap();
    assert_eq!(changes, [Change::Write(0, *door), Change::Open(endpoint(*at), 0)]);
}

#[test]
fn doors_keep_their_numbers() {
    let mut doors = Doors::new(8);
    let (a, b, c) = ("10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3");
    assert_eq!(opened(&doors.update(&doors_at(&[a, b])).unwrap()), (vec![0, 1], 0));
    assert_eq!(doors.update(&doors_at(&[a, b])).unwrap(), []);
    assert_eq!(opened(&doors.update(&doors_at(&[b, c])).unwrap()), (vec![2], 1));
    assert_eq!(doors.get(0).map(|door| door.port), Some([0, 1]), "its flows live on");
    assert_eq!(opened(&doors.update(&doors_at(&[a, b, c])).unwrap()), (vec![0], 0), "its own again");
    let mut richer = doors_at(&[a, b, c]);
    richer.values_mut().for_each(|door| door.max_connections = 9);
    let changes = doors.update(&richer).unwrap();
    assert!(changes.len() == 3 && changes.iter().all(|change| matches!(change, Change::Write(..))), "{changes:?}");
}

#[test]
fn a_number_is_used_again_only_when_no_other_is_left() {
    let mut doors = Doors::new(2);
    let (a, b, c) = ("10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3");
    assert_eq!(opened(&doors.update(&doors_at(&[a])).unwrap()), (vec![0], 0));
    assert_eq!(opened(&doors.update(&doors_at(&[b])).unwrap()), (vec![1], 1));
    assert_eq!(opened(&doors.update(&doors_at(&[b, c])).unwrap()), (vec![0], 0));
    // The one that has its number still is served first.
    assert_eq!(opened(&doors.update(&doors_at(&[])).unwrap()), (vec![], 2));
    assert_eq!(opened(&doors.update(&doors_at(&[a, b])).unwrap()), (vec![1, 0], 0));
    assert_eq!(doors.update(&doors_at(&[a, b, c])), Err(DoorsError::Full { wanted: 3, room: 2 }));
}

#[test]
fn a_new_daemon_goes_on_with_the_numbers_of_the_old_one() {
    let mut old = Doors::new(8);
    let before = doors_at(&["10.0.0.1:1", "10.0.0.1:2"]);
    let changes = old.update(&before).unwrap();
    let empty: Door = bytemuck::Zeroable::zeroed();
    let mut array = [empty; 8];
    let mut open = Vec::new();
    for change in changes {
        match change {
            Change::Write(place, door) => array[place as usize] = door,
            Change::Open(end, place) => open.push((end, place)),
            Change::Shut(_) => unreachable!(),
        }
    }
    let mut new = Doors::adopt(8, array, open);
    assert_eq!(new.update(&before).unwrap(), []);
    assert_eq!(opened(&new.update(&doors_at(&["10.0.0.1:1", "10.0.0.1:3"])).unwrap()), (vec![2], 1));
}
