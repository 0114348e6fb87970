//! Clients whose nodes the worker dials: who is reached is served, and everybody else goes back with what was begun.

use std::net::SocketAddr;

use super::*;
use crate::{
    datapath::{Call, Caller, Missed},
    target::Lease,
};

/// What became of a client.
#[derive(Debug)]
enum Heard {
    Reached(u64),
    Missed(TcpStream, Missed),
}

#[derive(Debug)]
struct Asker {
    told: std::sync::mpsc::Sender<Heard>,
    stands: bool,
}

impl Caller for Asker {
    fn stands(&self, _: &Lease) -> bool {
        self.stands
    }

    fn reached(&self, generation: u64) {
        self.told.send(Heard::Reached(generation)).expect("the test listens");
    }

    fn missed(&self, client: TcpStream, _: Place, _: Lease, why: Missed) {
        self.told.send(Heard::Missed(client, why)).expect("the test listens");
    }
}

impl Bench {
    /// Asks for a node to be dialled for a client, whose far end it returns.
    fn call(&self, node: SocketAddr, stands: bool) -> (TcpStream, std::sync::mpsc::Receiver<Heard>) {
        let (far, client) = self.sockets();
        let (told, heard) = std::sync::mpsc::channel();
        self.mailbox.send(Mail::Dial(Call {
            client,
            node,
            lease: self.slot.lease(),
            traffic: Arc::default(),
            idle_timeout: Duration::ZERO,
            place: Place::new(Arc::clone(&self.places).try_acquire_owned().expect("a place"), Claim::default()),
            caller: Box::new(Asker { told, stands }),
        }));
        (far, heard)
    }

    fn turn_until_heard(&mut self, of: &std::sync::mpsc::Receiver<Heard>) -> Heard {
        let start = Instant::now();
        loop {
            self.turn();
            match of.try_recv() {
                Ok(heard) => return heard,
                Err(_) => assert!(start.elapsed() < PATIENCE, "nothing is heard"),
            }
        }
    }

    fn is_at_rest(&self) -> bool {
        (self.worker.pairs.len(), self.connections(), self.free_places()) == (0, 0, 1)
    }
}

fn node() -> (TcpListener, SocketAddr) {
    let node = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = node.local_addr().expect("bound");
    (node, address)
}

/// Bound, and does not listen.
fn dead() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    let address = socket.local_addr().expect("bound").as_socket().expect("an address");
    (socket, address)
}

/// Answers no SYN: its queue is full.
fn silent() -> (socket2::Socket, Vec<TcpStream>, SocketAddr) {
    let (socket, address) = dead();
    socket.listen(0).expect("listen");
    let waiting = (0..2).map(|_| socket::dial(address).expect("begin")).collect();
    (socket, waiting, address)
}

#[test]
fn who_has_spoken_meanwhile_is_heard_at_once() {
    let mut bench = Bench::new(1);
    let (node, address) = node();
    let (mut client, heard) = bench.call(address, true);
    client.write_all(b"ping").expect("send");
    assert!(matches!(bench.turn_until_heard(&heard), Heard::Reached(1)));
    let (mut far, _) = node.accept().expect("dialled");
    let mut said = [0; 4];
    // No turn is needed for it.
    far.read_exact(&mut said).expect("hear");
    assert_eq!(&said, b"ping");
    far.write_all(b"pong").expect("answer");
    bench.turn();
    client.read_exact(&mut said).expect("hear");
    assert_eq!(&said, b"pong");
    drop((client, far));
    bench.turn_until("end", Bench::is_at_rest);
}

#[test]
fn a_node_that_refuses_is_told_of() {
    let mut bench = Bench::new(1);
    let (_kept, address) = dead();
    let (_client, heard) = bench.call(address, true);
    match bench.turn_until_heard(&heard) {
        Heard::Missed(_, Missed::Begun(Err(error))) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
        other => panic!("{other:?}"),
    }
    assert!(bench.is_at_rest());
}

#[test]
fn what_takes_long_goes_on_elsewhere() {
    let mut bench = Bench::new(1);
    let (queue, waiting, address) = silent();
    let begun = Instant::now();
    let (_client, heard) = bench.call(address, true);
    let Heard::Missed(_, Missed::Begun(Ok(node))) = bench.turn_until_heard(&heard) else { panic!("it was to go on") };
    assert!(begun.elapsed() >= socket::HANDSHAKE, "after {:?}", begun.elapsed());
    assert!(bench.is_at_rest() && bench.worker.dials.due().is_none());
    // With room in the queue the SYN that is sent again comes through, and the worker has nothing to do with it.
    drop(waiting);
    while queue.accept().is_ok_and(|(_, from)| from.as_socket() != Some(node.local_addr().expect("bound"))) {}
    bench.turn();
}

#[test]
fn nobody_is_led_to_where_the_gate_is_shut_or_paused_or_nobody_goes_any_more() {
    let mut bench = Bench::new(1);
    let (_node, address) = node();
    let shut = |bench: &Bench| bench.slot.gate.open(2);
    let paused = |bench: &Bench| bench.slot.gate.pause(1);
    let moved: fn(&Bench) = |_| {};
    for (act, stands) in [(shut as fn(&Bench), true), (paused, true), (moved, false)] {
        bench.slot.gate.open(1);
        let (_client, heard) = bench.call(address, stands);
        bench.turn();
        act(&bench);
        assert!(matches!(bench.turn_until_heard(&heard), Heard::Missed(_, Missed::Moved)));
        assert!(bench.is_at_rest());
    }
}

#[test]
fn a_switch_gives_back_who_is_still_on_the_way() {
    let mut bench = Bench::new(1);
    let (_queue, _waiting, address) = silent();
    let (mut client, heard) = bench.call(address, true);
    bench.turn();
    let mut reports = bench.switch();
    bench.turn();
    let Ok(Heard::Missed(near, Missed::Moved)) = heard.try_recv() else { panic!("it was to come back at once") };
    assert_eq!(reports.try_recv().map(|report| report.connections), Ok(0), "nobody was severed");
    // The client has noticed nothing.
    socket::close_in_order(&near);
    (&near).write_all(b"ping").expect("send");
    client.read_exact(&mut [0; 4]).expect("hear");
    assert!(bench.is_at_rest());
}
