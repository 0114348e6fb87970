//! What the proxy keeps for itself: memory, open files, threads, tasks. After a storm it must be as before.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use switchmaster_tests::memory;

use super::{
    figures::{Figure, Figures},
    load,
    name::Drill,
    stage::{Front, Stage},
};
use crate::drill::script::pass;

const SETTLE: Duration = Duration::from_secs(3);
/// An idle thread of the runtime's pool lives for ten seconds.
const AFTERWARDS: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub(super) struct Residents {
    memory: u64,
    files: usize,
    threads: usize,
    /// Of the daemon; 0 for a peer, which has none such.
    tasks: u64,
}

impl Residents {
    /// Once it has served as many as will come: before that its buffers and tables have not been touched.
    pub(super) fn after_use(stage: &Stage) -> Result<Self> {
        drop(load::gather(stage, Drill::Flap.crowd())?);
        pass(SETTLE)?;
        Self::count(stage.front()?)
    }

    /// How much there is now that was not there then, with all clients gone. What is still more is given
    /// time to go: threads that wait for work, sockets that close.
    pub(super) fn compare(&self, stage: &Stage, figures: &mut Figures) -> Result<()> {
        let (front, since) = (stage.front()?, Instant::now());
        let now = loop {
            pass(SETTLE)?;
            let now = Self::count(front)?;
            let settled = now.files <= self.files && now.threads <= self.threads && now.tasks <= self.tasks;
            if settled || since.elapsed() > AFTERWARDS {
                break now;
            }
        };
        figures.set(Figure::Memory, memory::growth(self.memory, now.memory) / 1024.0);
        figures.set(Figure::Files, now.files as f64 - self.files as f64);
        figures.set(Figure::Threads, now.threads as f64 - self.threads as f64);
        if let Front::Ours { .. } = front {
            figures.set(Figure::Tasks, now.tasks as f64 - self.tasks as f64);
        }
        Ok(())
    }

    fn count(front: &Front) -> Result<Self> {
        let pid = front.process().pid();
        let entries = |what: &str| -> Result<usize> {
            let directory = format!("/proc/{pid}/{what}");
            Ok(fs::read_dir(&directory).with_context(|| directory.clone())?.count())
        };
        let tasks = front.counters()?.map_or(0, |counters| counters.tasks);
        Ok(Self { memory: memory::anonymous(pid)?, files: entries("fd")?, threads: entries("task")?, tasks })
    }
}
