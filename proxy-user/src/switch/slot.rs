//! One place of a route: which node holds it, under which generation, and what may pass.

use std::{net::SocketAddr, sync::Arc};

use proxy_ebpf::{Target as Entry, TargetKey, state};

use super::{SlotView, plan::Wanted};
use crate::{
    datapath::Share,
    election::{Target, Way},
    kernel,
    target::{Gate, Load, Slot},
};

#[derive(Debug)]
pub(super) struct SlotState {
    pub(super) key: TargetKey,
    addr: SocketAddr,
    /// Who holds the place; None: nobody since the last close.
    holder: Option<Target>,
    way: Way,
    generation: u64,
    gate: Arc<Gate>,
    load: Arc<Load>,
    /// On another daemon's word alone, which is enough for flows, and not for connections of our own.
    taken_over: bool,
}

/// What a step changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// Whether new connections are taken; established ones live on.
    Way,
    /// The same, and they stood still before.
    Resumed,
    /// Which generation lives: all others have to end.
    Generation,
}

impl SlotState {
    pub(super) fn new(key: TargetKey, addr: SocketAddr, load: Load) -> Self {
        let (gate, load) = (Arc::default(), Arc::new(load));
        Self { key, addr, holder: None, way: Way::Closed, generation: 0, gate, load, taken_over: false }
    }

    /// As another daemon left it: open, or held, or paused under a generation whose flows live.
    pub(super) fn inherited(key: TargetKey, entry: &Entry, load: Load) -> Option<Self> {
        let way = match (entry.state, entry.live) {
            (state::PAUSED, 0) => Way::Paused,
            (state::OPEN, live) if live == entry.generation => Way::Open,
            (state::ESTABLISHED_ONLY, live) if live == entry.generation => Way::Established,
            _ => return None,
        };
        let addr = kernel::decode(entry)?;
        let holder = Some(Target { addr, epoch: entry.epoch, id: None });
        let slot = Self { holder, way, generation: entry.generation, taken_over: true, ..Self::new(key, addr, load) };
        slot.set_gate();
        Some(slot)
    }

    /// The master, or replica, that holds it on another daemon's word, and what may pass.
    pub(super) fn taken_over(&self) -> Option<(&Target, Way)> {
        self.holder.as_ref().filter(|_| self.taken_over).map(|holder| (holder, self.way))
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    pub(super) fn is_for(&self, addr: SocketAddr) -> bool {
        self.addr == addr
    }

    /// Nobody holds it and no connection remembers it.
    pub(super) fn is_free(&self) -> bool {
        self.holder.is_none() && self.load.all() == 0
    }

    pub(super) fn reserve(&mut self, addr: SocketAddr) {
        self.addr = addr;
    }

    /// Takes on what is wanted of it; None: nothing may pass.
    pub(super) fn next(&mut self, wanted: Option<&Wanted>, generation: &mut u64) -> Change {
        let Some(wanted) = wanted else {
            let was = std::mem::replace(&mut self.way, Way::Closed);
            self.holder = None;
            self.taken_over = false;
            return if was == Way::Closed { Change::None } else { Change::Generation };
        };
        self.taken_over = wanted.taken_over;
        let same = self.holder.as_ref().is_some_and(|holder| holder.is_same(&wanted.target));
        let way = std::mem::replace(&mut self.way, wanted.way);
        let known = self.holder.take().filter(|_| same).and_then(|holder| holder.id);
        self.holder = Some(Target { id: wanted.target.id.clone().or(known), ..wanted.target.clone() });
        self.addr = wanted.target.addr;
        if !same {
            *generation += 1;
            self.generation = *generation;
            return Change::Generation;
        }
        match (way, wanted.way) {
            (before, now) if before == now => Change::None,
            (Way::Paused, _) => Change::Resumed,
            _ => Change::Way,
        }
    }

    pub(super) fn close(&mut self) {
        self.way = Way::Closed;
        self.holder = None;
        self.gate.shut();
    }

    /// Nothing passes, for now.
    pub(super) fn shut(&self) {
        self.gate.shut();
    }

    /// The slot as the kernel has it while nothing passes.
    pub(super) fn shut_entry(&self) -> Entry {
        Entry { live: 0, state: state::CLOSED, ..self.entry() }
    }

    /// The generation whose connections may carry bytes; 0: none.
    pub(super) fn live(&self) -> u64 {
        if matches!(self.way, Way::Closed | Way::Paused) { 0 } else { self.generation }
    }

    /// The generation whose connections may live on, whether or not they may carry bytes now; 0: none.
    pub(super) fn keep(&self) -> u64 {
        if self.way == Way::Closed { 0 } else { self.generation }
    }

    pub(super) fn set_gate(&self) {
        match self.way {
            Way::Closed => self.gate.shut(),
            Way::Paused => self.gate.pause(self.generation),
            Way::Established | Way::Open => self.gate.open(self.generation),
        }
    }

    /// The slot as the kernel has it.
    pub(super) fn entry(&self) -> Entry {
        let (family, port, addr) = kernel::encode(self.addr);
        Entry {
            live: self.live(),
            generation: self.generation,
            epoch: self.holder.as_ref().map_or(0, |holder| holder.epoch),
            state: match self.way {
                Way::Closed => state::CLOSED,
                Way::Paused => state::PAUSED,
                Way::Established => state::ESTABLISHED_ONLY,
                Way::Open => state::OPEN,
            },
            family,
            port,
            addr,
        }
    }

    /// The slot as the listener has it, if it takes new connections.
    pub(super) fn offer(&self) -> Option<Slot> {
        (self.way == Way::Open && !self.taken_over).then(|| Slot {
            key: self.key,
            addr: self.addr,
            generation: self.generation,
            gate: Arc::clone(&self.gate),
            load: Arc::clone(&self.load),
        })
    }

    /// The slot as a datapath has it that makes connections by itself.
    pub(super) fn share(&self) -> Option<Share> {
        let open = self.way == Way::Open;
        self.holder.is_some().then_some(Share { key: self.key, node: self.addr, open })
    }

    pub(super) fn view(&self) -> Option<SlotView> {
        let (connections, flows) = (self.load.leases(), self.load.flows());
        (self.holder.is_some() || self.load.all() > 0).then_some(SlotView {
            addr: self.addr,
            way: self.way,
            generation: self.generation,
            connections,
            flows,
        })
    }
}
