//! What another daemon left in the kernel's map: its entries are gone on with where flows live under them, and shut where
//! nobody answers for them any more. Generations go on from the highest that was ever used.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    time::{Duration, Instant},
};

use aya::maps::MapError;
use proxy_ebpf::{Target as Entry, TargetKey, state};

use super::{
    RouteSwitch, Switch,
    plan::{self, Wanted},
    slot::SlotState,
};
use crate::{
    config::TargetRole,
    election::{Reason, Target, Verdict, Way},
    kernel::KernelTargets,
};

/// By then every replica that still is one has been heard of. Whoever follows verdicts has to do so once more then.
pub const HEARD: Duration = Duration::from_secs(5);

/// By place: the generation whose flows may live on.
pub type Kept = BTreeMap<TargetKey, u64>;

impl Switch {
    /// Takes the map over, for routes that have these numbers in it. To be called when all of them were added, and before
    /// any verdict is followed.
    pub fn take_over(&mut self, numbers: &[u32]) -> Result<Kept, MapError> {
        let entries = self.kernel.as_ref().map_or_else(|| Ok(BTreeMap::new()), KernelTargets::entries)?;
        let (kept, ended) = self.inherit(numbers, &entries);
        if let Some(kernel) = &mut self.kernel {
            ended.into_iter().try_for_each(|(key, entry)| kernel.write(key, entry))?;
        }
        Ok(kept)
    }

    /// The latest generation.
    pub fn latest(&self) -> u64 {
        self.generation
    }

    /// What is gone on with, and the entries that have to be shut.
    pub(super) fn inherit(
        &mut self,
        numbers: &[u32],
        entries: &BTreeMap<TargetKey, Entry>,
    ) -> (Kept, Vec<(TargetKey, Entry)>) {
        self.generation = entries.values().map(|entry| entry.generation).fold(self.generation, u64::max);
        let mut kept = Kept::new();
        for (route, &number) in self.routes.iter_mut().zip(numbers) {
            route.number = number;
            if route.datapath.outlives() {
                kept.extend(route.inherit(entries));
            }
        }
        // Not removed: the next daemon has to see the highest generation too.
        let shut = |entry: &Entry| Entry { live: 0, state: state::CLOSED, ..*entry };
        let ended = entries.iter().filter(|(key, entry)| !kept.contains_key(key) && **entry != shut(entry));
        let ended = ended.map(|(key, entry)| (*key, shut(entry))).collect();
        (kept, ended)
    }

    /// The master of a group on another daemon's word. Where that was killed in the middle of a switch, its routes
    /// differ: it is the one that it went to last.
    pub fn taken_over(&self, group: usize) -> Option<(Target, Way)> {
        let to_master = |it: &&RouteSwitch| it.config.group == group && it.config.target == TargetRole::Master;
        let slots = self.routes.iter().filter(to_master).filter_map(|route| route.slots.first());
        let last = slots.filter(|slot| slot.taken_over().is_some()).max_by_key(|slot| slot.generation())?;
        last.taken_over().map(|(master, way)| (master.clone(), way))
    }
}

impl RouteSwitch {
    /// What is wanted of the route; `None`: it stays as it is. Connections of our own need a master that was proven
    /// here, and of replicas nothing is known before.
    pub(super) fn wanted(&self, verdict: &Verdict) -> Option<Vec<Wanted>> {
        match (verdict.reason, self.datapath.outlives(), self.config.target) {
            (Reason::TakenOver, false, _) => Some(Vec::new()),
            (Reason::TakenOver, true, TargetRole::Replica) => None,
            _ => Some(plan::wanted(&self.config, verdict)),
        }
    }

    /// A replica that has not been heard of yet keeps its flows for a while.
    pub(super) fn waits_for(&self, slot: &SlotState, now: Instant) -> bool {
        self.config.target == TargetRole::Replica
            && slot.taken_over().is_some()
            && self.heard_by.is_some_and(|by| now < by)
    }

    fn inherit(&mut self, entries: &BTreeMap<TargetKey, Entry>) -> Kept {
        let own = |key: &&TargetKey| key.route == self.number;
        let Some(last) = entries.keys().filter(own).map(|key| key.slot).max() else { return Kept::new() };
        self.heard_by = Some(Instant::now() + HEARD);
        let nobody = SocketAddr::from(([0; 4], 0));
        for slot in 0..=last {
            let key = TargetKey { route: self.number, slot };
            let load = || self.datapath.load(key);
            let inherited = entries.get(&key).and_then(|entry| SlotState::inherited(key, entry, load()));
            self.slots.push(inherited.unwrap_or_else(|| SlotState::new(key, nobody, load())));
        }
        let kept = self.slots.iter().filter(|slot| slot.taken_over().is_some());
        kept.map(|slot| (slot.key, slot.generation())).collect()
    }
}
