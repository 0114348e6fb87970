//! Which interfaces a program at XDP can work on, in the driver itself (native mode), and why another cannot. Everything is
//! asked of the kernel and nothing is tried: `datapath::xdp` tries, and asks again.

mod netdev;

use std::{collections::BTreeSet, fs, path::Path};

pub use self::netdev::Abilities;
use super::{
    egress::{EgressError, Host, Interface},
    links::{self, Link},
    netlink::NetlinkError,
    veth::Peer,
};

/// The families whose packets a route may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Families {
    pub v4: bool,
    pub v6: bool,
}

/// What is known of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    pub interface: Interface,
    pub mac: [u8; 6],
    pub mtu: u32,
    pub abilities: Abilities,
    /// VLANs on it, by name.
    vlans: Vec<String>,
    forwards: Families,
    /// The other end, if it is a veth.
    peer: Option<Peer>,
}

/// Why an interface is left to tc.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    #[error("{0}: its driver has no native XDP that redirects; use another interface, or datapath = \"tc\"")]
    NotNative(String),
    #[error(
        "{0}: a veth takes no frames while the other end has no NAPI: switch GRO on there (ethtool -K PEER gro on), or use datapath = \"tc\""
    )]
    PeerWithoutNapi(String),
    #[error(
        "{name}: the other end of this veth{at} leaves its checksums to hardware that is not there, and nobody completes them behind XDP: \
         compute them there (ethtool -K PEER tx off), or use datapath = \"tc\""
    )]
    PeerUnfinished { name: String, at: String },
    #[error("{0}: its driver sends no frames for XDP; use another interface, or datapath = \"tc\"")]
    CannotSend(String),
    #[error(
        "{name}: forwarding is off, and without it the kernel tells a program no way out: set net.{family}.conf.{name}.forwarding = 1, or use datapath = \"tc\""
    )]
    Forwarding { name: String, family: &'static str },
    #[error("{name}: it carries VLANs ({vlans}), whose tags a driver may take off before XDP; use datapath = \"tc\"")]
    Vlans { name: String, vlans: String },
    #[error(
        "{name}: its driver refuses the program ({error}); its MTU is {mtu}, and no other XDP program may be there"
    )]
    Refused { name: String, mtu: u32, error: String },
    #[error("{0}: it is a veth, where tc is faster")]
    Slower(String),
    #[error("{0}: another interface has its place in the table: too many interfaces")]
    NoPlace(String),
}

/// Of every one of these interfaces.
pub fn survey(host: &Host) -> Result<Vec<Facts>, NetlinkError> {
    let (links, abilities) = (links::links()?, netdev::abilities()?);
    let known = host.interfaces.iter().filter_map(|interface| {
        let link = links.iter().find(|link| link.ifindex == interface.ifindex)?;
        let abilities = abilities.get(&interface.ifindex).copied().unwrap_or_default();
        facts(interface, link, &links, abilities)
    });
    Ok(known.collect())
}

/// What has become of one when the program was attached: many drivers send frames for XDP only from then on.
pub fn abilities(ifindex: u32) -> Result<Abilities, NetlinkError> {
    Ok(netdev::abilities()?.get(&ifindex).copied().unwrap_or_default())
}

fn facts(interface: &Interface, link: &Link, links: &[Link], abilities: Abilities) -> Option<Facts> {
    let on_it = |other: &&Link| other.is_vlan && other.lower == Some(link.ifindex);
    let peer = match (link.is_veth, link.lower) {
        // Who cannot be sent to is not looked at any closer.
        (true, Some(peer)) if abilities.sends => Some(Peer::look(peer, link.namespace)),
        (true, _) => Some(Peer::default()),
        _ => None,
    };
    Some(Facts {
        interface: interface.clone(),
        mac: link.mac?,
        mtu: link.mtu,
        abilities,
        vlans: links.iter().filter(on_it).map(|vlan| vlan.name.clone()).collect(),
        forwards: Families { v4: forwards("ipv4", &interface.name), v6: forwards("ipv6", &interface.name) },
        peer,
    })
}

fn forwards(family: &str, name: &str) -> bool {
    let path = Path::new("/proc/sys/net").join(family).join("conf").join(name).join("forwarding");
    fs::read_to_string(path).is_ok_and(|text| text.trim() != "0")
}

impl Facts {
    /// Whether it is worth trying.
    pub fn fit(&self, families: Families) -> Result<(), Unfit> {
        let name = || self.interface.name.clone();
        if !self.abilities.redirects {
            return Err(Unfit::NotNative(name()));
        }
        if !self.vlans.is_empty() {
            return Err(Unfit::Vlans { name: name(), vlans: self.vlans.join(", ") });
        }
        for (asked, forwards, family) in
            [(families.v4, self.forwards.v4, "ipv4"), (families.v6, self.forwards.v6, "ipv6")]
        {
            if asked && !forwards {
                return Err(Unfit::Forwarding { name: name(), family });
            }
        }
        match &self.peer {
            Some(_) if !self.abilities.sends => Err(Unfit::PeerWithoutNapi(name())),
            Some(Peer { computes: Some(false), name: at }) => {
                let at = at.as_ref().map(|peer| format!(" ({peer})")).unwrap_or_default();
                Err(Unfit::PeerUnfinished { name: name(), at })
            }
            _ => Ok(()),
        }
    }

    /// The same for one that the program is attached to.
    pub fn works(&self, families: Families) -> Result<(), Unfit> {
        self.fit(families)?;
        if self.abilities.sends { Ok(()) } else { Err(Unfit::CannotSend(self.interface.name.clone())) }
    }

    /// The same with what its driver can do by now.
    pub fn with(&self, abilities: Abilities) -> Self {
        Self { abilities, ..self.clone() }
    }

    pub fn is_veth(&self) -> bool {
        self.peer.is_some()
    }

    /// Whether it could not be seen what the sender at the other end does.
    pub fn is_blind(&self) -> bool {
        matches!(self.peer, Some(Peer { computes: None, .. }))
    }
}

/// The interfaces that carry any of these addresses.
pub fn carrying(addresses: &BTreeSet<std::net::IpAddr>) -> Result<BTreeSet<u32>, EgressError> {
    let carriers = links::carriers()?;
    Ok(carriers.into_iter().filter(|(_, address)| addresses.contains(address)).map(|(ifindex, _)| ifindex).collect())
}

#[cfg(test)]
mod tests;
