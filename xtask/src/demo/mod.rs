//! `cargo xtask demo`: a private cluster, the daemon in front, clients through it; then the master goes.
//! Shows live what clients see, and measures it. Everything it made is gone at its end, also after
//! Ctrl-C and errors. Needs root: it makes network namespaces.

mod audience;
mod pulse;
mod round;
mod screen;
mod stage;
mod summary;
mod timeline;
mod witness;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, bail};
use clap::{Args, ValueEnum};
use switchmaster_tests::sweep;

use self::{round::Round, screen::Screen, stage::Stage};
use crate::{daemon, need_root, setup};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// How the daemon moves the bytes
    #[arg(long, value_enum, default_value = "auto")]
    datapath: Datapath,
    /// Order a failover at a Sentinel instead of killing the master
    #[arg(long)]
    planned: bool,
    /// How many switches to show, one after the other
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Seconds of steady traffic before each switch
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    steady: u64,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Datapath {
    Auto,
    Sockmap,
    Copy,
}

impl Datapath {
    fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sockmap => "sockmap",
            Self::Copy => "copy",
        }
    }
}

/// How the master goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Blow {
    Kill,
    Planned,
}

impl Blow {
    fn words(self) -> &'static str {
        match self {
            Self::Kill => "kill -9 of the master",
            Self::Planned => "a planned failover (SENTINEL FAILOVER)",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    need_root("making network namespaces for a private cluster")?;
    setup::ensure_ready(arguments.yes)?;
    let program = daemon::build()?;
    let shown = show(arguments, program);
    if sweep::interrupted() {
        // The harness takes everything down on a thread of its own, and then ends this process.
        println!("\ninterrupted: everything is being taken down");
        switchmaster_tests::wait::pause(Duration::from_secs(30));
        bail!("the clean-up hangs");
    }
    shown.map(|()| ExitCode::SUCCESS)
}

fn show(arguments: &Arguments, program: std::path::PathBuf) -> Result<()> {
    let blow = if arguments.planned { Blow::Planned } else { Blow::Kill };
    let mut screen = Screen::new();
    screen.say(
        "\n=== a private cluster: 1 master, 2 replicas, 3 Sentinels; the daemon; a writer, a publisher, a subscriber",
    );
    let mut stage = Stage::start(program, arguments.datapath.word()).context("the cluster and the daemon")?;
    stage.introduce(&mut screen)?;
    let mut rounds: Vec<Round> = Vec::new();
    for number in 1..=arguments.rounds {
        if number > 1 {
            stage.recover(&mut screen)?;
        }
        let heading = format!("round {number} of {}: {}", arguments.rounds, blow.words());
        let round = round::play(&mut stage, &mut screen, blow, &heading, Duration::from_secs(arguments.steady))?;
        timeline::print(&round, &mut screen);
        rounds.push(round);
    }
    summary::print(&rounds, blow, &stage, &mut screen)?;
    drop(stage);
    screen.say("everything that the demo made is gone again");
    Ok(())
}
