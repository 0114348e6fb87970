//! Where and with what a run was made: without it a figure means nothing.

use std::{
    fs,
    path::Path,
    process::Command,
    thread::available_parallelism,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use switchmaster_tests::wait;

use crate::{cpu, workspace};

/// How long the machine is watched before anything starts.
const WATCH: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize)]
pub(crate) struct Setting {
    date: String,
    switchmaster: String,
    haproxy: String,
    redis: String,
    cores: usize,
    processor: String,
    memory_mib: u64,
    kernel: String,
    congestion_control: String,
    /// Of one core, before anything was started.
    busy_before: f64,
}

impl Setting {
    pub(crate) fn look(program: &Path, congestion_control: Option<&str>) -> Result<Self> {
        let before = cpu::machine()?;
        wait::pause(WATCH);
        let busy = cpu::machine()?.saturating_sub(before);
        let total = fs::read_to_string("/proc/meminfo").context("/proc/meminfo")?;
        let total = total.lines().find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB"));
        Ok(Self {
            date: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            switchmaster: format!("{}, {}", says(program, "--version")?, commit()),
            haproxy: says(Path::new("haproxy"), "-v")?,
            redis: says(Path::new("redis-server"), "--version")?,
            cores: available_parallelism().context("the number of cores")?.get(),
            processor: processor(),
            memory_mib: total.and_then(|kib| kib.parse::<u64>().ok()).unwrap_or_default() / 1024,
            kernel: line_of("/proc/sys/kernel/osrelease")?,
            congestion_control: match congestion_control {
                Some(name) => name.to_owned(),
                None => line_of("/proc/sys/net/ipv4/tcp_congestion_control")?,
            },
            busy_before: busy.as_secs_f64() / WATCH.as_secs_f64(),
        })
    }

    /// Something else uses the machine, and every figure holds some of it.
    pub(crate) fn disturbed(&self) -> bool {
        self.busy_before > 0.1
    }

    pub(crate) fn text(&self) -> String {
        let mut text = format!(
            "- {}\n- {} cores ({}), {:.1} GiB, Linux {}, TCP congestion control {}\n- {}\n- {}, nbthread 2, tcp mode\n- {}, persistence \
             off\n- client, proxy and db in network namespaces joined by veth; before the run the machine was busy for {:.0} % \
             of one core\n",
            self.date,
            self.cores,
            self.processor,
            self.memory_mib as f64 / 1024.0,
            self.kernel,
            self.congestion_control,
            self.switchmaster,
            self.haproxy,
            self.redis,
            self.busy_before * 100.0,
        );
        if self.disturbed() {
            text += "\n**Something else was running: these figures are disturbed.**\n";
        }
        text
    }
}

/// The first line of what a program says about itself, up to the first detail that is no version.
pub(crate) fn says(program: &Path, argument: &str) -> Result<String> {
    let output = Command::new(program)
        .arg(argument)
        .output()
        .with_context(|| format!("cannot run {}: `cargo xtask setup` installs what is needed", program.display()))?;
    // Some tell it where errors go.
    let said = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    let text = String::from_utf8_lossy(&said).into_owned();
    let line = text.lines().next().unwrap_or_default();
    let end = [" sha=", " - http"].iter().filter_map(|mark| line.find(mark)).min().unwrap_or(line.len());
    Ok(line[..end].to_owned())
}

/// The commit that is checked out, and whether the sources differ from it.
fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--exclude", "*"])
        .current_dir(workspace())
        .output()
        .ok()
        .filter(|output| output.status.success());
    output.map_or("no commit".into(), |output| format!("commit {}", String::from_utf8_lossy(&output.stdout).trim()))
}

fn processor() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
    name.map_or("unknown processor".into(), |(_, name)| name.trim().to_owned())
}

fn line_of(file: &str) -> Result<String> {
    Ok(fs::read_to_string(file).with_context(|| file.to_owned())?.trim().to_owned())
}

/// The command as it was typed, but for where the results go.
pub(crate) fn command() -> String {
    let mut words = vec!["cargo xtask".to_owned()];
    let mut typed = std::env::args().skip(1);
    while let Some(word) = typed.next() {
        match word.as_str() {
            "--json" | "--yes" => drop((word != "--yes").then(|| typed.next())),
            _ if word.starts_with("--json=") => {}
            _ => words.push(word),
        }
    }
    words.join(" ")
}
