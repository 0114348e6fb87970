//! The ABI of sharing new flows out among the slots of a route. What stands here only proposes: whether a slot
//! takes new flows is what `targets` says of it, and the program asks that last.

use crate::nat::Address;

/// Names of the maps.
pub mod names {
    /// Array of [`super::Balance`], two for each route: at [`super::of_route`].
    pub const BALANCE: &str = "balance";
    /// Array of `u64`, beside [`BALANCE`]: how many flows were asked for so far. The program's own.
    pub const TURN: &str = "turn";
    /// Array of arrays of one [`super::Table`], beside [`BALANCE`]: whom a client is drawn to.
    pub const MAGLEV: &str = "maglev";
    /// Array of [`super::Load`], [`super::SLOTS`] for each route, mapped into the daemon's memory.
    pub const LOADS: &str = "loads";
}

/// As many slots as a route can have.
pub const SLOTS: u32 = 256;

/// Which slots of a route take new flows of one IP family.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Balance {
    /// One of [`kind`].
    pub kind: u32,
    /// How many of `slots` are meant.
    pub count: u32,
    pub slots: [u16; SLOTS as usize],
}

/// Values of [`Balance::kind`].
pub mod kind {
    /// There is slot 0 alone, whatever its family. The entry of a route that nobody wrote.
    pub const MASTER: u32 = 0;
    pub const ROUND_ROBIN: u32 = 1;
    pub const LEAST_CONNECTIONS: u32 = 2;
    pub const SOURCE_HASH: u32 = 3;
}

/// Where the entry of a route and a family is.
#[inline(always)]
pub const fn of_route(route: u32, v6: bool) -> u32 {
    route * 2 + v6 as u32
}

/// How much a slot has to do.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Flows, from the first SYN on, and connections of the listener, from the dial on: what the slots are compared by.
    pub taken: u64,
    /// Flows whose handshake was finished.
    pub established: u64,
}

/// Where the entry of a slot is.
#[inline(always)]
pub const fn of_slot(route: u32, slot: u32) -> u32 {
    route * SLOTS + slot
}

/// Places in a [`Table`]: a prime, and so many that nodes get even shares and keep nearly all of theirs when another comes
/// or goes (Eisenbud et al., "Maglev", NSDI 2016, 3.4 and 5.3).
pub const PLACES: u32 = 65_537;

/// A slot for each place. A client looks at places in an order of its own until it finds a slot that is open: so a slot
/// that shuts moves its own clients only, and they come back to it.
pub type Table = [u16; PLACES as usize];

/// A place of nobody: a table without nodes has no other.
pub const NOBODY: u16 = u16::MAX;

/// How many places a client looks at. With half of the slots shut one in 256 clients finds none open.
pub const LOOKS: u32 = 8;

/// The places of a client in its order.
#[derive(Clone, Copy, Debug)]
pub struct Looks(u64);

impl Looks {
    #[inline(always)]
    pub fn of(client: &Address) -> Self {
        let [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = *client;
        let (high, low) = (u64::from_be_bytes([a, b, c, d, e, f, g, h]), u64::from_be_bytes([i, j, k, l, m, n, o, p]));
        Self(mixed(mixed(high) ^ low))
    }

    #[inline(always)]
    pub fn next_place(&mut self) -> u32 {
        self.0 = self.0.wrapping_add(GOLDEN);
        // The high half, scaled to the table: below PLACES without a division.
        (((mixed(self.0) >> 32) * PLACES as u64) >> 32) as u32
    }
}

pub(crate) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// The finalizer of `SplitMix64` (Steele, Lea, Flood, 2014).
#[inline(always)]
pub const fn mixed(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

const _: () = {
    assert!(size_of::<Balance>() == 520);
    assert!(size_of::<Load>() == 16);
    assert!(SLOTS < NOBODY as u32);
};
