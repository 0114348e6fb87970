//! GET of 64 bytes at a few numbers of clients: how fast, how soon, and what it costs.

use anyhow::Result;

use super::{
    Run,
    path::Path::{Copy, Sockmap},
    report::Section,
    rounds::{Rounds, Rule},
    stage::Stage,
};
use crate::{
    bar::Limit::{AtLeast, AtMost},
    sample::Figure::{Machine, P50, P99, Proxy, Rate},
};

const RULES: [Rule; 12] = [
    Rule { path: Sockmap, clients: 8, figure: Rate, limit: AtLeast(1.15) },
    Rule { path: Sockmap, clients: 8, figure: P50, limit: AtMost(0.75) },
    Rule { path: Sockmap, clients: 50, figure: Rate, limit: AtLeast(1.0) },
    Rule { path: Sockmap, clients: 50, figure: P50, limit: AtMost(0.85) },
    Rule { path: Sockmap, clients: 50, figure: P99, limit: AtMost(1.0) },
    Rule { path: Sockmap, clients: 1, figure: P50, limit: AtMost(0.95) },
    Rule { path: Sockmap, clients: 4, figure: Machine, limit: AtMost(0.9) },
    Rule { path: Sockmap, clients: 8, figure: Machine, limit: AtMost(0.9) },
    Rule { path: Sockmap, clients: 1, figure: Proxy, limit: AtMost(0.05) },
    Rule { path: Sockmap, clients: 8, figure: Proxy, limit: AtMost(0.05) },
    Rule { path: Sockmap, clients: 50, figure: Proxy, limit: AtMost(0.05) },
    Rule { path: Copy, clients: 50, figure: Rate, limit: AtLeast(1.0) },
];

pub(super) fn measure(run: &Run) -> Result<Section> {
    let stage = Stage::start(run, &run.paths, 0)?;
    let seconds = if run.quick { 0.2 } else { 1.1 };
    let rounds = Rounds::run(run, &stage, &run.clients, true, seconds)?;
    Ok(Section {
        title: "Throughput, latency, CPU",
        method: format!(
            "redis-benchmark, GET of 64 bytes, no pipeline; {} interleaved rounds of about {seconds} s. Medians, and in\n\
             brackets the least and the most. redis-benchmark counts latency in steps of 8 us;\n\
             a single client is one of our own, which counts in nanoseconds. `machine` is the CPU time of everything on\n\
             the machine, client and Redis included, for one request; `proxy` is the user and system time of the\n\
             proxy's process for a million requests.",
            run.rounds
        ),
        tables: vec![rounds.table("requests/s")],
        bars: RULES.into_iter().filter_map(|rule| rounds.bar(rule)).collect(),
        samples: rounds.samples(),
    })
}
