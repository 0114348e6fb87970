//! Threads that take the time: they come before all who work on the machine, or they would measure how long
//! these kept them waiting.

/// Above the daemon, which uses the lowest real-time priority for a moment.
const PRIORITY: libc::c_int = 50;

/// Puts the calling thread before others. Without the privilege it stays where it is, and measures that too.
pub fn first() {
    // SAFETY: it has no conditions.
    let this = unsafe { libc::pthread_self() };
    let param = libc::sched_param { sched_priority: PRIORITY };
    // SAFETY: the thread is the calling one, and the parameters outlive the call.
    let _refused = unsafe { libc::pthread_setschedparam(this, libc::SCHED_FIFO, &raw const param) };
}
