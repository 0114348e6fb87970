//! Runs one tier with `cargo test`, passing its output on and keeping the lines that sum it up.

use std::{
    io::{BufRead as _, BufReader},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use super::{Outcome, Tier};
use crate::{cargo, daemon};

/// Tests of these tiers mostly wait for servers, so more of them run at once than there are cores.
const THREADS: &str = "4";

pub(crate) fn run(tier: Tier) -> Result<Outcome> {
    let mut command = cargo();
    command.args(["test", "--locked", "--no-fail-fast"]).args(tier.arguments()).stdout(Stdio::piped());
    if tier.needs_daemon() {
        command.env("SWITCHMASTER_BIN", daemon::program()).args(["--", "--test-threads", THREADS]);
    }
    let mut child = command.spawn().context("cargo test")?;
    let mut closing = Vec::new();
    for line in BufReader::new(child.stdout.take().context("stdout of cargo test")?).lines() {
        let line = line.context("cargo test")?;
        println!("{line}");
        if line.starts_with("test result:") && !line.contains(" 0 passed; 0 failed") {
            closing.push(line);
        }
    }
    let status = child.wait().context("cargo test")?;
    if status.success() && closing.is_empty() {
        return Ok(Outcome::Skipped("it holds no test".to_owned()));
    }
    Ok(if status.success() { Outcome::Passed(closing) } else { Outcome::Failed(closing) })
}
