//! Puts the thread that has to tell thousands of clients of a switch before all others, for a moment: each whom it tells
//! comes back at once, and their work would stand between it and those who do not know yet. Promises that nobody else
//! is kept waiting for long. Needs CAP_SYS_NICE or a limit of real-time priority (RLIMIT_RTPRIO); without, it does nothing.

use std::{
    io,
    marker::PhantomData,
    time::{Duration, Instant},
};

/// Enough for a thousand resets and more. Whoever has more of them takes turns with the others again.
const LONGEST: Duration = Duration::from_millis(20);
/// Lowest of the real-time priorities: before all ordinary threads, and before no other real-time one.
const PRIORITY: libc::c_int = 1;

/// Until it is dropped, or [`Urgent::yield_if_long`] finds that it was long enough.
#[derive(Debug)]
pub(crate) struct Urgent {
    before: Option<Policy>,
    since: Instant,
    /// It is about the thread that made it.
    _of_this_thread: PhantomData<*const ()>,
}

#[derive(Debug, Clone, Copy)]
struct Policy {
    policy: libc::c_int,
    param: libc::sched_param,
}

impl Urgent {
    pub(crate) fn begin() -> Self {
        Self { before: hurry().ok().flatten(), since: Instant::now(), _of_this_thread: PhantomData }
    }

    /// To be called now and then.
    pub(crate) fn yield_if_long(&mut self) {
        if self.since.elapsed() > LONGEST {
            self.end();
        }
    }

    fn end(&mut self) {
        // Down is always allowed.
        if let Some(policy) = self.before.take()
            && let Err(error) = policy.set()
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
    let thread = std::thread::Builder::new().name("urgent".to_owned()).spawn(|| hurry().map(drop))?;
    thread.join().map_err(|_| io::Error::other("the thread panicked"))?
}

/// What the thread's policy was; none if it is real-time already, by its operator's will.
fn hurry() -> io::Result<Option<Policy>> {
    let before = Policy::get()?;
    if matches!(before.policy, libc::SCHED_FIFO | libc::SCHED_RR) {
        return Ok(None);
    }
    Policy { policy: libc::SCHED_RR, param: libc::sched_param { sched_priority: PRIORITY } }.set()?;
    Ok(Some(before))
}

impl Policy {
    fn get() -> io::Result<Self> {
        let mut found = Self { policy: 0, param: libc::sched_param { sched_priority: 0 } };
        // SAFETY: the thread is the calling one, and both places are ours.
        let error = unsafe { libc::pthread_getschedparam(this_thread(), &raw mut found.policy, &raw mut found.param) };
        if error == 0 { Ok(found) } else { Err(io::Error::from_raw_os_error(error)) }
    }

    fn set(self) -> io::Result<()> {
        // SAFETY: the thread is the calling one, and the parameters outlive the call.
        let error = unsafe { libc::pthread_setschedparam(this_thread(), self.policy, &raw const self.param) };
        if error == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(error)) }
    }
}

fn this_thread() -> libc::pthread_t {
    // SAFETY: it has no conditions.
    unsafe { libc::pthread_self() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        Policy::get().map_or(-1, |it| it.policy)
    }

    /// Where it is not allowed everything stays as it is, which is what the last lines ask as well.
    #[test]
    fn a_thread_is_as_before_afterwards() {
        let before = policy();
        let mut urgent = Urgent::begin();
        assert_eq!(policy() == libc::SCHED_RR, allowed().is_ok());
        urgent.yield_if_long();
        assert_eq!(policy() == libc::SCHED_RR, allowed().is_ok(), "it was not long");
        std::thread::park_timeout(LONGEST);
        assert!(urgent.since.elapsed() > LONGEST, "the park ended early");
        urgent.yield_if_long();
        assert_eq!(policy(), before);
        drop(Urgent::begin());
        assert_eq!(policy(), before);
    }
}
