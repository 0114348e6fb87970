//! Turns a snapshot into series at scrape time. A thing named twice in a snapshot gives one series:
//! a scraper refuses a whole page for a doubled line.

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Weak},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};
use proxy_ebpf::{bypass::count, counter, nat::packet, steering, xdp::fate};

use super::{
    Labels, Shared,
    sample::{BypassSample, Counts, GroupSample, NodeRole, NodeSample, REASONS, RouteSample, SentinelSample, Snapshot},
};
use crate::election::Way;

#[derive(Debug)]
pub(super) struct Gather(pub(super) Arc<Shared>);

impl Collector for Gather {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let Some(source) = self.0.source.get().and_then(Weak::upgrade) else {
            return self.encode_probes(&mut page, None);
        };
        let snapshot = source.snapshot();
        encode_groups(&mut page, &snapshot.groups)?;
        encode_sentinels(&mut page, &snapshot.groups)?;
        encode_nodes(&mut page, &snapshot.groups)?;
        encode_routes(&mut page, &snapshot.routes)?;
        if let Some(counters) = &snapshot.sockmap {
            let help = "What the sockmap program did, summed over all CPUs";
            page.sums("sockmap_verdicts", help, "verdict", &counter::NAMES, counters)?;
        }
        if let Some(counters) = &snapshot.packets {
            let help = "What the packet program did, summed over all CPUs";
            page.sums("packets", help, "fate", packet::NAMES, counters)?;
        }
        if let Some(counters) = &snapshot.xdp {
            let help = "What the program at XDP did, summed over all CPUs; what it did not send tc has seen";
            page.sums("xdp_packets", help, "fate", &fate::NAMES, counters)?;
        }
        if let Some(counters) = &snapshot.steering {
            let help = "What became of connects on this host to a route's address, and packets that a switch held back";
            page.sums("steering", help, "outcome", &steering::count::NAMES, counters)?;
        }
        if let Some(bypass) = &snapshot.bypass {
            encode_bypass(&mut page, bypass)?;
        }
        self.encode_probes(&mut page, Some(&snapshot))
    }
}

impl Gather {
    /// Ends the series of nodes that left, then shows the others.
    fn encode_probes(&self, page: &mut Page<'_>, snapshot: Option<&Snapshot>) -> fmt::Result {
        let probed = {
            let mut probed = self.0.probed();
            if let Some(snapshot) = snapshot {
                probed.retain(|(group, node), _| snapshot.has_node(group, *node));
            }
            probed.clone()
        };
        let help = "From sending a role probe to its answer.";
        let unit = Unit::Seconds;
        let mut metric = page.0.encode_descriptor("node_probe", help, Some(&unit), MetricType::Histogram)?;
        for ((group, node), histogram) in probed {
            let labels = [("group", group), ("node", text(node))];
            histogram.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

impl Snapshot {
    fn has_node(&self, group: &str, node: SocketAddr) -> bool {
        self.groups.iter().any(|it| &*it.name == group && it.nodes.iter().any(|it| it.addr == node))
    }
}

fn encode_groups(page: &mut Page<'_>, groups: &[GroupSample]) -> fmt::Result {
    let ways = groups.iter().map(|it| ([("group", Arc::clone(&it.name))], way_number(it.way)));
    page.gauges(
        "group_way",
        "What may pass to the master: 0 nothing, 1 established connections, 2 all, 3 nothing for now (paused)",
        ways,
    )?;
    let epochs = groups.iter().map(|it| ([("group", Arc::clone(&it.name))], it.epoch));
    page.gauges("group_epoch", "The highest config-epoch decided", epochs)?;
    let reasons = groups.iter().flat_map(|it| {
        REASONS.map(|reason| {
            ([("group", Arc::clone(&it.name)), ("reason", Arc::from(reason.word()))], u64::from(reason == it.reason))
        })
    });
    page.gauges("group_reason", "1 for the reason of the group's state, 0 for the others", reasons)?;
    let masters = groups.iter().filter_map(|it| {
        let master = it.master.as_ref()?;
        Some(([("group", Arc::clone(&it.name)), ("addr", text(master.addr))], 1))
    });
    page.gauges("group_master_info", "1 for the proven master of a group", masters)
}

fn encode_sentinels(page: &mut Page<'_>, groups: &[GroupSample]) -> fmt::Result {
    let all = || groups.iter().flat_map(|group| group.sentinels.iter().map(move |it| (group, it)));
    let labels =
        |group: &GroupSample, it: &SentinelSample| [("group", Arc::clone(&group.name)), ("sentinel", text(it.addr))];
    let up = all().map(|(group, it)| (labels(group, it), u64::from(it.up)));
    page.gauges("sentinel_view_up", "1 while the Sentinel answers for the group", up)?;
    let epochs = all().filter_map(|(group, it)| Some((labels(group, it), it.epoch?)));
    page.gauges("sentinel_epoch", "The config-epoch that the Sentinel reports", epochs)?;
    let masters = all().filter_map(|(group, it)| {
        let [group, sentinel] = labels(group, it);
        Some(([group, sentinel, ("addr", text(it.master?))], 1))
    });
    page.gauges("sentinel_master_info", "1 for the master that the Sentinel names", masters)?;
    let polls = all().flat_map(|(group, it)| {
        it.polls.iter().map(move |(outcome, count)| {
            let [group, sentinel] = labels(group, it);
            ([group, sentinel, ("outcome", Arc::from(*outcome))], *count)
        })
    });
    page.counters("sentinel_polls", "Questions to the Sentinel, by outcome", polls)?;
    let events = all().map(|(group, it)| (labels(group, it), it.events));
    page.counters("sentinel_events", "Events about the group that the Sentinel published", events)
}

fn encode_nodes(page: &mut Page<'_>, groups: &[GroupSample]) -> fmt::Result {
    let all = || groups.iter().flat_map(|group| group.nodes.iter().map(move |it| (group, it)));
    let labels = |group: &GroupSample, it: &NodeSample| [("group", Arc::clone(&group.name)), ("node", text(it.addr))];
    let roles = all().flat_map(|(group, it)| {
        NodeRole::ALL.map(|role| {
            let [group, node] = labels(group, it);
            ([group, node, ("role", Arc::from(role.word()))], u64::from(role == it.role))
        })
    });
    page.gauges("node_role", "1 for the role the node last said, 0 for the others", roles)?;
    let probes = all().flat_map(|(group, it)| {
        it.probes.iter().map(move |(outcome, count)| {
            let [group, node] = labels(group, it);
            ([group, node, ("outcome", Arc::from(*outcome))], *count)
        })
    });
    page.counters("node_probes", "Role probes of the node, by outcome", probes)?;
    let seconds = all().filter_map(|(group, it)| Some((labels(group, it), it.lag_seconds?)));
    page.gauges("node_lag_seconds", "Since the replica last heard of its master", seconds)?;
    let bytes = all().filter_map(|(group, it)| Some((labels(group, it), it.lag_bytes?)));
    page.gauges("node_lag_bytes", "How far the replica is behind its master's offset", bytes)
}

fn encode_bypass(page: &mut Page<'_>, bypass: &BypassSample) -> fmt::Result {
    let help = "Directions of connections on this host that were bypassed, and those that went to TCP, by reason";
    page.sums("bypass", help, "outcome", &count::NAMES, &bypass.counts)?;
    let of = |what: u32| bypass.counts[what as usize];
    page.counter("bypass_bytes", "Bytes that went from socket to socket", of(count::BYTES))?;
    page.counter("bypass_messages", "Sends of which those were made", of(count::MESSAGES))?;
    let help = "Clients that have dialled a node on this host themselves and are bypassed";
    page.gauge("bypass_direct_connections", help, bypass.direct)?;
    page.gauge("bypass_waiting_bytes", "What waits for readers, with what the kernel needs to hold it", bypass.waiting)
}

fn encode_routes(page: &mut Page<'_>, routes: &[RouteSample]) -> fmt::Result {
    let active = routes
        .iter()
        .map(|it| ([("route", Arc::clone(&it.name)), ("datapath", Arc::from(it.datapath))], it.connections));
    page.gauges("connections_active", "Connections paired with a node now", active)?;
    let steered = routes.iter().map(|it| ([("route", Arc::clone(&it.name))], it.steered));
    page.gauges("connections_steered", "Connections on this host that lead to their node without a hop", steered)?;
    let bypassed = routes.iter().map(|it| ([("route", Arc::clone(&it.name))], it.bypassed));
    page.gauges("connections_bypassed", "Those of them whose requests need no TCP either", bypassed)?;
    let targets = routes.iter().flat_map(|it| {
        it.targets.iter().map(|(node, count)| ([("route", Arc::clone(&it.name)), ("node", text(*node))], *count))
    });
    page.gauges("target_connections", "Connections with this node now", targets)?;
    let parked = routes.iter().map(|it| ([("route", Arc::clone(&it.name))], it.parked));
    page.gauges("connections_parked", "Connections that wait for a target now", parked)?;
    let accepted = routes.iter().map(|it| ([("route", Arc::clone(&it.name))], it.accepted));
    page.counters("connections", "Connections accepted", accepted)?;
    let bytes = by_word(routes, "direction", |it| vec![("to-node", it.to_node), ("to-client", it.to_client)]);
    page.counters("bytes", "Payload bytes forwarded", bytes)?;
    let refused = by_word(routes, "reason", |it| it.refused.clone());
    page.counters("refused", "Connections turned away, by reason", refused)?;
    let parked = by_word(routes, "outcome", |it| it.unparked.clone());
    page.counters("parked", "Connections that waited for a target, by how that ended", parked)?;
    let errors = by_word(routes, "error", |it| it.accept_errors.clone());
    page.counters("accept_errors", "Failed accept(2) calls, by kind", errors)
}

/// One sample for each count of each route, labelled with its word.
fn by_word(
    routes: &[RouteSample],
    key: &'static str,
    counts: impl Fn(&RouteSample) -> Counts,
) -> impl Iterator<Item = (Labels<2>, u64)> {
    routes.iter().flat_map(move |route| {
        let name = Arc::clone(&route.name);
        let labelled = move |(word, count)| ([("route", Arc::clone(&name)), (key, Arc::from(word))], count);
        counts(route).into_iter().map(labelled)
    })
}

/// Writes a family whose samples come from an iterator.
struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    /// A program's counters, each named by the value of one label.
    fn sums(&mut self, name: &str, help: &str, label: &'static str, names: &[&str], counters: &[u64]) -> fmt::Result {
        let labelled = names.iter().zip(counters).map(|(word, count)| ([(label, Arc::from(*word))], *count));
        self.counters(name, help, labelled)
    }

    /// The one sample of a family.
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        self.0.encode_descriptor(name, &format!("{help}."), None, MetricType::Gauge)?.encode_gauge(&value)
    }

    /// As above.
    fn counter(&mut self, name: &str, help: &str, value: u64) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, &format!("{help}."), None, MetricType::Counter)?;
        metric.encode_counter::<NoLabelSet, _, u64>(&value, None)
    }

    fn gauges<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<N>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, &format!("{help}."), None, MetricType::Gauge)?;
        for (labels, value) in samples.collect::<BTreeMap<_, _>>() {
            metric.encode_family(&labels)?.encode_gauge(&value)?;
        }
        Ok(())
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        samples: impl Iterator<Item = (Labels<N>, u64)>,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, &format!("{help}."), None, MetricType::Counter)?;
        for (labels, value) in samples.collect::<BTreeMap<_, _>>() {
            metric.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

fn text(addr: SocketAddr) -> Arc<str> {
    Arc::from(addr.to_string())
}

/// Numbers that were given out once keep their meaning.
fn way_number(way: Way) -> u64 {
    match way {
        Way::Closed => 0,
        Way::Established => 1,
        Way::Open => 2,
        Way::Paused => 3,
    }
}
