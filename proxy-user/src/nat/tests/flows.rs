//! What the kernel writes is read as it is, and only its own flow is ended.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use aya::maps::{Array, Map, MapData};
use aya_obj::generated::bpf_map_type::BPF_MAP_TYPE_ARRAY;
use proxy_ebpf::nat::{Flow, flow};

use super::{super::flows::*, again, map, sample};

/// BPF_F_MMAPABLE, `bpf.h`.
const MMAPABLE: u32 = 1 << 10;

/// The map `taken` for so many places.
fn taken(places: u32) -> MapData {
    map(BPF_MAP_TYPE_ARRAY, 4, 8, places.div_ceil(64), MMAPABLE)
}

#[test]
fn only_what_is_taken_is_looked_at() {
    let flows = Flows::anonymous(200);
    for place in [199, 63, 64, 0, 130] {
        flows.put(place, &sample());
    }
    let found = |places| flows.scan(places).map(|(place, _)| place).collect::<Vec<_>>();
    assert_eq!(found(0..200), [0, 63, 64, 130, 199]);
    assert_eq!((found(1..64), found(64..130), found(130..199)), (vec![63], vec![64], vec![130]));
    flows.unmark(64);
    assert_eq!(found(60..200), [63, 130, 199]);
}

#[test]
fn a_flow_is_read_as_it_was_written() {
    let flows = Flows::anonymous(64);
    flows.put(3, &sample());
    assert_eq!(flows.read(3), Some(sample()));
    assert_eq!(flows.scan(0..64).collect::<Vec<_>>(), [(3, sample())]);
    assert_eq!((flows.read(2), flows.read(64), flows.state(64)), (None, None, None));
}

#[test]
fn a_flow_is_ended_once_and_its_successor_not_at_all() {
    let flows = Flows::anonymous(8);
    let first = sample();
    flows.put(1, &first);
    assert!(flows.end(1, &first));
    assert!(!flows.end(1, &first), "twice");
    assert_eq!((flows.read(1), flows.state(1)), (None, Some((flow::NEXT * 7) | flow::FREE)));
    let second = Flow { state: first.state + flow::NEXT, ..first };
    flows.put(1, &second);
    assert!(!flows.end(1, &first), "its successor");
    assert!(!flows.end(1, &Flow { state: second.state & !flow::MASK | flow::HALF, ..second }), "opened meanwhile");
    assert!(!flows.end(8, &second), "beyond the end");
    assert_eq!(flows.read(1), Some(second));
}

/// Two flows take turns in a place; every copy is one of them, whole.
#[test]
fn a_copy_is_never_of_two_flows() {
    let flows = Flows::anonymous(1);
    let (mut a, mut b) = (sample(), sample());
    (a.client.addr, a.node.addr, b.client.addr, b.node.addr) = ([1; 16], [1; 16], [2; 16], [2; 16]);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for turn in 0.. {
                let next = Flow { state: (turn << 8) | flow::OPEN, ..if turn % 2 == 0 { a } else { b } };
                flows.put(0, &next);
                assert!(flows.end(0, &next));
                if done.load(Ordering::Relaxed) {
                    break;
                }
            }
        });
        let (begin, mut copies, mut torn) = (Instant::now(), 0, 0);
        while begin.elapsed() < Duration::from_millis(300) || (copies == 0 && begin.elapsed() < Duration::from_secs(10))
        {
            if let Some(copy) = flows.read(0) {
                copies += 1;
                torn += u32::from(copy.client.addr != copy.node.addr);
            }
        }
        done.store(true, Ordering::Relaxed);
        assert!(copies > 0 && torn == 0, "{torn} of {copies}");
    });
}

#[test]
fn usage_never_falls_below_nothing() {
    let usage = Usage::anonymous(&[2, 0]);
    usage.lower(0);
    usage.lower(1);
    usage.lower(7);
    assert_eq!((usage.of(0), usage.of(1), usage.of(7)), (1, 0, 0));
}

#[test]
#[ignore = "needs root"]
fn the_kernel_s_array_and_the_memory_are_one() {
    let map = map(BPF_MAP_TYPE_ARRAY, 4, 128, 1000, MMAPABLE);
    let mut array = Array::<_, Flow>::try_from(Map::Array(again(&map))).unwrap();
    array.set(999, sample(), 0).unwrap();
    let flows = Flows::open(&map, &taken(1000)).unwrap();
    assert_eq!((flows.places(), flows.read(999)), (1000, Some(sample())));
    assert!(flows.end(999, &sample()));
    assert_eq!(array.get(&999, 0).unwrap().state, flow::NEXT * 7);
    // The mapping holds the map, whoever lets go of it.
    drop((array, map));
    assert_eq!(flows.state(999), Some(flow::NEXT * 7));
}

/// The first look touches memory that nobody has touched; later ones are those of every turn.
#[test]
#[ignore = "needs root"]
fn a_million_places_are_looked_through_in_no_time() {
    const PLACES: u32 = 1_000_000;
    let flows = Flows::open(&map(BPF_MAP_TYPE_ARRAY, 4, 128, PLACES, MMAPABLE), &taken(PLACES)).unwrap();
    let look = || {
        let start = Instant::now();
        (flows.scan(0..PLACES).count() as u32, start.elapsed())
    };
    let (none, first) = look();
    (0..PLACES).for_each(|place| flows.put(place, &sample()));
    let (all, full) = look();
    println!("{PLACES} places: {first:?} when none is taken, {full:?} when all are");
    assert_eq!((none, all), (0, PLACES));
    // Not in this profile, and beside other tests: a tenth of it is usual.
    assert!(first < Duration::from_millis(50) && full < Duration::from_secs(2), "{first:?}, {full:?}");
}

#[test]
#[ignore = "needs root"]
fn another_layout_is_refused() {
    let error = Flows::open(&map(BPF_MAP_TYPE_ARRAY, 4, 64, 8, MMAPABLE), &taken(8)).unwrap_err().to_string();
    assert!(error.contains("another layout") && error.contains("switchmaster purge"), "{error}");
    let error = Flows::open(&map(BPF_MAP_TYPE_ARRAY, 4, 128, 8, 0), &taken(8)).unwrap_err().to_string();
    assert!(error.contains("cannot be mapped"), "{error}");
}
