//! The conductor's hand on its tasks: who is started, who is ended, and what follows when one dies of a
//! bug. A dead task is logged, counted, and started again at the next tick, never sooner.

use std::{net::SocketAddr, sync::Arc};

use tokio::task::JoinError;

use super::{
    conductor::Conductor, dial::Peer, fault::Fault, names, node, report::Outlet, resolve::literal, rhythm::Rhythm,
    sentinel,
};
use crate::clock;

impl Conductor {
    pub(super) fn seat_sentinels(&mut self) {
        let (come, gone) = self.sentinels.differences(&self.members.sentinels());
        for addr in gone {
            tracing::info!(group = %self.ground.group, sentinel = %addr, "Sentinel left");
            self.sentinels.end(addr);
            self.board().remove_sentinel(addr);
        }
        for peer in come {
            self.board().add_sentinel(&peer);
            let (ground, outlet, pace) = (Arc::clone(&self.ground), self.outlet(), self.pace.subscribe());
            self.sentinels
                .start(peer.addr, outlet.serial, |nudge| sentinel::run(ground, peer, Rhythm::new(pace, nudge), outlet));
        }
    }

    pub(super) fn seat_nodes(&mut self, nodes: &[Peer]) {
        let (come, gone) = self.nodes.differences(nodes);
        for addr in gone {
            tracing::info!(group = %self.ground.group, node = %addr, "node left");
            self.nodes.end(addr);
            self.board().remove_node(addr);
        }
        for peer in come {
            self.board().add_node(&peer);
            let (ground, outlet, pace) = (Arc::clone(&self.ground), self.outlet(), self.pace.subscribe());
            self.nodes
                .start(peer.addr, outlet.serial, |nudge| node::run(ground, peer, Rhythm::new(pace, nudge), outlet));
        }
    }

    /// Addresses are taken as they are; each name gets a task that follows it.
    pub(super) fn seat_names(&mut self) {
        for place in 0..self.members.places().len() {
            if self.names.has(place) {
                continue;
            }
            let Some(at) = self.members.places().get(place).map(|place| place.at.clone()) else { continue };
            if let Some(addr) = literal(&at.host, at.port) {
                self.members.resolved(place, vec![addr]);
                continue;
            }
            self.board().add_name(place, &at);
            let (ground, outlet) = (Arc::clone(&self.ground), self.outlet());
            self.names.start(place, outlet.serial, |nudge| names::run(ground, place, at, nudge, outlet));
        }
    }

    /// A server failed: if it was found by a configured name, the name may lead elsewhere by now.
    pub(super) fn doubt_names(&self, addr: SocketAddr) {
        for (place, known) in self.members.places().iter().enumerate() {
            if known.addrs.contains(&addr) {
                self.names.nudge(place);
            }
        }
    }

    pub(super) async fn sentinel_task_died(&mut self, addr: SocketAddr, error: &JoinError) {
        self.mourn("sentinel", addr, error);
        self.sentinels.rest(addr);
        self.poll_failed(addr, clock::now(), &bug()).await;
    }

    pub(super) async fn node_task_died(&mut self, addr: SocketAddr, error: &JoinError) {
        self.mourn("node", addr, error);
        self.nodes.rest(addr);
        self.probe_failed(addr, clock::now(), &bug()).await;
    }

    pub(super) async fn name_task_died(&mut self, place: usize, error: &JoinError) {
        self.mourn("name", place, error);
        self.names.rest(place);
        self.resolved(place, clock::now(), Err(bug())).await;
    }

    fn mourn(&self, kind: &str, of: impl std::fmt::Display, error: &JoinError) {
        self.board().failed_tasks += 1;
        self.tally.task_failed();
        tracing::error!(group = %self.ground.group, kind, %of, %error, "a task died; this is a bug, please report it");
    }

    fn outlet(&mut self) -> Outlet {
        self.serials += 1;
        Outlet { serial: self.serials, to: self.reports.0.clone() }
    }
}

fn bug() -> Fault {
    Fault::protocol("the task that asks it died, and is started again")
}
