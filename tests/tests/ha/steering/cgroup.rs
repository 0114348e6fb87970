//! A cgroup of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result};
use switchmaster_tests::{Namespace, wait};

use crate::FOLLOW;

/// Gone with the processes in it.
pub(super) struct Cgroup(PathBuf);

impl Cgroup {
    pub(super) fn new(lab: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/mounts").context("/proc/mounts")?;
        let root =
            mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|it| it.get(2) == Some(&"cgroup2"));
        let path = PathBuf::from(root.context("cgroup2 is not mounted")?[1]).join(lab);
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// A program in there, and in a network namespace.
    pub(super) fn command(&self, namespace: &Namespace, words: &[&str]) -> Command {
        let mut command = namespace.command("sh");
        command.args(["-c", "echo $$ > \"$0\" && exec \"$@\""]).arg(self.0.join("cgroup.procs")).args(words);
        command
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // A process that was just killed is in it for a moment longer.
        let _told = wait::until(FOLLOW, "the cgroup to be empty", || fs::remove_dir(&self.0).context("rmdir"));
    }
}
