//! Which slot of its route a new flow goes to. The daemon's lists and tables propose; an entry of `targets` that is not
//! open is passed over, so that a list of yesterday leads nobody to a node that was left. Who finds no slot within
//! a few looks goes to the listener.

use super::{
    tables::{BALANCE, LOADS, MAGLEV, TARGETS, TURN, fetch_add},
    target::is_open,
};
use proxy_ebpf::{
    TargetKey,
    balance::{Balance, LOOKS, Load, Looks, SLOTS, kind, of_route, of_slot},
    nat::{Address, Flow},
};

/// How many slots are tried in turn. More than one is shut only for as long as the daemon takes to write the list.
const TURNS: u32 = 4;

/// The slot for a new flow from `client`.
#[inline(always)]
pub(crate) fn slot_for(client: &Address, v6: bool, route: u32) -> Option<u32> {
    let at = of_route(route, v6);
    let balance = BALANCE.get(at)?;
    if balance.kind == kind::MASTER {
        return Some(0);
    }
    let turn = fetch_add(TURN.get_ptr_mut(at)?, 1);
    let drawn = match balance.kind {
        kind::SOURCE_HASH => drawn_to(client, at, route, v6),
        kind::LEAST_CONNECTIONS => least(at, route, turn).filter(|slot| takes(route, *slot, v6)),
        _ => None,
    };
    drawn.or_else(|| in_turn(balance, route, turn, v6))
}

/// Whether the route shares clients of this family out to anybody.
#[inline(always)]
pub(crate) fn has_slots(route: u32, v6: bool) -> bool {
    BALANCE.get(of_route(route, v6)).is_some_and(|balance| balance.kind != kind::MASTER && balance.count > 0)
}

/// The first open slot on the client's own way over the table.
#[inline(always)]
fn drawn_to(client: &Address, at: u32, route: u32, v6: bool) -> Option<u32> {
    let table = MAGLEV.get_value(at, &0)?;
    let mut looks = Looks::of(client);
    for _ in 0..LOOKS {
        // The compiler knows that it is inside, and would leave out the check that the verifier needs.
        let place = core::hint::black_box(looks.next_place());
        let slot = u32::from(*table.get(place as usize)?);
        if takes(route, slot, v6) {
            return Some(slot);
        }
    }
    None
}

#[inline(always)]
fn least(at: u32, route: u32, turn: u64) -> Option<u32> {
    let slot = slot_least(at, route, turn);
    (slot != NO_SLOT).then_some(slot)
}

const NO_SLOT: u32 = u32::MAX;

/// The slot with the fewest flows and connections; of several the first in turn. One number says all of that of a slot,
/// and the loop has no branch but its end: else the verifier would follow each way through it. By itself for the verifier, which
/// else goes through all of it once for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn slot_least(at: u32, route: u32, turn: u64) -> u32 {
    let Some(balance) = BALANCE.get(at) else { return NO_SLOT };
    let Some(first) = first(balance.count, turn) else { return NO_SLOT };
    let mut best = i64::MAX;
    for at in 0..SLOTS {
        if at >= balance.count {
            break;
        }
        let slot = u32::from(balance.slots[at as usize]);
        let Some(load) = LOADS.get_ptr(of_slot(route, slot)) else { return NO_SLOT };
        // SAFETY: an entry of the array, and aligned to its size.
        let Load { taken, .. } = unsafe { load.read_volatile() };
        // Signed: a count that fell below nothing is small, not large.
        let turn = at.wrapping_sub(first) % SLOTS;
        let mine = (taken << 32) as i64 | i64::from(turn << 16 | slot);
        best = best.min(mine);
    }
    best as u32 & 0xffff
}

#[inline(always)]
fn in_turn(balance: &Balance, route: u32, turn: u64, v6: bool) -> Option<u32> {
    for look in 0..TURNS {
        let at = first(balance.count, turn.wrapping_add(u64::from(look)))?;
        let slot = u32::from(*balance.slots.get(at as usize)?);
        if takes(route, slot, v6) {
            return Some(slot);
        }
    }
    None
}

/// Whose turn it is among so many.
#[inline(always)]
fn first(count: u32, turn: u64) -> Option<u32> {
    if count == 0 {
        return None;
    }
    Some((turn % u64::from(count)) as u32)
}

/// Whether a slot takes new flows of this family.
#[inline(always)]
pub(crate) fn takes(route: u32, slot: u32, v6: bool) -> bool {
    // SAFETY: the memory stays that of an entry, whichever; the flow is made only if a second look says the same.
    unsafe { TARGETS.get(TargetKey { route, slot }) }.is_some_and(|target| is_open(target, v6))
}

/// A flow more.
#[inline(always)]
pub(crate) fn taken(flow: &Flow) {
    add(flow, core::mem::offset_of!(Load, taken), 1);
}

/// One of them has finished its handshake.
#[inline(always)]
pub(crate) fn established(flow: &Flow) {
    add(flow, core::mem::offset_of!(Load, established), 1);
}

/// A half-open flow less.
#[inline(always)]
pub(crate) fn given_up(flow: &Flow) {
    add(flow, core::mem::offset_of!(Load, taken), u64::MAX);
}

/// An established flow less.
#[inline(always)]
pub(crate) fn left(flow: &Flow) {
    given_up(flow);
    add(flow, core::mem::offset_of!(Load, established), u64::MAX);
}

#[inline(always)]
fn add(flow: &Flow, offset: usize, by: u64) {
    if let Some(load) = LOADS.get_ptr_mut(of_slot(u32::from(flow.route), u32::from(flow.slot))) {
        fetch_add(load.cast::<u8>().wrapping_add(offset).cast(), by);
    }
}
