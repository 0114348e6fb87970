//! The ABI of parked SYNs: what the packet program takes aside while a route leads nowhere, how it is told whose turn
//! it is, and how the daemon sends a SYN on.

/// Names of the maps, beside those of [`crate::nat`], and of the program.
pub mod names {
    /// Ring buffer of [`super::Parked`].
    pub const PARKED: &str = "parked";
    /// Array of `u64`, by route: one of [`super::turn`], mapped into the daemon's memory.
    pub const SYN_TURNS: &str = "syn_turns";
    /// The program that sends a frame in again, run by the daemon for each.
    pub const RELEASE: &str = "release";
}

/// What becomes of the SYNs of a route that come in now, and of clients that steering could lead. These cannot be taken aside:
/// whom it does not lead is the listener's for life, so they go by the target alone, unless all arrivals have to keep a pace.
pub mod turn {
    /// They make flows while the target is open, and are taken aside while it is not.
    pub const FREE: u64 = 0;
    /// All are taken aside: others are to go before them.
    pub const HELD: u64 = 1;
    /// All are left to the listener, and so is whoever could be led: the daemon is leaving.
    pub const LISTENER: u64 = 2;
    /// All are taken aside, and nobody is led: a rate holds for whoever arrives now.
    pub const PACED: u64 = 3;
    /// All are left to the listener: there is no room for more of them.
    pub const FULL: u64 = 4;
}

/// Marks of frames that the daemon sends in again. None of them leaves the program.
pub mod mark {
    /// It is this SYN's turn.
    pub const TO_NODE: u32 = 0x736d_5301;
    /// The listener shall answer it.
    pub const TO_LISTENER: u32 = 0x736d_5302;
}

/// More than any SYN has without payload: Ethernet, IPv6, and the longest TCP header are 114 bytes.
pub const LONGEST: usize = 128;

/// A daemon that has been silent for so long takes care of no SYN, in ns: eight beats.
pub const PATIENCE: u64 = 2_000_000_000;

/// A frame that was taken aside: a SYN of a route, or the RST of a client that may have one here.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The interface it came in at.
    pub ifindex: u32,
    pub route: u16,
    /// How much of `frame` is it.
    pub length: u16,
    pub frame: [u8; LONGEST],
}

const _: () = assert!(size_of::<Parked>() == 136);
