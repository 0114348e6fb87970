//! What the daemon says to all packets, in its own memory. Needs the map `globals`.

use std::{ops::Deref, sync::atomic::AtomicU64};

use aya::maps::MapData;
use proxy_ebpf::nat::{self, Door, MOST_DOORS, MOST_SNATS_KNOWN, Snat, names};

use crate::kernel::{Cell, Mapping, MappingError, Shared};

/// [`nat::Clock`], word by word.
#[derive(Debug)]
#[repr(C)]
pub struct Clock {
    pub beat: AtomicU64,
    pub grace: AtomicU64,
    /// The programs' own.
    _half_open: AtomicU64,
    _pad: [AtomicU64; 5],
    pub jiffy: AtomicU64,
    /// The programs' own.
    _zero: AtomicU64,
    _rest: [AtomicU64; 6],
}

/// [`nat::Globals`], word by word.
#[derive(Debug)]
#[repr(C)]
pub struct Record {
    pub clock: Clock,
    pub snats: [Cell<Snat, 3>; MOST_SNATS_KNOWN],
    pub doors: [Cell<Door, 4>; MOST_DOORS],
}

const _: () = {
    use std::mem::offset_of;
    assert!(size_of::<Clock>() == size_of::<nat::Clock>());
    assert!(offset_of!(Clock, jiffy) == offset_of!(nat::Clock, jiffy));
    assert!(size_of::<Record>() == size_of::<nat::Globals>());
    assert!(offset_of!(Record, snats) == offset_of!(nat::Globals, snats));
    assert!(offset_of!(Record, doors) == offset_of!(nat::Globals, doors));
};

// SAFETY: atomics alone, without a gap (sizes and offsets asserted above).
unsafe impl Shared for Record {}

/// The one entry of the map.
#[derive(Debug)]
pub struct Globals(Mapping<Record>);

impl Globals {
    pub fn open(map: &MapData) -> Result<Self, MappingError> {
        Ok(Self(Mapping::new(names::GLOBALS, map)?))
    }

    #[cfg(test)]
    pub fn anonymous() -> Self {
        Self(Mapping::anonymous(1))
    }
}

impl Deref for Globals {
    type Target = Record;

    fn deref(&self) -> &Record {
        &self.0[0]
    }
}
