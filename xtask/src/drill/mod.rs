//! `cargo xtask drill`: nine ways to lose a master, one of them also with a crowd, under load, with the daemon in front and, in turn, a
//! peer; what clients lost is counted from the data. Needs root: it makes network namespaces.
//! Nothing is left when it ends, also after Ctrl-C and errors. docs/drills.md has every figure.

mod account;
mod bars;
mod closed;
mod dialers;
mod ears;
mod evidence;
mod figures;
mod load;
mod name;
mod picture;
mod report;
mod residents;
mod script;
mod stage;
mod stalls;
mod timeline;
mod watch;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail, ensure};
use clap::{Args, ValueEnum};
use switchmaster_tests::{LocalWay, sweep};

use self::{
    account::Round,
    figures::{Figure, show},
    name::{Commit, Drill, Peer, Side},
    report::{Drilled, Report, Stood},
    stage::Stage,
};
use crate::{daemon, json, need_root, page, setting::Setting, setup, unless_interrupted};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    #[arg(value_name = "NAME", value_enum, required_unless_present = "all")]
    drills: Vec<Drill>,
    /// All of them, one after the other
    #[arg(long, conflicts_with = "drills")]
    all: bool,
    /// The same drill through HAProxy, in alternating rounds; more than one, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "none")]
    peer: Vec<Peer>,
    /// Rounds of each side
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// How the daemon moves the bytes
    #[arg(long, value_enum, default_value = "sockmap")]
    datapath: Datapath,
    /// Where the clients are
    #[arg(long, value_enum, default_value = "apart")]
    clients: Clients,
    /// When the daemon goes to a new master; more than one, separated by commas
    #[arg(long, value_enum, value_delimiter = ',', default_value = "majority")]
    commit: Vec<Commit>,
    /// Write every round to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Draw each drill into this folder, as drill-NAME.svg: the sides' timelines, one above the other
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// Put each drill's table, bars and picture into this page, in place of what it says of that drill
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Fail if a bar is missed
    #[arg(long)]
    strict: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Datapath {
    Copy,
    Sockmap,
    Tc,
    Xdp,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Clients {
    /// On a host of their own
    Apart,
    /// On the daemon's host, led to the nodes by its steering; the datapath has who comes while nobody is led
    Steered,
    /// The same, with the nodes on that host too, and the bypass between them
    Bypassed,
}

impl Clients {
    fn says(self) -> &'static str {
        match self {
            Self::Apart => "on a host of their own",
            Self::Steered => "on the proxy's host, steered",
            Self::Bypassed => "on the host of proxy and nodes, steered and bypassed",
        }
    }

    fn local(self) -> Option<LocalWay> {
        match self {
            Self::Apart => None,
            Self::Steered => Some(LocalWay::Steered),
            Self::Bypassed => Some(LocalWay::Bypassed),
        }
    }
}

/// What the rounds need to know.
#[derive(Debug)]
struct Run {
    program: PathBuf,
    datapath: &'static str,
    local: Option<LocalWay>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    need_root("making network namespaces for a private cluster")?;
    setup::ensure_ready(arguments.yes)?;
    let drilled = drill(arguments, daemon::chosen()?);
    unless_interrupted()?;
    let report = drilled?;
    println!("{}", report.verdicts());
    let failed = report.drills.iter().flat_map(|drilled| &drilled.sides).any(|stood| !stood.failed.is_empty());
    Ok(if failed || (arguments.strict && !report.met()) { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn drill(arguments: &Arguments, program: PathBuf) -> Result<Report> {
    let setting = Setting::look(&program, None)?;
    let datapath = match arguments.datapath {
        Datapath::Copy => "copy",
        Datapath::Sockmap => "sockmap",
        Datapath::Tc => "tc",
        Datapath::Xdp => "xdp",
    };
    let command = format!("cargo xtask {}", std::env::args().skip(1).collect::<Vec<_>>().join(" "));
    let clients = arguments.clients;
    let mut report = Report { command, setting, datapath, clients: clients.says(), drills: Vec::new() };
    println!("\n{}", report.circumstances());
    let run = Run { program, datapath, local: clients.local() };
    let mut drills = if arguments.all { Drill::value_variants().to_vec() } else { arguments.drills.clone() };
    if clients == Clients::Bypassed {
        ensure!(arguments.all || !drills.contains(&Drill::Partition), "nothing can be cut between nodes on one host");
        drills.retain(|&drill| drill != Drill::Partition);
    }
    for drill in drills {
        println!("=== {}: {}", drill.word(), drill.blow());
        let drilled = Drilled::new(drill, rounds(&run, drill, arguments)?);
        println!("\n{}{}", drilled.table(), drilled.moments());
        report.drills.push(drilled);
        // Each at once: who interrupts the next one keeps this one.
        write(arguments, &report)?;
    }
    Ok(report)
}

/// The sides in turn, so that whatever else the machine does befalls all.
fn rounds(run: &Run, drill: Drill, arguments: &Arguments) -> Result<Vec<Stood>> {
    let stood = |side| (None, Stood { side, rounds: Vec::new(), failed: Vec::new() });
    let mut sides: Vec<(Option<Stage>, Stood)> =
        Side::all(&arguments.commit, &arguments.peer).into_iter().map(stood).collect();
    for number in 1..=arguments.rounds {
        for (stage, stood) in &mut sides {
            let heading = format!("{} round {number} of {}, {}", drill.word(), arguments.rounds, stood.side);
            let played = play(run, drill, stood.side, stage);
            if sweep::interrupted() {
                bail!("interrupted");
            }
            match played {
                Ok(round) => {
                    println!("  {heading}: {}", line(&round));
                    stood.rounds.push(round);
                }
                Err(error) => {
                    println!("  {heading}: FAILED: {error:#}");
                    stood.failed.push(format!("{error:#}"));
                }
            }
        }
    }
    Ok(sides.into_iter().map(|(_, stood)| stood).collect())
}

/// On the stage of the last round, if there was one and it went well.
fn play(run: &Run, drill: Drill, side: Side, stage: &mut Option<Stage>) -> Result<Round> {
    if matches!(drill, Drill::Start | Drill::NoMajority) {
        // They are about a proxy that knows nothing yet.
        return closed::play(run, drill, side);
    }
    let mut used = match stage.take() {
        Some(stage) => stage,
        None => Stage::bare(run)?,
    };
    let round = script::play(&mut used, run, drill, side)?;
    *stage = Some(used);
    Ok(round)
}

/// A round in a line, while the others are still to come.
fn line(round: &Round) -> String {
    let figures = [
        Figure::AckedThenLost,
        Figure::PublishedThenLost,
        Figure::Gap,
        Figure::RoleToGood,
        Figure::MajorityToGood,
        Figure::OldAcks,
        Figure::Wrong,
        Figure::SeverP99,
        Figure::Parked,
        Figure::Unled,
        Figure::Refused,
        Figure::Answered,
    ];
    let shown = figures.iter().filter_map(|figure| {
        let value = round.figures.get(*figure)?;
        Some(format!("{} {}", figure.word().trim_end_matches("_ms"), show(*figure, value)))
    });
    shown.collect::<Vec<_>>().join(", ")
}

fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    if let Some(file) = &arguments.json {
        json::write(file, report)?;
    }
    let Some(drilled) = report.drills.last() else { return Ok(()) };
    let beside = arguments.markdown.as_deref().and_then(Path::parent);
    let mut picture = None;
    if let (Some(folder), Some(drawing)) = (arguments.svg.as_deref().or(beside), picture::draw(drilled)) {
        let file = folder.join(format!("drill-{}.svg", drilled.drill.word()));
        svg::save(&file, &drawing).with_context(|| file.display().to_string())?;
        picture = Some(file);
    }
    if let Some(file) = &arguments.markdown {
        let name = format!("drill {}", drilled.drill.word());
        page::put(file, "Drills", &name, &report.section(drilled, picture.as_deref()))?;
    }
    Ok(())
}
