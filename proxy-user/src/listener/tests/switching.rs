//! What a switch does to those who wait and to those who are in the middle of a connect.

use super::*;

/// Connects `n` clients one after the other, so that their order of arrival is known.
async fn park(rig: &Rig, n: usize) -> Vec<StdStream> {
    let mut clients = Vec::new();
    for i in 0..n {
        clients.push(rig.client());
        rig.parked(i as u64 + 1).await;
    }
    clients
}

fn ports(taken: &[(Instant, Connection)]) -> Vec<u16> {
    taken.iter().map(|(_, connection)| connection.client.peer_addr().unwrap().port()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reconnect_rate_holds_and_the_order_is_that_of_arrival() {
    const RATE: u32 = 200;
    let rig = Rig::start(&Route { reconnect_rate: RATE, ..route() });
    let mut clients = park(&rig, 150).await;
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    // Arrivals after the switch queue behind and are paced as well.
    for _ in 0..150 {
        clients.push(rig.client());
    }
    let taken = rig.take(300).await;
    let rate = 299.0 / (taken[299].0 - taken[0].0).as_secs_f64();
    println!("reconnect_rate {RATE}: measured {rate:.1}/s");
    assert!((rate / f64::from(RATE) - 1.0).abs() < 0.05, "{rate}");
    let arrived: Vec<u16> = clients.iter().map(|client| client.local_addr().unwrap().port()).collect();
    // Turns are given in order, 5 ms apart; a busy machine may finish one connect after the next.
    for (place, port) in ports(&taken).iter().enumerate() {
        let turn = arrived.iter().position(|other| other == port).unwrap();
        assert!(turn.abs_diff(place) <= 3, "number {turn} was served as number {place}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_rate_all_who_wait_go_at_once() {
    let rig = Rig::start(&route());
    let _clients = park(&rig, 300).await;
    let (_node, addr) = node();
    let start = Instant::now();
    rig.lead_to(&[slot(addr, 1)]);
    let taken = rig.take(300).await;
    assert!(taken[299].0 - start < Duration::from_secs(1), "{:?}", taken[299].0 - start);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_in_the_middle_of_a_connect_starts_over_at_once() {
    let rig = Rig::start(&Route { connect_timeout: PATIENCE, ..route() });
    let (_kept, silent) = silent_node();
    rig.lead_to(&[slot(silent, 1)]);
    let _client = rig.client();
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(rig.adopted(), 0);
    let (_node, addr) = node();
    let start = Instant::now();
    rig.lead_to(&[slot(addr, 2)]);
    let taken = rig.take(1).await;
    assert!(start.elapsed() < Duration::from_millis(200), "{:?}", start.elapsed());
    assert_eq!((taken[0].1.node.peer_addr().unwrap(), taken[0].1.lease.generation), (addr, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fence_in_the_middle_of_a_connect_parks() {
    let rig = Rig::start(&Route { connect_timeout: PATIENCE, ..route() });
    let (_kept, silent) = silent_node();
    rig.lead_to(&[slot(silent, 1)]);
    let client = rig.client();
    tokio::time::sleep(Duration::from_millis(100)).await;
    rig.lead_to(&[]);
    rig.parked(1).await;
    drop(client);
    rig.parked(0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shut_gate_lets_nobody_through_even_before_the_slots_say_so() {
    let rig = Rig::start(&route());
    let (_node, addr) = node();
    let slot = slot(addr, 1);
    slot.gate.shut();
    rig.lead_to(std::slice::from_ref(&slot));
    let _client = rig.client();
    rig.parked(1).await;
    tokio::time::sleep(Duration::from_millis(150)).await;
    assert_eq!(rig.adopted(), 0);
    slot.gate.open(1);
    rig.take(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connect_that_ends_after_its_gate_was_shut_is_dropped() {
    let rig = Rig::start(&Route { connect_timeout: PATIENCE, ..route() });
    let (kept, silent) = silent_node();
    let slot = slot(silent, 1);
    rig.lead_to(std::slice::from_ref(&slot));
    let _client = rig.client();
    tokio::time::sleep(Duration::from_millis(100)).await;
    slot.gate.shut();
    // The kernel repeats each SYN after 1, 3 and 7 s, and the queue has one place: room is made until
    // the rig's own connection has come through.
    kept[0].set_nonblocking(true).unwrap();
    let make_room = || while kept[0].accept().is_ok() {};
    rig.until(|seen| {
        make_room();
        seen.parked_now == 1
    })
    .await;
    assert_eq!(rig.adopted(), 0);
    slot.gate.open(1);
    rig.until(|seen| {
        make_room();
        seen.handed_over == 1
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_killed_master_wait_for_the_new_one() {
    let rig = Rig::start(&route());
    let (_kept, dead) = dead_node();
    rig.lead_to(&[slot(dead, 1)]);
    let _clients: Vec<_> = (0..20).map(|_| rig.client()).collect();
    rig.parked(20).await;
    let (_node, addr) = node();
    let start = Instant::now();
    rig.lead_to(&[slot(addr, 2)]);
    let taken = rig.take(20).await;
    let last = taken[19].0 - start;
    println!("20 clients of a killed master: the last was connected {last:?} after the switch");
    assert!(last < Duration::from_millis(200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_of_a_restarted_master_find_it_again() {
    let rig = Rig::start(&route());
    let (socket, addr) = dead_node();
    rig.lead_to(&[slot(addr, 1)]);
    let _clients: Vec<_> = (0..20).map(|_| rig.client()).collect();
    rig.parked(20).await;
    socket.listen(128).unwrap();
    let start = Instant::now();
    rig.take(20).await;
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
}
