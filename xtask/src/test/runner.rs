//! Runs one tier with `cargo test`, passing its output on and keeping the lines that sum it up.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::{Outcome, Tier};
use crate::{cargo, daemon};

/// Tests of these tiers mostly wait for servers, so more of them run at once than there are cores.
const THREADS: &str = "4";

pub(crate) fn run(tier: Tier) -> Result<Outcome> {
    let (mut closing, mut passed) = (Vec::new(), true);
    for arguments in tier.arguments() {
        let mut command = cargo();
        command.args(["test", "--locked", "--no-fail-fast"]).args(arguments);
        if tier.needs_daemon() {
            command.env("SWITCHMASTER_BIN", daemon::program()).args(["--", "--test-threads", THREADS]);
        }
        passed &= follow(command, &mut closing)?;
    }
    if passed && closing.is_empty() {
        return Ok(Outcome::Skipped("it holds no test".to_owned()));
    }
    Ok(if passed { Outcome::Passed(closing) } else { Outcome::Failed(closing) })
}

/// Whether all of it passed.
fn follow(mut command: Command, closing: &mut Vec<String>) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().context("cargo test")?;
    for line in BufReader::new(child.stdout.take().context("stdout of cargo test")?).lines() {
        let line = line.context("cargo test")?;
        println!("{line}");
        if line.starts_with("test result:") && !line.contains(" 0 passed; 0 failed") {
            closing.push(line);
        }
    }
    Ok(child.wait().context("cargo test")?.success())
}
