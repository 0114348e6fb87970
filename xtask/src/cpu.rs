//! CPU time: of the whole machine, from /proc/stat, and of one process, from its CPU clock (the sum
//! of utime and stime, but in nanoseconds instead of hundredths of a second).

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::{
    time::{clock_getcpuclockid, clock_gettime},
    unistd::{Pid, SysconfVar, sysconf},
};

/// Busy time of all cores since the machine started: everything but idle, waiting for disks, and
/// what a hypervisor took away.
pub(crate) fn machine() -> Result<Duration> {
    let text = fs::read_to_string("/proc/stat").context("/proc/stat")?;
    let line = text.lines().next().context("/proc/stat is empty")?;
    let ticks: Vec<u64> = line.split_whitespace().skip(1).map_while(|word| word.parse().ok()).collect();
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else {
        anyhow::bail!("/proc/stat begins with {line:?}");
    };
    let hertz = sysconf(SysconfVar::CLK_TCK).context("sysconf")?.context("no clock tick")?;
    Ok(Duration::from_secs_f64((user + nice + system + irq + softirq) as f64 / hertz as f64))
}

/// User and system time of a process and all its threads, also those that have ended.
pub(crate) fn process(pid: Pid) -> Result<Duration> {
    let clock = clock_getcpuclockid(pid).with_context(|| format!("the CPU clock of process {pid}"))?;
    Ok(clock_gettime(clock).with_context(|| format!("the CPU clock of process {pid}"))?.into())
}

/// CPU time from one moment to another.
#[derive(Debug)]
pub(crate) struct Meter {
    pids: Vec<Pid>,
    machine: Duration,
    processes: Duration,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Cost {
    pub(crate) machine: Duration,
    /// Of the processes that were named, if any were.
    pub(crate) processes: Option<Duration>,
}

impl Meter {
    pub(crate) fn start(pids: Vec<Pid>) -> Result<Self> {
        Ok(Self { machine: machine()?, processes: all(&pids)?, pids })
    }

    pub(crate) fn stop(self) -> Result<Cost> {
        let processes = all(&self.pids)?.saturating_sub(self.processes);
        Ok(Cost {
            machine: machine()?.saturating_sub(self.machine),
            processes: (!self.pids.is_empty()).then_some(processes),
        })
    }
}

fn all(pids: &[Pid]) -> Result<Duration> {
    pids.iter().map(|&pid| process(pid)).sum()
}
