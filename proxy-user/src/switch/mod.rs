//! Carries verdicts out, route by route: first the kernel's map and the gates, then the slots that
//! the listener offers, then the order to reset what was left behind. Promises that from the write
//! on no byte that arrives is sent on under an old generation, whatever the rest still takes. Never asks anybody anything.

mod inherit;
mod plan;
mod slot;

#[cfg(test)]
pub(crate) mod tests;

use std::{collections::BTreeSet, net::SocketAddr, sync::Arc, time::Instant};

use proxy_ebpf::{TargetKey, balance::SLOTS};
use tokio::sync::{mpsc, watch};

pub use self::inherit::{HEARD, Kept};
use self::{
    plan::Wanted,
    slot::{Change, SlotState},
};
use crate::{
    config::{self, Name},
    datapath::{Datapath, Sever, Severed, Share},
    election::{Verdict, Way},
    kernel::KernelTargets,
    target::{self, Slots},
};

/// A route may lead to so many nodes at once; more are not used, and that is logged.
const MOST_SLOTS: usize = SLOTS as usize;

/// The switch of all routes, and the only writer of the kernel's map.
#[derive(Debug)]
pub struct Switch {
    routes: Vec<RouteSwitch>,
    kernel: Option<KernelTargets>,
    /// Never goes backwards, and is never used twice.
    generation: u64,
}

#[derive(Debug)]
struct RouteSwitch {
    /// By which the kernel knows it.
    number: u32,
    /// Of a route that was taken over: when its replicas have all been heard of.
    heard_by: Option<Instant>,
    config: config::Route,
    datapath: Arc<dyn Datapath>,
    slots: Vec<SlotState>,
    offer: watch::Sender<Slots>,
    /// What the datapath was told last.
    shared: Vec<Share>,
    /// Replicas that the datapath knows of.
    met: BTreeSet<SocketAddr>,
}

/// What the datapath has to do once map and gates are written.
#[derive(Debug, Default)]
struct Orders {
    /// Places, and the generation of each that may stay.
    sever: Vec<(TargetKey, u64)>,
    /// The latest generation.
    latest: u64,
    resume: Vec<TargetKey>,
}

/// One slot as the status shows it.
#[derive(Debug, Clone)]
pub struct SlotView {
    pub addr: SocketAddr,
    pub way: Way,
    pub generation: u64,
    /// Those that the listener accepted.
    pub connections: u32,
    /// Those without a socket of ours.
    pub flows: u64,
}

/// Resets under way: one for each route that had to leave a generation.
#[derive(Debug)]
pub struct Severing {
    pub route: Name,
    pub since: Instant,
    pub reports: mpsc::UnboundedReceiver<Severed>,
}

impl Switch {
    pub fn new(kernel: Option<KernelTargets>) -> Self {
        Self { routes: Vec::new(), kernel, generation: 0 }
    }

    /// Adds a route, closed; its number is its place, unless `take_over` knows a better one.
    pub fn add(&mut self, config: config::Route, datapath: Arc<dyn Datapath>) -> watch::Receiver<Slots> {
        let (offer, slots) = target::channel();
        let number = self.routes.len() as u32;
        self.routes.push(RouteSwitch {
            number,
            heard_by: None,
            config,
            datapath,
            slots: Vec::new(),
            offer,
            shared: Vec::new(),
            met: BTreeSet::new(),
        });
        slots
    }

    /// Makes the routes of `group` follow the verdict.
    pub fn follow(&mut self, group: usize, verdict: &Verdict) -> Vec<Severing> {
        let since = Instant::now();
        let mut severing = Vec::new();
        for route in self.routes.iter_mut().filter(|route| route.config.group == group) {
            let Some(wanted) = route.wanted(verdict) else { continue };
            let heard = |node| verdict.replicas.iter().any(|it| it.addr == node);
            let orders = route.become_(&wanted, heard, self.kernel.as_mut(), &mut self.generation);
            if let Some(reports) = route.carry_out(&orders) {
                severing.push(Severing { route: Arc::clone(&route.config.name), since, reports });
            }
        }
        // Whoever carries orders out has those of the switch first.
        for route in self.routes.iter_mut().filter(|route| route.config.group == group) {
            route.meet(verdict);
        }
        severing
    }

    /// Resets every connection of every route: the end of the daemon.
    pub fn close_all(&mut self) -> Vec<Severing> {
        let groups: BTreeSet<usize> = self.routes.iter().map(|route| route.config.group).collect();
        groups.into_iter().flat_map(|group| self.follow(group, &Verdict::closed())).collect()
    }

    pub fn slots(&self, route: usize) -> Vec<SlotView> {
        self.routes.get(route).map(|route| route.slots.iter().filter_map(SlotState::view).collect()).unwrap_or_default()
    }

    /// Connections of a route that its datapath carries without a socket.
    pub fn flows(&self, route: usize) -> u64 {
        self.routes.get(route).map_or(0, |it| it.datapath.flows())
    }

    /// Those of them whose clients were led to their node.
    pub fn steered(&self, route: usize) -> u64 {
        self.routes.get(route).map_or(0, |it| it.datapath.steered())
    }

    /// Those of these whose requests are bypassed.
    pub fn bypassed(&self, route: usize) -> u64 {
        self.routes.get(route).map_or(0, |it| it.datapath.bypassed())
    }

    /// What those have carried to nodes and to clients, in bytes.
    pub fn carried(&self, route: usize) -> [u64; 2] {
        self.routes.get(route).map_or([0; 2], |it| it.datapath.carried())
    }

    pub fn datapath(&self, route: usize) -> Option<Arc<dyn Datapath>> {
        self.routes.get(route).map(|it| Arc::clone(&it.datapath))
    }

    /// The way of a route as a whole: that of its best slot.
    pub fn way(&self, route: usize) -> Way {
        self.slots(route).iter().map(|slot| slot.way).max().unwrap_or(Way::Closed)
    }
}

impl RouteSwitch {
    /// Writes map and gates, then offers the new slots. Returns what the datapath has to do.
    /// `heard` says of which nodes something is known by now.
    fn become_(
        &mut self,
        wanted: &[Wanted],
        heard: impl Fn(SocketAddr) -> bool,
        mut kernel: Option<&mut KernelTargets>,
        generation: &mut u64,
    ) -> Orders {
        self.make_room(wanted);
        let mut orders = Orders::default();
        let now = Instant::now();
        let waits: Vec<bool> = self.slots.iter().map(|slot| self.waits_for(slot, now) && !heard(slot.addr())).collect();
        for (index, slot) in self.slots.iter_mut().enumerate() {
            let wanted = wanted.iter().find(|wanted| plan::slot_of(&self.config, wanted, slot, index));
            if wanted.is_none() && waits[index] {
                continue;
            }
            let change = slot.next(wanted, generation);
            if change == Change::None {
                continue;
            }
            if let (Change::Generation, Some(wanted)) = (change, wanted) {
                // Nothing goes to the old node while the way to the new one is looked for.
                slot.shut();
                if let Some(kernel) = kernel.as_deref_mut() {
                    // If it fails, so does the write below, and the slot is closed.
                    let _fails_again = kernel.write(slot.key, slot.shut_entry());
                }
                self.datapath.lead(slot.key, wanted.target.addr);
            }
            if let Some(kernel) = kernel.as_deref_mut()
                && let Err(error) = kernel.write(slot.key, slot.entry())
            {
                // The kernel may still hold the old entry. Nothing of this slot may live.
                tracing::error!(%error, route = %self.config.name, "the kernel refuses a target; the route stays closed");
                slot.close();
                orders.sever.push((slot.key, 0));
                continue;
            }
            slot.set_gate();
            match change {
                Change::Generation => orders.sever.push((slot.key, slot.keep())),
                Change::Resumed => orders.resume.push(slot.key),
                Change::Way | Change::None => {}
            }
        }
        orders.latest = *generation;
        let shares: Vec<Share> = self.slots.iter().filter_map(SlotState::share).collect();
        if shares != self.shared {
            self.datapath.share(self.number, &shares);
            self.shared = shares;
        }
        let open: Slots = self.slots.iter().filter_map(SlotState::offer).collect();
        // Whoever waits for a change is woken by a change only, not by every probe's lag.
        let differs = |a: &Slots, b: &Slots| {
            a.len() != b.len() || a.iter().zip(b.iter()).any(|(a, b)| (a.addr, a.generation) != (b.addr, b.generation))
        };
        self.offer.send_if_modified(|offered| {
            let changed = differs(offered, &open);
            if changed {
                *offered = open;
            }
            changed
        });
        orders
    }

    /// A slot for every wanted node: one that has it, else one that nobody uses, else a new one.
    fn make_room(&mut self, all: &[Wanted]) {
        for wanted in all {
            let found =
                self.slots.iter().enumerate().any(|(index, slot)| plan::slot_of(&self.config, wanted, slot, index));
            if found {
                continue;
            }
            let spoken_for = |slot: &SlotState| all.iter().any(|wanted| slot.is_for(wanted.target.addr));
            if let Some(free) = self.slots.iter_mut().find(|slot| slot.is_free() && !spoken_for(slot)) {
                free.reserve(wanted.target.addr);
            } else if self.slots.len() < MOST_SLOTS {
                let key = TargetKey { route: self.number, slot: self.slots.len() as u32 };
                self.slots.push(SlotState::new(key, wanted.target.addr, self.datapath.load(key)));
            } else {
                tracing::warn!(route = %self.config.name, node = %wanted.target.addr, "too many nodes; this one is not used");
            }
        }
    }

    /// Any replica may be the next master.
    fn meet(&mut self, verdict: &Verdict) {
        let known: BTreeSet<SocketAddr> = verdict.replicas.iter().map(|replica| replica.addr).collect();
        known.difference(&self.met).for_each(|node| self.datapath.meet(*node));
        self.met = known;
    }

    fn carry_out(&self, orders: &Orders) -> Option<mpsc::UnboundedReceiver<Severed>> {
        for &key in &orders.resume {
            self.datapath.resume(key);
        }
        if orders.sever.is_empty() {
            return None;
        }
        let (done, reports) = mpsc::unbounded_channel();
        for &(key, keep) in &orders.sever {
            self.datapath.sever(&Sever { key, keep, latest: orders.latest, done: done.clone() });
        }
        Some(reports)
    }
}
