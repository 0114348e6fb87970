//! The node loses its role under full load: from the decision on not one byte reaches it, every client
//! learns of it at once, and when there is a master again, clients are served again.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::wait;

use crate::{
    on_each_datapath,
    stage::{self, Stage, crowd},
};

const CLIENTS: usize = 24;
/// A message is the time it was sent at, over and over.
const MESSAGE: usize = 1024;

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

on_each_datapath!(no_byte_reaches_a_node_that_lost_its_role);

fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}

/// What the node has seen so far.
#[derive(Debug, Default)]
struct Seen {
    bytes: AtomicU64,
    /// The latest time at which anything it got was sent.
    sent: AtomicU64,
}

fn swallow(mut stream: &TcpStream, seen: &Seen) {
    let mut buffer = vec![0; MESSAGE];
    let mut filled = 0;
    // Ends by the reset that this test is about.
    while let Ok(count @ 1..) = stream.read(&mut buffer[filled..]) {
        seen.bytes.fetch_add(count as u64, Ordering::SeqCst);
        filled += count;
        if filled == MESSAGE {
            filled = 0;
            let sent = buffer[1..9].iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
            seen.sent.fetch_max(sent, Ordering::SeqCst);
        }
    }
}

/// Sends until the connection ends, and gives the time of that.
fn pour(mut stream: &TcpStream) -> Result<u64> {
    let mut message = [b'm'; MESSAGE];
    loop {
        message[1..9].copy_from_slice(&now().to_be_bytes());
        if let Err(error) = stream.write_all(&message) {
            ensure!(error.kind() != std::io::ErrorKind::WouldBlock, "the client was never told");
            return Ok(now());
        }
    }
}

fn no_byte_reaches_a_node_that_lost_its_role(datapath: &str) {
    let seen = Arc::new(Seen::default());
    let heard = Arc::clone(&seen);
    let sink = move |stream: TcpStream| {
        swallow(&stream, &heard);
        Ok(())
    };
    stage::check(Stage::alone(datapath, sink), |stage| {
        for round in 0..3 {
            let told = AtomicU64::new(0);
            // One that has nothing to send, and can only be told.
            let mut idle = stage.connect()?;
            idle.write_all(b"once").context("idle")?;
            idle.set_read_timeout(Some(Duration::from_secs(1))).context("read time-out")?;
            // All are connected before the decision: a handshake whose packet the load has crowded out would be parked.
            let streams: Vec<_> = (0..CLIENTS).map(|number| stage.connect_as(number)).collect::<Result<_>>()?;
            let closed = std::thread::scope(|scope| {
                let load = scope.spawn(|| {
                    crowd(CLIENTS, CLIENTS, |number| {
                        told.fetch_max(pour(&streams[number])?, Ordering::SeqCst);
                        Ok(())
                    })
                });
                wait::pause(Duration::from_millis(500));
                stage.node.say_master(false);
                stage.daemon.wait_way("fake", "closed", Duration::from_secs(5))?;
                let closed = now();
                // What the node's own socket held at the reset is read by now.
                wait::pause(Duration::from_millis(300));
                let before = seen.bytes.load(Ordering::SeqCst);
                wait::pause(Duration::from_millis(500));
                let more = seen.bytes.load(Ordering::SeqCst) - before;
                let end = idle.read(&mut [0]).err().map(|error| error.kind());
                ensure!(end == Some(std::io::ErrorKind::ConnectionReset), "the idle client's connection: {end:?}");
                ensure!(more == 0, "{more} bytes came 300 ms after the decision and later");
                load.join().ok().context("the load panicked")??;
                Ok(closed)
            })?;
            ensure!(seen.bytes.load(Ordering::SeqCst) > 0, "there was no load");
            let (sent, told) = (seen.sent.load(Ordering::SeqCst), told.load(Ordering::SeqCst));
            ensure!(sent < closed, "a byte sent {} ns after the decision was seen reached the node", sent - closed);
            let late = Duration::from_nanos(told.saturating_sub(closed));
            ensure!(late < Duration::from_millis(300), "the last client was told {late:?} after the decision");
            // Parked while nobody is master; served once somebody is.
            let before = seen.bytes.load(Ordering::SeqCst);
            let _parked = std::thread::scope(|scope| {
                // Where it is the SYN that waits, so does the client.
                let parked = scope.spawn(|| -> Result<TcpStream> {
                    let mut parked = stage.connect()?;
                    parked.write_all(&[b'p'; MESSAGE]).context("parked")?;
                    Ok(parked)
                });
                wait::pause(Duration::from_millis(100));
                stage.node.say_master(true);
                let parked = parked.join().ok().context("the parked client panicked")??;
                wait::until(Duration::from_secs(5), format_args!("round {round}: the parked client's bytes"), || {
                    ensure!(seen.bytes.load(Ordering::SeqCst) == before + MESSAGE as u64, "they have not come");
                    Ok(())
                })?;
                Ok::<_, anyhow::Error>(parked)
            })?;
            // Not a time of this clock.
            seen.sent.store(0, Ordering::SeqCst);
        }
        Ok(())
    });
}
