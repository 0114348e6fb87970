//! Tables of verdicts and what the routes make of them; no kernel, a datapath that only takes notes.

mod inherit;
mod whole;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use super::*;
use crate::{
    config::{Balance, DatapathChoice, Fallback, Lag, Park, TargetRole},
    datapath::Connection,
    election::{Reason, Replica, Target},
    target::{Load, Passage},
};

#[derive(Debug, Default)]
struct Notes {
    severed: Mutex<Vec<(TargetKey, u64)>>,
    resumed: Mutex<Vec<TargetKey>>,
    /// What it was told of the slots: which, and whether they are open.
    shared: Mutex<Vec<Vec<(u32, bool)>>>,
    /// Flows that it says each slot has.
    flows: Arc<AtomicU64>,
    outlives: bool,
}

/// Of the slots of a datapath without sockets.
#[derive(Debug)]
struct Flows(Arc<AtomicU64>);

impl target::Flows for Flows {
    fn taken(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn established(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
    fn lease(&self) {}
    fn release(&self) {}
}

impl Datapath for Notes {
    fn name(&self) -> &'static str {
        "notes"
    }
    fn adopt(&self, _: Connection) {}
    fn sever(&self, order: &Sever) {
        self.severed.lock().unwrap().push((order.key, order.keep));
    }
    fn resume(&self, key: TargetKey) {
        self.resumed.lock().unwrap().push(key);
    }
    fn share(&self, _: u32, slots: &[Share]) {
        self.shared.lock().unwrap().push(slots.iter().map(|slot| (slot.key.slot, slot.open)).collect());
    }
    fn load(&self, _: TargetKey) -> Load {
        Load::with(Box::new(Flows(Arc::clone(&self.flows))))
    }
    fn outlives(&self) -> bool {
        self.outlives
    }
}

struct Bench {
    switch: Switch,
    notes: Arc<Notes>,
    slots: watch::Receiver<Slots>,
}

impl Bench {
    fn new(target: TargetRole, fallback: Fallback) -> Self {
        let notes = Arc::new(Notes::default());
        let mut switch = Switch::new(None);
        let slots = switch.add(route(target, fallback), Arc::<Notes>::clone(&notes));
        Self { switch, notes, slots }
    }

    #[expect(clippy::type_complexity, reason = "two short lists, compared at once")]
    /// Follows; returns the orders given and the offered ports with their generations.
    fn follow(&mut self, verdict: &Verdict) -> (Vec<(u32, u64)>, Vec<(u16, u64)>) {
        self.switch.follow(0, verdict);
        let orders = self.notes.severed.lock().unwrap().drain(..).map(|(key, keep)| (key.slot, keep)).collect();
        let offered = self.slots.borrow().iter().map(|slot| (slot.addr.port(), slot.generation)).collect();
        (orders, offered)
    }
}

pub(crate) fn route(target: TargetRole, fallback: Fallback) -> config::Route {
    config::Route {
        name: "r".into(),
        listen: Vec::new(),
        group: 0,
        target,
        datapath: DatapathChoice::Copy,
        balance: Balance::RoundRobin,
        max_lag: Lag::Time(Duration::from_secs(10)),
        fallback,
        allow: None,
        max_connections: 1,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Duration::ZERO,
        park: Park::default(),
        reconnect_rate: 0,
        snat: Vec::new(),
    }
}

fn target(port: u16, epoch: u64, id: Option<&str>) -> Target {
    Target { addr: ([10, 0, 0, 1], port).into(), epoch, id: id.map(str::to_owned) }
}

fn master(way: Way, target: Target) -> Verdict {
    Verdict { way, master: Some(target), reason: Reason::Proven, replicas: Vec::new() }
}

fn replica(port: u16, sound: bool, keep: bool, lag: u64) -> Replica {
    Replica { addr: ([10, 0, 0, 1], port).into(), id: None, sound, keep, lag_seconds: Some(lag), lag_bytes: None }
}

#[test]
fn a_route_starts_closed_and_opens_with_the_first_proven_master() {
    let mut bench = Bench::new(TargetRole::Master, Fallback::None);
    assert_eq!(bench.follow(&Verdict::closed()), (vec![], vec![]));
    assert_eq!(bench.follow(&master(Way::Open, target(1, 5, None))), (vec![(0, 1)], vec![(1, 1)]));
}

#[test]
fn another_master_is_another_generation_and_the_old_one_is_reset() {
    let mut bench = Bench::new(TargetRole::Master, Fallback::None);
    bench.follow(&master(Way::Open, target(1, 5, Some("a"))));
    assert_eq!(bench.follow(&master(Way::Open, target(2, 6, Some("b")))), (vec![(0, 2)], vec![(2, 2)]));
}

#[test]
fn losing_the_probe_keeps_the_established_and_offers_nothing() {
    let mut bench = Bench::new(TargetRole::Master, Fallback::None);
    bench.follow(&master(Way::Open, target(1, 5, None)));
    assert_eq!(bench.follow(&master(Way::Established, target(1, 5, None))), (vec![], vec![]));
    assert_eq!(
        bench.follow(&master(Way::Open, target(1, 5, None))),
        (vec![], vec![(1, 1)]),
        "the same generation goes on"
    );
}

#[test]
fn a_pause_severs_nobody_offers_nothing_and_goes_on_with_the_same_generation() {
    let mut bench = Bench::new(TargetRole::Master, Fallback::None);
    bench.follow(&master(Way::Open, target(1, 5, None)));
    let slot = bench.slots.borrow()[0].clone();
    let resumed = |bench: &Bench| bench.notes.resumed.lock().unwrap().len();
    for _ in 0..2 {
        assert_eq!(bench.follow(&master(Way::Paused, target(1, 5, None))), (vec![], vec![]));
        assert_eq!((slot.gate.passage(1), resumed(&bench)), (Passage::Paused, 0));
        let entry = bench.switch.routes[0].slots[0].entry();
        assert_eq!((entry.live, entry.generation, entry.state), (0, 1, proxy_ebpf::state::PAUSED));
    }
    assert_eq!(bench.follow(&master(Way::Open, target(1, 5, None))), (vec![], vec![(1, 1)]));
    assert_eq!((slot.gate.passage(1), resumed(&bench)), (Passage::Free, 1));
    bench.follow(&master(Way::Established, target(1, 5, None)));
    assert_eq!(resumed(&bench), 1, "nothing stood still");
    bench.follow(&master(Way::Paused, target(1, 5, None)));
    bench.follow(&master(Way::Established, target(1, 5, None)));
    assert_eq!(resumed(&bench), 2);
}

#[test]
fn a_pause_that_ends_elsewhere_resets_what_stood_still() {
    let mut bench = Bench::new(TargetRole::Master, Fallback::None);
    bench.follow(&master(Way::Open, target(1, 5, None)));
    bench.follow(&master(Way::Paused, target(1, 5, None)));
    assert_eq!(bench.follow(&master(Way::Open, target(2, 6, None))), (vec![(0, 2)], vec![(2, 2)]));
    bench.follow(&master(Way::Paused, target(2, 6, None)));
    assert_eq!(bench.follow(&Verdict::closed()), (vec![(0, 0)], vec![]));
    assert!(bench.notes.resumed.lock().unwrap().is_empty(), "nothing of it may go on");
}

#[test]
fn losing_the_role_resets_and_the_same_master_comes_back_as_a_new_generation() {
    let mut bench = Bench::new(TargetRole::Master, Fallback::None);
    bench.follow(&master(Way::Open, target(1, 5, None)));
    assert_eq!(bench.follow(&Verdict::closed()), (vec![(0, 0)], vec![]));
    assert_eq!(bench.follow(&Verdict::closed()), (vec![], vec![]), "once");
    assert_eq!(bench.follow(&master(Way::Open, target(1, 5, None))), (vec![(0, 2)], vec![(1, 2)]));
}

#[test]
fn an_id_learnt_late_is_no_other_server_but_another_id_is() {
    let mut bench = Bench::new(TargetRole::Master, Fallback::None);
    bench.follow(&master(Way::Open, target(1, 5, None)));
    assert_eq!(bench.follow(&master(Way::Open, target(1, 5, Some("a")))).0, vec![]);
    assert_eq!(bench.follow(&master(Way::Open, target(1, 5, Some("b")))).0, vec![(0, 2)]);
}

#[test]
fn replicas_come_and_go_without_touching_each_other() {
    let mut bench = Bench::new(TargetRole::Replica, Fallback::None);
    let with = |replicas: Vec<Replica>| Verdict { replicas, ..master(Way::Open, target(1, 5, None)) };
    let (orders, offered) = bench.follow(&with(vec![replica(2, true, true, 0), replica(3, true, true, 0)]));
    assert_eq!((orders.len(), offered), (2, vec![(2, 1), (3, 2)]));
    let lagging = bench.follow(&with(vec![replica(2, true, true, 11), replica(3, true, true, 0)]));
    assert_eq!(lagging, (vec![], vec![(3, 2)]), "it takes no new ones and keeps those it has");
    let promoted = bench.follow(&with(vec![replica(3, true, true, 0)]));
    assert_eq!(promoted, (vec![(0, 0)], vec![(3, 2)]), "one that left is reset, the other is not");
}

#[test]
fn replicas_take_nobody_new_while_nobody_vouches_for_their_master() {
    let replicas = vec![replica(2, true, true, 0)];
    let mut starting = Bench::new(TargetRole::Replica, Fallback::None);
    let unproven = Verdict { replicas: replicas.clone(), ..Verdict::closed() };
    assert_eq!(starting.follow(&unproven).1, vec![]);
    let mut bench = Bench::new(TargetRole::Replica, Fallback::None);
    let as_if = |way, reason| Verdict { reason, replicas: replicas.clone(), ..master(way, target(1, 5, None)) };
    let open = bench.follow(&as_if(Way::Open, Reason::Proven));
    assert_eq!(open.1, vec![(2, 1)]);
    for (way, reason, offered) in [
        (Way::Open, Reason::NoMajority, vec![(2, 1)]),
        (Way::Established, Reason::NoMajority, vec![]),
        (Way::Paused, Reason::Failover, vec![(2, 1)]),
        (Way::Closed, Reason::TwoMasters, vec![]),
        (Way::Established, Reason::ProbeLost, vec![(2, 1)]),
        (Way::Closed, Reason::RoleLost, vec![]),
        (Way::Open, Reason::Proven, vec![(2, 1)]),
    ] {
        assert_eq!(bench.follow(&as_if(way, reason)), (vec![], offered), "{way:?} {reason:?}: nobody is severed");
    }
}

#[test]
fn a_datapath_is_told_of_each_change_of_the_slots_once() {
    let mut bench = Bench::new(TargetRole::Replica, Fallback::Master);
    let with = |replicas: Vec<Replica>| Verdict { replicas, ..master(Way::Open, target(1, 5, None)) };
    let mut told = |replicas| {
        bench.follow(&with(replicas));
        bench.notes.shared.lock().unwrap().drain(..).collect::<Vec<_>>()
    };
    let [two, three] = [2, 3].map(|port| replica(port, true, true, 0));
    assert_eq!(told(vec![two.clone(), three.clone()]), [vec![(0, true), (1, true), (2, false)]], "the master waits");
    assert!(told(vec![replica(2, true, true, 1), three.clone()]).is_empty(), "a lag within bounds is no change");
    assert_eq!(told(vec![replica(2, true, true, 11), three]), [vec![(0, false), (1, true), (2, false)]]);
    assert_eq!(told(vec![two]), [vec![(0, true), (2, false)]], "who left the group is none of the slots");
    assert_eq!(told(vec![]), [vec![(2, true)]]);
}

#[test]
fn a_slot_is_nobody_elses_while_it_has_flows() {
    let mut bench = Bench::new(TargetRole::Replica, Fallback::None);
    let with = |port| Verdict { replicas: vec![replica(port, true, true, 0)], ..master(Way::Open, target(1, 5, None)) };
    bench.follow(&with(2));
    bench.notes.flows.store(1, Ordering::Relaxed);
    bench.follow(&with(3));
    let slots = |bench: &Bench| bench.slots.borrow().iter().map(|slot| slot.key.slot).collect::<Vec<_>>();
    assert_eq!(slots(&bench), [1]);
    assert_eq!(bench.switch.slots(0).iter().map(|slot| slot.flows).collect::<Vec<_>>(), [1, 1], "both are shown");
    bench.notes.flows.store(0, Ordering::Relaxed);
    bench.follow(&with(4));
    assert_eq!(slots(&bench), [0], "the first is free again");
}

#[test]
fn the_master_serves_a_replica_route_only_while_no_replica_is_sound() {
    let mut bench = Bench::new(TargetRole::Replica, Fallback::Master);
    let with = |replicas: Vec<Replica>| Verdict { replicas, ..master(Way::Open, target(1, 5, None)) };
    assert_eq!(bench.follow(&with(vec![])).1, vec![(1, 1)]);
    let (orders, offered) = bench.follow(&with(vec![replica(2, true, true, 0)]));
    assert_eq!(offered, vec![(2, 2)]);
    assert!(!orders.contains(&(0, 0)), "clients of the master may stay");
    let paused = Verdict { way: Way::Paused, ..with(vec![replica(2, true, true, 0)]) };
    bench.follow(&paused);
    let ways: Vec<Way> = bench.switch.slots(0).iter().map(|slot| slot.way).collect();
    assert_eq!(ways, [Way::Paused, Way::Open], "those it has stand still with the master's own");
    let mut none = Bench::new(TargetRole::Replica, Fallback::None);
    assert_eq!(none.follow(&with(vec![replica(2, false, true, 0)])).1, vec![]);
}
