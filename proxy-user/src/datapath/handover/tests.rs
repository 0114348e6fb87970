//! One connection, spliced by the real program, whose steps are taken by hand.

use std::{
    io::{self, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    sync::{Arc, atomic::AtomicUsize},
    thread,
};

use aya::Ebpf;
use nix::sys::socket::{setsockopt, sockopt};
use proxy_ebpf::{Target, TargetKey, state};
use tokio::sync::Semaphore;

use super::*;
use crate::{
    datapath::{
        Claim, Connection, Place,
        pair::{CLIENT, NODE},
        sockmap::attach,
    },
    kernel::{self, KernelTargets, Sizes},
    socket,
    target::{Gate, Slot},
};

const KEY: TargetKey = TargetKey { route: 0, slot: 0 };
const PATIENCE: Duration = Duration::from_secs(20);
/// The node's bytes are taken no more.
const STALL: Duration = Duration::from_millis(200);
/// More than a credit and what the sockets hold.
const PLENTY: usize = 64 << 20;

struct Bench {
    pair: Pair,
    splice: Splice,
    scratch: Vec<u8>,
    /// The far ends.
    client: TcpStream,
    node: TcpStream,
    sent: usize,
    heard: usize,
    /// Time stands still: the kernel gets no flow back unless a test gives it.
    now: Instant,
    _targets: KernelTargets,
    _object: Ebpf,
}

impl Bench {
    fn new() -> Self {
        let mut object = kernel::load(Sizes { targets: 1, connections: 16 }, None).unwrap();
        let mut targets = KernelTargets::open(&mut object).unwrap();
        let open =
            Target { live: 1, generation: 1, epoch: 0, state: state::OPEN, family: 0, port: [0; 2], addr: [0; 16] };
        targets.write(KEY, open).unwrap();
        let gate = Arc::new(Gate::default());
        gate.open(1);
        let slot = Slot { key: KEY, addr: ([127, 0, 0, 1], 6379).into(), generation: 1, gate, load: Arc::default() };
        let mut splice = attach(&mut object).unwrap().maps.for_worker(0, &Arc::new(AtomicUsize::new(0))).unwrap();
        let now = Instant::now();
        let ((client, near_client), (node, near_node)) = (sockets(), sockets());
        // What is sent soon waits for a client that does not read.
        setsockopt(&client, sockopt::RcvBuf, &(64 << 10)).unwrap();
        let place = Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap();
        let mut pair = Pair::new(
            Connection {
                client: near_client,
                node: near_node,
                lease: slot.lease(),
                traffic: Arc::default(),
                idle_timeout: Duration::ZERO,
                place: Place::new(place, Claim::default()),
            },
            0,
            1,
            now,
        );
        pair.splice(&mut splice, now).unwrap();
        Self {
            pair,
            splice,
            scratch: vec![0; 64 << 10],
            client,
            node,
            sent: 0,
            heard: 0,
            now,
            _targets: targets,
            _object: object,
        }
    }

    /// The node sends what is taken from it, and no more than `most`.
    fn send(&mut self, most: usize) {
        let (end, mut since) = (self.sent + most, Instant::now());
        while self.sent < end {
            let piece: Vec<u8> = (self.sent..end.min(self.sent + (64 << 10))).map(byte_at).collect();
            match self.node.write(&piece) {
                Ok(count) => (self.sent, since) = (self.sent + count, Instant::now()),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && since.elapsed() < STALL => {
                    thread::yield_now();
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// The client reads what there is, which must be what comes next.
    fn hear(&mut self) {
        let mut buffer = vec![0; 256 << 10];
        match self.client.read(&mut buffer) {
            Ok(count) => {
                for byte in &buffer[..count] {
                    assert_eq!(*byte, byte_at(self.heard), "at {}", self.heard);
                    self.heard += 1;
                }
            }
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
    }

    fn step(&mut self) {
        for side in [NODE, CLIENT] {
            // Neither the ring nor epoll is listened to: all is asked for every time.
            let end = self.pair.ends[side].cookie;
            if self.pair.flows[side].via == Via::Kernel && self.splice.meter(end).unwrap().passing != 0 {
                self.pair.leave(side, self.now);
            }
            (self.pair.ends[side].readable, self.pair.ends[1 - side].writable) = (true, true);
            let mut means = Means { splice: Some(&mut self.splice), scratch: &mut self.scratch, now: self.now };
            self.pair.step(side, &mut means).unwrap();
        }
    }

    /// Goes on until the client has heard everything.
    fn finish(&mut self) {
        let began = Instant::now();
        while self.heard < self.sent {
            assert!(began.elapsed() < PATIENCE, "{} of {} bytes are heard", self.heard, self.sent);
            self.step();
            self.hear();
        }
    }

    fn meter(&self) -> Meter {
        self.splice.meter(self.pair.ends[NODE].cookie).unwrap()
    }
}

/// Tells every place of the stream from those around it.
fn byte_at(place: usize) -> u8 {
    (place as u32 / 4).wrapping_mul(0x9e37_79b1).to_le_bytes()[place % 4]
}

fn sockets() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let far = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let near = listener.accept().unwrap().0;
    socket::tune(&near).unwrap();
    far.set_nonblocking(true).unwrap();
    (far, near)
}

/// The daemon is held up between the two, and the client does not read.
#[test]
#[ignore = "needs root"]
fn a_credit_that_is_spent_between_a_grant_and_the_look_at_it_goes_first() {
    let mut bench = Bench::new();
    bench.send(PLENTY);
    bench.finish();
    assert_eq!(bench.pair.flows[NODE].via, Via::Daemon, "the first credit is spent");
    let (before, from) = (bench.meter(), &bench.pair.ends[NODE]);
    bench.splice.grant(from, bench.pair.label(NODE), before.charged, from.read).unwrap();
    // Less than a credit, which then waits in the kernel's own queue.
    setsockopt(bench.pair.ends[CLIENT].socket(), sockopt::SndBuf, &(64 << 10)).unwrap();
    bench.send(PLENTY);
    let after = bench.meter();
    assert!(after.bytes > before.bytes && after.passed > before.passed, "{before:?} {after:?}");
    assert!(!bench.pair.kernel_is_empty(NODE, &bench.splice).unwrap(), "bytes wait in the kernel");
    bench.pair.look_at_grant(NODE, &bench.splice, before, bench.now).unwrap();
    bench.finish();
}

/// The program told of a pass before the flow was given back to the kernel, and was heard after.
#[test]
#[ignore = "needs root"]
fn a_word_that_comes_late_takes_no_flow_from_the_kernel() {
    let mut bench = Bench::new();
    bench.send(PLENTY);
    bench.finish();
    let (before, from) = (bench.meter(), &bench.pair.ends[NODE]);
    bench.splice.grant(from, bench.pair.label(NODE), before.charged, from.read).unwrap();
    bench.pair.look_at_grant(NODE, &bench.splice, before, bench.now).unwrap();
    assert_eq!(bench.pair.flows[NODE].via, Via::Kernel);
    bench.pair.leave(NODE, bench.now);
    bench.step();
    setsockopt(bench.pair.ends[CLIENT].socket(), sockopt::SndBuf, &(64 << 10)).unwrap();
    bench.send(PLENTY);
    let after = bench.meter();
    assert!(after.bytes > before.bytes && after.passed > before.passed, "{before:?} {after:?}");
    bench.finish();
}

/// A segment came before the grant: nothing is redirected after it.
#[test]
#[ignore = "needs root"]
fn a_grant_that_comes_too_late_changes_nothing() {
    let mut bench = Bench::new();
    bench.send(PLENTY);
    bench.finish();
    let before = bench.meter();
    bench.send(1);
    let from = &bench.pair.ends[NODE];
    bench.splice.grant(from, bench.pair.label(NODE), before.charged, from.read).unwrap();
    bench.send(PLENTY);
    bench.pair.look_at_grant(NODE, &bench.splice, before, bench.now).unwrap();
    assert_eq!((bench.pair.flows[NODE].via, bench.meter().bytes), (Via::Daemon, before.bytes));
    bench.finish();
}
