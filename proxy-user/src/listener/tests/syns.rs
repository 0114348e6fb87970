//! SYNs that a datapath takes aside, in one queue with clients that were accepted.

use tokio::sync::mpsc;

use super::*;
use crate::{
    datapath::{Arrival, Ends, Onward, Syn, SynError, SynGate, Syns, Turn},
    listener::{Outcome, Refusal},
};

/// A kernel that does what it is told, and writes it down.
#[derive(Debug)]
struct Gate {
    turn: Mutex<Turn>,
    sent: Mutex<Vec<(Instant, Syn, Onward)>>,
}

impl SynGate for Gate {
    fn set(&self, turn: Turn) {
        *self.turn.lock().unwrap() = turn;
    }

    fn send(&self, syn: &Syn, onward: Onward) -> Result<(), SynError> {
        self.sent.lock().unwrap().push((Instant::now(), syn.clone(), onward));
        Ok(())
    }
}

#[derive(Debug)]
struct Packets {
    recorder: Arc<Recorder>,
    syns: Mutex<Option<Syns>>,
}

impl Datapath for Packets {
    fn name(&self) -> &'static str {
        "packets"
    }

    fn adopt(&self, connection: Connection) {
        self.recorder.adopt(connection);
    }

    fn sever(&self, _: &Sever) {}
    fn resume(&self, _: TargetKey) {}

    fn syns(&self) -> Option<Syns> {
        self.syns.lock().unwrap().take()
    }
}

struct Wire {
    rig: Rig,
    gate: Arc<Gate>,
    arrivals: mpsc::Sender<Arrival>,
}

impl Wire {
    fn start(route: &Route) -> Self {
        let gate = Arc::new(Gate { turn: Mutex::new(Turn::Free), sent: Mutex::default() });
        let (arrivals, received) = mpsc::channel(1);
        let recorder = Arc::<Recorder>::default();
        let to_listener: Arc<dyn SynGate> = gate.clone();
        let syns = Mutex::new(Some(Syns { gate: to_listener, arrivals: received }));
        let datapath = Arc::new(Packets { recorder: Arc::clone(&recorder), syns });
        Self { rig: Rig::over(route, datapath, recorder), gate, arrivals }
    }

    fn ends(&self, client: u16) -> Ends {
        Ends { client: ([127, 0, 0, 1], client).into(), door: self.rig.address }
    }

    async fn syn(&self, client: u16, sequence: u32) {
        let syn = Syn { ends: self.ends(client), sequence, ifindex: 2, frame: vec![0; 60] };
        self.arrivals.send(Arrival::Syn(syn)).await.unwrap();
    }

    fn turn(&self) -> Turn {
        *self.gate.turn.lock().unwrap()
    }

    async fn until_turn(&self, turn: Turn) {
        let end = Instant::now() + PATIENCE;
        while self.turn() != turn {
            assert!(Instant::now() < end, "{:?}, not {turn:?}", self.turn());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }

    /// What was sent on, once it is so much: when, by its client's port, and where to.
    async fn sent(&self, n: usize) -> Vec<(Instant, u16, Onward)> {
        let sent = || self.gate.sent.lock().unwrap().len();
        self.rig.until(|_| sent() >= n).await;
        let sent = std::mem::take(&mut *self.gate.sent.lock().unwrap());
        sent.into_iter().map(|(at, syn, onward)| (at, syn.ends.client.port(), onward)).collect()
    }

    async fn all(&self, n: usize) -> Vec<(u16, Onward)> {
        self.sent(n).await.into_iter().map(|(_, port, onward)| (port, onward)).collect()
    }
}

/// A socket whose address is known before it connects.
fn dialler() -> socket2::Socket {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    socket
}

fn port(socket: &socket2::Socket) -> u16 {
    socket.local_addr().unwrap().as_socket().unwrap().port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parked_syns_go_on_in_order_the_moment_there_is_a_node() {
    let wire = Wire::start(&route());
    wire.until_turn(Turn::Held).await;
    for client in [3, 1, 2] {
        wire.syn(client, 7).await;
        wire.rig.until(|seen| seen.parked_now > 0).await;
    }
    wire.rig.parked(3).await;
    let (_node, addr) = node();
    let start = Instant::now();
    wire.rig.lead_to(&[slot(addr, 1)]);
    let mut sent = wire.sent(3).await;
    assert!(sent[2].0 - start < Duration::from_millis(100), "{:?}", sent[2].0 - start);
    assert!(sent.iter().all(|(.., onward)| *onward == Onward::Node));
    // Without a rate they have their turns at the same moment.
    sent.sort_by_key(|(_, port, _)| *port);
    assert_eq!(sent.iter().map(|(_, port, _)| *port).collect::<Vec<_>>(), [1, 2, 3]);
    wire.until_turn(Turn::Free).await;
    wire.rig.parked(0).await;
    assert_eq!(wire.rig.counts.snapshot().parked(Outcome::Served), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sockets_and_syns_go_in_one_order_at_one_rate() {
    const RATE: u32 = 100;
    let wire = Wire::start(&Route { reconnect_rate: RATE, ..route() });
    let mut clients = Vec::new();
    for n in 0..30 {
        if n % 2 == 0 {
            clients.push(wire.rig.client());
        } else {
            wire.syn(n, 7).await;
        }
        wire.rig.parked(u64::from(n) + 1).await;
    }
    let (_node, addr) = node();
    wire.rig.lead_to(&[slot(addr, 1)]);
    // They come after the switch, and wait behind the others.
    wire.until_turn(Turn::Paced).await;
    wire.syn(30, 7).await;
    let (syns, sockets) = (wire.sent(16).await, wire.rig.take(15).await);
    assert_eq!(
        syns.iter().map(|(_, port, _)| *port).collect::<Vec<_>>(),
        [1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 30]
    );
    let mut all: Vec<Instant> = syns.iter().map(|(at, ..)| *at).chain(sockets.iter().map(|(at, _)| *at)).collect();
    all.sort();
    let rate = 30.0 / (all[30] - all[0]).as_secs_f64();
    assert!((rate / f64::from(RATE) - 1.0).abs() < 0.1, "{rate}");
    for (nth, (at, _)) in sockets.iter().enumerate() {
        let (before, after) = (nth.checked_sub(1).map(|n| syns[n].0), syns[nth].0);
        // A connect takes its time after its turn.
        let slack = Duration::from_millis(10);
        assert!(*at < after + slack && before.is_none_or(|before| before < *at), "number {nth} of the sockets");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whose_time_is_up_hears_it_from_the_listener_at_once() {
    let timeout = Duration::from_millis(300);
    let wire = Wire::start(&Route { park: Park { limit: 9, timeout }, ..route() });
    let client = dialler();
    let start = Instant::now();
    wire.syn(port(&client), 7).await;
    assert_eq!(wire.all(1).await, [(port(&client), Onward::Listener)]);
    assert!((timeout..2 * timeout).contains(&start.elapsed()), "{:?}", start.elapsed());
    client.connect(&wire.rig.address.into()).unwrap();
    let start = Instant::now();
    let heard = hear_of(client.into()).await;
    assert!(heard.starts_with("-MASTERDOWN "), "{heard}");
    assert!(start.elapsed() < timeout / 2, "it waits once more");
    let seen = wire.rig.counts.snapshot();
    assert_eq!((seen.parked(Outcome::TimedOut), seen.refused(Refusal::ParkTimeout), seen.parked_now), (1, 1, 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_park_has_one_limit_and_keeps_room_for_those_who_shook_hands() {
    let wire = Wire::start(&Route { park: Park { limit: 4, timeout: PATIENCE }, ..route() });
    for client in 1..=3 {
        wire.syn(client, 7).await;
    }
    wire.rig.parked(3).await;
    wire.syn(4, 7).await;
    assert_eq!(wire.all(1).await, [(4, Onward::Listener)]);
    // Who waits is not sent away for coming again.
    wire.syn(1, 7).await;
    let _waits = wire.rig.client();
    wire.rig.parked(4).await;
    let heard = hear_of(wire.rig.client()).await;
    assert!(heard.starts_with("-MASTERDOWN ") && heard.contains("too many clients"), "{heard}");
    let seen = wire.rig.counts.snapshot();
    assert_eq!((seen.parked(Outcome::Full), seen.refused(Refusal::ParkFull)), (1, 1));
    wire.arrivals.send(Arrival::Gone(wire.ends(2), 8)).await.unwrap();
    wire.rig.parked(3).await;
    wire.syn(5, 7).await;
    wire.rig.parked(4).await;
    assert_eq!(wire.gate.sent.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nobody_may_wait_the_kernel_takes_none_aside() {
    let wire = Wire::start(&Route { park: Park { limit: 0, timeout: PATIENCE }, ..route() });
    wire.until_turn(Turn::Full).await;
    let (_node, addr) = node();
    wire.rig.lead_to(&[slot(addr, 1)]);
    wire.until_turn(Turn::Free).await;
}

/// The kernel had no room for a SYN that came again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_and_comes_to_the_listener_all_the_same_waits_on_there() {
    let wire = Wire::start(&Route { park: Park { limit: 1, timeout: PATIENCE }, ..route() });
    let client = dialler();
    wire.syn(port(&client), 7).await;
    wire.rig.parked(1).await;
    client.connect(&wire.rig.address.into()).unwrap();
    wire.rig.until(|seen| seen.accepted == 1 && seen.parked_now == 1).await;
    let (_node, addr) = node();
    wire.rig.lead_to(&[slot(addr, 1)]);
    wire.rig.take(1).await;
    wire.rig.parked(0).await;
    let seen = wire.rig.counts.snapshot();
    assert_eq!((seen.parked(Outcome::Served), seen.parked(Outcome::Left)), (1, 0), "it is one client");
    assert_eq!(wire.gate.sent.lock().unwrap().len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_has_one_place_and_gives_it_up_with_its_attempt() {
    let wire = Wire::start(&route());
    for _ in 0..3 {
        wire.syn(1, 7).await;
    }
    wire.syn(2, 7).await;
    wire.rig.parked(2).await;
    wire.syn(1, 8).await;
    wire.rig.until(|seen| seen.parked(Outcome::Left) == 1).await;
    wire.arrivals.send(Arrival::Gone(wire.ends(2), 8)).await.unwrap();
    wire.rig.until(|seen| seen.parked(Outcome::Left) == 2).await;
    wire.rig.parked(1).await;
    let (_node, addr) = node();
    wire.rig.lead_to(&[slot(addr, 1)]);
    wire.rig.parked(0).await;
    assert_eq!(wire.all(1).await, [(1, Onward::Node)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_finds_the_way_shut_again_has_its_old_place() {
    let wire = Wire::start(&Route { reconnect_rate: 5, ..route() });
    for client in [1, 2, 3] {
        wire.syn(client, 7).await;
        wire.rig.parked(u64::from(client)).await;
    }
    let (_node, addr) = node();
    wire.rig.lead_to(&[slot(addr, 1)]);
    assert_eq!(wire.all(1).await, [(1, Onward::Node)]);
    wire.rig.lead_to(&[]);
    // The kernel had shut it before.
    wire.syn(1, 7).await;
    wire.rig.parked(3).await;
    wire.rig.lead_to(&[slot(addr, 1)]);
    assert_eq!(wire.all(3).await.iter().map(|(port, _)| *port).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_the_kernel_leaves_to_the_listener_at_its_turn_is_served_there() {
    let wire = Wire::start(&route());
    let client = dialler();
    wire.syn(port(&client), 7).await;
    wire.rig.parked(1).await;
    let (_node, addr) = node();
    wire.rig.lead_to(&[slot(addr, 1)]);
    assert_eq!(wire.all(1).await, [(port(&client), Onward::Node)]);
    client.connect(&wire.rig.address.into()).unwrap();
    wire.rig.take(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stop_sends_all_who_wait_to_the_door_that_closes() {
    let mut wire = Wire::start(&route());
    wire.syn(1, 7).await;
    wire.rig.parked(1).await;
    wire.rig.stop.cancel();
    assert_eq!(wire.all(1).await, [(1, Onward::Listener)]);
    tokio::time::timeout(PATIENCE, &mut wire.rig.run).await.unwrap().unwrap().unwrap();
    assert_eq!((wire.turn(), wire.rig.counts.snapshot().parked(Outcome::Drained)), (Turn::Listener, 1));
    let unheard = wire.arrivals.send(Arrival::Gone(wire.ends(1), 7)).await;
    assert!(unheard.is_err(), "nobody would take it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_silent_for_too_long_gives_its_place_back() {
    let wire = Wire::start(&route());
    wire.syn(1, 7).await;
    wire.rig.parked(1).await;
    let start = Instant::now();
    wire.rig.parked(0).await;
    assert!((3..6).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    let seen = wire.rig.counts.snapshot();
    assert_eq!((seen.parked(Outcome::Left), wire.gate.sent.lock().unwrap().len()), (1, 0));
}
