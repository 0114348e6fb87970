//! Which veths are passed by: a frame for the other end, in another network namespace, is put in there at once
//! (bpf_redirect_peer), which saves a queue and a softirq of this end. Only where nothing is set up that it would miss:
//! a queueing discipline, a filter at this end's egress, a program at XDP at the other end.

use std::collections::{BTreeMap, BTreeSet};

use aya::{
    maps::{Array, MapData, MapError},
    programs::{SchedClassifier, TcAttachType},
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcMessage},
};
use nix::sys::socket::SockProtocol;
use proxy_ebpf::xdp::slot;

use super::{
    egress::Host,
    links::{self, Link},
    netlink::{self, NetlinkError},
    veth,
};

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error("the kernel refuses a map entry: {0}")]
    Map(#[from] MapError),
}

/// Keeps the map of such veths as the host is.
pub struct Peered {
    map: Array<MapData, u32>,
    passed: BTreeSet<u32>,
}

impl std::fmt::Debug for Peered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peered").field("passed", &self.passed).finish_non_exhaustive()
    }
}

impl Peered {
    /// The map is empty.
    pub fn new(map: Array<MapData, u32>) -> Self {
        Self { map, passed: BTreeSet::new() }
    }

    pub fn follow(&mut self, host: &Host) {
        if let Err(error) = self.write(host) {
            tracing::warn!(%error, "which veths may be passed by is not known; nothing changes");
        }
    }

    fn write(&mut self, host: &Host) -> Result<(), Fault> {
        let links = links::links()?;
        let filtered = filtered()?;
        let is_ours = |link: &Link| host.interfaces.iter().any(|it| it.ifindex == link.ifindex);
        let mut fit = BTreeMap::new();
        for link in links.into_iter().filter(|link| is_ours(link) && !filtered.contains(&link.ifindex)) {
            if is_bare(&link) && leads_past_xdp(&link) {
                fit.insert(link.ifindex, link.name);
            }
        }
        let gone: Vec<u32> = self.passed.iter().filter(|ifindex| !fit.contains_key(ifindex)).copied().collect();
        for ifindex in gone {
            self.map.set(slot(ifindex), 0, 0)?;
            self.passed.remove(&ifindex);
            tracing::info!(ifindex, "frames take this interface's own way");
        }
        for (ifindex, interface) in fit {
            if !self.passed.contains(&ifindex) {
                self.map.set(slot(ifindex), ifindex, 0)?;
                self.passed.insert(ifindex);
                tracing::info!(interface, "frames are put straight into the other end of this veth");
            }
        }
        Ok(())
    }
}

/// The other end is in another namespace, and no program of XDP's there waits in vain.
fn leads_past_xdp(link: &Link) -> bool {
    let end = link.lower.zip(link.namespace);
    end.is_some_and(|(ifindex, namespace)| veth::runs_xdp(ifindex, namespace) == Some(false))
}

/// Nothing of this end would be missed.
fn is_bare(link: &Link) -> bool {
    let has_filters =
        || SchedClassifier::query_tcx(&link.name, TcAttachType::Egress).map_or(true, |(_, all)| !all.is_empty());
    link.is_veth && link.queue == "noqueue" && !has_filters()
}

/// Interfaces whose egress may have filters of the older kind.
fn filtered() -> Result<BTreeSet<u32>, NetlinkError> {
    let question = RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default());
    let found = netlink::dump(SockProtocol::NetlinkRoute, &question, |answer| match answer {
        RouteNetlinkMessage::NewQueueDiscipline(found) => {
            let is_clsact = found.attributes.contains(&TcAttribute::Kind("clsact".to_owned()));
            is_clsact.then_some(found.header.index as u32)
        }
        _ => None,
    })?;
    Ok(found.into_iter().collect())
}
