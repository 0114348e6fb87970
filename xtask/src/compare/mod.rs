//! `cargo xtask compare`: what the daemon does to speed, CPU and memory, against HAProxy and a direct
//! connection in the same run, and which of the project's bars that meets. Needs root: it makes network
//! namespaces. Nothing is left when it ends, also after Ctrl-C and errors.

mod benchmark;
mod connect_rate;
mod idle_memory;
mod path;
mod report;
mod rounds;

mod sever;
mod stage;
mod stalled_reader;
mod throughput;

use std::{fs, path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::{Args, ValueEnum};

use self::{
    path::Path,
    report::{Report, Section},
};
use crate::{
    daemon, json, need_root,
    setting::{self, Setting},
    setup, unless_interrupted,
};

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// What to measure; everything if nothing is named
    #[arg(value_enum)]
    workloads: Vec<Workload>,
    /// Interleaved rounds; the figures are their medians
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Numbers of clients for `throughput`
    #[arg(long, value_name = "N,...", value_delimiter = ',', default_values_t = [1, 4, 8, 50],
          value_parser = clap::value_parser!(u32).range(1..=5000))]
    clients: Vec<u32>,
    /// Which ways from the client to Redis
    #[arg(long, value_enum, value_name = "PATH,...", value_delimiter = ',', default_values_t = Path::ALL)]
    paths: Vec<Path>,
    /// Requests of one measurement, instead of as many as take about a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    requests: Option<u64>,
    /// TCP congestion control of all namespaces, instead of this machine's own
    #[arg(long, value_name = "NAME")]
    congestion_control: Option<String>,
    /// Write every single measurement to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the page of figures to this file
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,
    /// Two short rounds and small crowds, to see that everything works
    #[arg(long)]
    quick: bool,
    /// Fail if a bar is missed
    #[arg(long)]
    strict: bool,
    /// Install what is missing without asking
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Workload {
    /// GET of 64 bytes: rate, latency, CPU
    Throughput,
    /// A new connection for every request
    ConnectRate,
    /// What an idle connection costs
    IdleMemory,
    /// A client that asks for a gigabyte and does not read
    StalledReader,
    /// Idle connections at a switch
    Sever,
}

/// What the workloads need to know.
#[derive(Debug)]
struct Run {
    program: PathBuf,
    rounds: u32,
    clients: Vec<u32>,
    paths: Vec<Path>,
    requests: Option<u64>,
    congestion_control: Option<String>,
    quick: bool,
}

impl Run {
    fn say(&self, text: &str) {
        println!("  {text}");
    }
}

impl Workload {
    fn measure(self, run: &Run) -> Result<Section> {
        match self {
            Self::Throughput => throughput::measure(run),
            Self::ConnectRate => connect_rate::measure(run),
            Self::IdleMemory => idle_memory::measure(run),
            Self::StalledReader => stalled_reader::measure(run),
            Self::Sever => sever::measure(run),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    need_root("making network namespaces to measure in")?;
    setup::ensure_ready(arguments.yes)?;
    let measured = measure(arguments, daemon::chosen()?);
    unless_interrupted()?;
    let report = measured?;
    write(arguments, &report)?;
    Ok(if arguments.strict && !report.met() { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn measure(arguments: &Arguments, program: PathBuf) -> Result<Report> {
    let setting = Setting::look(&program, arguments.congestion_control.as_deref())?;
    println!("\n{}", setting.text());
    let run = Run {
        program,
        rounds: if arguments.quick { arguments.rounds.min(2) } else { arguments.rounds },
        clients: sorted(&arguments.clients),
        paths: sorted(&arguments.paths),
        requests: arguments.requests,
        congestion_control: arguments.congestion_control.clone(),
        quick: arguments.quick,
    };
    let workloads = if arguments.workloads.is_empty() { Workload::value_variants() } else { &arguments.workloads };
    let mut sections = Vec::new();
    for workload in workloads {
        let name = workload.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        println!("=== {name}");
        let section = workload.measure(&run).with_context(|| format!("the workload {name}"))?;
        println!("\n{}", section.text());
        sections.push(section);
    }
    Ok(Report { command: setting::command(), setting, quick: arguments.quick, sections })
}

fn write(arguments: &Arguments, report: &Report) -> Result<()> {
    println!("{}", report.verdicts());
    if let Some(file) = &arguments.json {
        json::write(file, report)?;
    }
    if let Some(file) = &arguments.markdown {
        fs::write(file, report.page()).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

fn sorted<T: Ord + Clone>(values: &[T]) -> Vec<T> {
    let mut values = values.to_vec();
    values.sort();
    values.dedup();
    values
}
