//! One run of one workload through one peer.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use socket2::{Domain, Socket, Type};
use switchmaster_tests::{
    client::Crowd,
    memory::{MIB, Peak},
};

use super::{
    pubsub::{Plan, Room},
    stage::Stage,
    workload::{Load, Workload},
};
use crate::{
    cpu::Meter,
    requests::{self, KEY, Timing},
    sample::Sample,
};

/// More clients than this hardly add to the rate.
const BUSY: u32 = 8;
/// In full: Twemproxy knows no inline commands.
const PING: &str = "*1\r\n$4\r\nPING\r\n";
const MOST_REQUESTS: f64 = 20e6;

/// How long a run lasts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// Of requests, as fast as they go.
    pub(super) requests: Duration,
    /// Of messages, at their rate.
    pub(super) messages: Duration,
    /// Before either, everything is warmed up by this part of it.
    pub(super) warm_up: f64,
}

/// `known` is the rate of an earlier round, if there was one: what a run needs to last so long.
pub(super) fn measure(stage: &Stage, workload: &Workload, pace: Pace, known: Option<f64>) -> Result<Sample> {
    match workload.load {
        Load::Requests { test, clients, pipeline, bytes, keep, idle } => {
            let load = requests::Load { test, clients, requests: 0, pipeline, bytes, keep };
            requests(stage, load, idle, pace, known)
        }
        Load::Messages { subscribers, per_second } => messages(stage, subscribers, per_second, pace),
        Load::Connects(count) => connects(stage, count),
    }
}

fn requests(stage: &Stage, load: requests::Load, idle: usize, pace: Pace, known: Option<f64>) -> Result<Sample> {
    stage.cluster.nodes[0].client()?.set(KEY, &"x".repeat(load.bytes))?;
    let run = |requests| {
        let load = requests::Load { requests, ..load };
        requests::run(stage.client()?, stage.address, load, stage.directory())
    };
    let crowd = Crowd::gather(stage.client()?, stage.address, idle, PING, "+PONG\r\n".len());
    let crowd = crowd.with_context(|| format!("{idle} idle connections"))?;
    let seconds = pace.requests.as_secs_f64();
    let warm_up = known.map_or_else(|| guess(load), |rate| fitting(rate, seconds * pace.warm_up, load.clients));
    let warm = run(warm_up).context("warming up")?;
    let requests = fitting(known.unwrap_or(warm.rps), seconds, load.clients);
    let sample = metered(stage, || Ok((run(requests)?, requests)))?;
    drop(crowd);
    Ok(sample)
}

/// How long connect(2) takes; each connection is ended by RST, so that no port waits.
fn connects(stage: &Stage, count: usize) -> Result<Sample> {
    let to = stage.address;
    let dial = |count: usize| -> Result<Vec<Duration>> {
        let mut took = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).context("socket")?;
            let before = Instant::now();
            socket.connect(&to.into()).context("connect")?;
            took.push(before.elapsed());
            socket.set_linger(Some(Duration::ZERO)).context("linger")?;
        }
        Ok(took)
    };
    stage.client()?.enter(|| dial(count / 10))??;
    metered(stage, || {
        let mut took = stage.client()?.enter(|| dial(count))??;
        took.sort_unstable();
        let ms = |part: f64| took[(took.len() as f64 * part) as usize].as_secs_f64() * 1000.0;
        let sum: Duration = took.iter().sum();
        let rps = took.len() as f64 / sum.as_secs_f64();
        Ok((Timing { rps, p50_ms: ms(0.5), p99_ms: ms(0.99) }, count as u64))
    })
}

/// What the machine and the peer spend on it; `work` says how much was done.
fn metered(stage: &Stage, work: impl FnOnce() -> Result<(Timing, u64)>) -> Result<Sample> {
    let processes = stage.processes()?;
    let (peak, meter) = (Peak::watch(processes.clone()), Meter::start(processes)?);
    let (timing, count) = work()?;
    let cost = meter.stop()?;
    let proxy_mib = peak.map(Peak::end).transpose()?.map(|bytes| bytes as f64 / MIB);
    Ok(Sample { proxy_mib, ..Sample::of(timing, cost, count) })
}

/// Requests for the first warm-up, when no rate is known: about a tenth of a second's.
fn guess(load: requests::Load) -> u64 {
    let clients = u64::from(load.clients.min(BUSY));
    let each = if load.keep { 1000 } else { 200 };
    let large = (load.bytes as u64 >> 13).max(1);
    (each * clients * u64::from(load.pipeline.min(4)) / large).max(u64::from(load.clients))
}

/// As many requests as take so long, in hundreds, and never fewer than there are clients.
fn fitting(rate: f64, seconds: f64, clients: u32) -> u64 {
    let hundreds = ((rate * seconds).min(MOST_REQUESTS) / 100.0).ceil() as u64;
    (hundreds * 100).max(u64::from(clients))
}

fn messages(stage: &Stage, subscribers: usize, per_second: u32, pace: Pace) -> Result<Sample> {
    let mut room = Room::gather(stage.client()?, stage.address, subscribers)?;
    let within = |time: Duration| (time.as_secs_f64() * f64::from(per_second)).ceil() as u64;
    let counted = within(pace.messages).max(1);
    let plan = Plan { per_second, first: within(pace.messages.mul_f64(pace.warm_up)), counted };
    let mut p999_ms = None;
    let ms = |time: Duration| time.as_secs_f64() * 1000.0;
    let sample = metered(stage, || {
        let outcome = room.play(plan)?;
        p999_ms = Some(ms(outcome.p999));
        let timing = Timing { rps: outcome.per_second, p50_ms: ms(outcome.p50), p99_ms: ms(outcome.p99) };
        Ok((timing, outcome.deliveries))
    })?;
    Ok(Sample { p999_ms, ..sample })
}

#[cfg(test)]
mod tests {
    use super::fitting;

    #[test]
    fn a_run_has_as_many_requests_as_fit_and_no_fewer_than_clients() {
        assert_eq!(fitting(87_719.3, 1.0, 50), 87_800);
        assert_eq!(fitting(1000.0, 0.1, 500), 500);
        assert_eq!(fitting(1e12, 1.0, 1), 20_000_000);
    }
}
