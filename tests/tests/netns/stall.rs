//! A reader that stops: the kernel's splice knows no backpressure, so the datapath must make its own.
//! Little memory is held, others do not notice, and every byte is there when it reads again.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    memory::{self, MIB},
    wait,
};

use crate::{
    on_each_datapath, on_each_way,
    order::{self, Manner, Order, echo, serve_or_echo},
    pattern::{Pattern, Random},
    stage::{self, LIMIT, Stage, crowd},
};

const WAITING: u64 = 1 << 30;
const MOST_MEMORY: f64 = 32.0 * MIB;
/// What may wait in a bypass, and TCP's own buffers of the two sockets.
const MOST_BYPASSED: f64 = 8.0 * MIB;
/// The machine's memory and its latency are not ours alone: what is wrong is so every time.
const ATTEMPTS: usize = 3;

on_each_way!(a_client_that_stops_reading, a_node_that_stops_reading, stalls_and_resumes_all_the_time);
// Those of a bypass wait for each with up to its limit (docs/datapaths.md), so 200 cost more than a bound for all together.
on_each_datapath!(two_hundred_readers_of_small_messages, back_to_the_kernel, an_echo_that_nobody_reads);

/// The 99th percentile of small round trips of a few clients.
fn p99(stage: &Stage) -> Result<Duration> {
    const CLIENTS: usize = 4;
    let trips = std::sync::Mutex::new(Vec::new());
    crowd(CLIENTS, CLIENTS, |_| {
        let (mut stream, mut buffer, start) = (stage.connect()?, [b'p'; 64], Instant::now());
        let mut mine = Vec::new();
        while start.elapsed() < Duration::from_millis(1000) {
            let sent = Instant::now();
            stream.write_all(&buffer).context("ping")?;
            stream.read_exact(&mut buffer).context("pong")?;
            mine.push(sent.elapsed());
        }
        trips.lock().ok().context("poisoned")?.extend(mine);
        Ok(())
    })?;
    let mut trips = trips.into_inner().ok().context("poisoned")?;
    trips.sort_unstable();
    trips.get(trips.len() * 99 / 100).copied().context("no round trip")
}

/// What a stall cost others while it lasted.
#[derive(Debug)]
struct Toll {
    memory: f64,
    p99: [Duration; 2],
}

impl Toll {
    fn bearable(&self, most_memory: f64) -> bool {
        self.memory <= most_memory && self.p99[1] <= self.p99[0] * 2
    }
}

/// Asks for `order` on `count` connections that read nothing until the toll is known.
fn stall(stage: &Stage, count: usize, order: &Order, settle: Duration) -> Result<Toll> {
    let before = p99(stage)?;
    let (gate, opened) = (std::sync::RwLock::new(()), std::sync::Barrier::new(count + 1));
    let closed = gate.write().ok().context("poisoned")?;
    let before_all = memory::available()?;
    thread::scope(|scope| {
        let readers: Vec<_> = (0..count)
            .map(|number| {
                let (gate, opened, seed) = (&gate, &opened, number as u64);
                scope.spawn(move || {
                    let stream = stage.connect();
                    opened.wait();
                    let order = Order { seed, ..*order };
                    order::fulfil_after(stream?, &order, Manner::default(), || drop(gate.read()))
                })
            })
            .collect();
        opened.wait();
        wait::pause(settle);
        let memory = memory::taken_since(before_all)?;
        let during = p99(stage);
        drop(closed);
        readers.into_iter().try_for_each(|reader| reader.join().ok().context("a reader panicked")?)?;
        Ok(Toll { memory, p99: [before, during?] })
    })
}

fn stall_until_bearable(datapath: &str, count: usize, order: &Order, settle: Duration, most_memory: f64) {
    stage::check(Stage::alone(datapath, serve_or_echo), |stage| {
        let mut tolls = Vec::new();
        for _ in 0..ATTEMPTS {
            let toll = stall(stage, count, order, settle)?;
            eprintln!("{datapath}, {count} stalled: memory {:+.1} MiB, p99 {:?}", toll.memory / MIB, toll.p99);
            if toll.bearable(most_memory) {
                return Ok(());
            }
            tolls.push(toll);
        }
        anyhow::bail!("a stalled reader costs too much every time: {tolls:?}")
    });
}

fn most_memory(datapath: &str) -> f64 {
    if datapath == "bypassed" { MOST_BYPASSED } else { MOST_MEMORY }
}

fn a_client_that_stops_reading(datapath: &str) {
    let order = Order { down: WAITING, ..Order::default() };
    stall_until_bearable(datapath, 1, &order, Duration::from_millis(1500), most_memory(datapath));
}

fn a_node_that_stops_reading(datapath: &str) {
    let node = Manner { late_ms: 3500, ..Manner::default() };
    let order = Order { up: WAITING, node, ..Order::default() };
    stall_until_bearable(datapath, 1, &order, Duration::from_millis(1500), most_memory(datapath));
}

/// A message of 64 bytes takes a kilobyte in a queue that does not merge: counted by payload alone,
/// a bound would hold sixteen times what it says.
fn two_hundred_readers_of_small_messages(datapath: &str) {
    let node = Manner { most: 64, ..Manner::default() };
    let order = Order { down: 256 << 10, node, ..Order::default() };
    // Until the writers, whose many small writes take both processors, are done or stuck.
    stall_until_bearable(datapath, 200, &order, Duration::from_secs(6), 512.0 * MIB);
}

/// Both ends rest and stop at random, so that flows change hands again and again while full.
fn stalls_and_resumes_all_the_time(datapath: &str) {
    const CONNECTIONS: usize = 16;
    stage::check(Stage::new(datapath, order::serve), |stage| {
        let node = Manner { stalls_ms: 80, rests_us: 300, ..Manner::default() };
        crowd(CONNECTIONS, CONNECTIONS, |number| {
            let order = Order { seed: number as u64, up: 24 << 20, down: 24 << 20, node };
            order::fulfil(stage.connect_as(number)?, &order, node)
        })?;
        stage.node.wait_ended(CONNECTIONS, LIMIT)?;
        if datapath == "sockmap" {
            let turned = stage.verdicts("passed_no_credit")?;
            ensure!(turned > CONNECTIONS as f64, "flows came back from the kernel only {turned} times");
        }
        Ok(())
    });
}

/// After a stall the flow is the kernel's again, and stays so.
fn back_to_the_kernel(datapath: &str) {
    const TRIPS: u32 = 500;
    stage::check(Stage::new(datapath, echo), |stage| {
        let mut stream = stage.connect()?;
        for round in 0..3 {
            pile_up(&stream, || {
                wait::pause(Duration::from_millis(600));
                Ok(())
            })?;
            // The flow stays with the daemon for a moment, lest it change hands for every message.
            wait::pause(Duration::from_millis(400));
            trips(&mut stream, 10)?;
            wait::pause(Duration::from_millis(400));
            if datapath == "sockmap" {
                ensure!(stage.verdicts("passed_no_credit")? > f64::from(round), "nothing came back from the kernel");
                let before = stage.verdicts("redirected")?;
                trips(&mut stream, TRIPS)?;
                let redirected = stage.verdicts("redirected")? - before;
                ensure!(
                    redirected >= f64::from(TRIPS) * 2.0,
                    "round {round}: {redirected} of {} redirected",
                    TRIPS * 2
                );
            }
        }
        Ok(())
    });
}

fn trips(stream: &mut TcpStream, count: u32) -> Result<()> {
    let mut buffer = [b't'; 64];
    for _ in 0..count {
        stream.write_all(&buffer).context("ping")?;
        stream.read_exact(&mut buffer).context("pong")?;
    }
    Ok(())
}

/// Far more than all buffers together.
const PILE: u64 = 192 << 20;

/// Pours the pile into an echo and reads nothing of what comes back until `meanwhile` is over.
fn pile_up(mut stream: &TcpStream, meanwhile: impl FnOnce() -> Result<()>) -> Result<()> {
    thread::scope(|scope| {
        let writer = scope.spawn(|| pour(stream));
        meanwhile()?;
        ensure!(!writer.is_finished(), "{PILE} bytes vanished into an echo that nobody reads");
        let (mut pattern, mut buffer) = (Pattern::new(9), vec![0; 64 << 10]);
        while pattern.at < PILE {
            let count = stream.read(&mut buffer).with_context(|| format!("read, after {} of {PILE}", pattern.at))?;
            ensure!(count > 0, "the end comes after {} of {PILE}", pattern.at);
            pattern.check(&buffer[..count])?;
        }
        writer.join().ok().context("the writer panicked")?
    })
}

fn pour(mut stream: &TcpStream) -> Result<()> {
    let (mut pattern, mut random) = (Pattern::new(9), Random::new(0));
    while pattern.at < PILE {
        let piece = pattern.peek(random.size(64 << 10).min((PILE - pattern.at) as usize));
        stream.write_all(piece).context("pile up")?;
        pattern.at += piece.len() as u64;
    }
    Ok(())
}

/// A client that sends without end into an echo and reads nothing of what comes back is stopped: the two
/// directions share the kernel's queues, and neither may fill them behind the other.
fn an_echo_that_nobody_reads(datapath: &str) {
    stage::check(Stage::alone(datapath, echo), |stage| {
        let mut grown = Vec::new();
        for _ in 0..ATTEMPTS {
            let (stream, before) = (stage.connect()?, memory::available()?);
            pile_up(&stream, || {
                wait::pause(Duration::from_millis(1500));
                grown.push(memory::taken_since(before)?);
                eprintln!("{datapath}, an unread echo: memory {:+.1} MiB", grown[grown.len() - 1] / MIB);
                Ok(())
            })?;
            if grown.last().is_some_and(|&grown| grown <= MOST_MEMORY) {
                return Ok(());
            }
        }
        anyhow::bail!("an echo that nobody reads costs too much memory every time: {grown:?}")
    });
}
