//! Builds the kernel objects and puts them where `kernel::object` embeds them from: a daemon never
//! carries an object that is older than its source.

use std::{env, fs, path::PathBuf};

use anyhow::{Context as _, Result};

fn main() -> Result<()> {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").context("CARGO_MANIFEST_DIR")?);
    let workspace = here.parent().context("the crate lies in the workspace")?;
    for source in ["proxy-ebpf", "xtask/ebpf-build/src", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={}", workspace.join(source).display());
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").context("OUT_DIR")?);
    let log = env::var_os("CARGO_FEATURE_KERNEL_LOG").is_some();
    let build = if log { ebpf_build::build_with_log } else { ebpf_build::build };
    let objects = build(workspace, &out.join("bpf"))?;
    for object in ebpf_build::OBJECTS {
        fs::copy(objects.join(object), out.join(format!("{object}.o"))).with_context(|| object.to_string())?;
    }
    Ok(())
}
