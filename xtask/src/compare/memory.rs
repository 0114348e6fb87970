//! Memory: what the machine has left, and what one process holds for itself.

use std::fs;

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

/// What programs could still get, in bytes.
pub(super) fn available() -> Result<u64> {
    field("/proc/meminfo", "MemAvailable:")
}

/// Anonymous resident memory of a process: heaps and stacks, not the program itself.
pub(super) fn anonymous(pid: Pid) -> Result<u64> {
    field(&format!("/proc/{pid}/status"), "RssAnon:")
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(value.with_context(|| format!("no {name} in {file}"))? * 1024)
}

pub(super) const MIB: f64 = 1_048_576.0;

/// How much less there is now than before; negative if there is more.
pub(super) fn growth(before: u64, now: u64) -> f64 {
    now as f64 - before as f64
}
