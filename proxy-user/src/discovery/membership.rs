//! Who is known of a group: which Sentinels to dial, which of them make the denominator of the majority,
//! and which nodes to probe. Pure, timed by an argument, bounded.
//!
//! The denominator is every Sentinel once, by its run id: those that answered, and those that a reachable
//! one lists, dead or alive. It is never smaller than what was configured, nor than what any reachable
//! Sentinel counts itself; a place without an address to it is filled by a stand-in, which never answers.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv6Addr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use super::dial::Peer;
use crate::config::HostPort;

pub(super) const MOST_SENTINELS: usize = 64;
pub(super) const MOST_NODES: usize = 256;
/// A discovered server that no reachable Sentinel lists any more is kept this long.
const LINGER: Duration = Duration::from_secs(30);

/// A configured address and what it resolved to last.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) at: HostPort,
    pub(super) addrs: Vec<SocketAddr>,
}

/// What one Sentinel said of the others and of the nodes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Listing {
    /// Run id and address.
    pub(super) peers: Vec<(String, Peer)>,
    pub(super) nodes: Vec<Peer>,
}

#[derive(Debug)]
struct Known {
    host: Option<Arc<str>>,
    id: Option<String>,
    reachable: bool,
    listing: Listing,
    /// How many Sentinels it counts itself.
    counts: usize,
    wanted: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Membership {
    places: Vec<Place>,
    sentinels: BTreeMap<SocketAddr, Known>,
    nodes: BTreeMap<SocketAddr, (Option<Arc<str>>, Instant)>,
    /// Somebody found no room.
    crowded: bool,
}

impl Membership {
    pub(super) fn new(configured: &[HostPort]) -> Self {
        let places = configured.iter().map(|at| Place { at: at.clone(), addrs: Vec::new() }).collect();
        Self { places, ..Self::default() }
    }

    pub(super) fn places(&self) -> &[Place] {
        &self.places
    }

    /// A configured name resolved, maybe to other addresses than before.
    pub(super) fn resolved(&mut self, place: usize, addrs: Vec<SocketAddr>) {
        if let Some(place) = self.places.get_mut(place) {
            place.addrs = addrs;
        }
    }

    /// A Sentinel answered. True if that may change a set.
    pub(super) fn answered(
        &mut self,
        addr: SocketAddr,
        id: Option<String>,
        counts: usize,
        listing: Option<Listing>,
    ) -> bool {
        let Some(known) = self.sentinels.get_mut(&addr) else { return false };
        let news = !known.reachable || known.counts != counts || listing.is_some() || (id.is_some() && known.id != id);
        known.reachable = true;
        known.counts = counts;
        known.id = id.or_else(|| known.id.take());
        if let Some(listing) = listing {
            known.listing = listing;
        }
        news
    }

    pub(super) fn lost(&mut self, addr: SocketAddr) {
        if let Some(known) = self.sentinels.get_mut(&addr) {
            known.reachable = false;
        }
    }

    /// Brings the sets up to date. With no reachable Sentinel nothing is forgotten.
    pub(super) fn refresh(&mut self, now: Instant) {
        for (addr, host) in self.configured() {
            self.admit(addr, host, None, now);
        }
        let anyone = self.sentinels.values().any(|known| known.reachable);
        let listed: Vec<(String, Peer)> =
            self.reachable().flat_map(|known| known.listing.peers.iter().cloned()).collect();
        for (id, peer) in listed {
            let elsewhere = self
                .sentinels
                .iter()
                .any(|(addr, known)| *addr != peer.addr && known.reachable && known.id.as_ref() == Some(&id));
            if !elsewhere {
                self.admit(peer.addr, peer.host, Some(id), now);
            }
        }
        if anyone {
            self.forget(now);
        }
        self.refresh_nodes(now, anyone);
    }

    /// Every Sentinel to dial.
    pub(super) fn sentinels(&self) -> Vec<Peer> {
        self.sentinels.iter().map(|(addr, known)| Peer { addr: *addr, host: known.host.clone() }).collect()
    }

    /// The Sentinels that make the denominator, each once.
    pub(super) fn counted(&self) -> Vec<SocketAddr> {
        let configured: BTreeSet<SocketAddr> = self.configured().map(|(addr, _)| addr).collect();
        let mut by_id: BTreeMap<&str, SocketAddr> = BTreeMap::new();
        let mut named = BTreeSet::new();
        let mut anonymous = Vec::new();
        for (addr, known) in &self.sentinels {
            let Some(id) = known.id.as_deref() else {
                anonymous.push(*addr);
                continue;
            };
            if configured.contains(addr) {
                named.insert(id);
            }
            let rank =
                |addr: &SocketAddr| (self.sentinels.get(addr).is_some_and(|k| k.reachable), configured.contains(addr));
            let holder = by_id.entry(id).or_insert(*addr);
            if rank(addr) > rank(holder) {
                *holder = *addr;
            }
        }
        // One that answers without telling its id is surely there; a silent one may be another's alias.
        let (answering, silent): (Vec<_>, Vec<_>) =
            anonymous.into_iter().partition(|addr| self.sentinels.get(addr).is_some_and(|known| known.reachable));
        let unresolved = self.places.iter().filter(|place| place.addrs.is_empty()).count();
        let own_counts = self.reachable().map(|known| known.counts).max().unwrap_or(0);
        let promised = named.len() + answering.len() + silent.len() + unresolved;
        let mut counted: Vec<SocketAddr> = by_id.into_values().chain(answering).collect();
        let least = promised.max(own_counts).max(counted.len()).min(MOST_SENTINELS);
        counted.extend(silent.into_iter().chain(stand_ins()).take(least.saturating_sub(counted.len())));
        counted.sort_unstable();
        counted
    }

    /// Every node to probe.
    pub(super) fn nodes(&self) -> Vec<Peer> {
        self.nodes.iter().map(|(addr, (host, _))| Peer { addr: *addr, host: host.clone() }).collect()
    }

    /// The nodes of a group without Sentinels: the configured ones.
    pub(super) fn configured_nodes(&self) -> Vec<Peer> {
        let by_addr: BTreeMap<SocketAddr, Option<Arc<str>>> = self.configured().collect();
        by_addr.into_iter().take(MOST_NODES).map(|(addr, host)| Peer { addr, host }).collect()
    }

    /// Stands in for the node of a configured place that has no address yet. Always the same for one place.
    pub(super) fn stand_in_of(&self, place: usize) -> Option<SocketAddr> {
        let unresolved = self.places.get(place)?.addrs.is_empty();
        if unresolved { stand_ins().nth(place) } else { None }
    }

    /// More servers than the bounds allow were seen; the excess is ignored.
    pub(super) fn crowded(&self) -> bool {
        self.crowded
    }

    fn configured(&self) -> impl Iterator<Item = (SocketAddr, Option<Arc<str>>)> + use<> {
        let pairs: Vec<_> = self
            .places
            .iter()
            .flat_map(|place| {
                let host = Some(Arc::from(place.at.host.as_str()));
                place.addrs.iter().map(move |addr| (*addr, host.clone()))
            })
            .collect();
        pairs.into_iter()
    }

    fn reachable(&self) -> impl Iterator<Item = &Known> {
        self.sentinels.values().filter(|known| known.reachable)
    }

    fn admit(&mut self, addr: SocketAddr, host: Option<Arc<str>>, id: Option<String>, now: Instant) {
        let room = self.sentinels.len() < MOST_SENTINELS;
        match self.sentinels.get_mut(&addr) {
            Some(known) => {
                known.wanted = now;
                // What it says of itself while it answers weighs more than what others remember.
                if known.id.is_none() || !known.reachable {
                    known.id = id.or_else(|| known.id.take());
                }
            }
            None if room => {
                let known = Known { host, id, reachable: false, listing: Listing::default(), counts: 0, wanted: now };
                self.sentinels.insert(addr, known);
            }
            None => self.crowded = true,
        }
    }

    /// Drops what nobody wants: left the lists and silent, or another address of one that answers elsewhere.
    fn forget(&mut self, now: Instant) {
        let configured: BTreeSet<SocketAddr> = self.configured().map(|(addr, _)| addr).collect();
        let counted: BTreeSet<SocketAddr> = self.counted().into_iter().collect();
        let answering: BTreeSet<String> = self
            .sentinels
            .iter()
            .filter(|(addr, known)| known.reachable && counted.contains(addr))
            .filter_map(|(_, known)| known.id.clone())
            .collect();
        self.sentinels.retain(|addr, known| {
            let alias = !counted.contains(addr) && known.id.as_ref().is_some_and(|id| answering.contains(id));
            let gone = !known.reachable && now.duration_since(known.wanted) > LINGER;
            configured.contains(addr) || !(alias || gone)
        });
    }

    fn refresh_nodes(&mut self, now: Instant, anyone: bool) {
        let listed: Vec<Peer> = self.reachable().flat_map(|known| known.listing.nodes.iter().cloned()).collect();
        for peer in listed {
            if let Some((_, wanted)) = self.nodes.get_mut(&peer.addr) {
                *wanted = now;
            } else if self.nodes.len() < MOST_NODES {
                self.nodes.insert(peer.addr, (peer.host, now));
            } else {
                self.crowded = true;
            }
        }
        if anyone {
            self.nodes.retain(|_, (_, wanted)| now.duration_since(*wanted) <= LINGER);
        }
    }
}

/// Addresses from the discard prefix (RFC 6666): they stand in for servers whose address is not known, and
/// nobody ever dials them.
fn stand_ins() -> impl Iterator<Item = SocketAddr> {
    (1..).map(|n| SocketAddr::from((Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, n), 26379)))
}

pub(super) fn is_stand_in(addr: SocketAddr) -> bool {
    matches!(addr.ip(), std::net::IpAddr::V6(ip) if ip.segments()[..4] == [0x100, 0, 0, 0])
}

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
