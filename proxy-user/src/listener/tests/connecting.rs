//! Nodes that are dead or silent, replicas to choose from, and what remains after a hand-over.

use super::*;
use crate::listener::Refusal;

fn impatient() -> Route {
    Route {
        connect_timeout: Duration::from_millis(200),
        park: Park { limit: 10, timeout: Duration::from_millis(500) },
        ..route()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_refuses_is_named_as_the_reason() {
    let rig = Rig::start(&impatient());
    let (_kept, dead) = dead_node();
    rig.lead_to(&[slot(dead, 1)]);
    let heard = hear_of(rig.client()).await;
    assert!(heard.starts_with("-MASTERDOWN ") && heard.contains("takes no connection"), "{heard}");
    assert_eq!(rig.counts.snapshot().refused(Refusal::ConnectFailed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_silent_is_named_as_the_reason() {
    let rig = Rig::start(&impatient());
    let (_kept, silent) = silent_node();
    rig.lead_to(&[slot(silent, 1)]);
    let heard = hear_of(rig.client()).await;
    assert!(heard.starts_with("-MASTERDOWN ") && heard.contains("does not answer"), "{heard}");
    assert_eq!(rig.counts.snapshot().refused(Refusal::ConnectTimeout), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_parking_a_dead_node_is_reported_at_once() {
    let rig = Rig::start(&Route { park: Park { limit: 0, timeout: PATIENCE }, ..route() });
    let (_kept, dead) = dead_node();
    rig.lead_to(&[slot(dead, 1)]);
    let start = Instant::now();
    assert!(hear_of(rig.client()).await.starts_with("-MASTERDOWN "));
    assert!(start.elapsed() < Duration::from_millis(300));
    assert_eq!(rig.counts.snapshot().refused(Refusal::ConnectFailed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_replica_is_passed_over() {
    let rig = Rig::start(&route());
    let ((_kept, dead), (_node, addr)) = (dead_node(), node());
    rig.lead_to(&[slot(dead, 1), slot(addr, 1)]);
    let _clients: Vec<_> = (0..10).map(|_| rig.client()).collect();
    let taken = rig.take(10).await;
    assert!(taken.iter().all(|(_, connection)| connection.node.peer_addr().unwrap() == addr));
    assert_eq!(rig.counts.snapshot().parked_now, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_replica_costs_one_time_out_not_one_a_client() {
    let rig = Rig::start(&Route { connect_timeout: Duration::from_millis(300), ..route() });
    let ((_kept, silent), (_node, addr)) = (silent_node(), node());
    rig.lead_to(&[slot(silent, 1), slot(addr, 1)]);
    let first = rig.client();
    rig.take(1).await;
    let start = Instant::now();
    let _clients: Vec<_> = (0..10).map(|_| rig.client()).collect();
    rig.take(10).await;
    assert!(start.elapsed() < Duration::from_millis(250), "{:?}", start.elapsed());
    drop(first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_go_round_the_replicas_and_hold_their_leases() {
    let rig = Rig::start(&Route { balance: Balance::LeastConnections, ..route() });
    let nodes: Vec<_> = (0..3).map(|_| node()).collect();
    let slots: Vec<_> = nodes.iter().map(|&(_, addr)| slot(addr, 1)).collect();
    rig.lead_to(&slots);
    let mut clients = Vec::new();
    for n in 1..=9 {
        clients.push(rig.client());
        rig.until(|_| rig.adopted() == n).await;
    }
    let loads = || slots.iter().map(|slot| slot.load.all()).collect::<Vec<_>>();
    assert_eq!(loads(), [3, 3, 3]);
    drop(rig.take(9).await);
    assert_eq!(loads(), [0, 0, 0]);
}

/// So that a client which was parked meets the replica that its packets would be led to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn source_hash_goes_where_the_datapath_would() {
    let rig = Rig::start(&Route { balance: Balance::SourceHash, ..route() });
    let nodes: Vec<_> = (0..3).map(|_| node()).collect();
    let (_kept, dead) = dead_node();
    let addresses: Vec<_> = nodes.iter().map(|&(_, addr)| addr).chain([dead]).collect();
    let key = |slot| TargetKey { route: 0, slot };
    let slots: Vec<_> = (0..).zip(&addresses).map(|(at, &addr)| Slot { key: key(at), ..slot(addr, 1) }).collect();
    rig.lead_to(&slots);
    for (drawn, reached) in [(vec![1], 1), (vec![2, 1], 2), (vec![3, 0], 0), (vec![9, 1], 1)] {
        *rig.recorder.1.lock().unwrap() = drawn.iter().copied().map(key).collect();
        let _client = rig.client();
        let taken = rig.take(1).await;
        assert_eq!(taken[0].1.node.peer_addr().unwrap(), addresses[reached], "drawn to {drawn:?}");
    }
    // Without its word each client has a replica all the same.
    rig.recorder.1.lock().unwrap().clear();
    let _clients = [rig.client(), rig.client()];
    let taken = rig.take(2).await;
    assert_eq!(taken[0].1.lease.key, taken[1].1.lease.key);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_a_connection_remains_after_the_hand_over() {
    let rig = Rig::start(&route());
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    let _clients: Vec<_> = (0..50).map(|_| rig.client()).collect();
    rig.take(50).await;
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    rig.until(|_| alive() <= 2).await;
}
