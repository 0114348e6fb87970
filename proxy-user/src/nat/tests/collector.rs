//! The collector on real maps: what it frees is whole and free again, and nothing else is touched.

use std::{
    collections::BTreeSet,
    sync::{Arc, Barrier},
};

use aya::maps::{Map, MapData, Queue};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_QUEUE;
use proxy_ebpf::{
    TargetKey,
    balance::Load,
    nat::{Flow, flow},
};

use super::{
    super::{
        collector::*,
        fate::{Lingers, Reason, Severing, Standing},
        flows::{Flows, Usage},
        index::Index,
        loads::Loads,
        pool::Pool,
    },
    again, map, open, snat,
};
use crate::target;

const NOW: u32 = 1_000_000;
const RST: u8 = 0x04;

/// A collector with two SNAT addresses of eight ports each, all of whose places are taken.
pub(super) struct Stage {
    pub(super) flows: Arc<Flows>,
    pub(super) usage: Arc<Usage>,
    pub(super) loads: Arc<Loads>,
    pub(super) collector: Collector,
    queues: [MapData; 2],
}

fn queue(map: MapData) -> Queue<MapData, u32> {
    Queue::try_from(Map::Queue(map)).unwrap()
}

impl Stage {
    pub(super) fn new() -> Self {
        Self::with_places(16)
    }

    /// Those from 16 on are of no address.
    pub(super) fn with_places(places: usize) -> Self {
        let flows = Arc::new(Flows::anonymous(places));
        let usage = Arc::new(Usage::anonymous(&[16, 0]));
        let loads = Arc::new(Loads::anonymous(512));
        let queues = [(); 2].map(|()| map(BPF_MAP_TYPE_QUEUE, 0, 4, 8, 0));
        let pools = [0, 8].into_iter().zip(&queues);
        let pools = pools.map(|(first, map)| Pool::new(snat(first, 10_000, 8), queue(again(map))).unwrap()).collect();
        let tables = (Arc::clone(&flows), Arc::clone(&usage), Arc::clone(&loads));
        let collector = Collector::new(tables.0, tables.1, tables.2, Index::anonymous(16), pools, Lingers::default());
        Self { flows, usage, loads, collector, queues }
    }

    /// Plays the program: a flow in a place, with its key.
    pub(super) fn make(&mut self, place: u32, change: impl Fn(&mut Flow)) -> Flow {
        let mut flow = open(NOW);
        flow.client.port = (40_000 + place as u16).to_be_bytes();
        change(&mut flow);
        self.flows.put(place, &flow);
        self.collector.index().put(&flow, place);
        flow
    }

    fn sweep(&mut self) -> Sweep {
        self.collector.sweep(NOW, 100, |_, _| Standing::default())
    }

    /// The free places of both addresses, longest free first.
    pub(super) fn queued(&self) -> Vec<u32> {
        let mut places = Vec::new();
        for map in &self.queues {
            let mut queue = queue(again(map));
            while let Ok(place) = queue.pop(0) {
                places.push(place);
            }
        }
        places
    }
}

fn reset(flow: &mut Flow) {
    flow.client_flags |= RST;
    (flow.client.seen, flow.node.seen) = (NOW - 100, NOW - 100);
}

#[test]
#[ignore = "needs root"]
fn what_has_ended_is_free_again_and_what_lives_stays() {
    let mut stage = Stage::new();
    let ended = [12, 3, 5].map(|place| stage.make(place, reset));
    let living = stage.make(4, |_| {});
    let sweep = stage.sweep();
    assert!(sweep.failed.is_none() && sweep.round, "{sweep:?}");
    assert_eq!((sweep.freed[Reason::Reset as usize], sweep.kept, sweep.to_reset.len()), (3, 1, 0));
    for flow in ended {
        assert_eq!(stage.collector.index().find(&flow), None, "a key leads to a free place");
    }
    assert_eq!(stage.collector.index().find(&living), Some(4));
    assert_eq!((stage.flows.read(4), stage.usage.of(0)), (Some(living), 13));
    assert_eq!(stage.flows.state(3), Some(flow::NEXT | flow::FREE), "the incarnation stays");
    assert_eq!(stage.queued(), [3, 5, 12], "each in the queue of its address");
    assert_eq!(stage.sweep().freed, [0; 6], "nothing is freed twice");
    assert!(stage.queued().is_empty());
}

/// The program took it from the route's count when it closed.
#[test]
#[ignore = "needs root"]
fn a_closed_flow_is_counted_off_once() {
    let mut stage = Stage::new();
    stage.make(3, |flow| {
        reset(flow);
        flow.state = flow::NEXT | flow::CLOSED;
    });
    assert!(stage.sweep().failed.is_none());
    assert_eq!((stage.queued(), stage.usage.of(0)), (vec![3], 16));
}

#[test]
#[ignore = "needs root"]
fn a_flow_that_ended_is_taken_off_its_slot() {
    let mut stage = Stage::new();
    let in_slot = |slot, state| {
        move |flow: &mut Flow| {
            reset(flow);
            (flow.route, flow.slot, flow.state) = (1, slot, flow::NEXT | state);
        }
    };
    let [first, second] = [7, 8].map(|slot| TargetKey { route: 1, slot });
    stage.loads.set(first, Load { taken: 3, established: 2 });
    stage.loads.set(second, Load { taken: 1, established: 1 });
    stage.make(2, in_slot(7, flow::OPEN));
    stage.make(3, in_slot(7, flow::HALF));
    stage.make(6, in_slot(7, flow::CLOSED));
    assert_eq!(stage.sweep().freed.iter().sum::<u32>(), 3);
    assert_eq!(stage.loads.get(first), Load { taken: 1, established: 1 });
    assert_eq!(stage.loads.get(second), Load { taken: 1, established: 1 }, "another slot's");
    // A listener's connection counts as taken, and as no flow.
    let load = target::Load::with(Box::new(stage.loads.slot(second)));
    assert_eq!((load.all(), load.leases(), load.flows()), (1, 0, 1));
    stage.make(4, in_slot(8, flow::OPEN));
    stage.make(5, in_slot(8, flow::OPEN));
    stage.sweep();
    assert_eq!(stage.loads.get(second), Load { taken: 0, established: 0 }, "never below nothing");
}

#[test]
#[ignore = "needs root"]
fn a_key_that_leads_elsewhere_by_now_is_left_alone() {
    let mut stage = Stage::new();
    let flow = stage.make(3, reset);
    stage.collector.index().forget(&flow, 3);
    stage.collector.index().put(&flow, 9);
    assert!(stage.sweep().failed.is_none());
    assert_eq!(stage.collector.index().find(&flow), Some(9));
    assert_eq!(stage.queued(), [3]);
}

#[test]
#[ignore = "needs root"]
fn a_full_queue_loses_no_place() {
    let mut stage = Stage::new();
    stage.collector.pools()[0].fill(&BTreeSet::new(), 0).unwrap();
    let flow = stage.make(3, reset);
    let sweep = stage.sweep();
    assert!(matches!(sweep.failed, Some(CollectError::Queue(_))), "{sweep:?}");
    assert_eq!(stage.collector.index().find(&flow), None);
    assert_eq!(stage.usage.of(0), 16, "it is counted until its place is back");
    assert_eq!(stage.queued(), [0, 1, 2, 3, 4, 5, 6, 7]);
    let sweep = stage.sweep();
    assert!(sweep.failed.is_none() && sweep.freed == [0; 6], "{sweep:?}");
    assert_eq!((stage.queued(), stage.usage.of(0)), (vec![3], 15));
}

#[test]
#[ignore = "needs root"]
fn a_sweep_goes_on_where_the_last_one_ended() {
    let mut stage = Stage::new();
    for place in 0..16 {
        stage.make(place, reset);
    }
    let mut rounds = Vec::new();
    for _ in 0..3 {
        let sweep = stage.collector.sweep(NOW, 7, |_, _| Standing::default());
        rounds.push((sweep.freed[Reason::Reset as usize], sweep.round));
    }
    assert_eq!(rounds, [(7, false), (7, false), (2, true)]);
    assert_eq!((stage.queued().len(), stage.usage.of(0)), (16, 0));
}

#[test]
#[ignore = "needs root"]
fn each_route_and_slot_has_its_own_rules() {
    let mut stage = Stage::new();
    let silent = |flow: &mut Flow| (flow.client.seen, flow.node.seen) = (NOW - 1000, NOW - 1000);
    stage.make(0, silent);
    let idle = stage.make(1, |flow| {
        silent(flow);
        flow.route = 1;
    });
    stage.make(2, |flow| flow.slot = 1);
    let sweep = stage.collector.sweep(NOW, 100, |route, slot| Standing {
        idle_timeout: (route == 1).then_some(1000),
        severed: (slot == 1).then_some(Severing { through: 5, at: NOW - 100 }),
    });
    assert_eq!((sweep.freed[Reason::Idle as usize], sweep.freed[Reason::Severed as usize], sweep.kept), (1, 1, 1));
    assert_eq!(sweep.to_reset, [(1, idle)], "its ends believe in it still");
    assert_eq!(stage.queued(), [1, 2]);
}

#[test]
#[ignore = "needs root"]
fn a_queue_is_filled_but_for_the_ports_of_others() {
    let mut stage = Stage::new();
    let filled = stage.collector.pools()[1].fill(&BTreeSet::from([9_999, 10_000, 10_005, 10_008]), 4).unwrap();
    assert_eq!((filled, stage.queued()), (6, vec![12, 14, 15, 9, 10, 11]));
    let short = queue(map(BPF_MAP_TYPE_QUEUE, 0, 4, 4, 0));
    let error = Pool::new(snat(0, 10_000, 8), short).unwrap_err().to_string();
    assert!(error.contains("203.0.113.9 holds 4, and 8 are ours"), "{error}");
}

/// The program ends half-open flows while the collector sweeps: a place is with one of them.
#[test]
#[ignore = "needs root"]
fn a_place_is_never_with_two() {
    let mut stage = Stage::new();
    let program = Arc::clone(&stage.flows);
    let start = Barrier::new(2);
    for turn in 1..2_000 {
        let flow = stage.make(0, |flow| {
            flow.state = (turn << 8) | flow::HALF;
            flow.client.seen = NOW - 100_000;
        });
        let (won, sweep) = std::thread::scope(|scope| {
            let won = scope.spawn(|| {
                start.wait();
                program.end(0, &flow)
            });
            start.wait();
            let sweep = stage.sweep();
            (won.join().unwrap(), sweep)
        });
        let ours = sweep.freed[Reason::HalfOpen as usize];
        assert_eq!((ours, stage.queued().len() as u32), (u32::from(!won), ours), "at {turn}");
        assert_eq!(stage.collector.index().find(&flow).is_some(), won, "the key is the winner's to remove");
        stage.collector.index().forget(&flow, 0);
        assert_eq!(stage.flows.state(0), Some(turn << 8));
    }
}
