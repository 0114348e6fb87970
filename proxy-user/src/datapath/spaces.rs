//! The network namespaces whose clients are led: what is dialled there, and which nodes are reached from there.
//! A namespace is held open for as long as a process is in it, and for a look longer.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use nix::{ifaddrs::getifaddrs, net::if_::InterfaceFlags, sys::socket::SockaddrIn6};

use crate::{kernel::netns, nat::egress::source_to};

/// One namespace, as it is now.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct View {
    /// Its own addresses, loopback included.
    pub(super) addresses: BTreeSet<IpAddr>,
    /// As whom an address is dialled from there, its own ones too.
    pub(super) sources: BTreeMap<IpAddr, IpAddr>,
}

impl View {
    /// As whom it is dialled, if the client does not say.
    pub(super) fn source(&self, to: IpAddr) -> IpAddr {
        self.sources.get(&to).copied().unwrap_or(to)
    }
}

/// Of the namespace that the thread is in; `others` are addresses elsewhere that are asked for.
pub(super) fn look(others: &BTreeSet<IpAddr>) -> View {
    let addresses = addresses();
    let asked = others.iter().filter(|it| !it.is_loopback()).chain(&addresses);
    let sources = asked.filter_map(|ip| Some((*ip, source_to(*ip)?))).collect();
    View { addresses, sources }
}

/// Those of the namespace that the thread is in.
pub(super) fn addresses() -> BTreeSet<IpAddr> {
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

/// The other namespaces that matter, by cookie.
#[derive(Debug, Default)]
pub(super) struct Spaces {
    known: BTreeMap<u64, Space>,
}

#[derive(Debug)]
struct Space {
    file: File,
    /// Clients there are led; else it only has sockets that were.
    led: bool,
}

impl Spaces {
    /// Looks again who is there: the namespaces of the processes below a cgroup, if one is given, and those that are in use
    /// still.
    pub(super) fn follow(&mut self, cgroup: Option<&Path>, home: u64, in_use: impl Fn(&File) -> bool) {
        let found = cgroup.map(netns::of_cgroup).unwrap_or_default();
        let now: BTreeMap<u64, Space> =
            others(found, home).map(|(cookie, file)| (cookie, Space { file, led: true })).collect();
        let before = std::mem::replace(&mut self.known, now);
        for (cookie, Space { file, .. }) in before {
            if !self.known.contains_key(&cookie) && in_use(&file) {
                self.known.insert(cookie, Space { file, led: false });
            }
        }
    }

    /// Those of all that can be seen which are in use: an earlier daemon may have led clients in any.
    pub(super) fn adopt(&mut self, home: u64, in_use: impl Fn(&File) -> bool) {
        for (cookie, file) in others(netns::namespaces(), home) {
            if !self.known.contains_key(&cookie) && in_use(&file) {
                self.known.insert(cookie, Space { file, led: false });
            }
        }
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &File> {
        self.known.values().map(|space| &space.file)
    }

    /// Those whose clients are led.
    pub(super) fn led(&self) -> impl Iterator<Item = (u64, &File)> {
        self.known.iter().filter(|(_, space)| space.led).map(|(cookie, space)| (*cookie, &space.file))
    }
}

/// Into those where we may not go nobody is led.
fn others(paths: Vec<PathBuf>, home: u64) -> impl Iterator<Item = (u64, File)> {
    let opened = paths.into_iter().filter_map(|path| File::open(path).ok());
    let known = opened.filter_map(|file| Some((netns::inside(&file, netns::cookie)?.ok()?, file)));
    known.filter(move |(cookie, _)| *cookie != home)
}
