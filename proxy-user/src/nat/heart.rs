//! The daemon's heartbeat, as the kernel program sees it: without one, new flows end after a while, since nobody
//! would tell the program of a failover. Needs the map `clock`.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use aya::maps::MapData;
use nix::time::{ClockId, clock_gettime};
use proxy_ebpf::nat::{Clock, names};

use super::mapping::{Mapping, MappingError, Shared};

/// [`Clock`], word by word.
#[repr(C)]
struct Record {
    beat: AtomicU64,
    grace: AtomicU64,
    /// The program's own.
    _half_open: AtomicU64,
}

const _: () = assert!(size_of::<Record>() == size_of::<Clock>());

// SAFETY: atomics alone, without a gap.
unsafe impl Shared for Record {}

#[derive(Debug)]
pub struct Heart(Mapping<Record>);

impl Heart {
    /// `grace` is how long new flows are still made after the last beat.
    pub fn open(map: &MapData, grace: Duration) -> Result<Self, MappingError> {
        let heart = Self(Mapping::new(names::CLOCK, map)?);
        heart.0[0].grace.store(grace.as_nanos() as u64, Ordering::Relaxed);
        Ok(heart)
    }

    pub fn beat(&self) -> Result<(), nix::Error> {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?);
        self.0[0].beat.store(now.as_nanos() as u64, Ordering::Relaxed);
        Ok(())
    }
}
