//! Which connections are bypassed, and whether what is sent on one still is.

pub(crate) mod connections;
pub(crate) mod remind;
pub(crate) mod send;
mod socket;

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash},
    helpers::bpf_map_delete_elem,
    macros::btf_map,
};

use crate::kernel::tables::{MAPPED, fetch_add, replace};
use proxy_ebpf::{
    balance::{SLOTS, of_slot},
    bypass::{Counts, End, Entered, Gate, Late, MOST_PROGRAMS, NO_ROUTE, Orders, Path, Program, seat, sum},
    steering::Dialled,
};

/// Both ends of as many connections as one host has to its own nodes. Where there are more, the oldest that have not begun to
/// send are forgotten, and go by TCP.
const MOST_ENDS: usize = 1 << 16;

#[btf_map(name = "bypass_nodes")]
static NODES: HashMap<Dialled, u32, 4096, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map(name = "bypass_sockets")]
static SOCKETS: SockHash<End, MOST_ENDS> = SockHash::new();
#[btf_map(name = "bypass_ends")]
static ENDS: LruHashMap<End, Entered, MOST_ENDS> = LruHashMap::new();
#[btf_map(name = "bypass_orders")]
static ORDERS: Array<Orders, 1, MAPPED> = Array::new();
#[btf_map(name = "bypass_clients")]
static CLIENTS: Array<u64, { SLOTS as usize }, MAPPED> = Array::new();
#[btf_map(name = "bypass_sums")]
static SUMS: Array<u64, { sum::COUNT as usize }, MAPPED> = Array::new();
/// As many as there can be ends.
#[btf_map(name = "bypass_late")]
static LATE: HashMap<u64, Late, MOST_ENDS, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map(name = "bypass_hurry")]
static HURRY: RingBuf<u64, 4096> = RingBuf::new();
#[btf_map(name = "bypass_programs")]
static PROGRAMS: HashMap<Program, u32, { MOST_PROGRAMS + 2 }, { BPF_F_NO_PREALLOC as usize }> = HashMap::new();
#[btf_map(name = "bypass_counts")]
static COUNTS: PerCpuArray<Counts, 1> = PerCpuArray::new();

/// What the daemon says, if it wants anything bypassed.
#[inline(always)]
fn orders() -> Option<&'static Orders> {
    ORDERS.get(0).filter(|orders| orders.on != 0)
}

#[inline(always)]
fn add(index: u32, by: u64) {
    let counts = COUNTS.get_ptr_mut(0);
    // SAFETY: the entry is this CPU's own, and nobody keeps it.
    if let Some(counter) = counts.and_then(|counts| unsafe { &mut *counts }.0.get_mut(index as usize)) {
        *counter = counter.wrapping_add(by);
    }
}

/// From here on nothing is handed over to a socket, which is to be taken out, so that its process has it as it was before. False:
/// something was handed over to it.
#[inline(always)]
fn let_go(end: &End) -> bool {
    let Some(entered) = ENDS.get_ptr_mut(*end) else { return false };
    // SAFETY: a field of the entry. If that is another's by now, the other goes by TCP.
    replace(unsafe { &raw mut (*entered).seat }, seat::FREE, seat::LEAVING)
}

/// Takes out one that was let go.
#[inline(always)]
fn take_out(mut end: End) {
    // SAFETY: an integer in an entry, of that connection's end or of what has come to its memory since.
    let seat = ENDS.get_ptr(end).map(|entered| unsafe { &raw const (*entered).seat }.cast::<u64>());
    // SAFETY: as above.
    if seat.is_some_and(|seat| unsafe { seat.read_volatile() } == seat::LEAVING) {
        let _is_gone = ENDS.remove(end);
        remove(&mut end);
    }
}

#[inline(always)]
fn remove(end: &mut End) {
    let map = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: the key is of the map's size.
    unsafe { bpf_map_delete_elem(map, (&raw mut *end).cast()) };
}

/// A client more whose requests are bypassed, or one less.
#[inline(always)]
fn count_client(path: &Path, by: u64) {
    if path.dialled == 0 {
        return;
    }
    let Gate { route, slot, .. } = path.here.gate;
    if route == NO_ROUTE {
        add_to(sum::DIRECT, by);
    } else if let Some(clients) = CLIENTS.get_ptr_mut(of_slot(route.into(), slot.into())) {
        fetch_add(clients, by);
    }
}

#[inline(always)]
fn add_to(what: u32, by: u64) {
    if let Some(sum) = SUMS.get_ptr_mut(what) {
        fetch_add(sum, by);
    }
}

/// So much of what a socket has sent waits for its reader.
#[inline(always)]
fn set_waiting(path: &mut Path, waiting: u64) {
    add_to(sum::WAITING, waiting.wrapping_sub(path.in_sum));
    path.in_sum = waiting;
}
