//! How long writers wait: ten masters are killed one after the other, while clients that each write once
//! over a connection of their own come all the time. Timed from the Sentinels' majority.

use std::{
    net::SocketAddr,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use redis::{FromRedisValue as _, Value};
use switchmaster_tests::{Client, Lab, Namespace, Spec, lab::check, redis::MajorityWatch, wait};

use crate::{FAILOVER, FOLLOW, limit, on_each_way};

const ROUNDS: usize = 10;
const DIALERS: usize = 4;
const BAR: Duration = Duration::from_millis(20);

on_each_way!(ten_masters_are_killed);

/// A write that was acknowledged, over a connection that did nothing else.
#[derive(Debug, Clone, Copy)]
struct Good {
    dialled: Instant,
    acked: Instant,
}

#[derive(Debug, Default)]
struct Seen {
    good: Vec<Good>,
    wrong: Vec<String>,
}

fn write_once(namespace: &Namespace, to: SocketAddr) -> Result<Good> {
    let dialled = Instant::now();
    let mut client = Client::connect_within(namespace, to, FAILOVER)?;
    let role = client.role()?;
    ensure!(role == "master", "WRONG: a {role} answered");
    client.send(redis::cmd("INCR").arg("writes"))?;
    match client.receive()? {
        Value::Int(_) => Ok(Good { dialled, acked: Instant::now() }),
        other => bail!("WRONG: INCR was answered {:?}", String::from_redis_value(other)),
    }
}

fn dial(namespace: &Namespace, to: SocketAddr, seen: &Mutex<Seen>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        let outcome = write_once(namespace, to);
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Ok(good) => seen.good.push(good),
            Err(error) if error.to_string().starts_with("WRONG") => seen.wrong.push(format!("{error:#}")),
            // Cut off with its master, or told that there is none: it comes again, as clients do.
            Err(_) => {}
        }
        drop(seen);
        wait::pause(Duration::from_millis(1));
    }
}

/// One kill. How long after the majority a write first succeeded: of anybody, and of those who dialled after it.
fn round(lab: &mut Lab) -> Result<[Duration; 2]> {
    let old = lab.cluster.master()?;
    let watch = MajorityWatch::start(&lab.cluster, old)?;
    let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
    let (seen, stop) = (Mutex::new(Seen::default()), AtomicBool::new(false));
    let (killed, majority, new) = thread::scope(|scope| -> Result<(Instant, Instant, usize)> {
        for _ in 0..DIALERS {
            scope.spawn(|| dial(&namespace, to, &seen, &stop));
        }
        wait::pause(Duration::from_millis(50));
        lab.cluster.nodes[old].kill();
        let killed = Instant::now();
        let named = watch.wait(FAILOVER);
        wait::pause(Duration::from_millis(300));
        stop.store(true, Ordering::Relaxed);
        let (majority, new) = named?;
        Ok((killed, majority, new))
    })?;
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    ensure!(seen.wrong.is_empty(), "{:?}", seen.wrong);
    let first = |of: &dyn Fn(&Good) -> bool| seen.good.iter().filter(|good| of(good)).map(|good| good.acked).min();
    let anybody = first(&|good| good.dialled > killed);
    let fresh = first(&|good| good.dialled > majority);
    let after = |at: Option<Instant>| -> Result<Duration> {
        Ok(at.context("no write succeeded")?.saturating_duration_since(majority))
    };
    let gap = [after(anybody)?, after(fresh)?];
    println!("to node{new}: first good write {:?} after the majority, {:?} of those who came then", gap[0], gap[1]);
    Ok(gap)
}

/// Makes the killed node a replica again, and waits until all is well.
fn recover(lab: &mut Lab) -> Result<()> {
    let new = lab.cluster.recover(FAILOVER)?;
    lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[new].address, FOLLOW)?;
    // What a Sentinel noted during the last failover may still lead it to correct somebody's role.
    wait::throughout(Duration::from_secs(4), "an undisputed master", || {
        ensure!(lab.cluster.masters() == [new], "the masters are {:?}", lab.cluster.masters());
        Ok(())
    })
}

fn ten_masters_are_killed(datapath: &str) {
    // Long enough that a server which is busy with a full resynchronization is not taken for dead.
    let spec = Spec { down_after_ms: 1000, ..Spec::default() };
    check(Lab::start(spec, datapath, |setup| setup), |lab| {
        let mut gaps = [Vec::new(), Vec::new()];
        for number in 0..ROUNDS {
            let gap = round(lab).with_context(|| format!("round {number}"))?;
            gaps.iter_mut().zip(gap).for_each(|(gaps, gap)| gaps.push(gap));
            recover(lab).with_context(|| format!("after round {number}"))?;
        }
        for (gaps, who) in gaps.iter_mut().zip(["any new connection", "a connection dialled after the majority"]) {
            gaps.sort();
            let median = (gaps[(ROUNDS - 1) / 2] + gaps[ROUNDS / 2]) / 2;
            println!("{datapath}: {who}: median {median:?}, worst {:?}", gaps[ROUNDS - 1]);
            ensure!(median <= limit(BAR), "{who}: median {median:?} of {gaps:?}");
        }
        Ok(())
    });
}
