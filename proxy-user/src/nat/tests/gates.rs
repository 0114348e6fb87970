//! What packets are told at the gate is what `targets` says, at every moment.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use aya::maps::{Array, HashMap, Map, MapData};
use aya_obj::generated::{
    BPF_F_MMAPABLE,
    bpf_map_type::{BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH},
};
use proxy_ebpf::{Target, TargetKey, balance::of_slot, nat::gate, state};

use super::{again, map};
use crate::kernel::KernelTargets;

const KEY: TargetKey = TargetKey { route: 1, slot: 2 };

fn target(state: u32, live: u64, generation: u64) -> Target {
    Target { live, generation, epoch: 0, state, family: 2, port: [0; 2], addr: [0; 16] }
}

fn open(generation: u64) -> Target {
    target(state::OPEN, generation, generation)
}

struct Stage {
    targets: KernelTargets,
    target_map: MapData,
    gate_map: MapData,
}

impl Stage {
    fn new() -> Self {
        let target_map = map(BPF_MAP_TYPE_HASH, 8, 48, 16, 0);
        let gate_map = map(BPF_MAP_TYPE_ARRAY, 4, 8, 1024, BPF_F_MMAPABLE);
        Self { targets: KernelTargets::over(again(&target_map)), target_map, gate_map }
    }

    fn gates(&self) -> Array<MapData, u64> {
        Array::try_from(Map::Array(again(&self.gate_map))).unwrap()
    }

    fn gate(&self) -> u64 {
        self.gates().get(&of_slot(KEY.route, KEY.slot), 0).unwrap()
    }
}

#[test]
#[ignore = "needs root"]
fn a_gate_says_what_its_target_says() {
    let mut stage = Stage::new();
    stage.targets.set_gates(&again(&stage.gate_map)).unwrap();
    for (target, gate) in [
        (open(7), gate::OPEN | 7),
        (target(state::ESTABLISHED_ONLY, 7, 7), gate::OPEN | 7),
        (target(state::PAUSED, 0, 7), gate::PAUSED | 7),
        (target(state::CLOSED, 0, 7), gate::SHUT),
        (open(0x1_0000_0005), gate::OPEN | 5),
    ] {
        stage.targets.write(KEY, target).unwrap();
        assert_eq!(stage.gate(), gate, "{target:?}");
    }
    let others = stage.gates().iter().filter(|word| *word.as_ref().unwrap() != 0).count();
    assert_eq!(others, 1, "another slot's gate was written");
    stage.targets.shut(|key| key == KEY).unwrap();
    assert_eq!(stage.gate(), gate::SHUT);
}

/// As a daemon leaves it that is killed between the two.
#[test]
#[ignore = "needs root"]
fn where_the_two_differ_at_a_take_over_both_are_shut() {
    let mut stage = Stage::new();
    let [same, leaving] = [3, 4].map(|slot| TargetKey { route: 0, slot });
    // It was about to open the first, and to pause the last.
    stage.targets.write(KEY, target(state::CLOSED, 0, 7)).unwrap();
    stage.targets.write(same, open(9)).unwrap();
    stage.targets.write(leaving, open(8)).unwrap();
    for (key, word) in [(KEY, gate::OPEN | 7), (same, gate::OPEN | 9), (leaving, gate::PAUSED | 8)] {
        stage.gates().set(of_slot(key.route, key.slot), word, 0).unwrap();
    }
    stage.gates().set(77, gate::OPEN | 1, 0).unwrap();
    stage.targets.set_gates(&again(&stage.gate_map)).unwrap();
    let gates: Vec<(usize, u64)> =
        stage.gates().iter().map(Result::unwrap).enumerate().filter(|(_, word)| *word != 0).collect();
    assert_eq!(gates, [(of_slot(0, 3) as usize, gate::OPEN | 9)]);
    assert_eq!(stage.targets.read(same).unwrap(), open(9));
    assert_eq!(stage.targets.read(leaving).unwrap(), target(state::CLOSED, 0, 8), "its generation is known still");
}

#[test]
#[ignore = "needs root"]
fn the_gate_is_shut_before_anything_says_so() {
    let mut stage = Stage::new();
    stage.targets.set_gates(&again(&stage.gate_map)).unwrap();
    let entries: HashMap<_, TargetKey, Target> = HashMap::try_from(Map::HashMap(again(&stage.target_map))).unwrap();
    let (gates, stop) = (stage.gates(), AtomicBool::new(false));
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            let mut looks = 0;
            while !stop.load(Ordering::Relaxed) {
                let Ok(target) = entries.get(&KEY, 0) else { continue };
                let gate = gates.get(&of_slot(KEY.route, KEY.slot), 0).unwrap();
                if target.state == state::CLOSED {
                    assert_ne!(gate, gate::OPEN | target.generation, "look {looks}");
                    looks += 1;
                }
            }
            looks
        });
        for generation in 1..20_000 {
            stage.targets.write(KEY, open(generation)).unwrap();
            stage.targets.write(KEY, target(state::CLOSED, 0, generation)).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
        assert!(looks.join().unwrap() > 100, "hardly anything was looked at");
    });
}
