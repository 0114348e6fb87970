//! Child processes that cannot outlive the test: killed by pid on drop, by the kernel when the test
//! process dies, and on SIGINT or SIGTERM by `sweep`. Output goes to a file that is shown on a panic.
//! All are forked by one thread that lives for ever: the kernel's parent-death signal follows the thread.

use std::{
    collections::HashSet,
    fs::{self, File},
    io,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::{
        LazyLock, Mutex, MutexGuard, PoisonError,
        mpsc::{self, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::{
        prctl,
        signal::{Signal, kill},
    },
    unistd::Pid,
};

use crate::wait;

/// How much of a log is shown: the end is what matters, and a long test must not flood the screen.
const SHOWN: usize = 60;

type Order = (Command, Sender<io::Result<Child>>);

static SPAWNER: LazyLock<Mutex<Sender<Order>>> = LazyLock::new(|| {
    let (orders, inbox) = mpsc::channel::<Order>();
    thread::spawn(move || {
        while let Ok((mut command, reply)) = inbox.recv() {
            // An asker that is gone leaves nothing behind: dropping a Child does not kill it, so do.
            if let Err(mpsc::SendError(Ok(mut child))) = reply.send(command.spawn()) {
                let _gone = child.kill().and_then(|()| child.wait());
            }
        }
    });
    Mutex::new(orders)
});

static LIVE: Mutex<Option<HashSet<i32>>> = Mutex::new(None);

fn live() -> MutexGuard<'static, Option<HashSet<i32>>> {
    LIVE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills whatever is still running, for `sweep`. From here on nothing can be started any more.
pub(crate) fn kill_all() {
    for pid in live().take().into_iter().flatten() {
        let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Forks from the thread that lives as long as the process does.
fn spawn(mut command: Command) -> Result<Child> {
    // Its own group: Ctrl-C reaches the test, which then decides in which order things end.
    command.process_group(0);
    // SAFETY: prctl is a plain system call, allowed between fork and exec.
    unsafe { command.pre_exec(|| prctl::set_pdeathsig(Signal::SIGKILL).map_err(io::Error::from)) };
    let program = format!("{:?}", command.get_program());
    let (reply, answer) = mpsc::channel();
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .ok()
        .context("the spawner thread is gone")?;
    answer.recv().context("the spawner thread is gone")?.with_context(|| format!("cannot start {program}"))
}

/// A running program, its log, and what to call it in messages.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts `command` with both outputs appended to `log`.
    pub fn start(name: impl Into<String>, mut command: Command, log: PathBuf) -> Result<Self> {
        let name = name.into();
        let file = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let errors = file.try_clone().context("log file")?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors);
        let child = spawn(command).with_context(|| name.clone())?;
        live().get_or_insert_default().insert(child.id().cast_signed());
        Ok(Self { name, child, log, ended: None })
    }

    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Itself and all that come from it.
    pub fn family(&self) -> Result<Vec<Pid>> {
        let mut parents = Vec::new();
        for entry in fs::read_dir("/proc").context("/proc")?.flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(Pid::from_raw);
            // One that has ended meanwhile has no parent any more.
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            parents.extend(pid.zip(parent(&stat)));
        }
        Ok(descendants(self.pid(), &parents))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// All it wrote so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map_or_else(|error| error.to_string(), |text| String::from_utf8_lossy(&text).into_owned())
    }

    pub fn signal(&self, signal: Signal) -> Result<()> {
        if self.ended.is_some() {
            bail!("{} has ended", self.name);
        }
        kill(self.pid(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.ended.is_none()
            && let Some(status) = self.child.try_wait().with_context(|| self.name.clone())?
        {
            self.reaped(status);
        }
        Ok(self.ended)
    }

    fn reaped(&mut self, status: ExitStatus) {
        if let Some(pids) = live().as_mut() {
            pids.remove(&self.pid().as_raw());
        }
        self.ended = Some(status);
    }

    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if start.elapsed() > limit {
                bail!("{} did not end within {limit:?}; its log ends with\n{}", self.name, tail(&self.log()));
            }
            wait::pause(Duration::from_millis(2));
        }
    }

    /// SIGKILL, and wait until the kernel has taken its sockets down.
    pub fn kill(&mut self) {
        if self.ended.is_none() {
            let _gone = self.child.kill();
            if let Ok(status) = self.child.wait() {
                self.reaped(status);
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if thread::panicking() {
            eprintln!("--- {} ({}), the end of its log:\n{}", self.name, self.log.display(), tail(&self.log()));
        }
    }
}

/// From a process's `stat`: the number, the name in brackets, which may itself have some, the state, the parent.
fn parent(stat: &str) -> Option<Pid> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(1)?.parse().ok().map(Pid::from_raw)
}

/// `first`, and whoever has one of those for a parent.
fn descendants(first: Pid, parents: &[(Pid, Pid)]) -> Vec<Pid> {
    let mut family = vec![first];
    let mut next = 0;
    while let Some(&one) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == one).map(|(pid, _)| *pid));
        next += 1;
    }
    family
}

/// The last lines of a log.
pub fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(SHOWN)..].join("\n")
}

#[cfg(test)]
mod tests {
    use nix::unistd::Pid;

    use super::{descendants, parent};

    #[test]
    fn finds_the_parent_behind_any_name() {
        assert_eq!(parent("12 (nginx) S 7 12 12 0"), Some(Pid::from_raw(7)));
        assert_eq!(parent("12 (a ) S 9 (b) R 8 12"), Some(Pid::from_raw(8)));
        assert_eq!(parent("12"), None);
    }

    #[test]
    fn a_family_has_grandchildren_and_no_strangers() {
        let pids = |numbers: &[i32]| numbers.iter().copied().map(Pid::from_raw).collect::<Vec<_>>();
        let parents: Vec<(Pid, Pid)> = pids(&[5, 3, 4, 9, 2]).into_iter().zip(pids(&[4, 2, 2, 1, 1])).collect();
        assert_eq!(descendants(Pid::from_raw(2), &parents), pids(&[2, 3, 4, 5]));
    }
}
