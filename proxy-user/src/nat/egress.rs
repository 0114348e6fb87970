//! The host's place in the network, asked of its kernel: how a node is reached, which interfaces packets come in at,
//! and which addresses are the host's own. Each answer is true when it is given: whoever keeps one asks again.

use std::{
    collections::BTreeSet,
    fmt, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    link::{LinkAttribute, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteType},
};
use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockProtocol};

use super::netlink::{self, NetlinkError};

/// `if_arp.h`
const ETHERNET: u16 = libc::ARPHRD_ETHER;

/// No route, or one of the types unreachable, prohibit and blackhole, in this order (fib_props in
/// net/ipv4/fib_semantics.c and net/ipv6/route.c).
const NO_WAY: [i32; 4] = [libc::ENETUNREACH, libc::EHOSTUNREACH, libc::EACCES, libc::EINVAL];

#[derive(Debug, thiserror::Error)]
pub enum EgressError {
    #[error("no route leads to {node}: check `ip route get {node}`")]
    Unreachable { node: IpAddr },
    #[error(
        "{node} is an address of this host: its packets pass no interface; such a route needs the datapath sockmap or copy"
    )]
    Local { node: IpAddr },
    #[error("the route to {node} names no {what}: check `ip route get {node}`")]
    Incomplete { node: IpAddr, what: &'static str },
    #[error("the route to {node} cannot be asked for: {source}")]
    Route { node: IpAddr, source: NetlinkError },
    #[error("the interfaces cannot be listed: {0}")]
    Interfaces(#[source] io::Error),
}

/// How a node is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    pub ifindex: u32,
    /// Our own address that it sees.
    pub source: IpAddr,
}

/// An interface that a packet program can be attached to.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interface {
    pub ifindex: u32,
    pub name: String,
}

/// The kernel's own answer to where it would send a packet to this node.
pub fn way_to(node: IpAddr) -> Result<Way, EgressError> {
    match netlink::ask(SockProtocol::NetlinkRoute, &question(node)) {
        Ok(Some(RouteNetlinkMessage::NewRoute(route))) => way(node, &route),
        Ok(_) => Err(EgressError::Unreachable { node }),
        Err(error) if error.errno().is_some_and(|errno| NO_WAY.contains(&errno)) => {
            Err(EgressError::Unreachable { node })
        }
        Err(source) => Err(EgressError::Route { node, source }),
    }
}

/// As whom this host dials an address, its own ones too; `None` where no way leads there.
pub fn source_to(node: IpAddr) -> Option<IpAddr> {
    let Ok(Some(RouteNetlinkMessage::NewRoute(route))) = netlink::ask(SockProtocol::NetlinkRoute, &question(node))
    else {
        return None;
    };
    let is_way = matches!(route.header.kind, RouteType::Unicast | RouteType::Local);
    is_way.then(|| source(&route)).flatten()
}

fn source(route: &RouteMessage) -> Option<IpAddr> {
    route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::PrefSource(RouteAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        RouteAttribute::PrefSource(RouteAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

fn question(node: IpAddr) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    (message.header.address_family, message.header.destination_prefix_length) = match node {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(node)));
    RouteNetlinkMessage::GetRoute(message)
}

fn way(node: IpAddr, route: &RouteMessage) -> Result<Way, EgressError> {
    match route.header.kind {
        RouteType::Unicast => {}
        RouteType::Local => return Err(EgressError::Local { node }),
        _ => return Err(EgressError::Unreachable { node }),
    }
    let ifindex = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    });
    let missing = |what| EgressError::Incomplete { node, what };
    Ok(Way { ifindex: ifindex.ok_or(missing("interface"))?, source: source(route).ok_or(missing("address of ours"))? })
}

/// What the host's interfaces are.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Host {
    /// Those that are up and carry Ethernet frames, and belong to no bridge, bond or team.
    pub interfaces: BTreeSet<Interface>,
    /// Others of that kind which are down, maybe for a moment only.
    pub down: BTreeSet<u32>,
    /// The host's own addresses that others can dial, without loopback and link-local ones.
    pub addresses: BTreeSet<IpAddr>,
}

impl Host {
    pub fn read() -> Result<Self, EgressError> {
        let mut host = Self::default();
        let enslaved = enslaved().map_err(|error| EgressError::Interfaces(io::Error::other(error)))?;
        for entry in getifaddrs().map_err(|error| EgressError::Interfaces(error.into()))? {
            let Some(address) = entry.address else { continue };
            let is_up = entry.flags.contains(InterfaceFlags::IFF_UP);
            if let Some(link) = address.as_link_addr() {
                if link.hatype() == ETHERNET && !entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
                    let ifindex = link.ifindex() as u32;
                    if enslaved.contains(&ifindex) {
                        continue;
                    }
                    if is_up {
                        host.interfaces.insert(Interface { ifindex, name: entry.interface_name });
                    } else {
                        host.down.insert(ifindex);
                    }
                }
            } else if !is_up {
                // Packets for these are somebody else's until it is up.
            } else if let Some(ip) = address.as_sockaddr_in() {
                host.addresses.extend(dialled(IpAddr::V4(ip.ip())));
            } else if let Some(ip) = address.as_sockaddr_in6() {
                host.addresses.extend(dialled(IpAddr::V6(ip.ip())));
            }
        }
        Ok(host)
    }

    /// Whether there is such an interface, up or down.
    pub fn has(&self, ifindex: u32) -> bool {
        self.down.contains(&ifindex) || self.interfaces.iter().any(|interface| interface.ifindex == ifindex)
    }
}

/// Ports of a bridge, a bond or a team: routes lead to what they belong to, and packets come in there as well.
fn enslaved() -> Result<BTreeSet<u32>, NetlinkError> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    let found = netlink::dump(SockProtocol::NetlinkRoute, &question, |answer| match answer {
        RouteNetlinkMessage::NewLink(link) => {
            let belongs = |it: &LinkAttribute| matches!(it, LinkAttribute::Controller(master) if *master != 0);
            link.attributes.iter().any(belongs).then_some(link.header.index)
        }
        _ => None,
    })?;
    Ok(found.into_iter().collect())
}

/// Loopback addresses come in at no interface; a link-local one is unique to its link only.
fn dialled(ip: IpAddr) -> Option<IpAddr> {
    let apart = match ip {
        IpAddr::V4(ip) => ip.is_loopback() || ip == Ipv4Addr::UNSPECIFIED,
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip == Ipv6Addr::UNSPECIFIED,
    };
    (!apart).then_some(ip)
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "interface {} as {}", self.ifindex, self.source)
    }
}
