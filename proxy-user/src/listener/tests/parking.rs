//! Waiting: served with every byte unread, bounded in number and time, free to leave, told the end.

use std::net::Shutdown;

use super::*;
use crate::listener::{Outcome, Refusal};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_client_goes_to_the_node_with_what_it_said_unread() {
    let rig = Rig::start(&route());
    let client = rig.client();
    say(&client, b"PING\r\n");
    rig.parked(1).await;
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    let taken = rig.take(1).await;
    let connection = &taken[0].1;
    assert_eq!(connection.node.peer_addr().unwrap(), addr);
    assert_eq!(connection.client.peer_addr().unwrap(), client.local_addr().unwrap());
    assert!(connection.node.nodelay().unwrap() && connection.client.nodelay().unwrap());
    assert_eq!(read_all_there_is(&connection.client, 6), b"PING\r\n");
    let seen = rig.counts.snapshot();
    assert_eq!((seen.parked_now, seen.parked(Outcome::Served), seen.handed_over), (0, 1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_half_closes_while_parked_is_served() {
    let rig = Rig::start(&route());
    let client = rig.client();
    say(&client, b"GET k\r\n");
    client.shutdown(Shutdown::Write).unwrap();
    rig.parked(1).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(rig.counts.snapshot().parked_now, 1, "it waits for its reply");
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    let taken = rig.take(1).await;
    assert_eq!(read_all_there_is(&taken[0].1.client, 7), b"GET k\r\n");
    assert_eq!(hear(&taken[0].1.client), "", "and then its end");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_frees_its_place_at_once() {
    let rig = Rig::start(&route());
    let silent = rig.client();
    let spoke = rig.client();
    say(&spoke, b"PING\r\n");
    let half_closed = rig.client();
    say(&half_closed, b"PING\r\n");
    half_closed.shutdown(Shutdown::Write).unwrap();
    rig.parked(3).await;
    let start = Instant::now();
    drop(silent);
    rig.parked(2).await;
    reset(spoke);
    rig.parked(1).await;
    reset(half_closed);
    rig.parked(0).await;
    assert!(start.elapsed() < Duration::from_millis(500));
    let seen = rig.counts.snapshot();
    assert_eq!((seen.parked(Outcome::Left), seen.abandoned), (3, 3));
    let (_node, addr) = node();
    rig.lead_to(&[slot(addr, 1)]);
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(rig.adopted(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_that_lie_unread_do_not_keep_the_daemon_busy() {
    let rig = Rig::start(&route());
    let clients: Vec<_> = (0..50).map(|_| rig.client()).collect();
    for client in &clients {
        say(client, b"PING\r\n");
    }
    for client in &clients[..25] {
        client.shutdown(Shutdown::Write).unwrap();
    }
    rig.parked(50).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    let polls = || {
        let metrics = tokio::runtime::Handle::current().metrics();
        (0..metrics.num_workers()).map(|worker| metrics.worker_park_count(worker)).sum::<u64>()
    };
    let (before, _) = (polls(), tokio::time::sleep(Duration::from_millis(500)).await);
    assert!(polls() - before < 50, "{} wake-ups in half a second", polls() - before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wait_is_bounded_and_its_end_is_said() {
    let rig = Rig::start(&Route { park: Park { limit: 9, timeout: Duration::from_millis(200) }, ..route() });
    let client = rig.client();
    // Unread bytes turn a careless close into an RST that takes the reply with it.
    say(&client, &[b'x'; 100_000]);
    let start = Instant::now();
    let heard = hear_of(client).await;
    assert!(heard.starts_with("-MASTERDOWN ") && heard.ends_with("\r\n"), "{heard}");
    assert!(
        (Duration::from_millis(190)..Duration::from_millis(900)).contains(&start.elapsed()),
        "{:?}",
        start.elapsed()
    );
    let seen = rig.counts.snapshot();
    assert_eq!((seen.refused(Refusal::ParkTimeout), seen.parked(Outcome::TimedOut), seen.parked_now), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_wait_than_may() {
    let rig = Rig::start(&Route { park: Park { limit: 2, timeout: PATIENCE }, ..route() });
    let _waiting = [rig.client(), rig.client()];
    rig.parked(2).await;
    let heard = hear_of(rig.client()).await;
    assert!(heard.starts_with("-MASTERDOWN ") && heard.contains("too many clients"), "{heard}");
    let seen = rig.counts.snapshot();
    assert_eq!((seen.refused(Refusal::ParkFull), seen.parked(Outcome::Full), seen.parked_now), (1, 1, 2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_answers_those_who_wait_and_closes_the_door() {
    let mut rig = Rig::start(&route());
    let client = rig.client();
    rig.parked(1).await;
    rig.stop.cancel();
    let heard = hear_of(client).await;
    assert!(heard.starts_with("-MASTERDOWN "), "{heard}");
    tokio::time::timeout(PATIENCE, &mut rig.run).await.unwrap().unwrap().unwrap();
    assert!(StdStream::connect(rig.address).is_err());
    let seen = rig.counts.snapshot();
    assert_eq!((seen.refused(Refusal::Draining), seen.parked(Outcome::Drained)), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_switch_that_is_gone_leaves_the_last_word_standing() {
    let listener = Listener::bind(&route()).unwrap();
    let address = listener.addresses()[0];
    let (slots, seen) = target::channel();
    let (_node, addr) = node();
    slots.send_replace([slot(addr, 1)].into());
    drop(slots);
    let (recorder, stop) = (Arc::<Recorder>::default(), CancellationToken::new());
    let datapath: Arc<dyn Datapath> = recorder.clone();
    let run = tokio::spawn(listener.run(seen, datapath, Arc::default(), Arc::default(), stop.clone()));
    let _client = StdStream::connect(address).unwrap();
    let end = Instant::now() + PATIENCE;
    while recorder.0.lock().unwrap().is_empty() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    stop.cancel();
    run.await.unwrap().unwrap();
}
