//! `cargo xtask`: everything a developer does here, by one name each. A file a command.
//! It must not depend on the daemon: it is what makes a machine able to build it.

mod bar;
mod bench;
mod build_ebpf;
mod compare;
mod cpu;
mod daemon;
mod demo;
mod drill;
mod journal;
mod json;
mod page;
mod requests;
mod sample;
mod series;
mod setting;
mod setup;
mod signs;
mod table;
mod test;
mod tuning;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use switchmaster_tests::{sweep, wait};

/// Exit code for a missing privilege, as the daemon's.
const NO_PRIVILEGE: u8 = 77;

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The commands of the switchmaster repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this machine ready: servers, tools, and the eBPF toolchain (Debian, Ubuntu; needs root)
    Setup(setup::Arguments),
    /// Build the kernel objects (into target/bpf)
    BuildEbpf,
    /// Kill the master of a private cluster and watch the clients go on at the new one
    Demo(demo::Arguments),
    /// Measure the daemon against HAProxy and a direct connection, in one run
    Compare(compare::Arguments),
    /// Measure every datapath against direct, HAProxy, nginx, Twemproxy and the kernel's own NAT
    Bench(bench::Arguments),
    /// Switch the master in nine ways under load, and count what clients lose and how long they wait
    Drill(drill::Arguments),
    /// Run the test tiers, after the set-up they need
    Test(test::Arguments),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Setup(arguments) => setup::run(&arguments),
        Command::BuildEbpf => build_ebpf::run(),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Compare(arguments) => compare::run(&arguments),
        Command::Bench(arguments) => bench::run(&arguments),
        Command::Drill(arguments) => drill::run(&arguments),
        Command::Test(arguments) => test::run(&arguments),
    };
    match result {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(if error.is::<NoPrivilege>() { NO_PRIVILEGE } else { 1 })
        }
    }
}

/// Something only root may do.
#[derive(Debug)]
struct NoPrivilege(String);

impl std::fmt::Display for NoPrivilege {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} needs root: run this command again as root or with sudo", self.0)
    }
}

impl std::error::Error for NoPrivilege {}

fn need_root(what: &str) -> Result<()> {
    if is_root() { Ok(()) } else { Err(NoPrivilege(what.to_owned()).into()) }
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// What failed after Ctrl-C failed because the harness takes everything down, on a thread of its own. It then
/// ends this process: wait for that.
fn unless_interrupted() -> Result<()> {
    if sweep::interrupted() {
        println!("\ninterrupted: everything is being taken down");
        wait::pause(Duration::from_secs(30));
        bail!("the clean-up hangs");
    }
    Ok(())
}

/// The root of the checkout.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}

/// The cargo that runs us, or the one on PATH.
fn cargo() -> std::process::Command {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = std::process::Command::new(program);
    command.current_dir(workspace());
    // What cargo told this program about itself would make build scripts that look there (ring's) run again,
    // and with them most of the daemon be built anew, each time somebody builds with and without us in turn.
    for (key, _) in std::env::vars_os() {
        if ["CARGO_PKG_", "CARGO_MANIFEST_"].iter().any(|own| key.to_string_lossy().starts_with(own)) {
            command.env_remove(&key);
        }
    }
    command
}
