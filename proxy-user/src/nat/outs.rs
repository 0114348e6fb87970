//! By which interfaces the program sends by itself, once the next hop is known: those of Ethernet, with their addresses. And
//! which veths are passed by: a frame for the other end, in another network namespace, is put in there at once
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
use proxy_ebpf::{
    nat::{Out, in_frame},
    xdp::slot,
};

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

/// Keeps the map of the interfaces as the host is.
pub struct Outs {
    map: Array<MapData, Out>,
    /// By place in the map.
    written: BTreeMap<u32, Out>,
}

impl std::fmt::Debug for Outs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Outs").field("written", &self.written).finish_non_exhaustive()
    }
}

impl Outs {
    /// The map is empty.
    pub fn new(map: Array<MapData, Out>) -> Self {
        Self { map, written: BTreeMap::new() }
    }

    pub fn follow(&mut self, host: &Host) {
        if let Err(error) = self.write(host) {
            tracing::warn!(%error, "by which interfaces packets may go out is not known; nothing changes");
        }
    }

    fn write(&mut self, host: &Host) -> Result<(), Fault> {
        let links = links::links()?;
        let filtered = filtered()?;
        let is_ours = |link: &Link| host.has(link.ifindex);
        let mut outs = BTreeMap::new();
        for link in links.iter().filter(|link| is_ours(link)) {
            let Some(mac) = link.mac else { continue };
            let peered = !filtered.contains(&link.ifindex) && is_bare(link) && leads_past_xdp(link);
            let out = Out { ifindex: link.ifindex, mac: in_frame(mac), peered: u16::from(peered) };
            // Of two that would have one place the other takes the kernel's own way.
            outs.entry(slot(link.ifindex)).or_insert((out, link.name.as_str()));
        }
        let gone: Vec<u32> = self.written.keys().filter(|place| !outs.contains_key(place)).copied().collect();
        for place in gone {
            self.map.set(place, Out::default(), 0)?;
            self.written.remove(&place);
        }
        for (place, (out, interface)) in outs {
            let before = self.written.get(&place).copied();
            if before == Some(out) {
                continue;
            }
            self.map.set(place, out, 0)?;
            self.written.insert(place, out);
            let was_peered = before.is_some_and(|before| before.ifindex == out.ifindex && before.peered != 0);
            match (was_peered, out.peered != 0) {
                (false, true) => tracing::info!(interface, "frames are put straight into the other end of this veth"),
                (true, false) => tracing::info!(interface, "frames take this veth's own way"),
                _ => {}
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
