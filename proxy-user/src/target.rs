//! Where each route leads right now: what the switch writes, and listener and datapaths read.
//! Promises: a byte moves only while [`Gate::passage`] is `Free` for the generation its connection was
//! made under; shutting or pausing a gate takes effect at once, before any connection is visited.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};

use proxy_ebpf::TargetKey;
use tokio::sync::watch;

/// What a connection may do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passage {
    Free,
    /// Wait: neither carry a byte nor end.
    Paused,
    /// End, by RST.
    Shut,
}

/// Tells which generation of a target may carry bytes. The kernel's copies are `Target::live` and
/// `Target::state`. One word, so that nobody ever sees half a change.
#[derive(Debug, Default)]
pub struct Gate {
    /// The generation that lives, doubled, and one more while it is paused.
    word: AtomicU64,
}

impl Gate {
    pub fn passage(&self, generation: u64) -> Passage {
        match self.word.load(Ordering::Acquire) {
            0 => Passage::Shut,
            word if word >> 1 != generation => Passage::Shut,
            word if word & 1 == 1 => Passage::Paused,
            _ => Passage::Free,
        }
    }

    pub fn passes(&self, generation: u64) -> bool {
        self.passage(generation) == Passage::Free
    }

    /// Lets connections of `generation` through, and none of any other.
    pub fn open(&self, generation: u64) {
        self.word.store(generation << 1, Ordering::Release);
    }

    /// Holds connections of `generation` back; those of any other have ended.
    pub fn pause(&self, generation: u64) {
        self.word.store(generation << 1 | 1, Ordering::Release);
    }

    pub fn shut(&self) {
        self.open(0);
    }
}

/// What a datapath counts of a slot's flows, which are connections without a [`Lease`].
pub trait Flows: Send + Sync + std::fmt::Debug {
    /// All of them, and the leases that it was told of.
    fn taken(&self) -> u64;
    /// Those whose handshake was finished.
    fn established(&self) -> u64;
    fn lease(&self);
    fn release(&self);
}

/// How much a slot has to do.
#[derive(Debug, Default)]
pub struct Load {
    leases: AtomicU32,
    flows: Option<Box<dyn Flows>>,
}

impl Load {
    pub fn with(flows: Box<dyn Flows>) -> Self {
        Self { leases: AtomicU32::new(0), flows: Some(flows) }
    }

    pub fn leases(&self) -> u32 {
        self.leases.load(Ordering::Relaxed)
    }

    /// Established flows.
    pub fn flows(&self) -> u64 {
        self.flows.as_ref().map_or(0, |flows| flows.established())
    }

    /// What slots are compared by: whoever is connected, or about to be.
    pub fn all(&self) -> u64 {
        let leases = u64::from(self.leases());
        // Never less than what is known for certain.
        self.flows.as_ref().map_or(leases, |flows| flows.taken().max(leases))
    }

    fn lease(&self) {
        self.leases.fetch_add(1, Ordering::Relaxed);
        if let Some(flows) = &self.flows {
            flows.lease();
        }
    }

    fn release(&self) {
        self.leases.fetch_sub(1, Ordering::Relaxed);
        if let Some(flows) = &self.flows {
            flows.release();
        }
    }
}

/// One node that a route leads to: the master, or one of the replicas.
#[derive(Debug, Clone)]
pub struct Slot {
    pub key: TargetKey,
    pub addr: SocketAddr,
    pub generation: u64,
    pub gate: Arc<Gate>,
    pub load: Arc<Load>,
}

impl Slot {
    /// A place on this slot for one connection.
    pub fn lease(&self) -> Lease {
        self.load.lease();
        Lease { key: self.key, generation: self.generation, gate: Arc::clone(&self.gate), load: Arc::clone(&self.load) }
    }
}

/// What a connection holds as long as it lives: the target and generation it was made under.
#[derive(Debug)]
pub struct Lease {
    pub key: TargetKey,
    pub generation: u64,
    gate: Arc<Gate>,
    load: Arc<Load>,
}

impl Lease {
    /// Whether this connection may carry bytes now, or ever again.
    pub fn passage(&self) -> Passage {
        self.gate.passage(self.generation)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.load.release();
    }
}

/// The slots of a route that take new connections now; none: new connections are parked.
pub type Slots = Arc<[Slot]>;

/// The switch's end of a route's slots.
pub fn channel() -> (watch::Sender<Slots>, watch::Receiver<Slots>) {
    watch::channel(Slots::from([]))
}

#[cfg(test)]
impl From<u32> for Load {
    fn from(leases: u32) -> Self {
        Self { leases: leases.into(), flows: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_passes_one_generation_only() {
        let gate = Gate::default();
        assert!(!gate.passes(1), "shut at birth");
        gate.open(2);
        assert!(!gate.passes(1) && gate.passes(2));
        gate.shut();
        assert!(!gate.passes(2));
    }

    #[test]
    fn a_paused_gate_is_neither_open_nor_shut() {
        let gate = Gate::default();
        assert_eq!((gate.passage(0), gate.passage(1)), (Passage::Shut, Passage::Shut));
        gate.open(2);
        gate.pause(2);
        assert_eq!(
            [1, 2, 5].map(|generation| gate.passage(generation)),
            [Passage::Shut, Passage::Paused, Passage::Shut]
        );
        gate.open(2);
        assert_eq!(gate.passage(2), Passage::Free);
        gate.pause(2);
        gate.open(3);
        assert_eq!(gate.passage(2), Passage::Shut, "what was paused under the old one ends");
    }

    #[test]
    fn a_lease_counts_in_and_out() {
        let slot = Slot {
            key: TargetKey { route: 0, slot: 0 },
            addr: ([127, 0, 0, 1], 6379).into(),
            generation: 1,
            gate: Arc::default(),
            load: Arc::default(),
        };
        let lease = slot.lease();
        assert_eq!(slot.load.all(), 1);
        drop(lease);
        assert_eq!(slot.load.all(), 0);
    }
}
