//! The nodes of a group. Holds what each has said; answers who says master and who may be followed.
//! Memory is bounded by the latest list of nodes: reports of anybody else are not kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    time::Instant,
};

use super::{
    address::canonical,
    node::{Node, Thresholds},
    observation::NodeReport,
    verdict::Replica,
};

#[derive(Debug, Clone)]
pub(super) struct Roster {
    limits: Thresholds,
    nodes: BTreeMap<SocketAddr, Node>,
}

impl Roster {
    pub(super) fn new(limits: Thresholds) -> Self {
        Self { limits, nodes: BTreeMap::new() }
    }

    /// Replaces the list of nodes. What those who stay have said is kept.
    pub(super) fn enlist(&mut self, known: Vec<SocketAddr>) {
        let mut before = std::mem::take(&mut self.nodes);
        let known: BTreeSet<SocketAddr> = known.into_iter().map(canonical).collect();
        self.nodes = known.into_iter().map(|addr| (addr, before.remove(&addr).unwrap_or_default())).collect();
    }

    pub(super) fn report(&mut self, from: SocketAddr, report: NodeReport, now: Instant) {
        if let Some(node) = self.nodes.get_mut(&canonical(from)) {
            node.report(report, &self.limits, now);
        }
    }

    pub(super) fn failure(&mut self, from: SocketAddr) {
        if let Some(node) = self.nodes.get_mut(&canonical(from)) {
            node.failure(&self.limits);
        }
    }

    pub(super) fn get(&self, addr: SocketAddr) -> Option<&Node> {
        self.nodes.get(&addr)
    }

    pub(super) fn says_master(&self, addr: SocketAddr) -> bool {
        self.get(addr).is_some_and(|node| node.says_master(&self.limits))
    }

    /// Every node whose word that it is master still stands.
    pub(super) fn masters(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.nodes.iter().filter(|(_, node)| node.says_master(&self.limits)).map(|(addr, _)| *addr)
    }

    /// The latest change of any node but `master` from replica to master.
    pub(super) fn turned(&self, master: SocketAddr) -> Option<Instant> {
        self.nodes.iter().filter(|(addr, _)| **addr != master).filter_map(|(_, node)| node.turned()).max()
    }

    /// Whether any node but `addr` has said master and not unsaid it, as far as we heard.
    pub(super) fn has_other_master(&self, addr: SocketAddr) -> bool {
        self.turned(addr).is_some() || self.masters().any(|other| other != addr)
    }

    /// Whether a node answers, and says that it is no master.
    pub(super) fn denies(&self, addr: SocketAddr) -> bool {
        self.get(addr).is_some_and(Node::denies)
    }

    /// The changes of role up to now have been dealt with.
    pub(super) fn forget_turns(&mut self) {
        self.nodes.values_mut().for_each(Node::forget_turn);
    }

    /// The masters that count where no Sentinel vouches for one.
    pub(super) fn eligible_masters(&self) -> impl Iterator<Item = SocketAddr> + '_ {
        self.masters().filter(|addr| self.get(*addr).is_some_and(|node| node.has_backlog(&self.limits)))
    }

    /// The node, if it may be followed.
    pub(super) fn confirmed(&self, addr: SocketAddr) -> Option<&Node> {
        self.get(addr).filter(|node| node.confirmed(&self.limits))
    }

    pub(super) fn all_asked(&self) -> bool {
        self.nodes.values().all(Node::asked)
    }

    pub(super) fn replicas(&self, master: Option<SocketAddr>) -> Vec<Replica> {
        self.nodes
            .iter()
            .filter(|(addr, _)| Some(**addr) != master)
            .filter_map(|(addr, node)| node.as_replica(*addr, &self.limits))
            .collect()
    }
}
