//! `cargo xtask test [tier...]`: sets the machine up if it must, builds the daemon, runs the tiers.
//! A tier that cannot run says why and counts as skipped, never as passed.

mod runner;
mod tier;

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;

use self::tier::Tier;
use crate::{NO_PRIVILEGE, daemon, setup};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Which tiers; all of them if none is named
    #[arg(value_enum)]
    tiers: Vec<Tier>,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

/// How a tier ended.
#[derive(Debug)]
enum Outcome {
    Passed(Vec<String>),
    Failed(Vec<String>),
    Skipped(String),
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    setup::ensure_ready(arguments.yes)?;
    let tiers = if arguments.tiers.is_empty() { Tier::ALL.to_vec() } else { arguments.tiers.clone() };
    if tiers.iter().any(|tier| tier.needs_daemon()) {
        daemon::build()?;
    }
    let mut outcomes = Vec::new();
    for tier in tiers {
        println!("\n=== {tier}: {}", tier.about());
        let outcome = match tier.obstacle() {
            Some(reason) => Outcome::Skipped(reason),
            None => runner::run(tier)?,
        };
        outcomes.push((tier, outcome));
    }
    Ok(report(&outcomes))
}

fn report(outcomes: &[(Tier, Outcome)]) -> ExitCode {
    println!("\n=== outcome");
    let (mut failed, mut skipped) = (false, 0);
    for (tier, outcome) in outcomes {
        let (word, lines) = match outcome {
            Outcome::Passed(lines) => ("passed", lines.clone()),
            Outcome::Failed(lines) => {
                failed = true;
                ("FAILED", lines.clone())
            }
            Outcome::Skipped(reason) => {
                skipped += 1;
                ("skipped", vec![reason.clone()])
            }
        };
        println!("{tier}: {word}");
        lines.iter().for_each(|line| println!("    {line}"));
    }
    match (failed, skipped) {
        (true, _) => ExitCode::FAILURE,
        // Nothing failed, but nothing was shown either.
        (false, skipped) if skipped == outcomes.len() => ExitCode::from(NO_PRIVILEGE),
        (false, _) => ExitCode::SUCCESS,
    }
}
