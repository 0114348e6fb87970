//! One client asks for a gigabyte and does not read: where the bytes wait, what the other clients
//! feel, and whether all of it arrives when the client reads again.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use switchmaster_tests::{
    memory::{self, MIB},
    wait,
};

use super::{Run, benchmark, path::Path, report::Section, stage::Stage};
use crate::{
    bar::{Bar, Limit},
    requests::Load,
    sample::{Figure, Sample},
    series::Series,
    table::Table,
};

const VALUE: usize = 64 << 20;
const BLOCK: usize = 1 << 10;
const NUMBER: usize = 8;
const READ: Duration = Duration::from_secs(10);
/// How long nothing must change until the stall counts as settled, and how long that may take.
const STILL: Duration = Duration::from_millis(700);
const PATIENCE: Duration = Duration::from_secs(20);
const GROWTH: Limit = Limit::AtMost(32.0);
const SLOWER: Limit = Limit::AtMost(2.0);

#[derive(Debug, Serialize)]
struct Outcome {
    path: Path,
    /// The machine's memory in use, without Redis's own, MiB.
    growth: f64,
    p99_before: f64,
    p99_during: f64,
    /// Time to read everything, seconds.
    read: f64,
}

pub(super) fn measure(run: &Run) -> Result<Section> {
    let replies = if run.quick { 2 } else { 16 };
    let total = (replies * VALUE) as f64 / MIB;
    let mut table =
        Table::new(&["path", "memory growth, MiB", "others' p99 before, ms", "during, ms", "ratio", "then read in, s"]);
    let (mut bars, mut outcomes) = (Vec::new(), Vec::new());
    for &path in &run.paths {
        run.say(&format!("{total} MiB wait for a client through {path}"));
        let outcome = stall(run, path, replies).with_context(|| format!("a stalled reader through {path}"))?;
        let ratio = outcome.p99_during / outcome.p99_before;
        table.row(vec![
            path.to_string(),
            format!("{:.1}", outcome.growth),
            format!("{:.3}", outcome.p99_before),
            format!("{:.3}", outcome.p99_during),
            format!("{ratio:.2}"),
            format!("{:.2}", outcome.read),
        ]);
        if path.datapath().is_some() {
            let bar = |what: &str, limit: Limit, unit: &str, value: f64| Bar {
                what: format!("{path}: {total} MiB wait for one client that does not read: {what}"),
                bar: limit.text(unit),
                measured: format!("{value:.2}{unit}"),
                met: limit.holds(value),
            };
            bars.push(bar("growth of the machine's memory", GROWTH, " MiB", outcome.growth));
            bars.push(bar("other clients' p99", SLOWER, " x", ratio));
        }
        outcomes.push(outcome);
    }
    Ok(Section {
        title: "A reader that stops",
        method: format!(
            "A client asks {replies} times for a value of {} MiB and reads nothing. Redis keeps its replies in its own memory,\n\
             whatever stands before it, so memory is what the machine uses more, less what Redis's process does. The others\n\
             are redis-benchmark with 8 clients, GET of 64 bytes, before it and while nothing moves any more. Then the\n\
             client reads: every byte was compared.",
            VALUE >> 20
        ),
        tables: vec![table],
        bars,
        samples: serde_json::to_value(outcomes)?,
    })
}

fn stall(run: &Run, path: Path, replies: usize) -> Result<Outcome> {
    let stage = Stage::start(run, &[path], 0)?;
    let value = pattern();
    stage.cluster.nodes[0].client()?.set("big", &value)?;
    let reply = format!("${VALUE}\r\n{value}\r\n");
    drop(value);
    let requests = run.requests.unwrap_or(if run.quick { 5000 } else { 25_000 });
    let others = || -> Result<f64> {
        let each = (0..run.rounds).map(|_| benchmark::run(&stage, path, Load::get(8, requests, true)));
        let samples = each.collect::<Result<Vec<Sample>>>()?;
        let series: Series = samples.iter().filter_map(|sample| sample.figure(Figure::P99)).collect();
        series.median().context("no rounds")
    };
    let p99_before = others()?;
    let outside = || -> Result<f64> {
        let redis: f64 = stage.cluster.nodes[0].info("memory", "used_memory_rss")?.parse().context("INFO memory")?;
        Ok(-(memory::available()? as f64) - redis)
    };
    let before = outside()?;
    let mut client = stage.client()?.connect(stage.address(path)?, READ)?;
    client.set_read_timeout(Some(READ)).context("read time-out")?;
    client.write_all("GET big\r\n".repeat(replies).as_bytes()).context("requests")?;
    let settled = settle(&outside)?;
    let p99_during = others()?;
    let growth = (settled.max(outside()?) - before) / MIB;
    let read = read_all(&client, reply.as_bytes(), replies)?;
    Ok(Outcome { path, growth, p99_before, p99_during, read })
}

/// Waits until memory stands still, and returns the most there was.
fn settle(outside: &dyn Fn() -> Result<f64>) -> Result<f64> {
    let start = Instant::now();
    let mut most = f64::MIN;
    let mut last = outside()?;
    loop {
        wait::pause(STILL);
        let now = outside()?;
        most = most.max(now);
        if (now - last).abs() < 2.0 * MIB || start.elapsed() > PATIENCE {
            return Ok(most);
        }
        last = now;
    }
}

/// Reads `replies` times `reply`, comparing every byte; returns how long that took.
fn read_all(mut client: &TcpStream, reply: &[u8], replies: usize) -> Result<f64> {
    let start = Instant::now();
    let mut buffer = vec![0; 256 << 10];
    for number in 1..=replies {
        let mut rest = reply;
        while !rest.is_empty() {
            let most = buffer.len().min(rest.len());
            let count = client.read(&mut buffer[..most]).with_context(|| format!("reply {number}"))?;
            let at = reply.len() - rest.len();
            ensure!(count > 0, "the connection ended at byte {at} of reply {number}");
            ensure!(buffer[..count] == rest[..count], "reply {number} differs after byte {at}");
            rest = &rest[count..];
        }
    }
    Ok(start.elapsed().as_secs_f64())
}

/// Every block of it has a number, so that bytes lost or doubled show.
fn pattern() -> String {
    let letters: String = ('a'..='z').cycle().take(BLOCK - NUMBER).collect();
    (0..VALUE / BLOCK).fold(String::with_capacity(VALUE), |text, block| text + &format!("{block:0NUMBER$}") + &letters)
}
