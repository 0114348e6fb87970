//! Puts the thread that has to tell thousands of clients of a switch before all others, for a moment: each whom it tells
//! comes back at once, and their work would stand between it and those who do not know yet. Promises that nobody else
//! is kept waiting for long. Needs CAP_SYS_NICE or a limit of real-time priority (RLIMIT_RTPRIO); without, it does nothing.

use std::{
    io,
    time::{Duration, Instant},
};

use nix::unistd::{Pid, gettid};

/// Enough for a thousand resets and more. Whoever has more of them takes turns with the others again.
const LONGEST: Duration = Duration::from_millis(20);
/// Lowest of the real-time priorities: before all ordinary threads, and before no other real-time one.
const PRIORITY: libc::c_int = 1;

/// Until it is dropped, or [`Urgent::yield_if_long`] finds that it was long enough.
#[derive(Debug)]
pub(crate) struct Urgent {
    thread: Pid,
    before: Option<Policy>,
    since: Instant,
}

#[derive(Debug, Clone, Copy)]
struct Policy {
    policy: libc::c_int,
    param: libc::sched_param,
}

impl Urgent {
    pub(crate) fn here() -> Self {
        Self::of(gettid())
    }

    /// As part of something that others are urgent for since then.
    pub(crate) fn here_since(since: Instant) -> Self {
        let mut urgent = Self::here();
        urgent.since = since;
        urgent
    }

    /// Whoever is to be woken is made urgent first: an ordinary thread that wakes behind one which is urgent already has to wait
    /// for it, though another processor has only ordinary work.
    pub(crate) fn of(thread: Pid) -> Self {
        Self { thread, before: hurry(thread).ok().flatten(), since: Instant::now() }
    }

    /// The same, or for the thread itself if it was not made urgent by this.
    pub(crate) fn or_here(self) -> Self {
        if self.before.is_some() { self } else { Self::here() }
    }

    /// To be called now and then.
    pub(crate) fn yield_if_long(&mut self) {
        if self.since.elapsed() > LONGEST {
            self.end();
        }
    }

    fn end(&mut self) {
        // Down is always allowed, and a thread that has ended has no policy.
        if let Some(policy) = self.before.take()
            && let Err(error) = policy.set(self.thread)
            && error.raw_os_error() != Some(libc::ESRCH)
        {
            tracing::warn!(%error, "a thread keeps its real-time priority");
        }
    }
}

impl Drop for Urgent {
    fn drop(&mut self) {
        self.end();
    }
}

/// Whether threads may be put before others here.
pub(crate) fn allowed() -> io::Result<()> {
    let thread = std::thread::Builder::new().name("urgent".to_owned()).spawn(|| hurry(gettid()).map(drop))?;
    thread.join().map_err(|_| io::Error::other("the thread panicked"))?
}

/// What the thread's policy was; none if it is real-time already, by its operator's will.
fn hurry(thread: Pid) -> io::Result<Option<Policy>> {
    let before = Policy::get(thread)?;
    if matches!(before.policy, libc::SCHED_FIFO | libc::SCHED_RR) {
        return Ok(None);
    }
    Policy { policy: libc::SCHED_RR, param: libc::sched_param { sched_priority: PRIORITY } }.set(thread)?;
    Ok(Some(before))
}

impl Policy {
    fn get(thread: Pid) -> io::Result<Self> {
        // SAFETY: it has no conditions.
        let policy = unsafe { libc::sched_getscheduler(thread.as_raw()) };
        let mut param = libc::sched_param { sched_priority: 0 };
        // SAFETY: the place is ours.
        let error = unsafe { libc::sched_getparam(thread.as_raw(), &raw mut param) };
        if policy < 0 || error != 0 { Err(io::Error::last_os_error()) } else { Ok(Self { policy, param }) }
    }

    fn set(self, thread: Pid) -> io::Result<()> {
        // SAFETY: the parameters outlive the call.
        let error = unsafe { libc::sched_setscheduler(thread.as_raw(), self.policy, &raw const self.param) };
        if error == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        Policy::get(gettid()).map_or(-1, |it| it.policy)
    }

    /// Where it is not allowed everything stays as it is, which is what the last lines ask as well.
    #[test]
    fn a_thread_is_as_before_afterwards() {
        let before = policy();
        let mut urgent = Urgent::here();
        assert_eq!(policy() == libc::SCHED_RR, allowed().is_ok());
        urgent.yield_if_long();
        assert_eq!(policy() == libc::SCHED_RR, allowed().is_ok(), "it was not long");
        std::thread::park_timeout(LONGEST);
        assert!(urgent.since.elapsed() > LONGEST, "the park ended early");
        urgent.yield_if_long();
        assert_eq!(policy(), before);
        drop(Urgent::here());
        assert_eq!(policy(), before);
    }

    /// Of a thread that sleeps, by another one; and one that has ended is no error.
    #[test]
    fn a_thread_is_made_urgent_by_another() {
        let (tell, told) = std::sync::mpsc::channel();
        let (end, ended) = std::sync::mpsc::channel::<()>();
        let sleeper = std::thread::spawn(move || {
            tell.send(gettid()).expect("somebody listens");
            let _end = ended.recv();
        });
        let thread = told.recv().expect("the thread tells its number");
        let of_it = |expected: libc::c_int| assert_eq!(Policy::get(thread).expect("it lives").policy, expected);
        let before = policy();
        let urgent = Urgent::of(thread);
        of_it(if allowed().is_ok() { libc::SCHED_RR } else { before });
        assert_eq!(policy(), before, "it is about the other thread");
        drop(urgent);
        of_it(before);
        let urgent = Urgent::of(thread);
        drop(end);
        sleeper.join().expect("it ends");
        drop(urgent);
    }
}
