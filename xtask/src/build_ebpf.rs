//! `cargo xtask build-ebpf`: the kernel objects by themselves.

use std::process::ExitCode;

use anyhow::Result;

use crate::workspace;

pub(crate) fn run() -> Result<ExitCode> {
    let out = ebpf_build::build(&workspace(), &workspace().join("target/bpf"))?;
    println!("{}", out.display());
    Ok(ExitCode::SUCCESS)
}
