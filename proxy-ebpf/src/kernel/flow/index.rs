//! The index of flows by their clients: entries are found, put and removed without a lock. What only SYNs need is in functions
//! that take and give words only: the verifier looks at those once, and not for each way that leads there.

use super::super::{
    packet::Segment,
    tables::{FLOW_OF, FLOWS, replace},
};
use proxy_ebpf::{
    index::{EMPTY, ENTRIES, Hash, place},
    nat::{Flow, fold},
};

// What the loader says of the index, in place of these. No other constant has their values: LLVM makes one of those that are
// alike, and the loader would change it for all.
#[unsafe(no_mangle)]
static FLOW_SEED: u64 = 0x7365_6564_0066_6c6f;
#[unsafe(no_mangle)]
static FLOW_MASK: u32 = 0x6d61_736b;

#[inline(always)]
fn seed() -> u64 {
    // SAFETY: a constant; the compiler must not know its value.
    unsafe { (&raw const FLOW_SEED).read_volatile() }
}

#[inline(always)]
fn mask() -> u32 {
    // SAFETY: as above.
    unsafe { (&raw const FLOW_MASK).read_volatile() }
}

#[inline(always)]
pub(super) fn of_segment(segment: &Segment) -> Hash {
    let dialled = fold(segment.destination, segment.destination_port);
    Hash::of(seed(), segment.source, segment.source_port, dialled)
}

#[inline(always)]
fn of_flow(flow: &Flow) -> Hash {
    Hash::of(seed(), super::halves(&flow.client.addr), flow.client.port, flow.dialled)
}

/// Where an entry of this hash leads.
#[inline(always)]
pub(super) fn find(hash: Hash) -> Option<u32> {
    let [first, second] = hash.buckets(mask());
    let mut found = find_in(first, hash)?;
    if found == EMPTY {
        found = find_in(second, hash)?;
    }
    (found != EMPTY).then_some(place(found))
}

/// The bucket's entry of this hash, of which there is one at most for longer than a moment; or [`EMPTY`].
#[inline(always)]
fn find_in(bucket: u32, hash: Hash) -> Option<u64> {
    let entries = entries(bucket)?;
    for at in 0..ENTRIES {
        let entry = read(entries, at);
        if hash.is_in(entry) {
            return Some(entry);
        }
    }
    Some(EMPTY)
}

/// What became of an entry that was to be put.
pub(super) enum Put {
    Done,
    /// There is no room, or an entry of this hash. Nothing was changed.
    Refused,
    /// Another of this hash was put at the same time. This one was taken away again, and so may be the other.
    Met,
}

/// Leads to a place.
#[inline(always)]
pub(super) fn put(place: u32) -> Put {
    match index_put(place) {
        DONE => Put::Done,
        MET => Put::Met,
        _ => Put::Refused,
    }
}

const REFUSED: u32 = 0;
const DONE: u32 = 1;
const MET: u32 = 2;

#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn index_put(place: u32) -> u32 {
    let Some(flow) = FLOWS.get_ptr(place) else { return REFUSED };
    // SAFETY: a place of the array, and its owner asks.
    let hash = of_flow(unsafe { &*flow });
    let entry = hash.entry(place);
    let [first, second] = hash.buckets(mask());
    // Before: of two entries of one hash one hides the other, and a flow that lives must be found at every moment.
    if has_other(first, hash, entry) || has_other(second, hash, entry) {
        return REFUSED;
    }
    if !put_in(first, entry) && !put_in(second, entry) {
        return REFUSED;
    }
    // Whoever was as fast sees this one too.
    if has_other(first, hash, entry) || has_other(second, hash, entry) {
        remove_from(first, entry);
        remove_from(second, entry);
        return MET;
    }
    DONE
}

/// Nothing leads to the place any more. Only its owner does this.
#[inline(always)]
pub(super) fn remove(flow: &Flow, place: u32) {
    let hash = of_flow(flow);
    let [first, second] = hash.buckets(mask());
    remove_from(first, hash.entry(place));
    remove_from(second, hash.entry(place));
}

#[inline(always)]
fn put_in(bucket: u32, entry: u64) -> bool {
    let Some(entries) = entries(bucket) else { return false };
    for at in 0..ENTRIES {
        if read(entries, at) == EMPTY && replace(entries.wrapping_add(at), EMPTY, entry) {
            return true;
        }
    }
    false
}

#[inline(always)]
fn has_other(bucket: u32, hash: Hash, entry: u64) -> bool {
    let Some(entries) = entries(bucket) else { return false };
    for at in 0..ENTRIES {
        let other = read(entries, at);
        if hash.is_in(other) && other != entry {
            return true;
        }
    }
    false
}

#[inline(always)]
fn remove_from(bucket: u32, entry: u64) {
    let Some(entries) = entries(bucket) else { return };
    for at in 0..ENTRIES {
        if read(entries, at) == entry {
            let _removed = replace(entries.wrapping_add(at), entry, EMPTY);
        }
    }
}

#[inline(always)]
fn entries(bucket: u32) -> Option<*mut u64> {
    Some(FLOW_OF.get_ptr_mut(bucket)?.cast())
}

#[inline(always)]
fn read(entries: *mut u64, at: usize) -> u64 {
    // SAFETY: an entry of a bucket.
    unsafe { entries.wrapping_add(at).read_volatile() }
}
