//! How long the machine itself stood still: a thread on each CPU, before all others, that wants to run every
//! millisecond. What keeps it waiting is the host of a virtual machine that gives the CPU to others, or the kernel; no
//! proxy can be quick meanwhile.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use switchmaster_tests::{instrument, wait};

const STEP: Duration = Duration::from_millis(1);
/// A thread that wakes is this late now and then on any machine.
const LEAST: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy)]
pub(super) struct Stall {
    pub(super) cpu: usize,
    pub(super) from: Instant,
    pub(super) to: Instant,
}

/// Its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Stalls {
    seen: Arc<Mutex<Vec<Stall>>>,
    stop: Arc<AtomicBool>,
}

impl Stalls {
    pub(super) fn watch() -> Result<Self> {
        let stalls = Self { seen: Arc::default(), stop: Arc::default() };
        for cpu in 0..thread::available_parallelism().context("CPUs")?.get() {
            let (seen, stop) = (Arc::clone(&stalls.seen), Arc::clone(&stalls.stop));
            thread::spawn(move || watch(cpu, &seen, &stop));
        }
        Ok(stalls)
    }

    pub(super) fn seen(&self) -> Vec<Stall> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn watch(cpu: usize, seen: &Mutex<Vec<Stall>>, stop: &AtomicBool) {
    let mut only = CpuSet::new();
    if only.set(cpu).and_then(|()| sched_setaffinity(Pid::from_raw(0), &only)).is_err() {
        return;
    }
    instrument::first();
    let mut due = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        wait::pause(STEP);
        let now = Instant::now();
        let from = due + STEP;
        if now.saturating_duration_since(from) > LEAST {
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(Stall { cpu, from, to: now });
        }
        due = now;
    }
}
