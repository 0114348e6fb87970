//! The network namespaces whose clients are led: what is dialled there, and which nodes are reached from there.
//! A namespace is held open for as long as a process is in it, and for a look longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::Path,
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrIn6};

use crate::{
    kernel::netns,
    nat::egress::{EgressError, way_to},
};

/// One namespace, as it is now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Its own addresses, loopback included.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Of addresses elsewhere that can be dialled from there: as whom.
    pub(super) sources: BTreeMap<IpAddr, IpAddr>,
}

/// Of the namespace that the thread is in; `others` are addresses that are asked for.
pub(super) fn look(others: &BTreeSet<IpAddr>) -> View {
    let addresses = addresses();
    let mut sources = BTreeMap::new();
    for &other in others.iter().filter(|it| !it.is_loopback()) {
        match way_to(other) {
            Ok(way) => _ = sources.insert(other, way.source),
            Err(EgressError::Local { .. }) => _ = sources.insert(other, other),
            Err(_) => {}
        }
    }
    View { addresses, sources }
}

fn addresses() -> BTreeSet<IpAddr> {
    let mut found = BTreeSet::new();
    for entry in getifaddrs().into_iter().flatten() {
        let Some(address) = entry.address.filter(|_| entry.flags.contains(InterfaceFlags::IFF_UP)) else { continue };
        if let Some(ip) = address.as_sockaddr_in() {
            found.insert(IpAddr::V4(ip.ip()));
        } else if let Some(ip) = address.as_sockaddr_in6().map(SockaddrIn6::ip).filter(|it| !it.is_unicast_link_local())
        {
            found.insert(IpAddr::V6(ip));
        }
    }
    found.retain(|ip| *ip != IpAddr::V4(Ipv4Addr::UNSPECIFIED) && *ip != IpAddr::V6(Ipv6Addr::UNSPECIFIED));
    found
}

/// The other namespaces of the processes below a cgroup, by cookie.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    known: BTreeMap<u64, File>,
}

impl Spaces {
    /// Looks again who is there.
    pub(super) fn follow(&mut self, cgroup: &Path, home: u64) {
        let mut now = BTreeMap::new();
        for path in netns::of_cgroup(cgroup) {
            let Ok(file) = File::open(&path) else { continue };
            if let Some(Ok(cookie)) = netns::inside(&file, netns::cookie)
                && cookie != home
            {
                now.insert(cookie, file);
            }
        }
        self.known = now;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &File)> {
        self.known.iter().map(|(cookie, file)| (*cookie, file))
    }
}
