//! A new connection for every request.

use anyhow::Result;

use super::{Run, report::Section, rounds::Rounds, stage::Stage};

const CLIENTS: [u32; 2] = [8, 50];

pub(super) fn measure(run: &Run) -> Result<Section> {
    let stage = Stage::start(&run.program, &run.paths, 0)?;
    let seconds = if run.quick { 0.2 } else { 0.8 };
    let rounds = Rounds::run(run, &stage, &CLIENTS, false, seconds)?;
    Ok(Section {
        title: "Connections per second",
        method: format!(
            "redis-benchmark -k 0: a connection for each GET; {} interleaved rounds of about {seconds} s. Latency counts\n\
             from the request, not from the connect. There is no bar for this.",
            run.rounds
        ),
        tables: vec![rounds.table("connections/s")],
        bars: Vec::new(),
        samples: rounds.samples(),
    })
}
