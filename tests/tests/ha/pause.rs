//! A pause under full load, in both directions: nothing reaches the old master in it, nothing is lost, doubled or
//! overtaken by it, and whoever leaves meanwhile makes room for others.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Client, Lab, Spec, lab::check, wait};

use crate::{FOLLOW, on_each_way};

on_each_way!(streams_stand_still_and_go_on);

const STREAMS: usize = 4;
/// Messages under way on each, and how large they are.
const WINDOW: u64 = 16;
const PADDING: usize = 8 << 10;

/// Orders a failover in which the replicas hang when one of them is to be promoted: the Sentinel chooses one, waits, and
/// gives up. Returns the master when the group is paused.
pub(crate) fn hang_a_failover(lab: &Lab) -> Result<usize> {
    let mut outcome = Ok(0);
    for _ in 0..5 {
        let old = lab.cluster.failover()?;
        // Between the order and the promotion lie some steps of a tenth of a second each.
        let replicas = || lab.cluster.nodes.iter().enumerate().filter(|(index, _)| *index != old);
        replicas().try_for_each(|(_, replica)| replica.freeze())?;
        outcome = lab.daemon.wait_way(lab.group_name(), "paused", Duration::from_secs(1)).map(|_| old);
        if outcome.is_ok() {
            break;
        }
        // What the Sentinel knew of them was too old at that moment for it to choose one: once more.
        replicas().try_for_each(|(_, replica)| replica.thaw())?;
        wait::pause(Duration::from_secs(1));
    }
    outcome
}

fn echo(number: u64) -> redis::Cmd {
    let mut command = redis::cmd("ECHO");
    command.arg(format!("{number}:{}", "x".repeat(PADDING)));
    command
}

/// Sends on and on, and wants every message back, whole and in order.
fn stream(mut client: Client, echoed: &AtomicU64, stop: &AtomicBool) -> Result<()> {
    for number in 0..WINDOW {
        client.send(&echo(number))?;
    }
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) {
        let back: String = redis::FromRedisValue::from_redis_value(client.receive()?)?;
        let (first, padding) = back.split_once(':').context("no number")?;
        ensure!(first == number.to_string() && padding.len() == PADDING, "{first} came back for {number}");
        number += 1;
        echoed.fetch_add(1, Ordering::Relaxed);
        client.send(&echo(number + WINDOW - 1))?;
    }
    Ok(())
}

/// How many of the streams' commands the node has executed.
fn executed(lab: &Lab, node: usize) -> Result<String> {
    lab.cluster.nodes[node]
        .info("commandstats", "cmdstat_echo")
        .map(|line| line.split(',').next().unwrap_or_default().to_owned())
}

/// Dials, asks, and waits for its answer, wherever it is kept waiting.
fn newcomer(lab: &Lab) -> Result<JoinHandle<Result<()>>> {
    let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
    Ok(thread::spawn(move || Client::connect_within(&namespace, to, FOLLOW)?.ping()))
}

/// What had been sent before the pause has arrived, either way: on a busy machine node and clients come to it late, and a packet
/// that is lost between the two comes again after 0.2 s (TCP_RTO_MIN).
fn wait_until_arrived(lab: &Lab, old: usize, echoed: &AtomicU64) -> Result<()> {
    wait::until(Duration::from_secs(1), "node and clients to stand still", || {
        let look = || -> Result<_> { Ok((executed(lab, old)?, echoed.load(Ordering::Relaxed))) };
        let before = look()?;
        wait::pause(Duration::from_millis(250));
        let now = look()?;
        ensure!(now == before, "they went from {before:?} to {now:?}");
        Ok(())
    })
}

/// `late` sends in the pause.
fn paused(
    lab: &Lab,
    old: usize,
    late: &mut Client,
    leaver: Client,
    echoed: &AtomicU64,
) -> Result<JoinHandle<Result<()>>> {
    wait_until_arrived(lab, old, echoed)?;
    let (before, back) = (executed(lab, old)?, echoed.load(Ordering::Relaxed));
    late.send(&echo(0))?;
    drop(leaver);
    wait::pause(Duration::from_millis(50));
    let next = newcomer(lab)?;
    wait::pause(Duration::from_millis(150));
    ensure!(lab.daemon.status()?.group(lab.group_name())?.way == "paused", "the pause was too short for this test");
    let (after, more) = (executed(lab, old)?, echoed.load(Ordering::Relaxed));
    ensure!(before == after, "the old master went from {before} to {after} in the pause");
    ensure!(back == more, "{} answers came in the pause", more - back);
    Ok(next)
}

fn streams_stand_still_and_go_on(datapath: &str) {
    let spec = Spec { failover_timeout_ms: 700, down_after_ms: 5000, ..Spec::default() };
    // A packet that says that a client has left is held back too.
    let places = STREAMS + 2 + usize::from(matches!(datapath, "tc" | "xdp"));
    let lab = Lab::start(spec, datapath, |mut setup| {
        setup.writes = setup.writes.set("max_connections", places);
        // Else both are lowered to what the limit of open files allows.
        setup.reads = setup.reads.set("max_connections", places);
        setup
    });
    check(lab, |lab| {
        let (echoed, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        let clients = (0..STREAMS).map(|_| lab.writes()).collect::<Result<Vec<_>>>()?;
        let (mut leaver, mut late) = (lab.writes()?, lab.writes()?);
        leaver.ping()?;
        late.ping()?;
        thread::scope(|scope| {
            let streams: Vec<_> =
                clients.into_iter().map(|client| scope.spawn(|| stream(client, &echoed, &stop))).collect();
            let work = || -> Result<()> {
                wait::until_true(FOLLOW, "a stream", || echoed.load(Ordering::Relaxed) > 500)?;
                let old = hang_a_failover(lab)?;
                let next = paused(lab, old, &mut late, leaver, &echoed)?;
                lab.daemon.wait_way(lab.group_name(), "open", FOLLOW)?;
                let opened = Instant::now();
                let served = next.join().ok().context("the client that came in the pause panicked")?;
                served.context("the client that came in the pause")?;
                late.receive().context("who sent in the pause")?;
                ensure!(opened.elapsed() < Duration::from_secs(1), "it was served after {:?}", opened.elapsed());
                let before = echoed.load(Ordering::Relaxed);
                wait::until_true(FOLLOW, "the streams to go on", || echoed.load(Ordering::Relaxed) > before + 500)?;
                let refused = lab.daemon.status()?.route("writes")?.refused.clone();
                ensure!(refused.is_empty(), "clients were turned away: {refused:?}");
                Ok(())
            };
            let worked = work();
            stop.store(true, Ordering::Relaxed);
            for stream in streams {
                stream.join().ok().context("a stream panicked")?.context("a stream")?;
            }
            worked
        })
    });
}
