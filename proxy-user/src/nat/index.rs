//! The index of flows by their clients, in the daemon's memory (ABI: `proxy_ebpf::index`). The program puts entries, and
//! the daemon removes those of flows that it has ended. Needs the map `flow_of`.

use std::sync::atomic::{AtomicU64, Ordering};

use aya::maps::MapData;
use proxy_ebpf::{
    index::{Bucket, EMPTY, ENTRIES, Hash, place},
    nat::{Flow, halves, names},
};

use crate::kernel::{Mapping, MappingError, Shared};

/// [`Bucket`], entry by entry.
#[repr(C)]
struct Entries([AtomicU64; ENTRIES]);

const _: () = assert!(size_of::<Entries>() == size_of::<Bucket>());

// SAFETY: atomics alone, without a gap.
unsafe impl Shared for Entries {}

#[derive(Debug)]
pub struct Index {
    buckets: Mapping<Entries>,
    seed: u64,
}

/// An entry, and where it was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    bucket: usize,
    word: u64,
}

impl Entry {
    /// The place to which it leads.
    pub fn place(self) -> u32 {
        place(self.word)
    }
}

impl Index {
    /// `seed`: what the programs have.
    pub fn open(map: &MapData, seed: u64) -> Result<Self, MappingError> {
        Ok(Self { buckets: Mapping::new(names::FLOW_OF, map)?, seed })
    }

    /// Nothing leads from the flow's client to this place any more. Only the place's owner asks for it.
    pub fn forget(&self, flow: &Flow, place: u32) {
        let word = self.hash(flow).entry(place);
        self.buckets_of(flow).for_each(|bucket| self.remove(Entry { bucket, word }));
    }

    /// Removes an entry, if it is there still.
    pub fn remove(&self, entry: Entry) {
        for word in &self.buckets[entry.bucket].0 {
            let _other = word.compare_exchange(entry.word, EMPTY, Ordering::AcqRel, Ordering::Relaxed);
        }
    }

    /// All entries.
    pub fn entries(&self) -> impl Iterator<Item = Entry> {
        self.buckets.iter().enumerate().flat_map(|(bucket, entries)| {
            let words = entries.0.iter().map(|word| word.load(Ordering::Acquire));
            words.filter(|word| *word != EMPTY).map(move |word| Entry { bucket, word })
        })
    }

    fn hash(&self, flow: &Flow) -> Hash {
        Hash::of(self.seed, halves(flow.client.addr), flow.client.port, flow.dialled)
    }

    fn buckets_of(&self, flow: &Flow) -> impl Iterator<Item = usize> {
        self.hash(flow).buckets(self.buckets.len() as u32 - 1).into_iter().map(|bucket| bucket as usize)
    }
}

#[cfg(test)]
impl Index {
    /// An index of no kernel.
    pub(super) fn anonymous(buckets: usize) -> Self {
        Self { buckets: Mapping::anonymous(buckets), seed: 7 }
    }

    /// Plays the kernel program.
    pub(super) fn put(&self, flow: &Flow, place: u32) {
        let mut words = self.buckets_of(flow).flat_map(|bucket| &self.buckets[bucket].0);
        let empty = words.find(|word| word.load(Ordering::Relaxed) == EMPTY).unwrap();
        empty.store(self.hash(flow).entry(place), Ordering::Release);
    }

    /// Where the flow's client is led.
    pub(super) fn find(&self, flow: &Flow) -> Option<u32> {
        let hash = self.hash(flow);
        let mut words = self.buckets_of(flow).flat_map(|bucket| &self.buckets[bucket].0);
        words.find_map(|word| {
            let word = word.load(Ordering::Relaxed);
            hash.is_in(word).then(|| place(word))
        })
    }
}
