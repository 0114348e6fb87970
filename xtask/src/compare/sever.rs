//! A switch while thousands of connections are idle: how long until the last client knows.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use switchmaster_tests::{
    client::{Crowd, Ends},
    wait,
};

use super::{Run, path::Path, report::Section, stage::Stage};
use crate::{
    bar::{Bar, Limit},
    series::Series,
    table::Table,
};

const BAR: Limit = Limit::AtMost(200.0);
const LIMIT: Duration = Duration::from_secs(30);

/// Milliseconds.
#[derive(Debug, Serialize)]
struct Sample {
    /// From the decision to the client's last RST.
    last: f64,
    /// From the client's first RST to its last.
    span: f64,
    /// What the daemon says it took, from the decision to the last close.
    daemon: f64,
    resets: usize,
}

pub(super) fn measure(run: &Run) -> Result<Section> {
    let size = if run.quick { 500 } else { 5000 };
    let mut table = Table::new(&[
        "path",
        "decision to last RST, ms",
        "worst",
        "first to last RST, ms",
        "by the daemon's own account, ms",
    ]);
    let (mut bars, mut all) = (Vec::new(), serde_json::Map::new());
    for &path in run.paths.iter().filter(|path| path.datapath().is_some()) {
        let samples = switches(run, path, size).with_context(|| format!("{size} connections through {path}"))?;
        let series = |of: fn(&Sample) -> f64| -> Series { samples.iter().map(of).collect() };
        let show = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.1}"));
        let last = series(|sample| sample.last);
        let span = series(|sample| sample.span).median();
        let daemon = series(|sample| sample.daemon).median();
        table.row(vec![path.to_string(), show(last.median()), show(last.most()), show(span), show(daemon)]);
        bars.push(Bar {
            what: format!("{path}: {size} idle connections at a switch, last RST after the decision"),
            bar: BAR.text(" ms"),
            measured: format!("{} ms, at worst {}", show(last.median()), show(last.most())),
            met: last.most().is_some_and(|worst| BAR.holds(worst)),
        });
        all.insert(path.to_string(), serde_json::to_value(&samples)?);
    }
    Ok(Section {
        title: "Idle connections at a switch",
        method: format!(
            "{size} connections, each after one PING; then the other node becomes master. {} switches; medians. Every one of\n\
             the connections ended by RST. The decision is when the daemon writes it down in its log. HAProxy is not in\n\
             this table: it keeps connections to a node that lost its role.",
            run.rounds
        ),
        tables: vec![table],
        bars,
        samples: all.into(),
    })
}

fn switches(run: &Run, path: Path, size: usize) -> Result<Vec<Sample>> {
    let stage = Stage::start(run, &[path], 1)?;
    (0..run.rounds)
        .map(|round| {
            run.say(&format!("switch {} of {} with {size} idle connections through {path}", round + 1, run.rounds));
            let old = round as usize % 2;
            switch(&stage, path, size, old, 1 - old)
        })
        .collect()
}

fn switch(stage: &Stage, path: Path, size: usize, old: usize, new: usize) -> Result<Sample> {
    let daemon = stage.daemon(path).context("no daemon")?;
    let group = &stage.cluster.spec.name;
    daemon.wait_master(group, stage.cluster.nodes[old].address, LIMIT)?;
    let said = daemon.log().len();
    let crowd = Crowd::gather(stage.client()?, stage.address(path)?, size, "PING\r\n", "+PONG\r\n".len())?;
    let nodes = &stage.cluster.nodes;
    let ends = crowd.watch_end(LIMIT, || {
        // Two masters are no reason to switch; that the old one gives way is.
        nodes[new].replicate(None)?;
        nodes[old].replicate(Some((&nodes[new].host, nodes[new].address.port())))
    })?;
    ensure!(ends.resets == size, "{} of {size} connections ended by RST, the others by FIN", ends.resets);
    wait::until(LIMIT, "the daemon's account", || account(&daemon.log()[said..], size, &ends))
}

/// From the daemon's log: what it says of the switch.
fn account(log: &str, size: usize, ends: &Ends) -> Result<Sample> {
    let line = log.lines().find(|line| line.contains("connections were reset")).context("no account yet")?;
    let number = |name: &str| -> Result<f64> {
        let word = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
        word.and_then(|word| word.parse().ok()).with_context(|| format!("no {name} in {line:?}"))
    };
    ensure!(number("connections")? as usize == size, "the daemon counts otherwise: {line:?}");
    let took = number("took_us")? / 1000.0;
    // The state is logged right after the decision, the account when everything is over.
    let state = log.lines().find(|line| line.contains("the group's state")).context("no state yet")?;
    let decision = stamp(state)?.min(stamp(line)? - Duration::from_secs_f64(took / 1000.0));
    let last = ends.last.duration_since(decision).context("the clients heard of it before it was decided")?;
    let span = ends.last.duration_since(ends.first).context("the clock went backwards")?;
    let millis = |time: Duration| time.as_secs_f64() * 1000.0;
    Ok(Sample { last: millis(last), span: millis(span), daemon: took, resets: ends.resets })
}

fn stamp(line: &str) -> Result<SystemTime> {
    let word = line.split_whitespace().next().unwrap_or_default();
    humantime::parse_rfc3339(word).with_context(|| format!("no time in {line:?}"))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::{Ends, account};

    #[test]
    fn reads_the_daemons_account() {
        let log = "2026-01-02T03:04:05.000500Z  INFO m: the group's state group=mymaster way=\"open\"\n\
                   2026-01-02T03:04:05.021000Z  INFO m: connections were reset route=writes connections=2 took_us=20000\n";
        let at = |micros| humantime::parse_rfc3339("2026-01-02T03:04:05Z").unwrap() + Duration::from_micros(micros);
        let ends = Ends { first: at(2_500), last: at(30_500), resets: 2 };
        let sample = account(log, 2, &ends).unwrap();
        assert_eq!((sample.last, sample.span, sample.daemon), (30.0, 28.0, 20.0));
        assert!(account(log, 3, &ends).is_err());
        assert!(account("", 2, &Ends { first: SystemTime::UNIX_EPOCH, ..ends }).is_err());
    }
}
