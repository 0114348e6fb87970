//! The thread that looks after the packet datapath: it says that the daemon lives, follows the host's interfaces and
//! addresses, gives back the places of flows that ended, and ends those that a switch leaves behind. What it does may
//! take a while, so nobody waits for it.

use std::{
    collections::{BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use aya::maps::{HashMap as Keys, MapData};
use proxy_ebpf::{
    TargetKey,
    nat::{Endpoint, Flow, Snat},
};

use super::{
    audit::{Audit, Found},
    balancer::Balancer,
    collector::{Collector, Sweep},
    doors::{Change, Doors, Listen, wanted},
    egress::Host,
    exits::Exits,
    fate::{Severing as Ended, Standing, is_over},
    globals::Globals,
    heart::Heart,
    ports, reservation,
    reset::Resetter,
    ticks,
};
use crate::{
    datapath::{Sever, Severed},
    switch::Kept,
};

/// How often it looks; a beat is missed long before the grace is over.
const TURN: Duration = Duration::from_millis(250);
/// Interfaces and addresses change seldom.
const HOST: Duration = Duration::from_secs(1);
/// Places looked at in a turn.
const MOST_PLACES: u32 = 1 << 20;

#[derive(Debug)]
pub enum Order {
    Sever(Sever),
    /// The route takes no new flows any more.
    Close(u16),
    /// From now on these routes' flows are translated at XDP where they can be.
    ByXdp(Vec<u16>),
    /// A node that a route may lead to.
    Meet(u16, SocketAddr),
    /// Tables of the balancer are to be filled.
    Fill,
    /// An earlier daemon's flows: those under these generations live on.
    /// What lives on, and the latest generation at that time.
    TakeOver(Kept, u64),
    /// Every master that new flows are made to was proven by us.
    Beat,
    Stop,
}

/// What attaches the program to an interface.
pub trait Attach: Send {
    /// To all of these, and to no other. Returns those that it is attached to now.
    fn follow(&mut self, host: &Host) -> BTreeSet<u32>;
}

/// A route, as far as its packets go.
#[derive(Debug, Clone)]
pub struct Route {
    pub number: u16,
    pub listen: Vec<SocketAddr>,
    pub max_connections: u32,
    /// Its packets are translated; else only its connections are counted.
    pub translated: bool,
    pub by_xdp: bool,
    /// Absent: everyone.
    pub allow: Option<Vec<ipnet::IpNet>>,
    pub idle_timeout: Duration,
    /// As whom its nodes see us; empty: as the kernel's route to them prefers.
    pub snat: Vec<IpAddr>,
}

pub struct Keeper {
    pub heart: Heart,
    /// Without a beat new flows end with the time that an earlier daemon's last one gives them.
    pub beats: bool,
    /// What an earlier daemon left half done.
    pub audit: Option<Audit>,
    pub collector: Collector,
    pub doors: Doors,
    pub door_of: Keys<MapData, Endpoint, u32>,
    pub globals: Arc<Globals>,
    pub routes: Vec<Route>,
    pub attach: Box<dyn Attach>,
    /// None where no packet is translated.
    pub resetter: Option<Resetter>,
    pub snats: Vec<Snat>,
    pub exits: Arc<Mutex<Exits>>,
    pub balancer: Arc<Balancer>,
    /// Nodes that were told of.
    pub unreachable: BTreeSet<SocketAddr>,
    /// Why the host's own sockets may take our source ports, once it was told.
    pub overlap: Option<String>,
    pub ended: HashMap<(u16, u16), Ended>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("snats", &self.snats).finish_non_exhaustive()
    }
}

impl Keeper {
    pub fn run(mut self, orders: &Receiver<Order>) {
        let mut look = Instant::now() + HOST;
        let mut unfilled = false;
        loop {
            // A table is filled when no order waits any more.
            match orders.recv_timeout(if unfilled { Duration::ZERO } else { TURN }) {
                Ok(Order::Sever(order)) => {
                    self.take_fresh();
                    self.sever(&order);
                }
                Ok(Order::Close(route)) => self.change(&[route], |it| it.max_connections = 0),
                Ok(Order::ByXdp(routes)) => self.change(&routes, |it| it.by_xdp = true),
                Ok(Order::Meet(route, node)) => {
                    let mut exits = self.exits.lock().unwrap_or_else(PoisonError::into_inner);
                    exits.meet(u32::from(route), node.ip());
                }
                Ok(Order::Fill) => unfilled = true,
                Ok(Order::TakeOver(kept, latest)) => self.end_strays(&kept, latest),
                Ok(Order::Beat) => self.beats = true,
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) if unfilled => unfilled = self.fill(),
                Err(RecvTimeoutError::Timeout) => {}
            }
            self.beat();
            if look <= Instant::now() {
                look = Instant::now() + HOST;
                self.follow_host();
            }
            self.sweep();
            self.go_on_with_audit();
            // All this takes its time on a busy machine, and what is left of the grace is counted from the last one.
            self.beat();
        }
    }

    fn change(&mut self, routes: &[u16], change: impl FnMut(&mut Route)) {
        self.routes.iter_mut().filter(|it| routes.contains(&it.number)).for_each(change);
        self.follow_host();
    }

    fn beat(&self) {
        if self.beats
            && let Err(error) = self.heart.beat()
        {
            tracing::error!(%error, "no heartbeat: new connections will go to the listener");
        }
    }

    fn go_on_with_audit(&mut self) {
        let Some(audit) = &mut self.audit else { return };
        match audit.go_on(&mut self.collector, Instant::now()) {
            Ok(Some(found)) if found != Found::default() => {
                tracing::info!(
                    keys = found.keys,
                    places = found.places,
                    "what the killed daemon left half done was put right"
                );
            }
            Ok(_) => {}
            Err(error) => {
                tracing::warn!(%error, "some ports that the killed daemon was about to give back may stay unused");
                self.audit = None;
            }
        }
        self.audit.take_if(|audit| audit.is_done());
    }

    /// Ends the flows of routes, of switches and of addresses that are no more.
    fn end_strays(&mut self, kept: &Kept, latest: u64) {
        let latest = Ended { through: latest as u32, at: 0 };
        let flows = self.collector.flows();
        let (mut strays, mut live) = (Vec::new(), 0);
        for (place, flow) in flows.scan(0..flows.places()) {
            let key = TargetKey { route: u32::from(flow.route), slot: u32::from(flow.slot) };
            let lives = kept.get(&key).is_some_and(|generation| *generation as u32 == flow.generation)
                || !latest.includes(&flow);
            if lives && self.doors.is_open(flow.client.through) {
                live += 1;
            } else {
                strays.push((place, flow));
            }
        }
        self.take_fresh();
        self.reset(&strays);
        let ended = strays.iter().filter(|(place, flow)| self.collector.end(*place, flow)).count();
        tracing::info!(connections = live, ended, "the flows of a killed daemon are taken over");
    }

    /// The range of the host's own sockets is a setting: somebody may change it while flows have ports of ours.
    fn watch_ports(&mut self) {
        let overlap = reservation::checked(ports::DEFAULT).err().map(|error| error.to_string());
        if let Some(error) = overlap.as_ref().filter(|_| overlap != self.overlap) {
            tracing::error!(error, "this host's own connections may get source ports of flows, and then no answer");
        }
        self.overlap = overlap;
    }

    /// Interfaces and own addresses as they are now.
    pub fn follow_host(&mut self) {
        if self.resetter.is_some() {
            self.watch_ports();
        }
        let host = match Host::read() {
            Ok(host) => host,
            Err(error) => return tracing::warn!(%error, "the host's interfaces are not known; nothing changes"),
        };
        let attached = self.attach.follow(&host);
        self.renew(attached, &host.addresses);
        let routes: Vec<Listen<'_>> = self
            .routes
            .iter()
            .filter(|route| route.translated)
            .map(|route| Listen {
                route: route.number,
                at: &route.listen,
                max_connections: route.max_connections,
                by_xdp: route.by_xdp,
            })
            .collect();
        let changes = wanted(&routes, &host.addresses).and_then(|wanted| self.doors.update(&wanted));
        let done = changes.map_err(anyhow::Error::from).and_then(|changes| {
            changes.into_iter().try_for_each(|change| match change {
                Change::Shut(end) => self.door_of.remove(&end),
                Change::Write(place, door) => {
                    self.globals.doors[place as usize].set(&door);
                    Ok(())
                }
                Change::Open(end, place) => self.door_of.insert(end, place, 0),
            })?;
            Ok(())
        });
        if let Err(error) = done {
            tracing::warn!(error = format!("{error:#}"), "clients of some addresses go to the listener");
        }
    }

    /// The ways to nodes may be others now.
    fn renew(&mut self, attached: BTreeSet<u32>, ours: &BTreeSet<IpAddr>) {
        let failed = self.exits.lock().unwrap_or_else(PoisonError::into_inner).renew(attached, ours);
        let known: BTreeSet<SocketAddr> = failed.iter().map(|(node, _)| *node).collect();
        for (node, error) in failed.iter().filter(|(node, _)| !self.unreachable.contains(node)) {
            tracing::warn!(%error, %node, "packets for this node cannot be translated; its clients go to the listener");
        }
        self.unreachable = known;
    }

    fn take_fresh(&mut self) {
        let fresh = self.exits.lock().unwrap_or_else(PoisonError::into_inner).fresh();
        for (snat, pool) in fresh {
            self.snats.push(snat);
            self.collector.add(pool);
        }
    }

    fn sweep(&mut self) {
        self.take_fresh();
        let Ok(now) = ticks::now() else { return };
        let (routes, ended) = (&self.routes, &self.ended);
        let standing = |route: u16, slot: u16| Standing {
            idle_timeout: routes
                .iter()
                .find(|it| it.number == route)
                .map(|route| route.idle_timeout)
                .filter(|timeout| !timeout.is_zero())
                .map(ticks::ticks),
            severed: ended.get(&(route, slot)).copied(),
        };
        let Sweep { to_reset, failed, .. } = self.collector.sweep(now, MOST_PLACES, standing);
        self.reset(&to_reset);
        if let Some(error) = failed {
            tracing::warn!(%error, "a flow that has ended keeps its place for now");
        }
    }

    /// True: there may be more.
    fn fill(&self) -> bool {
        self.balancer.fill().unwrap_or_else(|error| {
            tracing::error!(%error, "a table of source-hash is not written: its clients go by an older one");
            true
        })
    }

    /// Tells both ends of every flow under the key that it has ended, but for those of the generation to keep.
    fn sever(&mut self, order: &Sever) {
        let at = (order.key.route as u16, order.key.slot as u16);
        // Those of an earlier switch know already, and are only not collected yet.
        let told = self.ended.get(&at).copied();
        let is_news = |flow: &Flow| told.is_none_or(|told| !told.includes(flow));
        let flows = self.collector.flows();
        let doomed: Vec<(u32, Flow)> =
            flows.scan(0..flows.places()).filter(|(_, flow)| is_doomed(flow, order) && is_news(flow)).collect();
        let first = (!doomed.is_empty()).then(Instant::now);
        self.reset(&doomed);
        if let Ok(now) = ticks::now() {
            self.ended.insert(at, Ended { through: through(order), at: now });
        }
        // Nobody waits for it any more when the daemon is going down.
        let _unheard = order.done.send(Severed { connections: doomed.len(), first, last: Instant::now() });
    }

    fn reset(&self, flows: &[(u32, Flow)]) {
        let Some(resetter) = self.resetter.as_ref().filter(|_| !flows.is_empty()) else { return };
        let doors = &self.doors;
        let outcome = resetter.end(flows, |door| doors.get(door), &self.snats);
        if let Some(error) = outcome.error {
            tracing::warn!(%error, failed = outcome.failed, "some resets were not sent; their receivers notice at their next packet");
        }
    }
}

fn is_doomed(flow: &Flow, order: &Sever) -> bool {
    let key = TargetKey { route: u32::from(flow.route), slot: u32::from(flow.slot) };
    key == order.key && (Ended { through: through(order), at: 0 }).includes(flow) && !is_over(flow)
}

/// The latest generation that an order ends. Later ones may be there by now: orders wait while others are carried out.
fn through(order: &Sever) -> u32 {
    match order.keep {
        0 => order.latest as u32,
        keep => keep.wrapping_sub(1) as u32,
    }
}

#[cfg(test)]
mod tests {
    use bytemuck::Zeroable as _;

    use super::*;

    #[test]
    fn an_order_that_is_late_ends_no_later_generation() {
        let order = |keep| {
            let done = tokio::sync::mpsc::unbounded_channel().0;
            Sever { key: TargetKey { route: 0, slot: 0 }, keep, latest: 7, done }
        };
        let doomed = |keep, generation| is_doomed(&Flow { generation, ..Flow::zeroed() }, &order(keep));
        assert_eq!([6, 7, 8].map(|generation| doomed(0, generation)), [true, true, false], "closed");
        assert_eq!([6, 7, 8].map(|generation| doomed(7, generation)), [true, false, false], "gone over to 7");
    }
}
