//! One route that has connections without a socket of ours: flows, and those of clients that were led to their node. Orders
//! for both, and the places that they share with the connections that its listener accepts, which are the datapath's
//! beneath.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use proxy_ebpf::{TargetKey, balance::kind};

use super::Tc;
use crate::{
    datapath::{Call, Connection, Datapath, Sever, Share, Syns},
    nat::{flows::Usage, keeper::Order, ticks},
    target::Load,
};

/// The packet datapath of one route, or what stands in front of another where its packets are not translated.
#[derive(Debug)]
pub struct TcRoute {
    tc: Arc<Tc>,
    /// Whose flows xdp translates is called that.
    name: &'static str,
    /// Has the connections that the listener accepts.
    beneath: Arc<dyn Datapath>,
    translated: bool,
    places: Arc<Places>,
    /// Flows and accepted connections together.
    most: u32,
    /// How new flows are shared out, one of [`kind`].
    kind: u32,
}

/// What a route is made of.
#[derive(Debug)]
pub struct Parts {
    pub number: u16,
    /// That of the datapath which has most of its connections.
    pub name: &'static str,
    pub beneath: Arc<dyn Datapath>,
    /// Its packets are translated.
    pub translated: bool,
    /// Room for so many connections.
    pub most: u32,
    /// How new ones are shared out, one of [`kind`].
    pub kind: u32,
}

impl TcRoute {
    pub(super) fn new(tc: Arc<Tc>, parts: Parts) -> Self {
        let Parts { number, name, beneath, translated, most, kind } = parts;
        // The number may have been another route's, whose flows an earlier daemon had shared out.
        if kind == kind::MASTER
            && let Err(error) = tc.balancer.share(number, kind, &[])
        {
            tracing::error!(%error, "new flows may be shared out as for an earlier route");
        }
        let places = Places { usage: Arc::clone(&tc.usage), route: number, accepted: AtomicU64::new(0) };
        Self { tc, name, beneath, translated, places: Arc::new(places), most, kind }
    }
}

impl Datapath for TcRoute {
    fn name(&self) -> &'static str {
        self.name
    }

    fn meet(&self, node: SocketAddr) {
        if self.translated {
            self.tc.order(Order::Meet(self.places.route, node));
        }
        if let Some(steering) = self.tc.steering() {
            steering.meet(node.ip());
        }
        if let Some(bypass) = self.tc.bypassing() {
            bypass.meet(node);
        }
    }

    fn lead(&self, key: TargetKey, node: SocketAddr) {
        if self.translated {
            self.tc.lead(key, node);
        }
        if let Some(steering) = self.tc.steering() {
            steering.meet(node.ip());
        }
        if let Some(bypass) = self.tc.bypassing() {
            bypass.meet(node);
        }
    }

    fn adopt(&self, connection: Connection) {
        self.beneath.adopt(connection);
    }

    fn dial(&self, call: Call) {
        self.beneath.dial(call);
    }

    fn sever(&self, order: &Sever) {
        if self.translated {
            self.tc.order(Order::Sever(order.clone()));
        }
        if let Some(steering) = self.tc.steering() {
            steering.sever(order);
        }
        self.beneath.sever(order);
    }

    fn resume(&self, key: TargetKey) {
        self.beneath.resume(key);
    }

    fn share(&self, _route: u32, slots: &[Share]) {
        if self.kind == kind::MASTER {
            return;
        }
        match self.tc.balancer.share(self.places.route, self.kind, slots) {
            Ok(false) => {}
            Ok(true) => self.tc.order(Order::Fill),
            Err(error) => tracing::error!(%error, "new flows are shared out among the slots that were open before"),
        }
    }

    fn load(&self, key: TargetKey) -> Load {
        Load::with(Box::new(self.tc.loads.slot(key)))
    }

    fn drawn_to(&self, client: IpAddr, usable: &dyn Fn(TargetKey) -> bool) -> Option<TargetKey> {
        self.tc.balancer.drawn_to(self.places.route, client, usable)
    }

    fn outlives(&self) -> bool {
        true
    }

    fn close(&self) {
        self.tc.order(Order::Close(self.places.route));
        if let Some(steering) = self.tc.steering() {
            steering.close(self.places.route);
        }
    }

    fn steered(&self) -> u64 {
        self.tc.steering().map_or(0, |steering| steering.of(self.places.route))
    }

    fn bypassed(&self) -> u64 {
        self.tc.bypassing().map_or(0, |bypass| bypass.of(self.places.route))
    }

    fn flows(&self) -> u64 {
        self.places.usage.of(self.places.route).saturating_sub(self.places.accepted.load(Ordering::Relaxed))
    }

    fn carried(&self) -> [u64; 2] {
        self.tc.carried.of(self.places.route)
    }

    fn first_flow(&self) -> Option<Instant> {
        let first = self.tc.firsts.get(&u32::from(self.places.route), 0).ok()?;
        ticks::instant(first.at).filter(|_| first.generation != 0)
    }

    fn syns(&self) -> Option<Syns> {
        self.tc.aside.of(self.places.route)
    }

    /// What the listener may accept by itself is no limit here: it has to do with open files, and flows take none.
    fn claim(&self, _accepted: u32) -> Option<Claim> {
        let places = &self.places;
        places.usage.claim(places.route, self.most).then(|| {
            places.accepted.fetch_add(1, Ordering::Relaxed);
            Claim(Some(Arc::clone(places)))
        })
    }
}

/// The places of a route, flows and accepted connections together.
#[derive(Debug)]
struct Places {
    usage: Arc<Usage>,
    route: u16,
    accepted: AtomicU64,
}

/// An accepted connection's place; of a route without a packet datapath it is none.
#[derive(Debug, Default)]
pub struct Claim(Option<Arc<Places>>);

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(places) = self.0.take() {
            places.accepted.fetch_sub(1, Ordering::Relaxed);
            places.usage.give_back(places.route);
        }
    }
}
