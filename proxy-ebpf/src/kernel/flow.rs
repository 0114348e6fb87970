//! The life of a flow in the kernel: made by a SYN, opened by the client's acknowledgement, ended by the daemon or,
//! half-open, by a later one. A place is taken and given back by replacing its state word in one step; whoever
//! succeeds is its owner, removes its key and returns it to the queue. So no place has two owners, and no key leads to
//! a free place for longer than that takes; who follows such a key finds the place free, and no flow.

use aya_ebpf::{btf_maps::lpm_trie::Key, helpers::bpf_ktime_get_coarse_ns};

use super::{
    packet::{ACK, FIN, RST, SYN, Segment},
    tables::{
        ALLOW, CLOCK, DOORS, EGRESS, FLOW_OF, FLOWS, FREE, HALF_OPEN, SNATS, TARGETS, USAGE, count, fetch_add, replace,
    },
};
use proxy_ebpf::{
    Target, TargetKey,
    nat::{
        ALLOWED_ROUTE_BITS, Address, Allowed, Door, Egress, End, Flow, FlowKey, MOST_HALF_OPEN, Port, Snat, TICK_SHIFT,
        family, flow, packet,
    },
    state as way,
};

const AF_INET: u16 = 2;
const NOEXIST: u64 = 1;

/// What a flow may do now.
pub(crate) enum Gate {
    Open,
    /// Wait: neither carry a packet nor end.
    Paused,
    Ended,
}

/// The state word as it is replaced: state, route and slot, which do not change while a place has an owner.
#[inline(always)]
fn word(flow: *mut Flow) -> *mut u64 {
    flow.cast::<u8>().wrapping_add(core::mem::offset_of!(Flow, state)).cast()
}

#[inline(always)]
fn with_state(word: u64, state: u32) -> u64 {
    word & !0xff | u64::from(state)
}

#[inline(always)]
fn state_of(word: u64) -> u32 {
    word as u32 & flow::MASK
}

/// The flow that a client's segment belongs to.
#[inline(always)]
pub(crate) fn of_client(segment: &Segment, door: u16) -> Option<(u32, *mut Flow)> {
    // SAFETY: the value is one word.
    let place = *unsafe { FLOW_OF.get(key(segment, door)) }?;
    let found = FLOWS.get_ptr_mut(place)?;
    // SAFETY: a place of the array; the fields of a flow that lives do not change.
    let flow = unsafe { &*found };
    let same = flow.state & flow::MASK != flow::FREE
        && flow.client.addr == segment.source
        && flow.client.port == segment.source_port
        && flow.client.through == door;
    same.then_some((place, found))
}

/// The flow that a node's segment belongs to.
#[inline(always)]
pub(crate) fn of_node(segment: &Segment, snat: u32) -> Option<*mut Flow> {
    let snat = SNATS.get(snat)?;
    let port = u16::from_be_bytes(segment.destination_port).wrapping_sub(snat.first_port);
    if port >= snat.ports {
        return None;
    }
    let found = FLOWS.get_ptr_mut(snat.first + u32::from(port))?;
    // SAFETY: as above.
    let flow = unsafe { &*found };
    let same = flow.state & flow::MASK != flow::FREE
        && flow.node.addr == segment.source
        && flow.node.port == segment.source_port;
    same.then_some(found)
}

#[inline(always)]
fn key(segment: &Segment, door: u16) -> FlowKey {
    FlowKey { client: segment.source, port: segment.source_port, door }
}

/// What the switch says of a flow. An entry of `targets` is replaced by a new one, and the old one's memory is at
/// once another's (kernel/bpf/hashtab.c): read in between it may look ended when it is not, but never open, since
/// generations are not used twice. So whatever is not open is read again.
#[inline(always)]
pub(crate) fn gate(flow: &Flow) -> Gate {
    let key = TargetKey { route: u32::from(flow.route), slot: u32::from(flow.slot) };
    match gate_once(&key, flow.generation) {
        Gate::Open => Gate::Open,
        _ => gate_once(&key, flow.generation),
    }
}

#[inline(always)]
fn gate_once(key: &TargetKey, generation: u32) -> Gate {
    // SAFETY: see above.
    match unsafe { TARGETS.get(key) } {
        Some(target) if target.live != 0 && target.live as u32 == generation => Gate::Open,
        Some(target) if target.state == way::PAUSED && target.generation as u32 == generation => Gate::Paused,
        _ => Gate::Ended,
    }
}

/// Sequence numbers further apart are not believed to be of one connection: more than any window that Linux opens by
/// itself (net.ipv4.tcp_rmem), and a guess meets it once in 64.
const WINDOW: u32 = 1 << 25;

/// Notes what an end has sent. `other` is what the other end has acknowledged, once it has said anything: who is not
/// on the way cannot know it, so its packets neither move the numbers that a later RST needs, nor end a flow.
#[inline(always)]
pub(crate) fn note(end: &mut End, other: Option<u32>, segment: &Segment, half: bool) {
    end.bytes += u64::from(segment.payload);
    end.packets += 1;
    if segment.flags & RST != 0 {
        // A receiver believes it at exactly the number that it expects (RFC 5961, 3.2).
        if segment.sequence == end.next || Some(segment.sequence) == other {
            end.flags |= u32::from(segment.flags);
            end.seen = now();
        }
        return;
    }
    let far = |from: u32| segment.sequence.wrapping_sub(from).wrapping_add(WINDOW) >= 2 * WINDOW;
    if other.is_some_and(far) {
        return;
    }
    // SYN and FIN take a number each.
    let syn_fin = u32::from(segment.flags & 1) + u32::from(segment.flags >> 1 & 1);
    let next = segment.sequence.wrapping_add(segment.payload).wrapping_add(syn_fin);
    let anew = half && segment.flags & SYN != 0;
    if end.flags == 0 || anew || next.wrapping_sub(end.next) as i32 > 0 {
        end.next = next;
    }
    end.seen = now();
    if segment.flags & ACK != 0 {
        end.acked = segment.acknowledgement;
    }
    end.flags |= u32::from(segment.flags);
}

/// What an end has acknowledged, if it ever did.
#[inline(always)]
pub(crate) fn acked(end: &End) -> Option<u32> {
    (end.flags & u32::from(ACK) != 0).then_some(end.acked)
}

/// In ticks of [`TICK_SHIFT`].
#[inline(always)]
fn now() -> u32 {
    // SAFETY: no arguments.
    (unsafe { bpf_ktime_get_coarse_ns() } >> TICK_SHIFT) as u32
}

/// A client that acknowledges what the node sent is where it says it is: from now on its flow is kept.
#[inline(always)]
pub(crate) fn open(found: *mut Flow, segment: &Segment) {
    // SAFETY: a place of the array.
    let flow = unsafe { &*found };
    if segment.flags & ACK == 0 || flow.node.packets == 0 || segment.acknowledgement != flow.node.next {
        return;
    }
    // SAFETY: as above, and aligned to its size.
    let old = unsafe { word(found).read_volatile() };
    if state_of(old) == flow::HALF && replace(word(found), old, with_state(old, flow::OPEN)) {
        count(packet::ESTABLISHED);
        if let Some(usage) = USAGE.get_ptr_mut(u32::from(flow.route)) {
            fetch_add(usage, 1);
        }
    }
}

/// Takes a place from its flow and returns it to the queue; nothing happens if its state is not `old` any more.
#[inline(always)]
pub(crate) fn free(place: u32, found: *mut Flow, old: u64) -> bool {
    if state_of(old) == flow::FREE || !replace(word(found), old, with_state(old, flow::FREE)) {
        return false;
    }
    // SAFETY: the place is ours now.
    let flow = unsafe { &*found };
    let key = FlowKey { client: flow.client.addr, port: flow.client.port, door: flow.client.through };
    // SAFETY: the value is one word.
    if unsafe { FLOW_OF.get(key) }.is_some_and(|leads| *leads == place) {
        // Nobody else removes the key of a place that is ours, and nobody inserts over it.
        let _removed = FLOW_OF.remove(key);
    }
    if state_of(old) == flow::OPEN
        && let Some(usage) = USAGE.get_ptr_mut(u32::from(flow.route))
    {
        fetch_add(usage, u64::MAX);
    }
    give_back(place, flow);
    true
}

#[inline(always)]
fn give_back(place: u32, flow: &Flow) {
    if let Some(queue) = FREE.get(u32::from(flow.node.through)) {
        // The queue has room for every place of its address.
        let _full = queue.push(place, 0);
    }
}

/// Whether the place still is the flow's that it was when `before` was read. To be asked when everything that is needed
/// of the record was copied: a place may be freed, and another's, while a packet is under way.
#[inline(always)]
pub(crate) fn is_still(found: *mut Flow, before: u64) -> bool {
    let now = state(found);
    state_of(now) != flow::FREE && now as u32 >> 8 == before as u32 >> 8
}

#[inline(always)]
pub(crate) fn is_half(word: u64) -> bool {
    state_of(word) == flow::HALF
}

#[inline(always)]
pub(crate) fn state(found: *mut Flow) -> u64 {
    // SAFETY: a place of the array.
    unsafe { word(found).read_volatile() }
}

/// For a SYN on the addresses of a flow that has ended: the state under which that one has to be freed.
#[inline(always)]
pub(crate) fn begins_anew(found: *mut Flow, segment: &Segment) -> Option<u64> {
    if !segment.is_syn() {
        return None;
    }
    let old = state(found);
    // SAFETY: a place of the array.
    let flow = unsafe { &*found };
    let closed = (flow.client.flags | flow.node.flags) & u32::from(RST) != 0
        || flow.client.flags & flow.node.flags & u32::from(FIN) != 0;
    (closed || matches!(gate(flow), Gate::Ended)).then_some(old)
}

/// The port under which the node knows the flow in this place.
#[inline(always)]
pub(crate) fn own_port(snat: &Snat, place: u32) -> Port {
    snat.first_port.wrapping_add(place.wrapping_sub(snat.first) as u16).to_be_bytes()
}

/// Makes a flow for a SYN. The error is the counter of the reason why there is none.
#[inline(always)]
pub(crate) fn make(segment: &Segment, number: u16, ingress: u32) -> Result<(u32, *mut Flow), u32> {
    let door = DOORS.get(u32::from(number)).ok_or(packet::LISTENER)?;
    let clock = CLOCK.get(0).ok_or(packet::ORPHANED)?;
    // SAFETY: no arguments.
    if unsafe { bpf_ktime_get_coarse_ns() } > clock.beat + clock.grace {
        return Err(packet::ORPHANED);
    }
    let at = TargetKey { route: u32::from(door.route), slot: 0 };
    let target = target_of(at).ok_or(packet::LISTENER)?;
    if target.state != way::OPEN || target.live == 0 || target.live != target.generation {
        return Err(packet::LISTENER);
    }
    if (target.family == AF_INET) == segment.v6 {
        return Err(packet::LISTENER);
    }
    if !is_allowed(segment, at.route) {
        return Err(packet::NOT_ALLOWED);
    }
    // SAFETY: two words that change only with the target.
    let egress = *unsafe { EGRESS.get(at) }.ok_or(packet::LISTENER)?;
    // The entry may have become another's while it was read (see `gate`), and the way another node's.
    if target_of(at).is_none_or(|again| !is_same(&again, &target)) {
        return Err(packet::LISTENER);
    }
    let usage = USAGE.get_ptr_mut(at.route).ok_or(packet::LISTENER)?;
    // Half-open flows count in `half_open`: whoever floods must not use up the route's places.
    // SAFETY: one word.
    if unsafe { usage.read_volatile() } >= u64::from(door.max_connections) {
        return Err(packet::FULL);
    }
    let place = FREE.get(egress.snat).and_then(|queue| queue.pop().ok().flatten()).ok_or(packet::NO_PORT)?;
    let found = FLOWS.get_ptr_mut(place).ok_or(packet::NO_PORT)?;
    // SAFETY: the place came out of the queue, so it is ours.
    let flow = unsafe { &mut *found };
    fill(flow, segment, (number, ingress), door, &target, egress);
    if FLOW_OF.insert(key(segment, number), place, NOEXIST).is_err() {
        free(place, found, state(found));
        // The same SYN on two CPUs at once, or a table that is full.
        return Err(if of_client(segment, number).is_some() { packet::DUPLICATE } else { packet::NO_PORT });
    }
    remember_half_open(place, state(found));
    count(packet::NEW);
    Ok((place, found))
}

/// A copy of a target's entry.
#[inline(always)]
fn target_of(at: TargetKey) -> Option<Target> {
    // SAFETY: the memory stays that of an entry, whichever; the caller looks twice.
    Some(*unsafe { TARGETS.get(at) }?)
}

#[inline(always)]
fn is_same(a: &Target, b: &Target) -> bool {
    (a.live, a.generation, a.state, a.family, a.port) == (b.live, b.generation, b.state, b.family, b.port)
        && a.addr == b.addr
}

#[inline(always)]
fn is_allowed(segment: &Segment, route: u32) -> bool {
    let client = Allowed { route: route.to_be_bytes(), addr: segment.source };
    let mine = if segment.v6 { family::V6 } else { family::V4 };
    ALLOW.get(&Key::new(ALLOWED_ROUTE_BITS + 128, client)).is_some_and(|families| families & mine != 0)
}

#[inline(always)]
fn fill(
    flow: &mut Flow,
    segment: &Segment,
    (number, ingress): (u16, u32),
    door: &Door,
    target: &Target,
    egress: Egress,
) {
    begin(&mut flow.client, segment.source, segment.source_port, number, ingress);
    let addr = if target.family == AF_INET {
        let [a, b, c, d, ..] = target.addr;
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
    } else {
        target.addr
    };
    begin(&mut flow.node, addr, target.port, egress.snat as u16, egress.ifindex);
    flow.generation = target.generation as u32;
    flow.route = door.route;
    flow.slot = 0;
    // Last, and by an instruction that no store passes: from here on packets, and the daemon, may find it.
    let old = state(flow);
    let next = (flow.state & !flow::MASK).wrapping_add(flow::NEXT) | flow::HALF;
    replace(word(flow), old, old & !0xffff_ffff | u64::from(next));
}

#[inline(always)]
fn begin(end: &mut End, addr: Address, port: Port, through: u16, ifindex: u32) {
    (end.addr, end.port, end.through, end.ifindex) = (addr, port, through, ifindex);
    set(&mut end.bytes, 0);
    set(&mut end.packets, 0);
    set(&mut end.next, 0);
    set(&mut end.acked, 0);
    set(&mut end.flags, 0);
    end.seen = now();
}

/// A store that stays where it stands: neither moved before another, nor made part of a call to memset, which
/// the verifier does not know.
#[inline(always)]
fn set<T>(field: &mut T, value: T) {
    // SAFETY: a reference is valid for writes.
    unsafe { core::ptr::write_volatile(field, value) };
}

/// The oldest half-open flow makes room, if it still is half-open: a flood ends its own flows only.
#[inline(always)]
fn remember_half_open(place: u32, word: u64) {
    let Some(clock) = CLOCK.get_ptr_mut(0) else { return };
    // SAFETY: a field of the entry.
    let turn = fetch_add(unsafe { &raw mut (*clock).half_open }, 1);
    let Some(slot) = HALF_OPEN.get_ptr_mut(turn as u32 & (MOST_HALF_OPEN - 1)) else { return };
    let this = u64::from(place) << 32 | (word & 0xffff_ffff);
    // SAFETY: the entry is one word; two CPUs meet here only when one of them is a whole round late.
    let oldest = unsafe { core::ptr::replace(slot, this) };
    if state_of(oldest) != flow::HALF {
        return;
    }
    let place = (oldest >> 32) as u32;
    let Some(found) = FLOWS.get_ptr_mut(place) else { return };
    let now = state(found);
    if now as u32 == oldest as u32 && free(place, found, now) {
        count(packet::EVICTED);
    }
}
