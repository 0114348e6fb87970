//! One run of redis-benchmark on one path, with the CPU time it cost.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use switchmaster_tests::process::{Process, tail};

use super::{path::Path, stage::Stage};
use crate::cpu;

/// A run is sized to last about a second.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) clients: u32,
    pub(super) requests: u64,
    /// One connection for all requests of a client, or a new one for each.
    pub(super) keep: bool,
}

#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Sample {
    pub(super) rps: f64,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    /// CPU time of the whole machine for one request: client, kernel, proxy and Redis.
    pub(super) machine_us: f64,
    /// CPU time of the proxy's process for a million requests.
    pub(super) proxy_s: Option<f64>,
}

/// Which figure of a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Figure {
    Rps,
    P50,
    P99,
    Machine,
    Proxy,
}

impl Sample {
    pub(super) fn figure(&self, figure: Figure) -> Option<f64> {
        match figure {
            Figure::Rps => Some(self.rps),
            Figure::P50 => Some(self.p50_ms),
            Figure::P99 => Some(self.p99_ms),
            Figure::Machine => Some(self.machine_us),
            Figure::Proxy => self.proxy_s,
        }
    }
}

/// GET of 64 bytes, or what the key holds.
pub(super) fn run(stage: &Stage, path: Path, load: Load) -> Result<Sample> {
    let to = stage.address(path)?;
    let log = stage.world.directory().join("benchmark");
    let mut command = stage.client()?.command("redis-benchmark");
    command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string(), "-t", "get", "-d", "64", "--csv"]);
    command.args(["-c", &load.clients.to_string(), "-n", &load.requests.to_string()]);
    command.args(["-k", if load.keep { "1" } else { "0" }]);
    let pid = stage.process(path).map(Process::pid);
    let proxy = || pid.map(cpu::process).transpose();
    let before = (cpu::machine()?, proxy()?);
    let mut benchmark = Process::start("redis-benchmark", command, log.clone())?;
    let status = benchmark.wait(LIMIT).with_context(|| format!("{} clients through {path}", load.clients))?;
    let after = (cpu::machine()?, proxy()?);
    let text = benchmark.log();
    fs::remove_file(&log).context("the benchmark's output")?;
    ensure!(status.success(), "redis-benchmark through {path} failed ({status}): {}", tail(&text));
    let [rps, p50_ms, p99_ms] = parse(&text).with_context(|| format!("redis-benchmark printed {text:?}"))?;
    let requests = load.requests as f64;
    Ok(Sample {
        rps,
        p50_ms,
        p99_ms,
        machine_us: after.0.saturating_sub(before.0).as_secs_f64() * 1e6 / requests,
        proxy_s: after.1.zip(before.1).map(|(after, before)| (after - before).as_secs_f64() * 1e6 / requests),
    })
}

/// rps, p50 and p99 from the line of GET: test, rps, then latencies: mean, least, p50, p95, p99, most.
fn parse(text: &str) -> Option<[f64; 3]> {
    let line = text.lines().find(|line| line.starts_with("\"GET\""))?;
    let fields: Vec<f64> = line.split(',').skip(1).map_while(|field| field.trim_matches('"').parse().ok()).collect();
    let [rps, _mean, _least, p50, _p95, p99, ..] = fields[..] else { return None };
    (rps > 0.0).then_some([rps, p50, p99])
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn reads_the_line_of_get() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\
                    \"GET\",\"87719.30\",\"0.071\",\"0.008\",\"0.063\",\"0.111\",\"0.175\",\"1.047\"\n";
        assert_eq!(parse(text), Some([87719.30, 0.063, 0.175]));
        assert_eq!(parse("WARNING: Could not fetch server CONFIG\n"), None);
    }
}
