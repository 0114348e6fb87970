//! Makes a flow for a SYN, on the first free place of the address that its node shall see.

use aya_ebpf::helpers::bpf_ktime_get_coarse_ns;

use super::super::{
    aside::{Turn, turn_of},
    balance,
    packet::{Segment, bytes},
    tables::{self, EGRESS, FLOWS, FREE, HALF_OPEN, USAGE, count, fetch_add, mark, replace},
    target::{is_allowed, is_open, is_same, node_of, target_of},
};
use super::{
    Gate, clock, free,
    gate::gate_of,
    index::{self, Put},
    of_client, state, state_of, word,
};
use proxy_ebpf::{
    TargetKey,
    nat::{Door, Egress, End, Flow, Globals, Halves, MOST_HALF_OPEN, MOST_SNATS, Port, flow, fold, packet},
};

/// Makes a flow for a SYN, and tells its place. The error is the counter of the reason why there is none.
#[inline(always)]
pub(crate) fn flow(
    segment: &Segment,
    globals: &Globals,
    (number, door): (u16, &Door),
    ingress: u32,
    released: bool,
) -> Result<u32, u32> {
    let life = &globals.clock;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_coarse_ns() };
    clock::set(now);
    if now > life.beat + life.grace {
        return Err(packet::ORPHANED);
    }
    let route = u32::from(door.route);
    if !is_allowed(segment.source, segment.v6, route) {
        return Err(packet::NOT_ALLOWED);
    }
    let shut = match turn_of(door.route, life, now, released) {
        Turn::Full | Turn::Listener => return Err(packet::LISTENER),
        Turn::Held | Turn::Paced => return Err(packet::PARKED),
        Turn::Free => packet::PARKED,
        Turn::Unparked => packet::LISTENER,
    };
    // The listener leads to nodes of the other family as well.
    let Some(slot) = balance::slot_for(&bytes(segment.source), segment.v6, route) else {
        return Err(if balance::has_slots(route, !segment.v6) { packet::LISTENER } else { shut });
    };
    let at = TargetKey { route, slot };
    let target = target_of(at).ok_or(shut)?;
    if !is_open(&target, segment.v6) {
        return Err(if is_open(&target, !segment.v6) { packet::LISTENER } else { shut });
    }
    // SAFETY: it changes with the target; what it holds is checked where it is used.
    let egress = *unsafe { EGRESS.get(at) }.ok_or(packet::LISTENER)?;
    // An entry of a hash that is replaced is at once another's (kernel/bpf/hashtab.c), maybe while it was read, and the way
    // another node's.
    if target_of(at).is_none_or(|again| !is_same(&again, &target)) {
        return Err(shut);
    }
    // Where the two differ the switch is on its way, and the SYN waits for it.
    if !matches!(gate_of(route, slot, target.generation as u32), Gate::Open) {
        return Err(shut);
    }
    let usage = USAGE.get_ptr_mut(at.route).ok_or(packet::LISTENER)?;
    // Half-open flows count in `half_open`: whoever floods must not use up the route's places.
    // Signed: a count that fell below nothing is small, not large.
    // SAFETY: one word.
    if unsafe { usage.read_volatile() } as i64 >= i64::from(door.max_connections) {
        return Err(packet::FULL);
    }
    let (snat, place) = free_place(&egress, segment).ok_or(packet::NO_PORT)?;
    mark(place, true);
    let found = FLOWS.get_ptr_mut(place).ok_or(packet::NO_PORT)?;
    // SAFETY: the place came out of the queue, so it is ours.
    let flow = unsafe { &mut *found };
    begin(&mut flow.client, (segment.source, segment.source_port), number, ingress);
    flow.dialled = fold(segment.destination, segment.destination_port);
    begin(&mut flow.node, node_of(&target), u16::from(snat), egress.ifindex);
    let now = clock::now(life);
    (flow.client.seen, flow.node.seen) = (now, now);
    enter(flow, at, target.generation as u32);
    balance::taken(flow);
    match index::put(place) {
        Put::Done => {}
        put => {
            free(place, state(found));
            // The same SYN on two CPUs at once; or no room in the index, or a hash that is another flow's too.
            let again = matches!(put, Put::Met) || of_client(segment, globals).is_some();
            return Err(if again { packet::DUPLICATE } else { packet::NO_PORT });
        }
    }
    remember_half_open(place, state(found));
    count(packet::NEW);
    Ok(place)
}

/// A place, and the number of the own address that it is a port of. The lowest bit of the client's port says nothing: Linux dials
/// from even ones (`__inet_hash_connect`).
#[inline(always)]
fn free_place(egress: &Egress, segment: &Segment) -> Option<(u8, u32)> {
    let [.., high, low] = bytes(segment.source);
    let end = u32::from(u16::from_be_bytes(segment.source_port) >> 1) + u32::from(u16::from_be_bytes([high, low]));
    let found = flow_place(egress, end);
    (found != NO_PLACE).then_some(((found >> 32) as u8, found as u32))
}

const NO_PLACE: u64 = u64::MAX;

/// The place that has been free for longest, of the own address that the client's end chooses or of the next that has one.
/// By itself for the verifier, which else looks at all that follows once for each of them.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_place(egress: *const Egress, end: u32) -> u64 {
    // SAFETY: the caller's own, or none.
    let Some(egress) = (unsafe { egress.as_ref() }) else { return NO_PLACE };
    let count = egress.count.min(MOST_SNATS as u32);
    for turn in 0..count {
        let Some(at) = end.wrapping_add(turn).checked_rem(count) else { return NO_PLACE };
        // The compiler knows that it is inside, and would leave out the check that the verifier needs.
        let Some(&snat) = egress.snats.get(core::hint::black_box(at) as usize) else { return NO_PLACE };
        if let Some(place) = FREE.get(u32::from(snat)).and_then(|queue| queue.pop().ok().flatten()) {
            return u64::from(snat) << 32 | u64::from(place);
        }
    }
    NO_PLACE
}

/// Makes a record a flow's, when all that its packets need is in it.
#[inline(always)]
fn enter(flow: &mut Flow, at: TargetKey, generation: u32) {
    flow.generation = generation;
    set(&mut flow.client_flags, 0);
    set(&mut flow.node_flags, 0);
    flow.route = at.route as u16;
    flow.slot = at.slot as u16;
    // Last, and by an instruction that no store passes: from here on packets, and the daemon, may find it.
    let old = state(flow);
    let next = (flow.state & !flow::MASK).wrapping_add(flow::NEXT) | flow::HALF;
    replace(word(flow), old, old & !0xffff_ffff | u64::from(next));
}

#[inline(always)]
fn begin(end: &mut End, (addr, port): (Halves, Port), through: u16, ifindex: u32) {
    let begins: *mut Halves = (&raw mut end.addr).cast();
    // SAFETY: the same bytes, aligned as the record is.
    unsafe { begins.write(addr) };
    (end.port, end.through, end.ifindex) = (port, through, ifindex);
    set(&mut end.bytes, 0);
    // Where the last flow in this place went.
    set(&mut end.hop, 0);
    set(&mut end.packets, 0);
    set(&mut end.next, 0);
    set(&mut end.acked, 0);
}

/// A store that stays where it stands: neither moved before another, nor made part of a call to memset.
#[inline(always)]
fn set<T>(field: &mut T, value: T) {
    // SAFETY: a reference is valid for writes.
    unsafe { core::ptr::write_volatile(field, value) };
}

/// The oldest half-open flow makes room, if it still is half-open: a flood ends its own flows only.
#[inline(always)]
fn remember_half_open(place: u32, word: u64) {
    flow_half_open(place, word);
}

/// By itself for the verifier, as `flow_free` is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_half_open(place: u32, word: u64) -> u32 {
    let Some(clock) = tables::clock() else { return 0 };
    // SAFETY: a field of the entry.
    let turn = fetch_add(unsafe { &raw mut (*clock).half_open }, 1);
    let Some(slot) = HALF_OPEN.get_ptr_mut(turn as u32 & (MOST_HALF_OPEN - 1)) else { return 0 };
    let this = u64::from(place) << 32 | (word & 0xffff_ffff);
    // SAFETY: the entry is one word; two CPUs meet here only when one of them is a whole round late.
    let oldest = unsafe { core::ptr::replace(slot, this) };
    if state_of(oldest) != flow::HALF {
        return 0;
    }
    let place = (oldest >> 32) as u32;
    let Some(found) = FLOWS.get_ptr_mut(place) else { return 0 };
    let now = state(found);
    if now as u32 == oldest as u32 && free(place, now) {
        count(packet::EVICTED);
    }
    1
}
