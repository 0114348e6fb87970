//! How much each slot has to do, in the daemon's memory: the program counts flows there, the daemon takes ended ones off
//! and adds the listener's connections, so that both share clients out by the same numbers. Needs the map `loads`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use aya::maps::MapData;
use proxy_ebpf::{
    TargetKey,
    balance::{Load, names, of_slot},
    nat::{Flow, flow},
};

use crate::{
    kernel::{Mapping, MappingError, Shared},
    target,
};

/// [`Load`], word by word.
#[repr(C)]
struct Record {
    taken: AtomicU64,
    established: AtomicU64,
}

const _: () = assert!(size_of::<Record>() == size_of::<Load>());

// SAFETY: atomics alone, without a gap.
unsafe impl Shared for Record {}

#[derive(Debug)]
pub struct Loads(Mapping<Record>);

impl Loads {
    pub fn open(map: &MapData) -> Result<Self, MappingError> {
        Mapping::new(names::LOADS, map).map(Self)
    }

    fn of(&self, key: TargetKey) -> Option<&Record> {
        self.0.get(of_slot(key.route, key.slot) as usize)
    }

    /// A flow that was freed.
    pub(super) fn lower(&self, flow: &Flow) {
        let key = TargetKey { route: u32::from(flow.route), slot: u32::from(flow.slot) };
        let Some(record) = self.of(key) else { return };
        // A closed one counts no more.
        if flow.state & flow::MASK != flow::CLOSED {
            less(&record.taken, 1);
        }
        if flow.state & flow::MASK == flow::OPEN {
            less(&record.established, 1);
        }
    }

    /// Those that are not nothing, by their places.
    pub(super) fn counts(&self) -> impl Iterator<Item = (usize, Load)> {
        let loads = self.0.iter().enumerate().map(|(at, record)| {
            let [taken, established] = [&record.taken, &record.established].map(|count| count.load(Ordering::Relaxed));
            (at, Load { taken, established })
        });
        loads.filter(|(_, load)| load.taken > 0 || load.established > 0)
    }

    pub(super) fn lower_by(&self, at: usize, by: &Load) {
        if let Some(record) = self.0.get(at) {
            less(&record.taken, by.taken);
            less(&record.established, by.established);
        }
    }

    /// The loads of one slot.
    pub fn slot(self: &Arc<Self>, key: TargetKey) -> Slot {
        Slot { loads: Arc::clone(self), key }
    }
}

/// Never below nothing, which would count as the fullest of all slots.
fn less(count: &AtomicU64, by: u64) {
    let _previous = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count.saturating_sub(by)));
}

#[derive(Debug)]
pub struct Slot {
    loads: Arc<Loads>,
    key: TargetKey,
}

impl Slot {
    fn word(&self, of: fn(&Record) -> &AtomicU64) -> Option<&AtomicU64> {
        self.loads.of(self.key).map(of)
    }
}

impl target::Flows for Slot {
    fn taken(&self) -> u64 {
        self.word(|record| &record.taken).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn established(&self) -> u64 {
        self.word(|record| &record.established).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    fn lease(&self) {
        if let Some(count) = self.word(|record| &record.taken) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn release(&self) {
        if let Some(count) = self.word(|record| &record.taken) {
            less(count, 1);
        }
    }
}

#[cfg(test)]
impl Loads {
    pub(super) fn anonymous(slots: usize) -> Self {
        Self(Mapping::anonymous(slots))
    }

    /// Plays the kernel program.
    pub(super) fn set(&self, key: TargetKey, load: Load) {
        let record = self.of(key).unwrap();
        record.taken.store(load.taken, Ordering::Relaxed);
        record.established.store(load.established, Ordering::Relaxed);
    }

    pub(super) fn get(&self, key: TargetKey) -> Load {
        let record = self.of(key).unwrap();
        let [taken, established] = [&record.taken, &record.established].map(|count| count.load(Ordering::Relaxed));
        Load { taken, established }
    }
}
