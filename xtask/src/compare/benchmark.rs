//! One run of requests on one path, with the CPU time it cost.

use anyhow::{Context as _, Result};
use switchmaster_tests::process::Process;

use super::{path::Path, stage::Stage};
use crate::{
    cpu::Meter,
    requests::{self, Load},
    sample::Sample,
};

/// GET of 64 bytes, or what the key holds.
pub(super) fn run(stage: &Stage, path: Path, load: Load) -> Result<Sample> {
    let meter = Meter::start(stage.process(path).map(Process::pid).into_iter().collect())?;
    let timing = requests::run(stage.client()?, stage.address(path)?, load, stage.world.directory())
        .with_context(|| format!("through {path}"))?;
    let cost = meter.stop()?;
    Ok(Sample::of(timing, cost, load.requests))
}
