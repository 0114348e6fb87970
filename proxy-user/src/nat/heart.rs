//! The daemon's heartbeat, as the kernel program sees it: without one, new flows end after a while, since nobody
//! would tell the program of a failover. Needs the map `clock`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::MapData;
use nix::time::{ClockId, clock_getres, clock_gettime};
use proxy_ebpf::nat::{Clock, names};

use crate::kernel::{Mapping, MappingError, Shared};

/// [`Clock`], word by word.
#[repr(C)]
struct Record {
    beat: AtomicU64,
    grace: AtomicU64,
    /// The program's own.
    _half_open: AtomicU64,
    _pad: [AtomicU64; 5],
    jiffy: AtomicU64,
    /// The program's own.
    _zero: AtomicU64,
}

const _: () = assert!(size_of::<Record>() == size_of::<Clock>());

// SAFETY: atomics alone, without a gap.
unsafe impl Shared for Record {}

#[derive(Debug)]
pub struct Heart {
    clock: Mapping<Record>,
    grace: Duration,
}

impl Heart {
    /// `grace` is how long new flows are still made after the last beat. Until the first beat, that of the daemon before
    /// us counts, if there was one.
    pub fn open(map: &MapData, grace: Duration) -> Result<Self, MappingError> {
        let clock = Mapping::<Record>::new(names::CLOCK, map)?;
        clock[0].jiffy.store(jiffy(), Ordering::Relaxed);
        Ok(Self { clock, grace })
    }

    pub fn beat(&self) -> Result<(), nix::Error> {
        self.clock[0].beat.store(now()?, Ordering::Relaxed);
        self.clock[0].grace.store(self.grace.as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    }

    /// How much longer new flows are made without another beat.
    pub fn rest(&self) -> Result<Duration, nix::Error> {
        let [beat, grace] = [&self.clock[0].beat, &self.clock[0].grace].map(|word| word.load(Ordering::Relaxed));
        Ok(Duration::from_nanos(beat.saturating_add(grace).saturating_sub(now()?)))
    }
}

/// How long a timer tick lasts, in ns: the coarse clocks go by them. 0: it is not known, and the program asks the kernel's
/// clock for each packet.
fn jiffy() -> u64 {
    clock_getres(ClockId::CLOCK_MONOTONIC_COARSE).map_or(0, |length| Duration::from(length).as_nanos() as u64)
}

/// As the program reads its clock, in ns.
fn now() -> Result<u64, nix::Error> {
    Ok(Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos() as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_beat_the_time_of_the_daemon_before_runs_out() {
        let heart = Heart { clock: Mapping::anonymous(1), grace: Duration::from_secs(3) };
        assert_eq!(heart.rest().unwrap(), Duration::ZERO, "there was none");
        let second = Duration::from_secs(1).as_nanos() as u64;
        heart.clock[0].beat.store(now().unwrap() - second, Ordering::Relaxed);
        heart.clock[0].grace.store(10 * second, Ordering::Relaxed);
        let rest = heart.rest().unwrap();
        assert!(rest > Duration::from_secs(8) && rest <= Duration::from_secs(9), "{rest:?}");
        heart.beat().unwrap();
        assert!(heart.rest().unwrap() <= Duration::from_secs(3), "from now on ours counts");
    }
}
