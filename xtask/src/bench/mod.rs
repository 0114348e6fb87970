//! `cargo xtask bench`: every datapath of the daemon against direct, HAProxy, nginx, Twemproxy and the kernel's
//! NAT, in the same run, in interleaved rounds. Needs root: it makes network namespaces. Nothing is left when
//! it ends, also after Ctrl-C and errors. docs/bench/README.md says what is measured and how it is counted.

mod bars;
mod link;
mod measure;
mod peer;
mod picture;
mod prog;
mod pubsub;
mod report;
mod route;
mod stage;
mod workload;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use clap::{Args, Subcommand, ValueEnum as _, builder::PossibleValuesParser};
use switchmaster_tests::{daemon::Refusal, sweep};

use self::{
    measure::{Pace, measure},
    peer::Peer,
    report::{Absent, Failure, Measured, Report},
    stage::Stage,
    workload::{Place, Workload},
};
use crate::{
    daemon, json, need_root, page,
    sample::Figure,
    setting::{self, Setting, says},
    setup, unless_interrupted,
};

const FULL: Pace = Pace { requests: Duration::from_secs(3), messages: Duration::from_secs(3), warm_up: 0.1 };
const QUICK: Pace = Pace { requests: Duration::from_millis(200), messages: Duration::from_millis(400), warm_up: 0.1 };

#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
    /// What to measure, or what several names begin with (`get`, `pubsub`); everything if nothing is named
    #[arg(value_parser = PossibleValuesParser::new(workload::words()))]
    workloads: Vec<String>,
    /// Which ways from the client to Redis; all but the yardstick xdp-route if none is named
    #[arg(long, value_enum, value_name = "PEER,...", value_delimiter = ',')]
    peers: Vec<Peer>,
    /// Interleaved rounds; the figures are their medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// TCP congestion control of all namespaces, instead of this machine's own
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
    /// Let every sender compute its checksums and cut its segments itself, as xdp on veth needs it, so that it
    /// is compared like with like
    #[arg(long)]
    whole_packets: bool,
    /// Give the proxy's links a queueing discipline: tc then sends by them as by a NIC, and does not pass them by
    #[arg(long)]
    queued: bool,
    /// Write every single measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the tables into this page, in place of its old ones, and the pictures beside it
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Draw the pictures into this folder
    #[arg(long, value_name = "FOLDER")]
    svg: Option<PathBuf>,
    /// One short round, to see that everything works, in less than three minutes
    #[arg(long)]
    quick: bool,
    /// Fail if a bar is missed
    #[arg(long)]
    strict: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Nanoseconds per packet of each packet program, beside a program that does nothing
    Prog(prog::Arguments),
}

/// What the stages need to know.
#[derive(Debug)]
struct Run {
    program: PathBuf,
    congestion_control: Option<String>,
    whole_packets: bool,
    queued: bool,
    /// The daemon lists so many addresses more than the host has, as those that nodes see: there is room for the flows of all.
    spare_addresses: u8,
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    if let Some(Part::Prog(arguments)) = &arguments.part {
        return prog::run(arguments);
    }
    need_root("making network namespaces to measure in")?;
    setup::ensure_ready(arguments.yes)?;
    let measured = measure_all(arguments, daemon::chosen()?);
    unless_interrupted()?;
    let report = measured?;
    write(arguments, &report)?;
    let failed = !report.failures.is_empty() || (arguments.strict && !report.met());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure_all(arguments: &Arguments, program: PathBuf) -> Result<Report> {
    let start = Instant::now();
    let setting = Setting::look(&program, arguments.congestion_control.as_deref())?;
    println!("\n{}", setting.text());
    let run = Run {
        program,
        congestion_control: arguments.congestion_control.clone(),
        whole_packets: arguments.whole_packets,
        queued: arguments.queued,
        spare_addresses: 0,
    };
    let (peers, absent) = present(&run, &chosen(&arguments.peers))?;
    let mut report = Report {
        command: setting::command(),
        setting,
        notes: notes(arguments, &peers)?,
        quick: arguments.quick,
        rounds: if arguments.quick { 1 } else { arguments.rounds },
        took_s: 0.0,
        workloads: workload::named(&arguments.workloads),
        peers,
        absent,
        failures: Vec::new(),
        measured: Measured::new(),
        bars: Vec::new(),
    };
    for round in 0..report.rounds {
        for turn in 0..report.peers.len() {
            // Each round begins with another peer, so that what drifts in the machine befalls all alike.
            let peer = report.peers[(turn + round as usize) % report.peers.len()];
            play(&run, &mut report, peer, round, if arguments.quick { QUICK } else { FULL })?;
        }
    }
    report.bars = bars::bars(&report.measured);
    report.took_s = start.elapsed().as_secs_f64();
    Ok(report)
}

/// Each once, in the order in which they are listed.
fn chosen(named: &[Peer]) -> Vec<Peer> {
    let all = Peer::value_variants().iter().copied();
    let is_chosen = |peer: &Peer| if named.is_empty() { !peer.is_a_yardstick() } else { named.contains(peer) };
    all.filter(is_chosen).collect()
}

/// Asks the daemon for each of its datapaths: what it refuses is left out, with the reason it gives.
fn present(run: &Run, peers: &[Peer]) -> Result<(Vec<Peer>, Vec<Absent>)> {
    let (mut present, mut absent) = (Vec::new(), Vec::new());
    for &peer in peers {
        let refusal = match peer.datapath().map(|_| Stage::start(run, peer, Place::Apart)) {
            None | Some(Ok(_)) => None,
            Some(Err(error)) => match error.downcast_ref::<Refusal>() {
                Some(refusal) => Some(format!("not in this build: {}", refusal.why())),
                None => return Err(error.context(format!("starting {peer}"))),
            },
        };
        match refusal {
            None => present.push(peer),
            Some(why) => {
                println!("  {peer}: {why}");
                absent.push(Absent { peer, why });
            }
        }
    }
    ensure!(!present.is_empty(), "none of these peers can be measured");
    Ok((present, absent))
}

/// One peer's turn in a round: every workload, one after the other.
fn play(run: &Run, report: &mut Report, peer: Peer, round: u32, pace: Pace) -> Result<()> {
    let heading = format!("round {} of {}, {peer}", round + 1, report.rounds);
    let fail = |report: &mut Report, workload: Option<&'static Workload>, error: anyhow::Error| {
        // Whatever fails from then on fails because everything is taken down.
        if sweep::interrupted() {
            bail!("interrupted");
        }
        let (workload, why) = (workload.map(|workload| workload.name), format!("{error:#}"));
        println!("  {heading}, {}: FAILED: {why}", workload.unwrap_or("starting it"));
        report.failures.push(Failure { peer, workload, round: round + 1, why });
        Ok(())
    };
    let fits = |workload: &&Workload, place| {
        workload.place == place && peer.is_at(place) && (peer.carries_messages() || !workload.is_messages())
    };
    for place in [Place::Apart, Place::Together] {
        let workloads: Vec<&Workload> = report.workloads.iter().copied().filter(|it| fits(it, place)).collect();
        if workloads.is_empty() {
            continue;
        }
        let stage = match Stage::start(run, peer, place) {
            Ok(stage) => stage,
            Err(error) => {
                fail(report, None, error)?;
                continue;
            }
        };
        for workload in workloads {
            let known = report.measured.median(workload.name, peer, Figure::Rate);
            match measure(&stage, workload, pace, known) {
                Ok(sample) => {
                    let (name, unit) = (workload.name, workload.unit());
                    println!("  {heading}, {name}: {:.0} {unit}/s, p99 {:.3} ms", sample.rate, sample.p99_ms);
                    report.measured.add(name, peer, sample);
                }
                Err(error) => fail(report, Some(workload), error)?,
            }
        }
    }
    Ok(())
}

/// What belongs to the setting and is this command's own.
fn notes(arguments: &Arguments, peers: &[Peer]) -> Result<Vec<String>> {
    let version = |program: &str, argument: &str| says(Path::new(program), argument);
    let nginx = version("nginx", "-v")?;
    let mut notes = vec![
        format!("{}, stream module, 2 workers", nginx.trim_start_matches("nginx version: ")),
        format!("Twemproxy {}", version("nutcracker", "-V")?.trim_start_matches("This is ")),
        version("nft", "--version")?,
    ];
    if arguments.queued {
        notes.push("the proxy's links have a queueing discipline (pfifo), and tc does not pass them by".to_owned());
    }
    if arguments.whole_packets {
        notes.push("transmit offloads of client and db off for every peer".to_owned());
    } else if peers.iter().any(|peer| peer.wants_whole_packets()) {
        notes.push(
            "transmit offloads of client and db off for xdp and xdp-route only, which work on veth no other way"
                .to_owned(),
        );
    }
    Ok(notes)
}

fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    println!("\n{}\n{}{}", report.overview(), report.omissions(), crate::bar::verdicts(&report.bars));
    println!("took {:.0} s", report.took_s);
    if let Some(file) = &arguments.json {
        json::write(file, &report.json())?;
    }
    let beside = arguments.markdown.as_deref().and_then(Path::parent);
    if let Some(folder) = arguments.svg.as_deref().or(beside) {
        picture::draw_all(folder, report)?;
    }
    if let Some(file) = &arguments.markdown {
        page::put(file, "Bench", "bench figures", &report.section(arguments.svg.is_none()))?;
    }
    Ok(())
}
