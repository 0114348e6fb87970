//! The clock of the flows: u32 ticks of CLOCK_MONOTONIC (`bpf_ktime_get_ns`), which wrap after 18 years.

use std::time::{Duration, Instant};

use nix::time::{ClockId, clock_gettime};
use proxy_ebpf::nat::TICK_SHIFT;

/// The clock now.
pub fn now() -> Result<u32, nix::Error> {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
    Ok(from_nanos(Duration::from(now).as_nanos()))
}

/// The moment at which the clock showed so many ns; `None` where it has not yet.
pub fn instant(nanos: u64) -> Option<Instant> {
    let (now, clock) = (Instant::now(), clock_gettime(ClockId::CLOCK_MONOTONIC).ok()?);
    now.checked_sub(Duration::from(clock).checked_sub(Duration::from_nanos(nanos))?)
}

fn from_nanos(nanos: u128) -> u32 {
    (nanos >> TICK_SHIFT) as u32
}

/// A length of time in ticks: at least one, and at most what [`since`] can tell from a time to come.
pub const fn ticks(length: Duration) -> u32 {
    let ticks = length.as_nanos() >> TICK_SHIFT;
    match ticks {
        0 => 1,
        1..=0x7fff_ffff => ticks as u32,
        _ => i32::MAX as u32,
    }
}

/// How long ago; 0 for what a packet has written since `now` was read.
pub fn since(then: u32, now: u32) -> u32 {
    (now.wrapping_sub(then) as i32).max(0) as u32
}

/// The later of two.
pub fn later(a: u32, b: u32) -> u32 {
    if (a.wrapping_sub(b) as i32) < 0 { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_is_that_of_the_kernel_program() {
        assert_eq!(from_nanos(1 << 27), 1);
        assert_eq!(from_nanos((1 << 27) - 1), 0);
        assert_eq!(from_nanos((1 << 59) + (5 << 27)), 5, "wraps");
        assert_eq!(ticks(Duration::from_secs(60)), 447);
        assert_eq!(ticks(Duration::ZERO), 1);
        assert_eq!(ticks(Duration::MAX), i32::MAX as u32);
    }

    #[test]
    fn a_moment_is_found_again() {
        let clock = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_nanos() as u64;
        let (before, nanos, after) = (Instant::now(), clock(), Instant::now());
        let found = instant(nanos).unwrap();
        let slack = Duration::from_millis(5);
        assert!(before < found + slack && found < after + slack, "{:?}", found - before);
        assert_eq!(instant(nanos + 10_000_000_000), None, "to come");
    }

    #[test]
    fn ages_survive_the_wrap_and_are_never_negative() {
        assert_eq!(since(u32::MAX - 1, 3), 5);
        assert_eq!(since(3, u32::MAX - 1), 0);
        assert_eq!(since(7, 7), 0);
        assert_eq!((later(u32::MAX, 3), later(3, u32::MAX), later(8, 9)), (3, 3, 9));
    }
}
