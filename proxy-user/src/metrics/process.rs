//! The daemon's own CPU time, memory and open files, under the names every Prometheus client uses, and its tasks.
//! Read from /proc at scrape time; what cannot be read is left out.

use std::{fmt, fs, os::unix::fs::MetadataExt as _, sync::Arc};

use nix::{
    sys::resource::{Resource, UsageWho, getrlimit, getrusage},
    unistd::{SysconfVar, sysconf},
};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::Shared;

pub(super) struct Process(pub(super) Arc<Shared>);

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").finish_non_exhaustive()
    }
}

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        if let Some(seconds) = cpu_seconds() {
            encoder
                .encode_descriptor("process_cpu_seconds", "User and system CPU time.", None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, f64>(&seconds, None)?;
        }
        for (name, help, value) in [
            ("process_resident_memory_bytes", "Resident memory.", resident_bytes()),
            ("process_open_fds", "Open file descriptors.", open_files()),
            ("process_max_fds", "The soft limit on open file descriptors.", max_files()),
            ("switchmaster_tasks", "Tasks of its runtimes that have not ended.", self.tasks()),
        ] {
            if let Some(value) = value {
                encoder.encode_descriptor(name, help, None, MetricType::Gauge)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }
}

impl Process {
    /// Of the runtime that asks, and of those that groups have.
    fn tasks(&self) -> Option<u64> {
        let own = tokio::runtime::Handle::try_current().ok()?;
        let others = self.0.runtimes();
        let alive = others.iter().chain([&own]).map(|runtime| runtime.metrics().num_alive_tasks()).sum::<usize>();
        u64::try_from(alive).ok()
    }
}

fn cpu_seconds() -> Option<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).ok()?;
    let sum = [usage.user_time(), usage.system_time()].map(|it| it.tv_sec() as f64 + it.tv_usec() as f64 / 1e6);
    Some(sum[0] + sum[1])
}

fn resident_bytes() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    let page = sysconf(SysconfVar::PAGE_SIZE).ok()??;
    pages.checked_mul(u64::try_from(page).ok()?)
}

/// Since Linux 6.2 the folder's size is the count (f1f1f2569901); before, it must be listed.
fn open_files() -> Option<u64> {
    let size = fs::metadata("/proc/self/fd").ok()?.size();
    if size > 0 {
        return Some(size);
    }
    u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()
}

fn max_files() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}
