//! The ABI of the index `flow_of`: which flow a client's packet belongs to, found in one cache line, or two where that
//! one is full. An entry is a word, put and removed by compare-exchange, so that programs on all CPUs and the daemon may
//! do so at once. It has 31 bits of the hash and a place: who follows it looks at the record before it believes it.

use crate::nat::{Halves, Port};

/// Names of the programs' constants.
pub mod names {
    /// `u64`: the index's own, drawn when it is made, so that nobody can choose ports that meet in one bucket.
    pub const SEED: &str = "FLOW_SEED";
    /// `u32`: how many buckets there are, less one.
    pub const MASK: &str = "FLOW_MASK";
}

/// Entries of a [`Bucket`].
pub const ENTRIES: usize = 8;

/// A cache line. The entries have no order.
pub type Bucket = [u64; ENTRIES];

/// An entry that is nobody's.
pub const EMPTY: u64 = 0;

/// How many buckets for so many flows: two flows have one at most, on the average, so that of a million one in a thousand looks
/// for its entry twice, and nobody finds both full (test).
#[must_use]
pub const fn buckets(flows: u32) -> u32 {
    flows.div_ceil(2).next_power_of_two()
}

/// Of a client's address and port, and the [`fold`](crate::nat::fold) of what it dialled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hash(u64);

impl Hash {
    #[inline(always)]
    #[must_use]
    pub const fn of(seed: u64, client: Halves, port: Port, dialled: u16) -> Self {
        let ends = (dialled as u64) << 16 | u16::from_be_bytes(port) as u64;
        let hash = (client[0] ^ seed).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let hash = (hash ^ hash >> 32 ^ client[1]).wrapping_mul(0x94d0_49bb_1331_11eb);
        let hash = (hash ^ hash >> 29 ^ ends).wrapping_mul(crate::balance::GOLDEN);
        Self(hash ^ hash >> 32)
    }

    /// Its half of an entry; never 0.
    #[inline(always)]
    const fn tag(self) -> u32 {
        (self.0 >> 32) as u32 | 1
    }

    /// The buckets that its entry may be in, in the order in which they are asked.
    #[inline(always)]
    #[must_use]
    pub const fn buckets(self, mask: u32) -> [u32; 2] {
        let first = self.0 as u32;
        [first & mask, (first ^ self.tag().wrapping_mul(0x5bd1_e995)) & mask]
    }

    #[inline(always)]
    #[must_use]
    pub const fn entry(self, place: u32) -> u64 {
        (self.tag() as u64) << 32 | place as u64
    }

    /// Whether an entry may be of this hash; [`EMPTY`] never is.
    #[inline(always)]
    #[must_use]
    pub const fn is_in(self, entry: u64) -> bool {
        (entry >> 32) as u32 == self.tag()
    }
}

/// Where an entry that is not empty leads.
#[inline(always)]
#[must_use]
pub const fn place(entry: u64) -> u32 {
    entry as u32
}

const _: () = assert!(size_of::<Bucket>() == 64);

#[cfg(test)]
mod tests {
    use super::*;

    fn client(number: u32) -> Hash {
        let [a, b] = (number as u16).to_be_bytes();
        Hash::of(7, [0, u64::from(number >> 16) << 32 | 0xffff_0000], [a, b], 0x1234)
    }

    #[test]
    fn an_entry_is_never_empty_and_leads_where_it_was_told() {
        for number in 0..100_000 {
            let (hash, place) = (client(number), number.wrapping_mul(0x9e37_79b9));
            let entry = hash.entry(place);
            assert!(entry != EMPTY && hash.is_in(entry) && super::place(entry) == place);
            assert!(!hash.is_in(EMPTY));
        }
    }

    #[test]
    fn a_million_clients_find_room_in_an_index_for_them() {
        const CLIENTS: u32 = 1 << 20;
        let count = buckets(CLIENTS) as usize;
        assert_eq!(count, 1 << 19);
        let mut used = [0u8; 1 << 19];
        assert_eq!(used.len(), count);
        let mut second = 0;
        for number in 0..CLIENTS {
            let [first, other] = client(number).buckets(count as u32 - 1);
            let at = if usize::from(used[first as usize]) < ENTRIES { first } else { other };
            second += u32::from(at != first);
            used[at as usize] += 1;
        }
        assert!(used.iter().all(|used| usize::from(*used) <= ENTRIES), "a client found both buckets full");
        assert!(second < CLIENTS / 1000, "{second} clients have to look twice");
    }
}
