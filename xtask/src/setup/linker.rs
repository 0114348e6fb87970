//! bpf-linker, built against Debian's LLVM 22, the one that Debian's compiler uses too.

use std::{env, path::Path, process::Command};

use anyhow::{Context as _, Result, ensure};

const LLVM: &str = "/usr/lib/llvm-22";
const VERSION: &str = "0.13.0";
/// What is shown before it is done.
pub(crate) const COMMAND: &str =
    "cargo install bpf-linker --version 0.13.0 --locked --no-default-features --features llvm-22";

/// Is there one, and does it start? One whose LLVM was removed does not.
pub(crate) fn works() -> bool {
    let Some(directory) = ebpf_build::linker_dir() else { return false };
    let output = Command::new(directory.join("bpf-linker")).arg("--version").output();
    output.is_ok_and(|output| output.status.success())
}

pub(crate) fn install() -> Result<()> {
    let mut cargo = crate::cargo();
    // Away from this checkout, whose configuration is not meant for it.
    cargo.current_dir(env::temp_dir());
    for inherited in ["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_TARGET_DIR", "CARGO_BUILD_TARGET"] {
        cargo.env_remove(inherited);
    }
    let status = cargo
        .args(["install", "bpf-linker", "--version", VERSION, "--locked"])
        .args(["--no-default-features", "--features", "llvm-22", "--force"])
        .env("LLVM_PREFIX", LLVM)
        .env("LLVM_SYS_221_PREFIX", LLVM)
        .status()
        .context("cargo install bpf-linker")?;
    ensure!(status.success(), "bpf-linker does not build ({status}); is {} complete?", Path::new(LLVM).display());
    ensure!(works(), "bpf-linker was installed but does not start");
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_is_shown_is_what_is_done() {
        assert!(super::COMMAND.contains(&format!("--version {}", super::VERSION)));
    }
}
