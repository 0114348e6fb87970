//! redis-benchmark: one run of it, and the rate and latencies it prints.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    netns::Namespace,
    process::{Process, tail},
};

use super::{Load, Test, Timing};

/// A run is sized to last about a second.
const LIMIT: Duration = Duration::from_secs(60);

impl Test {
    /// As it calls it in its output.
    fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Set => "SET",
        }
    }
}

pub(super) fn run(from: &Namespace, to: SocketAddr, load: Load, directory: &Path) -> Result<Timing> {
    let log = directory.join("benchmark");
    let mut command = from.command("redis-benchmark");
    command.args(["-h", &to.ip().to_string(), "-p", &to.port().to_string(), "--csv"]);
    command.args(["-t", &load.test.name().to_lowercase(), "-d", &load.bytes.to_string()]);
    command.args(["-c", &load.clients.to_string(), "-n", &load.requests.to_string()]);
    command.args(["-P", &load.pipeline.to_string(), "-k", if load.keep { "1" } else { "0" }]);
    let mut benchmark = Process::start("redis-benchmark", command, log.clone())?;
    let status = benchmark.wait(LIMIT).with_context(|| format!("{} clients to {to}", load.clients))?;
    let text = benchmark.log();
    fs::remove_file(&log).context("the benchmark's output")?;
    ensure!(status.success(), "redis-benchmark failed ({status}): {}", tail(&text));
    parse(&text, load.test).with_context(|| format!("redis-benchmark printed {text:?}"))
}

/// The test's line: its name, rps, then latencies: mean, least, p50, p95, p99, most.
fn parse(text: &str, test: Test) -> Option<Timing> {
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("\"{}\",", test.name())))?;
    let fields: Vec<f64> = line.split(',').map_while(|field| field.trim_matches('"').parse().ok()).collect();
    let [rps, _mean, _least, p50_ms, _p95, p99_ms, ..] = fields[..] else { return None };
    (rps > 0.0).then_some(Timing { rps, p50_ms, p99_ms })
}

#[cfg(test)]
mod tests {
    use super::{Test, Timing, parse};

    #[test]
    fn reads_the_line_of_its_test() {
        let text = "\"test\",\"rps\",\"avg_latency_ms\"\n\
                    \"GET\",\"87719.30\",\"0.071\",\"0.008\",\"0.063\",\"0.111\",\"0.175\",\"1.047\"\n";
        assert_eq!(parse(text, Test::Get), Some(Timing { rps: 87719.30, p50_ms: 0.063, p99_ms: 0.175 }));
        assert_eq!(parse(text, Test::Set), None);
        assert_eq!(parse("WARNING: Could not fetch server CONFIG\n", Test::Get), None);
    }
}
