//! The publisher: sends what is due, and waits for nobody. Its replies are read by the audience's thread.

use std::{
    io::Write as _,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::prctl;
use switchmaster_tests::{Patient, wait};

use super::{
    message,
    schedule::{Schedule, Step},
};

/// Returns how late it was at the worst: by itself, or because the connection took nothing more.
pub(super) fn publish(stream: &TcpStream, schedule: &Schedule) -> Result<Duration> {
    // The kernel may wake a thread this much too late; by default 50 us.
    prctl::set_timerslack(1).context("timer slack")?;
    let mut patient = Patient::new(stream).context("nonblocking")?;
    let (mut sent, mut worst) = (0, Duration::ZERO);
    loop {
        let now = Instant::now();
        match schedule.step(sent, now) {
            Step::Wait(time) => wait::pause(time),
            Step::Send => {
                worst = worst.max(schedule.latency(sent, now));
                patient.write_all(&message::publish(sent)).with_context(|| format!("publishing message {sent}"))?;
                sent += 1;
            }
            Step::Done => return Ok(worst),
        }
    }
}
