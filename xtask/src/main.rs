//! `cargo xtask`: everything a developer does here, by one name each.

use std::path::{Path, PathBuf};

use anyhow::Result;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "The commands of the switchmaster repository")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Build the kernel objects (into target/bpf)
    BuildEbpf,
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::BuildEbpf => {
            let out = ebpf_build::build(&workspace(), &workspace().join("target/bpf"))?;
            println!("{}", out.display());
            Ok(())
        }
    }
}

/// The root of the checkout.
fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_path_buf)
}
