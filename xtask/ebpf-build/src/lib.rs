//! Builds the eBPF objects with whichever toolchain this machine has: Debian's `rustc-web`, whose
//! `libstd-rust-web-dev-bpf` carries a ready `core`, or rustup's nightly with `rust-src`.
//! Promises a fresh object or an error that names the remedy; never leaves a stale one behind.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, bail, ensure};

/// The kernel objects: one a datapath, so that a kernel which lacks one still loads the others, the one that sends
/// parked SYNs in again, and the one that packet programs are measured with.
pub const OBJECTS: [&str; 7] = ["sockmap", "tc", "xdp", "steering", "bypass", "release", "bare"];
pub const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
pub const REMEDY: &str = "run `cargo xtask setup` to install the eBPF toolchain";

/// A compiler that can build for the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Toolchain {
    /// Debian's packages; `core` comes compiled.
    Debian,
    /// rustup's nightly, which compiles `core` from `rust-src`.
    Nightly,
}

impl Toolchain {
    /// Looks for a toolchain that works here, Debian's first: its `core` and linker are known to match.
    pub fn find() -> Result<Self> {
        if Path::new(DEBIAN_CARGO).exists()
            && sysroot(DEBIAN_RUSTC, &[]).is_some_and(|root| root.join("lib/rustlib").join(TARGET).exists())
        {
            return Ok(Self::Debian);
        }
        if sysroot("rustup", &["run", "nightly", "rustc"])
            .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").exists())
        {
            return Ok(Self::Nightly);
        }
        bail!(
            "no Rust toolchain here can build eBPF (neither Debian's rustc-web with libstd-rust-web-dev-bpf nor rustup's nightly with rust-src); {REMEDY}"
        )
    }

    fn cargo(&self) -> Command {
        match self {
            Self::Debian => {
                let mut cargo = scrubbed(DEBIAN_CARGO);
                // aya-ebpf needs nightly features; the compiler is a release one.
                cargo.env("RUSTC", DEBIAN_RUSTC).env("RUSTC_BOOTSTRAP", "1").arg("build");
                cargo
            }
            Self::Nightly => {
                let mut cargo = scrubbed("rustup");
                cargo.args(["run", "nightly", "cargo", "build", "-Z", "build-std=core"]);
                cargo
            }
        }
    }
}

fn sysroot(program: &str, before: &[&str]) -> Option<PathBuf> {
    let output = scrubbed(program).args(before).args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

/// The folder that holds `bpf-linker`, if it is to be found where cargo installs it or on PATH.
pub fn linker_dir() -> Option<PathBuf> {
    let home = env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")));
    let on_path = env::var_os("PATH").map(|path| env::split_paths(&path).collect::<Vec<_>>()).unwrap_or_default();
    home.map(|home| home.join("bin")).into_iter().chain(on_path).find(|dir| dir.join("bpf-linker").exists())
}

/// Builds every object into `target_dir` and returns the folder that holds them.
pub fn build(workspace: &Path, target_dir: &Path) -> Result<PathBuf> {
    build_with(workspace, target_dir, "programs")
}

/// The same with programs that write log lines, which costs each segment: for debugging only.
pub fn build_with_log(workspace: &Path, target_dir: &Path) -> Result<PathBuf> {
    build_with(workspace, target_dir, "programs,log")
}

fn build_with(workspace: &Path, target_dir: &Path, features: &str) -> Result<PathBuf> {
    let toolchain = Toolchain::find()?;
    let linker = linker_dir().with_context(|| format!("bpf-linker is not installed; {REMEDY}"))?;
    let out = target_dir.join(TARGET).join("release");
    for object in OBJECTS {
        // An object of an earlier build must not pass for this one's.
        let stale = out.join(object);
        if stale.exists() {
            fs::remove_file(&stale).with_context(|| format!("cannot remove {}", stale.display()))?;
        }
    }
    let mut cargo = toolchain.cargo();
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(std::iter::once(linker).chain(env::split_paths(&path))).context("PATH")?;
    cargo
        .current_dir(workspace)
        .args([
            "--release",
            "--locked",
            "--package",
            "proxy-ebpf",
            "--bins",
            "--features",
            features,
            "--target",
            TARGET,
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .env("PATH", path)
        // BTF is what makes `bpftool map dump` readable, and it is made from the debug information. The third version of the
        // instruction set (5.1) computes in 32 bits as well, and spares many an extension to 64.
        .env("RUSTFLAGS", "-C debuginfo=2 -C target-cpu=v3 -C link-arg=--btf -C panic=abort");
    let status = cargo.status().with_context(|| format!("cannot start {cargo:?}; {REMEDY}"))?;
    ensure!(status.success(), "the eBPF objects do not build ({status}); if a tool is missing or too old, {REMEDY}");
    for object in OBJECTS {
        ensure!(out.join(object).is_file(), "the build made no object {object}; {REMEDY}");
    }
    Ok(out)
}

/// A command that does not inherit the outer cargo's compiler, flags or target folder.
fn scrubbed(program: &str) -> Command {
    let mut command = Command::new(program);
    for (key, _) in env::vars_os() {
        let name = key.to_string_lossy();
        let ours = matches!(&*name, "CARGO_HOME" | "RUSTUP_HOME");
        if !ours
            && (name.starts_with("CARGO")
                || name.starts_with("RUSTC")
                || name.starts_with("RUSTDOC")
                || name == "RUSTFLAGS"
                || name == "RUSTUP_TOOLCHAIN")
        {
            command.env_remove(&key);
        }
    }
    // Some dependencies carry a rust-toolchain.toml; rustup must not fetch a toolchain for its sake.
    command.env("RUSTUP_AUTO_INSTALL", "0");
    command
}
