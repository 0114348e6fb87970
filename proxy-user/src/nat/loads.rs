//! How much each slot has to do, in the daemon's memory: the program counts flows there, the daemon takes ended ones off
//! and adds the listener's connections, so that both share clients out by the same numbers. Needs the map `loads`.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use aya::maps::MapData;
use proxy_ebpf::{
    TargetKey,
    balance::{Load, names, of_slot},
    nat::{Flow, flow},
};

use super::mapping::{Mapping, MappingError, Shared};
use crate::target;

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
            less(&record.taken);
        }
        if flow.state & flow::MASK == flow::OPEN {
            less(&record.established);
        }
    }

    /// By slot: how much more is counted than these flows, which are all that there are.
    pub(super) fn surplus(&self, flows: impl Iterator<Item = Flow>) -> BTreeMap<usize, Load> {
        let mut counted: BTreeMap<usize, Load> = BTreeMap::new();
        for flow in flows {
            let at = of_slot(u32::from(flow.route), u32::from(flow.slot)) as usize;
            let load = counted.entry(at).or_insert(Load { taken: 0, established: 0 });
            load.taken += u64::from(flow.state & flow::MASK != flow::CLOSED);
            load.established += u64::from(flow.state & flow::MASK == flow::OPEN);
        }
        let surplus = |(at, record): (usize, &Record)| {
            let flows = counted.get(&at);
            let over = |count: &AtomicU64, of: fn(&Load) -> u64| {
                count.load(Ordering::Relaxed).saturating_sub(flows.map_or(0, of))
            };
            (
                at,
                Load {
                    taken: over(&record.taken, |it| it.taken),
                    established: over(&record.established, |it| it.established),
                },
            )
        };
        self.0.iter().enumerate().map(surplus).filter(|(_, load)| load.taken + load.established > 0).collect()
    }

    /// Takes off what two looks have both found too much.
    pub(super) fn lower_by(&self, before: &BTreeMap<usize, Load>, now: &BTreeMap<usize, Load>) {
        for (at, before) in before {
            let (Some(now), Some(record)) = (now.get(at), self.0.get(*at)) else { continue };
            let less = |count: &AtomicU64, by: u64| {
                let _previous =
                    count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| Some(it.saturating_sub(by)));
            };
            less(&record.taken, before.taken.min(now.taken));
            less(&record.established, before.established.min(now.established));
        }
    }

    /// The loads of one slot.
    pub fn slot(self: &Arc<Self>, key: TargetKey) -> Slot {
        Slot { loads: Arc::clone(self), key }
    }
}

/// Never below nothing, which would count as the fullest of all slots.
fn less(count: &AtomicU64) {
    let _previous = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| Some(count.saturating_sub(1)));
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
            less(count);
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
