//! The maps of the packet programs, and the few steps on them that must be atomic. Sizes are the least that loads;
//! the daemon sets them from the configuration.

use aya_ebpf::{
    bindings::BPF_F_MMAPABLE,
    btf_maps::{Array, ArrayOfMaps, HashMap, LpmTrie, PerCpuArray, Queue},
    macros::btf_map,
};

use proxy_ebpf::{
    Target, TargetKey,
    balance::{self, Balance, Load, Table},
    index::Bucket,
    nat::{
        Address, Allowed, Clock, Counters, Egress, Endpoint, First, Flow, Globals, MOST_DOORS, MOST_HALF_OPEN,
        MOST_SNATS_KNOWN, Out,
    },
    xdp::{SLOTS, slot},
};

pub(crate) const MAPPED: usize = BPF_F_MMAPABLE as usize;

#[btf_map(name = "targets")]
pub(crate) static TARGETS: HashMap<TargetKey, Target, 1024> = HashMap::new();
#[btf_map(name = "door_of")]
pub(crate) static DOOR_OF: HashMap<Endpoint, u32, MOST_DOORS> = HashMap::new();
#[btf_map(name = "snat_of")]
pub(crate) static SNAT_OF: HashMap<Address, u32, MOST_SNATS_KNOWN> = HashMap::new();
#[btf_map(name = "allow")]
pub(crate) static ALLOW: LpmTrie<Allowed, u32, 1024> = LpmTrie::new();
#[btf_map(name = "egress")]
pub(crate) static EGRESS: HashMap<TargetKey, Egress, 1024> = HashMap::new();
#[btf_map(name = "flow_of")]
pub(crate) static FLOW_OF: Array<Bucket, 256, MAPPED> = Array::new();
#[btf_map(name = "gates")]
pub(crate) static GATES: Array<u64, { balance::SLOTS as usize }, MAPPED> = Array::new();
#[btf_map(name = "flows")]
pub(crate) static FLOWS: Array<Flow, 1024, MAPPED> = Array::new();
#[btf_map(name = "taken")]
pub(crate) static TAKEN: Array<u64, 16, MAPPED> = Array::new();
#[btf_map(name = "free")]
pub(crate) static FREE: ArrayOfMaps<Queue<u32, 1024>, MOST_SNATS_KNOWN> = ArrayOfMaps::new();
#[btf_map(name = "half_open")]
pub(crate) static HALF_OPEN: Array<u64, { MOST_HALF_OPEN as usize }> = Array::new();
#[btf_map(name = "globals")]
static GLOBALS: Array<Globals, 1, MAPPED> = Array::new();
#[btf_map(name = "usage")]
pub(crate) static USAGE: Array<u64, 256, MAPPED> = Array::new();
#[btf_map(name = "firsts")]
pub(crate) static FIRSTS: Array<First, 256> = Array::new();
#[btf_map(name = "packets")]
static PACKETS: PerCpuArray<Counters, 1> = PerCpuArray::new();

#[btf_map(name = "outs")]
static OUTS: Array<Out, { SLOTS as usize }> = Array::new();

#[btf_map(name = "balance")]
pub(crate) static BALANCE: Array<Balance, 2> = Array::new();
#[btf_map(name = "turn")]
pub(crate) static TURN: Array<u64, 2> = Array::new();
#[btf_map(name = "maglev")]
pub(crate) static MAGLEV: ArrayOfMaps<Array<Table, 1>, 2> = ArrayOfMaps::new();
#[btf_map(name = "loads")]
pub(crate) static LOADS: Array<Load, { balance::SLOTS as usize }, MAPPED> = Array::new();

#[inline(always)]
pub(crate) fn count(index: u32) {
    if let Some(counter) = counters().and_then(|counters| counters.packets.get_mut(index as usize)) {
        *counter += 1;
    }
}

/// This CPU's own.
#[inline(always)]
pub(crate) fn counters() -> Option<&'static mut Counters> {
    // SAFETY: the entry is this CPU's own, and nobody keeps it.
    PACKETS.get_ptr_mut(0).map(|counters| unsafe { &mut *counters })
}

/// What the daemon says to all packets.
#[inline(always)]
pub(crate) fn globals() -> Option<&'static Globals> {
    GLOBALS.get(0)
}

/// What of it the programs write too.
#[inline(always)]
pub(crate) fn clock() -> Option<*mut Clock> {
    // SAFETY: a field of the entry.
    GLOBALS.get_ptr_mut(0).map(|globals| unsafe { &raw mut (*globals).clock })
}

/// What is known of an interface whose frames may be addressed here.
#[inline(always)]
pub(crate) fn out(ifindex: u32) -> Option<&'static Out> {
    OUTS.get(slot(ifindex)).filter(|known| known.ifindex == ifindex)
}

/// Notes whether a place is taken. Only its owner does.
#[inline(always)]
pub(crate) fn mark(place: u32, taken: bool) {
    let Some(word) = TAKEN.get_ptr_mut(place / u64::BITS) else { return };
    let bit = 1_u64 << (place % u64::BITS);
    if taken { set_bits(word, bit) } else { clear_bits(word, bit) }
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn set_bits(word: *mut u64, bits: u64) {
    // SAFETY: the instruction reads and writes the one word.
    unsafe { core::arch::asm!("lock *(u64 *)({word} + 0) |= {bits}", word = in(reg) word, bits = in(reg) bits) };
}

#[cfg(target_arch = "bpf")]
#[inline(always)]
fn clear_bits(word: *mut u64, bits: u64) {
    // SAFETY: as above.
    unsafe { core::arch::asm!("lock *(u64 *)({word} + 0) &= {bits}", word = in(reg) word, bits = in(reg) !bits) };
}

/// Adds to a word that other CPUs and the daemon write too, and returns what it was.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn fetch_add(word: *mut u64, by: u64) -> u64 {
    let before;
    // SAFETY: the instruction reads and writes the one word.
    unsafe {
        core::arch::asm!(
            "{by} = atomic_fetch_add((u64 *)({word} + 0), {by})",
            word = in(reg) word,
            by = inout(reg) by => before,
        );
    }
    before
}

/// Replaces a word if it still is `old`; true if it was.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    let found: u64;
    // SAFETY: the instruction reads and writes the one word.
    unsafe {
        core::arch::asm!(
            "r0 = cmpxchg_64({word} + 0, r0, {new})",
            word = in(reg) word,
            new = in(reg) new,
            inout("r0") old => found,
        );
    }
    found == old
}

/// On the host the crate is only linted.
#[cfg(not(target_arch = "bpf"))]
fn set_bits(word: *mut u64, bits: u64) {
    // SAFETY: nobody calls it.
    unsafe { *word |= bits };
}

#[cfg(not(target_arch = "bpf"))]
fn clear_bits(word: *mut u64, bits: u64) {
    // SAFETY: nobody calls it.
    unsafe { *word &= !bits };
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn fetch_add(word: *mut u64, by: u64) -> u64 {
    // SAFETY: nobody calls it.
    let before = unsafe { word.read() };
    // SAFETY: nobody calls it.
    unsafe { word.write(before + by) };
    before
}

#[cfg(not(target_arch = "bpf"))]
pub(crate) fn replace(word: *mut u64, old: u64, new: u64) -> bool {
    // SAFETY: nobody calls it.
    let found = unsafe { word.replace(new) };
    found == old
}
