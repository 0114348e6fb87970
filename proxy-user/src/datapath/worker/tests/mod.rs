//! A worker turned by hand, with real pairs on loopback: what a switch leaves behind, and who leaves in a pause.

mod dialling;

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{Semaphore, mpsc};

use super::*;
use crate::{
    datapath::{Claim, Place, Sever, Severed},
    socket,
    target::Slot,
    urgent::Urgent,
};

const KEY: TargetKey = TargetKey { route: 0, slot: 0 };
/// Some slices of closes.
const CROWD: usize = 100;
const PATIENCE: Duration = Duration::from_secs(20);

struct Bench {
    worker: Worker,
    mailbox: Mailbox,
    listener: TcpListener,
    slot: Slot,
    places: Arc<Semaphore>,
}

/// Both far ends of a pair.
struct Ends {
    client: TcpStream,
    node: TcpStream,
}

impl Bench {
    fn new(places: usize) -> Self {
        let mailbox = Mailbox::new().expect("an eventfd");
        let slot = Slot {
            key: KEY,
            addr: ([127, 0, 0, 1], 6379).into(),
            generation: 1,
            gate: Arc::default(),
            load: Arc::default(),
        };
        slot.gate.open(1);
        Self {
            worker: Worker::new(mailbox.clone(), None, None).expect("a worker"),
            mailbox,
            listener: TcpListener::bind("127.0.0.1:0").expect("a port"),
            slot,
            places: Arc::new(Semaphore::new(places)),
        }
    }

    fn sockets(&self) -> (TcpStream, TcpStream) {
        let far = TcpStream::connect(self.listener.local_addr().expect("bound")).expect("connect");
        let near = self.listener.accept().expect("accept").0;
        socket::tune(&near).expect("options");
        far.set_read_timeout(Some(PATIENCE)).expect("a time limit");
        (far, near)
    }

    /// Hands the worker a pair; it takes it over with its next turn.
    fn connect(&self) -> Ends {
        let ((client, near_client), (node, near_node)) = (self.sockets(), self.sockets());
        self.mailbox.send(Mail::Adopt(Connection {
            client: near_client,
            node: near_node,
            lease: self.slot.lease(),
            traffic: Arc::default(),
            idle_timeout: Duration::ZERO,
            place: Place::new(Arc::clone(&self.places).try_acquire_owned().expect("a place"), Claim::default()),
        }));
        Ends { client, node }
    }

    fn crowd(&mut self, size: usize) -> Vec<Ends> {
        let crowd = (0..size).map(|_| self.connect()).collect();
        self.turn();
        // What epoll says of every new socket would make each notice the switch by itself.
        self.turn();
        assert_eq!(self.worker.pairs.len(), size);
        crowd
    }

    /// The target is another server now: the next turn ends all that was.
    fn switch(&mut self) -> mpsc::UnboundedReceiver<Severed> {
        self.slot.generation += 1;
        self.slot.gate.open(self.slot.generation);
        let (done, reports) = mpsc::unbounded_channel();
        let order = Sever { key: KEY, keep: self.slot.generation, latest: u64::MAX, done };
        self.mailbox.send(Mail::Sever(order, Urgent::here()));
        reports
    }

    /// One turn, whether there is something to do or not.
    fn turn(&mut self) {
        self.mailbox.send(Mail::Refresh);
        let mut events = [EpollEvent::empty(); 512];
        assert!(self.worker.turn(&mut events).expect("epoll"), "nobody has told it to stop");
    }

    /// What is sent on loopback is there within moments, not at once.
    fn turn_until(&mut self, what: &str, reached: impl Fn(&Self) -> bool) {
        let start = Instant::now();
        while !reached(self) {
            assert!(start.elapsed() < PATIENCE, "no {what}");
            self.turn();
        }
    }

    fn free_places(&self) -> usize {
        self.places.available_permits()
    }

    fn connections(&self) -> u32 {
        self.slot.load.leases()
    }
}

fn is_reset(mut end: &TcpStream) -> bool {
    matches!(end.read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::ConnectionReset)
}

#[test]
fn who_comes_back_is_served_before_the_last_of_a_severed_crowd_is_closed() {
    let mut bench = Bench::new(CROWD);
    let old = bench.crowd(CROWD);
    let mut reports = bench.switch();
    bench.turn();
    assert!(old.iter().all(|ends| is_reset(&ends.client)), "the first turn resets every client");
    assert_eq!(bench.free_places(), CROWD, "a route that was full has room for all of them");
    let mut back = bench.connect();
    bench.turn();
    back.client.write_all(b"ping").expect("send");
    bench.turn();
    assert!(bench.worker.endings.len() > 1, "the closes are still under way");
    let mut heard = [0; 4];
    back.node.read_exact(&mut heard).expect("served");
    assert_eq!(&heard, b"ping");
    bench.turn_until("last close", |bench| bench.worker.endings.is_empty());
    assert_eq!(reports.try_recv().map(|report| report.connections), Ok(CROWD));
    assert!(reports.try_recv().is_err(), "one report");
    assert!(old.iter().all(|ends| is_reset(&ends.node)), "their nodes' ends are closed too");
    assert_eq!((bench.worker.pairs.len(), bench.connections(), bench.free_places()), (1, 1, CROWD - 1));
}

#[test]
fn who_waits_for_an_answer_is_told_first() {
    let mut bench = Bench::new(CROWD);
    let mut crowd = bench.crowd(CROWD);
    bench.slot.gate.pause(1);
    crowd[CROWD - 1].client.write_all(b"ping").expect("send");
    bench.turn_until("held word", |bench| bench.worker.pairs.iter().any(|(_, pair)| pair.is_held()));
    let _reports = bench.switch();
    bench.turn_until("reset", |bench| !bench.worker.endings.is_empty());
    let order: Vec<usize> = bench.worker.endings.iter().map(|ending| ending.index).collect();
    assert_eq!((order.len(), order[..2].to_vec()), (CROWD, vec![CROWD - 1, 0]));
}

#[test]
fn a_switch_amid_the_closes_of_another_ends_each_connection_once() {
    let mut bench = Bench::new(2 * CROWD);
    let old = bench.crowd(CROWD);
    let mut first = bench.switch();
    let back = bench.connect();
    bench.turn();
    assert_eq!(bench.connections(), bench.worker.pairs.len() as u32);
    bench.turn_until("some closes", |bench| bench.worker.endings.len() < CROWD);
    let mut second = bench.switch();
    let again = bench.connect();
    bench.turn_until("last close", |bench| bench.worker.pairs.len() == 1 && bench.worker.endings.is_empty());
    let counts = [&mut first, &mut second].map(|reports| reports.try_recv().map(|report| report.connections));
    assert_eq!(counts, [Ok(CROWD), Ok(1)]);
    assert!(is_reset(&back.client) && old.iter().all(|ends| is_reset(&ends.client)));
    again.client.set_nonblocking(true).expect("non-blocking");
    assert!(!is_reset(&again.client), "who came after it is none of its business");
    assert_eq!((bench.connections(), bench.free_places()), (1, 2 * CROWD - 1));
}

#[test]
fn who_leaves_in_a_pause_makes_room_at_once_but_only_so_many_do() {
    let most = MOST_VACATED + 6;
    let mut bench = Bench::new(most);
    let crowd = bench.crowd(most);
    bench.slot.gate.pause(1);
    let (clients, nodes): (Vec<_>, Vec<_>) = crowd.into_iter().map(|ends| (ends.client, ends.node)).unzip();
    drop(clients);
    let all_heard = |bench: &Bench| bench.worker.pairs.iter().all(|(_, pair)| pair.ends[CLIENT].hung_up);
    bench.turn_until("hang-up of all", all_heard);
    assert_eq!((bench.free_places(), bench.worker.vacated), (MOST_VACATED, MOST_VACATED));
    assert_eq!(bench.worker.pairs.len(), most, "what they have sent is still to be delivered");
    // Who takes such a place, and leaves as well, keeps it: there are files enough beyond the limit.
    drop(bench.connect());
    bench.turn_until("hang-up of one more", |bench| bench.worker.pairs.len() > most && all_heard(bench));
    assert_eq!(bench.free_places(), MOST_VACATED - 1);
    // The pause ends: their nodes hear that they have gone, and all ends in order.
    bench.slot.gate.open(1);
    bench.mailbox.send(Mail::Resume(KEY));
    bench.turn();
    drop(nodes);
    bench.turn_until("end of all", |bench| bench.worker.pairs.is_empty());
    assert_eq!((bench.free_places(), bench.worker.vacated, bench.connections()), (most, 0, 0));
}

#[test]
fn who_left_in_a_pause_that_ends_elsewhere_is_counted_out_once() {
    let mut bench = Bench::new(2);
    let mut crowd = bench.crowd(2);
    bench.slot.gate.pause(1);
    drop(crowd.pop().expect("two").client);
    bench.turn_until("free place", |bench| bench.free_places() == 1);
    let mut reports = bench.switch();
    bench.turn_until("last close", |bench| bench.worker.pairs.is_empty() && bench.worker.endings.is_empty());
    assert_eq!(reports.try_recv().map(|report| report.connections), Ok(2));
    assert_eq!((bench.free_places(), bench.worker.vacated, bench.connections()), (2, 0, 0));
}
