//! The daemon as it is released: building it, and where it lies then.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};

use crate::{cargo, workspace};

pub(crate) fn build() -> Result<PathBuf> {
    println!("\n=== the daemon, as it is released");
    let build = ["build", "--release", "--locked", "--package", "switchmaster"];
    let status = cargo().args(build).status().context("cargo build")?;
    ensure!(status.success(), "the daemon does not build ({status})");
    Ok(program())
}

pub(crate) fn program() -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace().join("target"), PathBuf::from);
    target.join("release/switchmaster")
}
