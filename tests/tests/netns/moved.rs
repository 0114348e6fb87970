//! What is below IP changes under a connection. A neighbour gets another MAC address while the programs remember the old one: that
//! costs one retransmission, also where the end whose packets go astray only acknowledges. A link goes down, and comes back.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Namespace, wait};

use crate::stage::{self, Stage};

/// A retransmission comes after 0.2 s (TCP_RTO_MIN), and the next after twice that. What is remembered is so for 4.3 s.
const NOTICED: Duration = Duration::from_millis(1500);
const MOVES: u8 = 4;
const WITHOUT_END: &[u8] = b"without end";

fn moved(end: &Namespace, number: u8) -> Result<()> {
    let address = format!("02:00:00:00:77:{number:02x}");
    end.run("ip", &["link", "set", "dev", "eth0", "address", &address]).map(drop)
}

/// Gives back what it gets, or sends without end if that is what it gets.
fn serve(mut stream: TcpStream) -> Result<()> {
    let (mut bytes, mut without_end) = ([0; 4096], false);
    loop {
        let count = if without_end { bytes.len() } else { stream.read(&mut bytes)? };
        without_end |= bytes[..count] == *WITHOUT_END;
        // Ends with the client.
        if count == 0 || stream.write_all(&bytes[..count]).is_err() {
            return Ok(());
        }
    }
}

fn ask(mut client: &TcpStream) -> Result<Duration> {
    let begun = Instant::now();
    client.write_all(b"ping").context("ping")?;
    client.read_exact(&mut [0; 4]).context("pong")?;
    Ok(begun.elapsed())
}

/// The longest time without a byte, until `stop`.
fn longest_gap(mut client: &TcpStream, stop: &AtomicBool) -> Result<Duration> {
    let (mut longest, mut last, mut bytes) = (Duration::ZERO, Instant::now(), vec![0; 1 << 16]);
    while !stop.load(Ordering::SeqCst) {
        ensure!(client.read(&mut bytes).context("the stream")? != 0, "the stream has ended");
        longest = longest.max(last.elapsed());
        last = Instant::now();
    }
    Ok(longest)
}

fn costs_one_retransmission(datapath: &str) {
    stage::check(Stage::new(datapath, serve), |stage| {
        let ends = [stage.world.client()?, stage.world.db()?];
        for end in ends {
            // It says so to its neighbours, and the kernel here knows at once. Else that learns of it when the end has something to
            // send again, and where all was acknowledged it takes the better part of a minute.
            end.run("sysctl", &["-qw", "net.ipv4.conf.eth0.arp_notify=1"])?;
        }
        for link in ["link1", "link2"] {
            // Past a veth's queue nobody looks at MAC addresses.
            stage.world.proxy()?.run("tc", &["qdisc", "replace", "dev", link, "root", "pfifo"])?;
        }
        stage.wait_translated(0)?;
        let (asking, mut listening) = (stage.connect()?, stage.connect()?);
        for number in 0..MOVES {
            for end in ends {
                for _ in 0..20 {
                    ask(&asking)?;
                }
                moved(end, number)?;
                let took = ask(&asking)?;
                ensure!(took < NOTICED, "{took:?} for an answer after move {number}");
            }
        }
        // Here the end that moves sends, and nobody has to be told.
        ends[1].run("sysctl", &["-qw", "net.ipv4.conf.eth0.arp_notify=0"])?;
        listening.write_all(WITHOUT_END).context("what to do")?;
        let stop = AtomicBool::new(false);
        let longest = thread::scope(|scope| {
            let longest = scope.spawn(|| longest_gap(&listening, &stop));
            let moves = (MOVES..2 * MOVES).try_for_each(|number| {
                // The stream runs, and a next hop of its acknowledgements is remembered.
                wait::pause(Duration::from_millis(700));
                moved(ends[1], number)
            });
            wait::pause(NOTICED);
            stop.store(true, Ordering::SeqCst);
            let longest = longest.join().expect("joined");
            moves.and(longest)
        })?;
        ensure!(longest < NOTICED, "nothing came for {longest:?}");
        Ok(())
    });
}

/// A link goes down for longer than the daemon needs to see it, on either side, and comes back: to TCP that is silence.
fn outlives_a_link_that_was_down(datapath: &str) {
    stage::check(Stage::new(datapath, serve), |stage| {
        stage.wait_translated(0)?;
        let (asking, mut listening) = (stage.connect()?, stage.connect()?);
        listening.write_all(WITHOUT_END).context("ask")?;
        for link in ["link1", "link2"] {
            ask(&asking)?;
            let proxy = stage.world.proxy()?;
            proxy.run("ip", &["link", "set", "dev", link, "down"])?;
            wait::pause(Duration::from_millis(2500));
            proxy.run("ip", &["link", "set", "dev", link, "up"])?;
            // At once, before the daemon has looked again.
            ask(&asking).with_context(|| format!("after {link} was down"))?;
            listening.read_exact(&mut [0; 1 << 16]).with_context(|| format!("a stream after {link} was down"))?;
        }
        Ok(())
    });
}

#[test]
fn costs_one_retransmission_by_tc() {
    costs_one_retransmission("tc");
}

#[test]
fn costs_one_retransmission_by_xdp() {
    costs_one_retransmission("xdp");
}

#[test]
fn outlives_a_link_that_was_down_by_tc() {
    outlives_a_link_that_was_down("tc");
}

#[test]
fn outlives_a_link_that_was_down_by_xdp() {
    outlives_a_link_that_was_down("xdp");
}
