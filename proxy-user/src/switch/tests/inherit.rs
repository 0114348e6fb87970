//! A map that another daemon left, and what the routes of this one make of it.

use std::collections::BTreeMap;

use proxy_ebpf::{Target as Entry, state};

use super::*;
use crate::kernel;

/// One route, which has this number in the map.
fn bench(
    role: TargetRole,
    outlives: bool,
    number: u32,
    entries: &[(TargetKey, Entry)],
) -> (Bench, Vec<TargetKey>, Vec<TargetKey>) {
    let notes = Arc::new(Notes { outlives, ..Notes::default() });
    let mut switch = Switch::new(None);
    let slots = switch.add(route(role, Fallback::None), Arc::<Notes>::clone(&notes));
    let (kept, ended) = switch.inherit(&[number], &entries.iter().copied().collect::<BTreeMap<_, _>>());
    (Bench { switch, notes, slots }, kept.into_keys().collect(), ended.into_iter().map(|(key, _)| key).collect())
}

fn key(route: u32, slot: u32) -> TargetKey {
    TargetKey { route, slot }
}

fn entry(port: u16, state: u32, generation: u64, epoch: u64) -> Entry {
    let (family, port, addr) = kernel::encode(([10, 0, 0, 1], port).into());
    let live = if matches!(state, state::OPEN | state::ESTABLISHED_ONLY) { generation } else { 0 };
    Entry { live, generation, epoch, state, family, port, addr }
}

fn taken_over(way: Way, master: Target) -> Verdict {
    Verdict { way, master: Some(master), reason: Reason::TakenOver, replicas: Vec::new() }
}

#[test]
fn the_same_master_keeps_its_generation_and_nobody_is_reset() {
    let (mut bench, kept, ended) = bench(TargetRole::Master, true, 3, &[(key(3, 0), entry(1, state::OPEN, 7, 5))]);
    assert_eq!((kept, ended), (vec![key(3, 0)], vec![]));
    assert_eq!(bench.switch.taken_over(0), Some((target(1, 5, None), Way::Open)));
    let follow = bench.follow(&taken_over(Way::Open, target(1, 5, None)));
    assert_eq!(follow, (vec![], vec![]), "connections of our own wait for the proof");
    let follow = bench.follow(&master(Way::Open, target(1, 5, Some("a"))));
    assert_eq!(follow, (vec![], vec![(1, 7)]));
    assert_eq!(bench.slots.borrow()[0].gate.passage(7), Passage::Free);
    let follow = bench.follow(&master(Way::Open, target(2, 6, None)));
    assert_eq!(follow, (vec![(0, 8)], vec![(2, 8)]), "the next one is higher than any before");
}

#[test]
fn another_master_is_another_generation() {
    let (mut bench, ..) = bench(TargetRole::Master, true, 0, &[(key(0, 0), entry(1, state::OPEN, 7, 5))]);
    assert_eq!(bench.follow(&master(Way::Open, target(2, 6, None))), (vec![(0, 8)], vec![(2, 8)]));
}

#[test]
fn a_master_that_nobody_proves_ends() {
    let (mut bench, ..) = bench(TargetRole::Master, true, 0, &[(key(0, 0), entry(1, state::OPEN, 7, 5))]);
    bench.follow(&taken_over(Way::Established, target(1, 5, None)));
    assert_eq!(bench.follow(&Verdict::closed()), (vec![(0, 0)], vec![]));
}

#[test]
fn a_pause_is_taken_over_as_one() {
    let (mut bench, kept, _) = bench(TargetRole::Master, true, 0, &[(key(0, 0), entry(1, state::PAUSED, 7, 5))]);
    assert_eq!(kept, [key(0, 0)]);
    bench.follow(&taken_over(Way::Paused, target(1, 5, None)));
    assert_eq!(bench.follow(&master(Way::Open, target(1, 5, None))), (vec![], vec![(1, 7)]));
    assert_eq!(*bench.notes.resumed.lock().unwrap(), [key(0, 0)]);
}

/// A route that is gone, one whose connections died with the daemon, and a switch that was cut off in the middle.
#[test]
fn entries_that_nobody_goes_on_with_are_shut() {
    let entries = [
        (key(0, 0), entry(1, state::OPEN, 7, 5)),
        (key(1, 0), entry(1, state::OPEN, 9, 5)),
        (key(2, 0), entry(1, state::CLOSED, 12, 5)),
    ];
    let (mut gone, kept, ended) = bench(TargetRole::Master, true, 1, &entries);
    assert_eq!((kept, ended), (vec![key(1, 0)], vec![key(0, 0)]));
    assert_eq!(gone.follow(&master(Way::Open, target(2, 6, None))), (vec![(0, 13)], vec![(2, 13)]));
    let (_, kept, ended) = bench(TargetRole::Master, false, 1, &entries);
    assert_eq!((kept, ended), (vec![], vec![key(0, 0), key(1, 0)]));
    let half = Entry { live: 3, ..entry(1, state::OPEN, 7, 5) };
    let (_, kept, ended) = bench(TargetRole::Master, true, 0, &[(key(0, 0), half)]);
    assert_eq!((kept, ended), (vec![], vec![key(0, 0)]));
}

#[test]
fn replicas_keep_their_flows_until_they_can_have_been_heard_of() {
    let entries = [(key(0, 0), entry(4, state::OPEN, 7, 0)), (key(0, 1), entry(5, state::OPEN, 8, 0))];
    let (mut bench, kept, _) = bench(TargetRole::Replica, true, 0, &entries);
    assert_eq!(kept.len(), 2);
    assert_eq!(bench.follow(&taken_over(Way::Open, target(1, 5, None))), (vec![], vec![]));
    let one = Verdict { replicas: vec![replica(5, true, true, 0)], ..master(Way::Open, target(1, 5, None)) };
    assert_eq!(bench.follow(&one), (vec![], vec![(5, 8)]), "the other one is waited for");
}
