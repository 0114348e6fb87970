//! The thread that looks after steering: what is dialled in which namespace, and the end of sockets that a switch leaves
//! behind. What it does may take a while, so nobody waits for it.

use std::{
    collections::{BTreeSet, VecDeque},
    fs::File,
    net::IpAddr,
    os::fd::AsFd as _,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use aya::maps::{HashMap, MapData};
use proxy_ebpf::{
    TargetKey,
    balance::of_slot,
    nat::gate,
    steering::{Dialled, Listen, Reached, Steered},
};

use super::{
    Setup,
    answers::Answers,
    plan::{self, Route},
    sockets::{destroy, find},
};
use crate::{
    datapath::{
        Sever, Severed,
        spaces::{self, Spaces, View},
    },
    kernel::{Mapping, contents, netns::inside},
    nat::netlink::NetlinkError,
    switch::Kept,
    urgent::Urgent,
};

/// Nodes of which it is known from where they are reached: as many as a group may have.
const MOST_NODES: usize = 256;
/// How often it looks at namespaces and their addresses.
const LOOK: Duration = Duration::from_secs(1);
/// A call that was led just before the switch makes its socket visible a little later: after the first sweep come these.
const AGAIN: [Duration; 3] = [Duration::from_millis(10), Duration::from_millis(100), Duration::from_secs(1)];
#[derive(Debug)]
pub(super) enum Order {
    Sever(Sever),
    /// The route takes no new clients any more.
    Close(u16),
    Meet(IpAddr),
    /// What of an earlier daemon's lives on, and the latest generation at that time.
    TakeOver(Kept, u64),
    Stop,
}

pub(super) struct Maps {
    pub(super) dialled: HashMap<MapData, Dialled, Listen>,
    pub(super) reached: HashMap<MapData, Reached, u32>,
    pub(super) storage: MapData,
    pub(super) gates: Mapping<AtomicU64>,
}

pub(super) struct Keeper {
    maps: Maps,
    answers: Arc<Answers>,
    home: u64,
    setup: Arc<Setup>,
    spaces: Spaces,
    routes: Vec<Route>,
    /// The latest that were told of.
    nodes: VecDeque<IpAddr>,
    /// Sweeps that are due, and of what.
    due: Vec<(Instant, Ended)>,
    /// The last fault that was told.
    told: Option<String>,
}

/// Whose sockets are to end.
#[derive(Debug, Clone)]
enum Ended {
    /// All under the key up to a generation.
    Through(TargetKey, u32),
    /// All but these, up to a generation.
    Strays(Kept, u32),
}

impl Ended {
    fn by(order: &Sever) -> Self {
        let through = if order.keep == 0 { order.latest } else { order.keep.wrapping_sub(1) };
        Self::Through(order.key, through as u32)
    }

    fn includes(&self, steered: &Steered) -> bool {
        let key = TargetKey { route: u32::from(steered.route), slot: u32::from(steered.slot) };
        // The low halves of numbers that differ by less than half of their range.
        let is_through = |last: u32| last.wrapping_sub(steered.generation) as i32 >= 0;
        match self {
            Self::Through(ended, last) => key == *ended && is_through(*last),
            Self::Strays(kept, last) => {
                is_through(*last) && kept.get(&key).is_none_or(|kept| *kept as u32 != steered.generation)
            }
        }
    }
}

impl Keeper {
    pub(super) fn new(maps: Maps, answers: Arc<Answers>, home: u64, setup: Arc<Setup>, routes: Vec<Route>) -> Self {
        let nodes = setup.nodes.iter().copied().collect();
        let (spaces, due) = (Spaces::default(), Vec::new());
        Self { maps, answers, home, setup, spaces, routes, nodes, due, told: None }
    }

    pub(super) fn run(mut self, orders: &Receiver<Order>) {
        let mut look = Instant::now() + LOOK;
        self.let_answers_pass();
        loop {
            let next = self.due.iter().map(|(at, _)| *at).fold(look, Instant::min);
            match orders.recv_timeout(next.saturating_duration_since(Instant::now())) {
                Ok(Order::Sever(order)) => self.sever(&order),
                Ok(Order::Close(route)) => {
                    self.routes.retain(|it| it.number != route);
                    self.follow();
                }
                Ok(Order::Meet(node)) => {
                    if self.setup.all_namespaces && !self.nodes.contains(&node) {
                        self.nodes.push_back(node);
                        self.nodes.drain(..self.nodes.len().saturating_sub(MOST_NODES));
                        look = Instant::now();
                    }
                }
                Ok(Order::TakeOver(kept, latest)) => {
                    self.spaces.adopt(self.home, in_use(&self.maps.storage));
                    let strays = Ended::Strays(kept, latest as u32);
                    let ended = self.sweep(&strays);
                    tracing::info!(ended, "what a killed daemon had led, and nobody goes on with, was ended");
                    self.again(&strays);
                }
                Ok(Order::Stop) | Err(RecvTimeoutError::Disconnected) => {
                    // What was on its way has come by now, and nobody looks after it any more.
                    for (_, ended) in std::mem::take(&mut self.due) {
                        self.sweep(&ended);
                    }
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
            let now = Instant::now();
            let (due, later) = self.due.drain(..).partition(|(at, _)| *at <= now);
            self.due = later;
            Vec::into_iter(due).for_each(|(_, ended)| _ = self.sweep(&ended));
            if look <= now {
                self.let_answers_pass();
                self.follow();
                look = Instant::now() + LOOK;
            }
        }
    }

    /// Where no switch is expected, and nothing is held back that would pass.
    fn let_answers_pass(&self) {
        let now = Instant::now();
        if self.answers.are_free(now) && !self.holds() {
            self.answers.let_pass(now);
        }
    }

    /// Whether there is a socket, or may be one, whose gate is shut.
    fn holds(&self) -> bool {
        let storage = self.maps.storage.fd().as_fd();
        let here = || find(storage).is_ok_and(|found| found.iter().all(|it| self.is_open(&it.steered)));
        let elsewhere = self.spaces.all().all(|namespace| inside(namespace, here).unwrap_or(false));
        !(elsewhere && here())
    }

    fn is_open(&self, steered: &Steered) -> bool {
        let slot = of_slot(u32::from(steered.route), u32::from(steered.slot));
        let gate = self.maps.gates.get(slot as usize);
        gate.is_some_and(|gate| gate.load(Ordering::Acquire) == gate::OPEN | u64::from(steered.generation))
    }

    fn sever(&mut self, order: &Sever) {
        let ended = Ended::by(order);
        let first = Instant::now();
        // Whom it tells comes back at once.
        let _urgent = Urgent::here();
        let connections = self.sweep(&ended);
        let first = (connections > 0).then_some(first);
        // Nobody waits for it any more when the daemon is going down.
        let _unheard = order.done.send(Severed { connections, first, last: Instant::now() });
        self.again(&ended);
    }

    fn again(&mut self, ended: &Ended) {
        let now = Instant::now();
        self.due.extend(AGAIN.map(|after| (now + after, ended.clone())));
    }

    /// Ends the sockets that are there, in all namespaces.
    fn sweep(&mut self, ended: &Ended) -> usize {
        let storage = self.maps.storage.fd().as_fd();
        let here = || -> Result<usize, NetlinkError> {
            destroy(find(storage)?.iter().filter(|it| ended.includes(&it.steered)))
        };
        let elsewhere = self.spaces.all().map(|namespace| inside(namespace, here));
        let mut count = 0;
        for outcome in std::iter::once(Some(here())).chain(elsewhere) {
            match outcome {
                Some(Ok(ended)) => count += ended,
                Some(Err(error)) => {
                    tracing::error!(%error, "clients that were led to an old node do not notice its end");
                }
                None => tracing::error!("a network namespace is out of reach: clients there do not notice a switch"),
            }
        }
        count
    }

    /// Namespaces and addresses as they are now.
    pub(super) fn follow(&mut self) {
        let fault = self.bring_up_to_date().err().map(|error| format!("{error:#}"));
        if let Some(error) = fault.as_ref().filter(|_| fault != self.told) {
            tracing::warn!(error, "clients of some addresses on this host go to the listener");
        }
        self.told = fault;
    }

    fn bring_up_to_date(&mut self) -> anyhow::Result<()> {
        self.answers.follow()?;
        let home = spaces::look(&BTreeSet::new());
        let mut dialled = plan::home(self.home, &self.routes, &home)?;
        let mut reached = BTreeSet::new();
        let cgroup = self.setup.all_namespaces.then_some(&*self.setup.cgroup);
        self.spaces.follow(cgroup, self.home, in_use(&self.maps.storage));
        let nodes: BTreeSet<IpAddr> = self.nodes.iter().copied().collect();
        let mut asked = plan::dialled_from_away(&self.routes, &home);
        asked.extend(&nodes);
        for (cookie, namespace) in self.spaces.led() {
            let view: View = inside(namespace, || spaces::look(&asked)).unwrap_or_default();
            dialled.extend(plan::away(cookie, &self.routes, &nodes, &home, &view)?);
            reached.extend(plan::reached(cookie, &nodes, &view));
        }
        // A node is reached before an address leads to it.
        contents::write(&mut self.maps.reached, reached.into_iter().map(|node| (node, 1)).collect())?;
        Ok(contents::write(&mut self.maps.dialled, dialled)?)
    }
}

/// Whether a namespace has sockets that were led.
fn in_use(storage: &MapData) -> impl Fn(&File) -> bool {
    let storage = storage.fd().as_fd();
    // One that cannot be asked may.
    move |namespace| inside(namespace, || find(storage)).is_none_or(|found| !found.is_ok_and(|found| found.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: TargetKey = TargetKey { route: 3, slot: 1 };

    fn steered(route: u16, generation: u32) -> Steered {
        Steered { addr: [0; 16], port: [0; 2], route, slot: 1, _pad: 0, generation, _end: 0 }
    }

    #[test]
    fn an_order_ends_its_key_s_generations_and_no_later_one() {
        let by = |keep| {
            let done = tokio::sync::mpsc::unbounded_channel().0;
            Ended::by(&Sever { key: KEY, keep, latest: 7, done })
        };
        assert_eq!([6, 7, 8].map(|generation| by(0).includes(&steered(3, generation))), [true, true, false], "closed");
        assert_eq!([6, 7, 8].map(|generation| by(7).includes(&steered(3, generation))), [true, false, false]);
        assert!(!by(0).includes(&steered(2, 6)), "another route's");
    }

    #[test]
    fn of_an_earlier_daemon_s_only_what_is_kept_lives_on() {
        let ended = Ended::Strays([(KEY, 5)].into(), 7);
        assert_eq!([4, 5, 8].map(|generation| ended.includes(&steered(3, generation))), [true, false, false]);
        assert!(ended.includes(&steered(2, 5)), "a route that is no more");
    }
}
