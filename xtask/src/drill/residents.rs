//! What the proxy keeps for itself: memory, open files, threads. After a storm it must be as before.

use std::{fs, time::Duration};

use anyhow::{Context as _, Result};
use nix::unistd::Pid;

use super::{
    figures::{Figure, Figures},
    load,
    stage::Stage,
};
use crate::{drill::script::pass, memory};

const SETTLE: Duration = Duration::from_secs(3);

#[derive(Debug)]
pub(super) struct Residents {
    memory: u64,
    files: usize,
    threads: usize,
}

impl Residents {
    /// Once it has served as many as will come: before that its buffers and tables have not been touched.
    pub(super) fn after_use(stage: &Stage) -> Result<Self> {
        drop(load::gather(stage, 300, 10)?);
        pass(SETTLE)?;
        Self::count(stage.front()?.process().pid())
    }

    /// How much there is now that was not there then, with all clients gone.
    pub(super) fn compare(&self, stage: &Stage, figures: &mut Figures) -> Result<()> {
        pass(SETTLE)?;
        let now = Self::count(stage.front()?.process().pid())?;
        figures.set(Figure::Memory, memory::growth(self.memory, now.memory) / 1024.0);
        figures.set(Figure::Files, now.files as f64 - self.files as f64);
        figures.set(Figure::Threads, now.threads as f64 - self.threads as f64);
        Ok(())
    }

    fn count(pid: Pid) -> Result<Self> {
        let entries = |what: &str| -> Result<usize> {
            let directory = format!("/proc/{pid}/{what}");
            Ok(fs::read_dir(&directory).with_context(|| directory.clone())?.count())
        };
        Ok(Self { memory: memory::anonymous(pid)?, files: entries("fd")?, threads: entries("task")? })
    }
}
