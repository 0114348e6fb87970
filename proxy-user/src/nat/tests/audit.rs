//! A daemon killed at every step of giving a place back: the next one finds it, and nothing that is in use.

use std::collections::{BTreeSet, HashSet};

use proxy_ebpf::{TargetKey, balance::Load, nat::flow};

use super::{
    super::audit::{Found, Suspects, recount},
    collector::Stage,
};

/// Places 0 to 5 have flows, 8 to 15 are in the queue.
fn stage() -> Stage {
    let mut stage = Stage::with_places(20);
    for place in 0..6 {
        stage.make(place, |_| {});
    }
    stage.collector.pools()[1].fill(&BTreeSet::new(), 0).unwrap();
    stage.usage.lower_by(0, 10);
    stage
}

fn audit(stage: &mut Stage, meanwhile: impl Fn(&mut Stage)) -> Found {
    // The ports of 6 and 7 were held by others at the start.
    let mut suspects = Suspects::look(&stage.collector, &HashSet::from([6, 7]));
    meanwhile(stage);
    let mut queues = 0..;
    while suspects.clear(&mut stage.collector, queues.next().unwrap()).unwrap() {}
    suspects.confirm(&mut stage.collector).mend(&mut stage.collector).unwrap()
}

#[test]
#[ignore = "needs root"]
fn nothing_lost_nothing_found() {
    let mut stage = stage();
    assert_eq!(audit(&mut stage, |_| {}), Found::default());
    let mut queued = stage.queued();
    queued.sort_unstable();
    assert_eq!(queued, [8, 9, 10, 11, 12, 13, 14, 15]);
}

#[test]
#[ignore = "needs root"]
fn a_place_on_its_way_back_is_found() {
    let mut stage = stage();
    // Killed after the compare-exchange; after the key; after the queue.
    for place in [1, 2, 3] {
        let flow = stage.flows.read(place).unwrap();
        assert!(stage.flows.end(place, &flow));
        if place > 1 {
            stage.collector.index().forget(&flow, place);
        }
        if place > 2 {
            stage.collector.give(place).unwrap();
        }
    }
    assert_eq!(audit(&mut stage, |_| {}), Found { keys: 1, places: 2 });
    assert_eq!(stage.collector.index().entries().count(), 3);
    // Three flows that ended uncounted, and two connections of the listener.
    assert!(stage.usage.claim(0, 100) && stage.usage.claim(0, 100));
    let slot = TargetKey { route: 0, slot: 0 };
    stage.loads.set(slot, Load { taken: 9, established: 8 });
    assert_eq!((recount(&stage.collector, &[], || ()), stage.usage.of(0)), (5, 3));
    assert_eq!(stage.loads.get(slot), Load { taken: 3, established: 3 });
    assert_eq!(recount(&stage.collector, &[], || ()), 0);
    assert_eq!(
        stage.queued().into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([1, 2, 3, 8, 9, 10, 11, 12, 13, 14, 15])
    );
    assert_eq!(audit(&mut stage, |_| {}).keys, 0);
}

#[test]
#[ignore = "needs root"]
fn a_place_that_is_taken_meanwhile_is_not_lost() {
    let mut stage = stage();
    let found = audit(&mut stage, |stage| {
        // The program takes the first of the queue, makes a flow, and ends it: it is on its way back.
        let place = stage.collector.pools()[1].take().unwrap().unwrap();
        let flow = stage.make(place, |flow| flow.state = (flow::NEXT * 2) | flow::HALF);
        assert!(stage.flows.end(place, &flow));
        stage.collector.index().forget(&flow, place);
    });
    assert_eq!(found, Found::default());
    assert_eq!(stage.queued().len(), 7);
}

/// What the program does between two looks is no surplus.
#[test]
#[ignore = "needs root"]
fn a_flow_that_is_being_counted_is_no_surplus() {
    let stage = stage();
    assert!(stage.usage.claim(0, 100), "counted, and not yet to be seen");
    let (usage, flows) = (stage.usage.clone(), stage.flows.clone());
    let mut late = flows.read(5).unwrap();
    late.client.port = [9, 9];
    assert_eq!(recount(&stage.collector, &[], || flows.put(6, &late)), 0);
    assert_eq!(usage.of(0), 7);
}

/// Nor does it hide one.
#[test]
#[ignore = "needs root"]
fn a_flow_that_ends_meanwhile_hides_no_surplus() {
    let stage = stage();
    let before = stage.usage.of(0);
    let flow = stage.flows.read(5).unwrap();
    assert!(stage.usage.claim(0, 100), "of a daemon that died");
    stage.usage.give_back(0);
    let ended = || _ = stage.flows.end(5, &flow);
    assert_eq!(recount(&stage.collector, &[], ended), 1, "it was seen, and not counted any more");
    assert_eq!(stage.usage.of(0), before - 1);
}
