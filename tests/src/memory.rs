//! Memory: what the machine has left, and what one process holds for itself.

use std::{
    fs,
    sync::mpsc::{self, RecvTimeoutError, Sender},
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::unistd::{Pid, SysconfVar, sysconf};

/// Often enough for a run of a second. Seldom, because who looks has to wake up, and that alone can be seen in the latencies
/// of what is watched: `direct`, where there is nothing to watch, would not pay for it.
const LOOK: Duration = Duration::from_millis(500);

/// What programs could still get, in bytes. Pages that a core keeps at hand for its next allocation are
/// free too, but the kernel does not count them as such, and it keeps hundreds of MiB of them.
pub fn available() -> Result<u64> {
    let zones = fs::read_to_string("/proc/zoneinfo").context("/proc/zoneinfo")?;
    Ok(field("/proc/meminfo", "MemAvailable:")? + at_hand(&zones) * page_size()?)
}

/// How much less programs could get now than `before`; negative if more. In bytes.
pub fn taken_since(before: u64) -> Result<f64> {
    Ok(growth(available()?, before))
}

/// Pages on the cores' own lists.
fn at_hand(zones: &str) -> u64 {
    zones.lines().filter_map(|line| line.trim().strip_prefix("count:")?.trim().parse::<u64>().ok()).sum()
}

/// Anonymous resident memory of a process: heaps and stacks, not the program itself.
pub fn anonymous(pid: Pid) -> Result<u64> {
    let file = format!("/proc/{pid}/statm");
    let text = fs::read_to_string(&file).with_context(|| file.clone())?;
    let pages: Vec<u64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [_size, resident, shared, ..] = pages[..] else { bail!("{file}: {text:?}") };
    Ok(resident.saturating_sub(shared) * page_size()?)
}

fn page_size() -> Result<u64> {
    Ok(sysconf(SysconfVar::PAGE_SIZE).context("sysconf")?.context("no page size")?.cast_unsigned())
}

fn field(file: &str, name: &str) -> Result<u64> {
    let text = fs::read_to_string(file).with_context(|| file.to_owned())?;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB")?.parse::<u64>().ok());
    Ok(value.with_context(|| format!("no {name} in {file}"))? * 1024)
}

/// Watches the anonymous memory of processes, for the most they hold at one time.
#[derive(Debug)]
pub struct Peak {
    stop: Sender<()>,
    thread: JoinHandle<u64>,
}

impl Peak {
    /// Nothing to watch is none.
    pub fn watch(pids: Vec<Pid>) -> Option<Self> {
        if pids.is_empty() {
            return None;
        }
        let (stop, stopped) = mpsc::channel();
        let thread = thread::spawn(move || {
            let (mut most, mut over) = (0, false);
            loop {
                // One that has just ended holds nothing.
                most = most.max(pids.iter().filter_map(|&pid| anonymous(pid).ok()).sum());
                if over {
                    return most;
                }
                over = !matches!(stopped.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout));
            }
        });
        Some(Self { stop, thread })
    }

    /// In bytes.
    pub fn end(self) -> Result<u64> {
        drop(self.stop);
        self.thread.join().map_err(|_| anyhow!("the thread that watches memory panicked"))
    }
}

pub const MIB: f64 = 1_048_576.0;

/// How much less there is now than before; negative if there is more.
pub fn growth(before: u64, now: u64) -> f64 {
    now as f64 - before as f64
}

#[cfg(test)]
mod tests {
    #[test]
    fn adds_up_the_pages_of_all_cores() {
        let zones = "Node 0, zone   Normal\n  pagesets\n    cpu: 0\n              count:    7\n              high: 9\n\
                     \x20   cpu: 1\n              count:    5\n  node_unreclaimable:  0\n";
        assert_eq!(super::at_hand(zones), 12);
    }
}
