//! The host's links as rtnetlink lists them, and who has which address.

use std::net::IpAddr;

use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{InfoKind, LinkAttribute, LinkInfo, LinkMessage},
};
use nix::{ifaddrs::getifaddrs, net::if_::if_nametoindex, sys::socket::SockProtocol};

use super::{
    egress::EgressError,
    netlink::{self, NetlinkError},
};

#[derive(Debug, Default)]
pub struct Link {
    pub ifindex: u32,
    pub name: String,
    /// None: no Ethernet.
    pub mac: Option<[u8; 6]>,
    pub mtu: u32,
    pub is_veth: bool,
    pub is_vlan: bool,
    /// Its queueing discipline.
    pub queue: String,
    /// What it is on; of a veth the other end.
    pub lower: Option<u32>,
    /// Where that is, by our own number for it, if it is not here.
    pub namespace: Option<i32>,
}

pub fn links() -> Result<Vec<Link>, NetlinkError> {
    let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
    netlink::dump(SockProtocol::NetlinkRoute, &question, |answer| match answer {
        RouteNetlinkMessage::NewLink(message) => Some(link(message)),
        _ => None,
    })
}

fn link(message: LinkMessage) -> Link {
    let mut link = Link { ifindex: message.header.index, ..Link::default() };
    for attribute in message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name,
            LinkAttribute::Address(mac) => link.mac = mac.try_into().ok(),
            LinkAttribute::Mtu(mtu) => link.mtu = mtu,
            LinkAttribute::Qdisc(name) => link.queue = name,
            LinkAttribute::Link(lower) if lower != 0 => link.lower = Some(lower),
            LinkAttribute::LinkNetNsId(namespace) => link.namespace = Some(namespace),
            LinkAttribute::LinkInfo(infos) => {
                let is = |kind: &InfoKind| infos.iter().any(|info| matches!(info, LinkInfo::Kind(it) if it == kind));
                (link.is_veth, link.is_vlan) = (is(&InfoKind::Veth), is(&InfoKind::Vlan));
            }
            _ => {}
        }
    }
    link
}

/// Every address of this host, with its interface.
pub fn carriers() -> Result<Vec<(u32, IpAddr)>, EgressError> {
    let entries = getifaddrs().map_err(|error| EgressError::Interfaces(error.into()))?;
    let known = entries.filter_map(|entry| {
        let address = entry.address?;
        let v4 = address.as_sockaddr_in().map(|at| IpAddr::V4(at.ip()));
        let ip = v4.or_else(|| address.as_sockaddr_in6().map(|at| IpAddr::V6(at.ip())))?;
        Some((if_nametoindex(entry.interface_name.as_str()).ok()?, ip))
    });
    Ok(known.collect())
}
