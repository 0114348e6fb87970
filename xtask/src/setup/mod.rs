//! `cargo xtask setup`: makes a bare Debian or Ubuntu machine ready. Says what it will do, asks when
//! somebody can answer, and does nothing when nothing is missing. Starts no service, mounts nothing.

mod apt;
mod linker;

use std::{
    io::{self, BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::{Context as _, Result, bail};
use clap::Args;
use ebpf_build::Toolchain;

use crate::{need_root, workspace};

/// Servers, peers and clients of the tests, and the tools that make their networks.
const SERVERS: [&str; 13] = [
    "redis-server",
    "redis-sentinel",
    "redis-tools",
    "python3-redis",
    "haproxy",
    "bpftool",
    "iproute2",
    "ethtool",
    "nftables",
    "nutcracker",
    "nginx",
    "libnginx-mod-stream",
    "openssl",
];
/// A compiler with `core` for the kernel's target, and what bpf-linker is built from.
const TOOLCHAIN: [&str; 7] =
    ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "llvm-22-dev", "libzstd-dev", "zlib1g-dev", "g++"];

#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Install without asking
    #[arg(long)]
    yes: bool,
}

/// What this machine lacks.
#[derive(Debug, Default)]
struct Missing {
    packages: Vec<&'static str>,
    linker: bool,
}

impl Missing {
    fn look() -> Result<Self> {
        let mut wanted = SERVERS.to_vec();
        let linker = !linker::works();
        if linker || !compiler_works() {
            wanted.extend(TOOLCHAIN);
        }
        Ok(Self { packages: apt::missing(&wanted)?, linker })
    }

    fn is_empty(&self) -> bool {
        self.packages.is_empty() && !self.linker
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    ensure_ready(arguments.yes)?;
    Ok(ExitCode::SUCCESS)
}

/// Installs what is missing, if anything is.
pub(crate) fn ensure_ready(yes: bool) -> Result<()> {
    let missing = Missing::look()?;
    if missing.is_empty() {
        println!("setup: everything is here");
        return Ok(());
    }
    if !missing.packages.is_empty() {
        println!("setup: will install with apt-get: {}", missing.packages.join(" "));
    }
    if missing.linker {
        println!("setup: will install with cargo: {}", linker::COMMAND);
    }
    need_root("installing")?;
    if !yes && io::stdin().is_terminal() && !agreed()? {
        bail!("nothing was installed");
    }
    if !missing.packages.is_empty() {
        apt::install(&missing.packages)?;
    }
    if missing.linker {
        linker::install()?;
    }
    ebpf_build::build(&workspace(), &workspace().join("target/bpf")).context("the new toolchain does not work")?;
    println!("setup: done");
    Ok(())
}

/// Debian's compiler comes with a matching `core` and linker. rustup's nightly may have been paired
/// with a bpf-linker of another LLVM, and only a build can tell.
fn compiler_works() -> bool {
    match Toolchain::find() {
        Ok(Toolchain::Debian) => true,
        Ok(Toolchain::Nightly) => ebpf_build::build(&workspace(), &workspace().join("target/bpf")).is_ok(),
        Err(_) => false,
    }
}

fn agreed() -> Result<bool> {
    print!("Go on? [y/N] ");
    io::stdout().flush().context("stdout")?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).context("stdin")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
