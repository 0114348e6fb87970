//! Bounded waiting. Every wait has a limit and a name, and whoever gives up says what the servers
//! said last, so that a red test can be understood without running it again.

use std::{
    fmt::Display,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

/// Short enough that a wait adds no visible time, long enough not to disturb what is waited for.
const STEP: Duration = Duration::from_millis(10);

/// Lets time pass. The only sleep of the harness.
pub fn pause(time: Duration) {
    #[expect(clippy::disallowed_methods, reason = "a test that lets time pass has nothing to wait on")]
    std::thread::sleep(time);
}

/// Polls until `ready` gives a value, and returns it; gives up after `limit` with the last error.
/// `what` completes the sentence "gave up waiting for ...".
pub fn until<T>(limit: Duration, what: impl Display, mut ready: impl FnMut() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        match ready() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() >= limit => {
                return Err(error.context(format!("gave up waiting for {what} after {limit:?}")));
            }
            Err(_) => pause(STEP),
        }
    }
}

/// Polls until `ready` says yes.
pub fn until_true(limit: Duration, what: impl Display, mut ready: impl FnMut() -> bool) -> Result<()> {
    until(limit, what, || if ready() { Ok(()) } else { bail!("the condition is still false") })
}

/// Checks during the whole of `time` that `holds` does not fail.
pub fn throughout(time: Duration, what: impl Display, mut holds: impl FnMut() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < time {
        if let Err(error) = holds() {
            return Err(error.context(format!("{what} held only for {:?}", start.elapsed())));
        }
        pause(STEP);
    }
    Ok(())
}
