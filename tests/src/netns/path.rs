//! How the namespaces of a world are joined: each by a line of links to `proxy`, with a router between every two.

use std::{
    collections::BTreeMap,
    fmt::{self, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use super::HUB;

/// What Ethernet carries unless somebody says otherwise.
pub const ETHERNET: u32 = 1500;

/// A namespace, and the MTUs of the links that lead to it from `proxy`.
#[derive(Debug, Clone, Copy)]
pub struct Spoke<'a> {
    pub name: &'a str,
    pub mtus: &'a [u32],
}

impl<'a> Spoke<'a> {
    /// Joined to `proxy` by one link.
    pub fn near(name: &'a str) -> Self {
        Self { name, mtus: &[ETHERNET] }
    }
}

/// One link: interface `linkN` at the end that is nearer to `proxy`, `eth0` at the other.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) near: String,
    pub(super) far: String,
    pub(super) subnet: u8,
    mtu: u32,
    /// Subnets that are reached over it beside its own.
    beyond: Vec<u8>,
}

/// From `proxy` outwards.
pub(super) fn links(spokes: &[Spoke<'_>]) -> Vec<Link> {
    // The first links have the first numbers, however long the lines are.
    let mut next = (1..).skip(spokes.len());
    let mut links = Vec::new();
    for (first, spoke) in (1u8..).zip(spokes) {
        let rest = next.by_ref().take(spoke.mtus.len().saturating_sub(1));
        let subnets: Vec<u8> = std::iter::once(first).chain(rest).collect();
        let mut near = HUB.to_owned();
        for (at, (&subnet, &mtu)) in subnets.iter().zip(spoke.mtus).enumerate() {
            let is_last = at + 1 == spoke.mtus.len();
            let far = if is_last { spoke.name.to_owned() } else { format!("{}-router{}", spoke.name, at + 1) };
            links.push(Link { near, far: far.clone(), subnet, mtu, beyond: subnets[at + 1..].to_vec() });
            near = far;
        }
    }
    links
}

impl Link {
    pub(super) fn name(&self) -> String {
        format!("link{}", self.subnet)
    }

    pub(super) fn near_addresses(&self) -> [IpAddr; 2] {
        addresses(self.subnet, 1)
    }

    pub(super) fn far_addresses(&self) -> [IpAddr; 2] {
        addresses(self.subnet, 2)
    }

    /// What `ip -batch` has to do in the namespaces at its two ends, by namespace.
    pub(super) fn write_ends(&self, lines: &mut BTreeMap<String, String>) -> fmt::Result {
        let [via4, via6] = self.near_addresses();
        let near = lines.entry(self.near.clone()).or_default();
        interface(near, &self.name(), self.near_addresses(), self.mtu)?;
        let far = lines.entry(self.far.clone()).or_default();
        interface(far, "eth0", self.far_addresses(), self.mtu)?;
        writeln!(far, "route add default via {via4}\nroute add default via {via6}")
    }

    /// The same for the routes that need both ends to be up.
    pub(super) fn write_routes(&self, lines: &mut BTreeMap<String, String>) -> fmt::Result {
        let [via4, via6] = self.far_addresses();
        self.beyond.iter().try_for_each(|subnet| {
            let near = lines.entry(self.near.clone()).or_default();
            let [v4, v6] = addresses(*subnet, 0);
            writeln!(near, "route add {v4}/24 via {via4}\nroute add {v6}/64 via {via6}")
        })
    }
}

/// The IPv4 and IPv6 address of one end of a link.
fn addresses(subnet: u8, host: u8) -> [IpAddr; 2] {
    [
        Ipv4Addr::new(10, 77, subnet, host).into(),
        Ipv6Addr::new(0xfd77, subnet.into(), 0, 0, 0, 0, 0, host.into()).into(),
    ]
}

fn interface(lines: &mut String, link: &str, [v4, v6]: [IpAddr; 2], mtu: u32) -> fmt::Result {
    writeln!(lines, "addr add {v4}/24 dev {link}\naddr add {v6}/64 dev {link} nodad\nlink set dev {link} mtu {mtu} up")
}
