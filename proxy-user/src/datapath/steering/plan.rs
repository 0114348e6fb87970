//! What the programs are told of routes and namespaces: pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use proxy_ebpf::steering::{Dialled, Listen, Reached, place};

use crate::{
    datapath::spaces::View,
    nat::{
        address::encode,
        doors::{self, DoorsError},
    },
};

/// A route, as far as its clients on this host go.
#[derive(Debug, Clone)]
pub struct Route {
    pub number: u16,
    pub listen: Vec<SocketAddr>,
    pub max_connections: u32,
}

/// The addresses that are dialled in a namespace, each with its port.
type Doors = BTreeMap<SocketAddr, proxy_ebpf::nat::Door>;

/// In the daemon's own namespace.
pub(super) fn home(netns: u64, routes: &[Route], view: &View) -> Result<BTreeMap<Dialled, Listen>, DoorsError> {
    let doors = doors(routes, &view.addresses)?;
    Ok(entries(netns, doors.iter().map(|(at, door)| (*at, listen(door, view.source(at.ip()), place::HOME)))))
}

/// In another: the addresses of the daemon's own that can be dialled from there, and those of the other itself. Where a node
/// is at home, its own addresses mean the node, also while it is down.
pub(super) fn away(
    netns: u64,
    routes: &[Route],
    nodes: &BTreeSet<IpAddr>,
    home: &View,
    view: &View,
) -> Result<BTreeMap<Dialled, Listen>, DoorsError> {
    // Named addresses are the daemon's own namespace's.
    let is_a_node_s = view.addresses.iter().any(|ip| nodes.contains(ip));
    let theirs = if is_a_node_s { Doors::new() } else { doors(&wild(routes), &view.addresses)? };
    let theirs = theirs.iter().map(|(at, door)| (*at, listen(door, view.source(at.ip()), place::AWAY_OWN)));
    let ours = doors(routes, &home.addresses)?;
    let ours = ours.iter().filter(|(at, _)| !view.addresses.contains(&at.ip()));
    let ours = ours.filter_map(|(at, door)| Some((*at, listen(door, *view.sources.get(&at.ip())?, place::AWAY))));
    Ok(entries(netns, ours.chain(theirs)))
}

/// The nodes that are reached from another namespace. A loopback address means another host there.
pub(super) fn reached(netns: u64, nodes: &BTreeSet<IpAddr>, view: &View) -> BTreeSet<Reached> {
    let reached = nodes.iter().filter(|node| !node.is_loopback() && view.sources.contains_key(node));
    reached.map(|node| Reached { netns, addr: encode(*node) }).collect()
}

/// The addresses that clients elsewhere may dial.
pub(super) fn dialled_from_away(routes: &[Route], home: &View) -> BTreeSet<IpAddr> {
    doors(routes, &home.addresses).into_iter().flatten().map(|(at, _)| at.ip()).collect()
}

fn doors(routes: &[Route], own: &BTreeSet<IpAddr>) -> Result<Doors, DoorsError> {
    let listens: Vec<doors::Listen<'_>> = routes
        .iter()
        .map(|route| doors::Listen {
            route: route.number,
            at: &route.listen,
            max_connections: route.max_connections,
            by_xdp: false,
        })
        .collect();
    doors::wanted(&listens, own)
}

/// What they listen at without naming an address.
fn wild(routes: &[Route]) -> Vec<Route> {
    let all = routes.iter().map(|route| Route {
        listen: route.listen.iter().copied().filter(|at| at.ip().to_canonical().is_unspecified()).collect(),
        ..*route
    });
    all.collect()
}

fn listen(door: &proxy_ebpf::nat::Door, source: IpAddr, place: u16) -> Listen {
    Listen { source: encode(source), max_connections: door.max_connections, route: door.route, place }
}

fn entries(netns: u64, listens: impl Iterator<Item = (SocketAddr, Listen)>) -> BTreeMap<Dialled, Listen> {
    let key = |at: SocketAddr| Dialled { netns, addr: encode(at.ip()), port: at.port().to_be_bytes(), _pad: [0; 6] };
    listens.map(|(at, listen)| (key(at), listen)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat::address::socket_address;

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|it| it.parse().unwrap()).collect()
    }

    fn view(own: &[&str], sources: &[(&str, &str)]) -> View {
        let sources = sources.iter().map(|(to, by)| (to.parse().unwrap(), by.parse().unwrap())).collect();
        View { addresses: addresses(own), sources }
    }

    fn route(number: u16, listen: &[&str]) -> Route {
        Route { number, listen: listen.iter().map(|it| it.parse().unwrap()).collect(), max_connections: 7 }
    }

    /// Address, route and place of each.
    fn said(entries: &BTreeMap<Dialled, Listen>) -> Vec<(String, u16, u16)> {
        let said = |(at, it): (&Dialled, &Listen)| (socket_address(at.addr, at.port).to_string(), it.route, it.place);
        let mut all: Vec<_> = entries.iter().map(said).collect();
        all.sort();
        all
    }

    #[test]
    fn a_namespace_of_a_node_keeps_its_own_addresses() {
        let (ours, theirs) = (view(&["10.0.0.1"], &[]), view(&["127.0.0.1", "10.0.0.5"], &[("10.0.0.1", "10.0.0.5")]));
        let nodes = addresses(&["10.0.0.5", "10.0.0.6"]);
        let found = away(2, &[route(0, &["0.0.0.0:6379"])], &nodes, &ours, &theirs).unwrap();
        assert_eq!(said(&found), [("10.0.0.1:6379".to_owned(), 0, place::AWAY)]);
    }

    #[test]
    fn a_client_is_allowed_as_whom_the_kernel_would_dial() {
        let own = view(&["10.0.0.1", "10.0.0.9"], &[("10.0.0.9", "10.0.0.1")]);
        let found = home(1, &[route(0, &["10.0.0.9:6379"])], &own).unwrap();
        let sources: Vec<_> = found.values().map(|it| it.source).collect();
        assert_eq!(sources, [encode("10.0.0.1".parse().unwrap())]);
    }

    #[test]
    fn at_home_a_wildcard_is_every_address_with_loopback() {
        let own = view(&["127.0.0.1", "10.0.0.1", "::1", "fd00::1"], &[]);
        let routes = [route(0, &["0.0.0.0:6379"]), route(1, &["127.0.0.1:6380", "[fd00::1]:6380"])];
        let found = home(1, &routes, &own).unwrap();
        let expected = [
            ("10.0.0.1:6379", 0, place::HOME),
            ("127.0.0.1:6379", 0, place::HOME),
            ("127.0.0.1:6380", 1, place::HOME),
            ("[fd00::1]:6380", 1, place::HOME),
        ];
        assert_eq!(said(&found), expected.map(|(at, route, place)| (at.to_owned(), route, place)));
    }

    #[test]
    fn away_a_wildcard_is_that_namespace_s_and_a_named_address_is_ours() {
        let ours = view(&["127.0.0.1", "10.0.0.1", "10.0.1.1"], &[]);
        let theirs = view(&["127.0.0.1", "172.17.0.2"], &[("10.0.0.1", "172.17.0.2")]);
        let routes = [route(0, &["0.0.0.0:6379"]), route(1, &["127.0.0.1:6380", "10.0.0.1:6381"])];
        let found = away(2, &routes, &BTreeSet::new(), &ours, &theirs).unwrap();
        let expected = [
            ("10.0.0.1:6379", 0, place::AWAY),
            ("10.0.0.1:6381", 1, place::AWAY),
            ("127.0.0.1:6379", 0, place::AWAY_OWN),
            ("172.17.0.2:6379", 0, place::AWAY_OWN),
        ];
        assert_eq!(said(&found), expected.map(|(at, route, place)| (at.to_owned(), route, place)));
        let asked = found.iter().find(|(at, _)| at.port == 6381u16.to_be_bytes()).unwrap();
        assert_eq!(asked.1.source, encode("172.17.0.2".parse().unwrap()), "as whom it is allowed");
    }

    #[test]
    fn an_address_that_both_have_is_theirs() {
        let (ours, theirs) = (view(&["10.0.0.1"], &[]), view(&["10.0.0.1"], &[("10.0.0.1", "10.0.0.1")]));
        let routes = [route(0, &["0.0.0.0:6379"]), route(1, &["10.0.0.1:6380"])];
        let found = away(2, &routes, &BTreeSet::new(), &ours, &theirs).unwrap();
        assert_eq!(said(&found), [("10.0.0.1:6379".to_owned(), 0, place::AWAY_OWN)]);
    }

    #[test]
    fn a_node_counts_as_reached_where_a_way_leads_to_it() {
        let nodes = addresses(&["10.0.0.5", "127.0.0.1"]);
        let found = reached(2, &nodes, &view(&[], &[("10.0.0.5", "172.17.0.2"), ("127.0.0.1", "127.0.0.1")]));
        assert_eq!(found, [Reached { netns: 2, addr: encode("10.0.0.5".parse().unwrap()) }].into());
    }
}
