//! The clock of whoever decides by time and waits for it: the one that the runtime's timers go by. It is
//! the system's monotonic clock, unless a test has paused it; then the two may not be mixed.

use std::time::Instant;

pub(crate) fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}
