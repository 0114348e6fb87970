//! Endless streams of bytes that can be told apart at every position: a reader knows at once where a
//! byte is missing, came twice or overtook another. All are windows on one random block of prime length.

use std::{ops::Range, sync::LazyLock};

use anyhow::{Result, bail};

/// No size a buffer or a segment has divides it.
const PERIOD: usize = 1_000_003;
/// The most that can be had in one piece.
pub(crate) const LONGEST: usize = 256 << 10;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut random = Random::new(7);
    let mut block: Vec<u8> = (0..PERIOD).map(|_| random.next() as u8).collect();
    block.extend_from_within(..LONGEST);
    block
});

/// A stream, and how far it has come.
#[derive(Debug, Clone)]
pub(crate) struct Pattern {
    start: usize,
    pub(crate) at: u64,
}

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        Self { start: Random::new(seed).below(PERIOD), at: 0 }
    }

    /// The next `len` bytes, not yet taken.
    pub(crate) fn peek(&self, len: usize) -> &'static [u8] {
        let from = self.index(0);
        &BLOCK[from..from + len.min(LONGEST)]
    }

    fn index(&self, ahead: usize) -> usize {
        ((self.start as u64 + self.at + ahead as u64) % PERIOD as u64) as usize
    }

    /// Takes bytes that must be the next ones.
    pub(crate) fn check(&mut self, got: &[u8]) -> Result<()> {
        for piece in got.chunks(LONGEST) {
            if piece != self.peek(piece.len()) {
                return self.report(piece);
            }
            self.at += piece.len() as u64;
        }
        Ok(())
    }

    fn report(&self, got: &[u8]) -> Result<()> {
        let right = got.iter().zip(self.peek(got.len())).take_while(|(a, b)| a == b).count();
        let sample = &got[right..(right + 16).min(got.len())];
        let place = BLOCK.windows(sample.len()).position(|window| window == sample);
        let at = self.at + right as u64;
        let Some(place) = place else { bail!("at byte {at} come bytes of no place in the stream: {sample:02x?}") };
        let wrong = got[right..].iter().zip(&BLOCK[place..]).take_while(|(a, b)| a == b).count();
        let ahead = (place + PERIOD - self.index(right)) % PERIOD;
        bail!(
            "at byte {at} come {wrong} bytes from +{ahead} or -{}: some are missing, or came again, or are another stream's",
            PERIOD - ahead
        )
    }
}

/// Small, seeded, and the same in every run (splitmix64).
#[derive(Debug, Clone)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0xd129_0d3b_a9b5_7a47) ^ 0x6a09_e667_f3bc_c909)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    pub(crate) fn within(&mut self, range: &Range<u64>) -> u64 {
        range.start + self.next() % (range.end - range.start).max(1)
    }

    pub(crate) fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }

    /// Small sizes as often as large ones: from 1 to `most`, each power of two alike.
    pub(crate) fn size(&mut self, most: usize) -> usize {
        let bits = usize::BITS - most.leading_zeros();
        let top = 1 << self.below(bits as usize);
        (top + self.below(top)).min(most)
    }
}
