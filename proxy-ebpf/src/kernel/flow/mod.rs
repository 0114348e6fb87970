//! The life of a flow in the kernel: made by a SYN, opened by the client's acknowledgement, closed by its ends, ended by
//! the daemon or, half-open, by a later one. A place is taken and given back by replacing its state word in one step;
//! whoever succeeds is its owner, removes its key and returns it to the queue. So no place has two owners, and no key
//! leads to a free place for longer than that takes; who follows such a key finds the place free, and no flow.

mod clock;
pub(crate) mod gate;
mod index;
pub(crate) mod make;
pub(crate) mod notes;

use aya_ebpf::helpers::bpf_ktime_get_ns;

pub(crate) use self::{
    clock::now,
    gate::{Gate, gate},
    notes::{is_new, is_recent, note},
};
use super::{
    balance,
    packet::{ACK, FIN, RST, Segment, bytes},
    rewrite::Side,
    tables::{FIRSTS, FLOWS, FREE, SNAT_OF, USAGE, count, fetch_add, mark, replace},
};
use proxy_ebpf::nat::{Address, Door, End, Flow, Globals, Halves, Port, Snat, flow, fold, packet};

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
pub(crate) fn state_of(word: u64) -> u32 {
    word as u32 & flow::MASK
}

/// One of a flow's two ends: who has sent something, or to whom it goes.
#[derive(Clone, Copy)]
pub(crate) enum Who {
    Client,
    Node,
}

impl Who {
    #[inline(always)]
    const fn other(self) -> Self {
        match self {
            Self::Client => Self::Node,
            Self::Node => Self::Client,
        }
    }
}

/// A flow that a packet belongs to.
pub(crate) struct Found {
    pub(crate) place: u32,
    pub(crate) flow: *mut Flow,
    /// Its state word, read before all else of the record: see [`is_still`].
    pub(crate) word: u64,
}

impl Found {
    /// What lives in a place.
    #[inline(always)]
    fn at(place: u32) -> Option<Self> {
        let flow = FLOWS.get_ptr_mut(place)?;
        let word = state(flow);
        (state_of(word) != flow::FREE).then_some(Self { place, flow, word })
    }
}

/// The client's flow in a place where it was a moment ago.
#[inline(always)]
pub(crate) fn at(place: u32, segment: &Segment) -> Option<Found> {
    let found = Found::at(place)?;
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    let same = flow.dialled == fold(segment.destination, segment.destination_port) && sent(&flow.client, segment);
    same.then_some(found)
}

/// The flow that a client's segment belongs to, and the door that it came in by.
#[inline(always)]
pub(crate) fn of_client<'a>(segment: &Segment, globals: &'a Globals) -> Option<(Found, &'a Door)> {
    let found = Found::at(index::find(index::of_segment(segment))?)?;
    // SAFETY: a place of the array; the fields of a flow that lives do not change.
    let flow = unsafe { &*found.flow };
    let door = globals.doors.get(usize::from(flow.client.through))?;
    (sent(&flow.client, segment) && is_to(segment, door)).then_some((found, door))
}

#[inline(always)]
fn is_to(segment: &Segment, door: &Door) -> bool {
    let port = u16::from_ne_bytes(segment.destination_port);
    door.open != 0 && halves(&door.addr) == segment.destination && number(&door.port) == port
}

/// The flow that a node's segment belongs to. Where no node would send it, that is seen by its port.
#[inline(always)]
pub(crate) fn of_node(segment: &Segment, globals: &Globals) -> Option<Found> {
    // The ports of the first own address are those of every other.
    let [any, ..] = &globals.snats;
    let port = u16::from_be_bytes(segment.destination_port).wrapping_sub(any.first_port);
    if port >= any.ports {
        return None;
    }
    let first =
        if halves(&any.addr) == segment.destination { any.first } else { first_of(segment.destination, globals)? };
    let found = Found::at(first + u32::from(port))?;
    // SAFETY: as above.
    let flow = unsafe { &*found.flow };
    sent(&flow.node, segment).then_some(found)
}

/// So many own addresses are found without a search; most hosts have no more.
const NEAR: usize = 4;

/// The first place of an own address that is not the first of them.
#[inline(always)]
fn first_of(address: Halves, globals: &Globals) -> Option<u32> {
    for snat in &globals.snats[1..NEAR] {
        if halves(&snat.addr) == address {
            return Some(snat.first);
        }
    }
    // SAFETY: the value is one word.
    let number = *unsafe { SNAT_OF.get(bytes(address)) }?;
    Some(globals.snats.get(number as usize)?.first)
}

/// Whether this end has sent the segment.
#[inline(always)]
pub(crate) fn sent(end: &End, segment: &Segment) -> bool {
    let addr: *const u64 = (&raw const end.addr).cast();
    // SAFETY: the same bytes, aligned as the record is. They are read here and no sooner: after the state word.
    let a = unsafe { addr.read_volatile() };
    // SAFETY: as above.
    let b = unsafe { addr.wrapping_add(1).read_volatile() };
    let [c, d] = segment.source;
    a == c && b == d && number(&end.port) == u16::from_ne_bytes(segment.source_port)
}

/// A port of a record, in which it lies at an even address, as one number.
#[inline(always)]
fn number(port: &Port) -> u16 {
    // SAFETY: the same bytes.
    unsafe { core::ptr::from_ref(port).cast::<u16>().read_volatile() }
}

/// The address of a record that begins with it, and is aligned as a word is.
#[inline(always)]
pub(crate) fn halves(address: &Address) -> Halves {
    let address: *const Halves = core::ptr::from_ref(address).cast();
    // SAFETY: the same bytes.
    unsafe { address.read() }
}

/// Where an end is.
#[inline(always)]
pub(crate) fn side(end: &End) -> Side {
    Side { addr: halves(&end.addr), port: end.port }
}

/// A client that acknowledges what the node sent is where it says it is: from now on its flow is kept. False: the route has as many
/// as it may have, since so many began before they counted, and this one has ended. The stack answers by RST, to both.
#[inline(always)]
pub(crate) fn open(found: &Found, segment: &Segment, globals: &Globals) -> bool {
    if !is_half(found.word) {
        return true;
    }
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    if segment.flags & ACK == 0 || flow.node.packets == 0 || segment.acknowledgement != flow.node.next {
        return true;
    }
    let door = globals.doors.get(usize::from(flow.client.through));
    let most = door.map_or(u32::MAX, |door| door.max_connections);
    flow_opens(found.place, found.word, most) != 0 || !free(found.place, found.word)
}

/// By itself for the verifier, as `flow_free` is. 0: there is no room for it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_opens(place: u32, old: u64, most: u32) -> u32 {
    let Some(found) = FLOWS.get_ptr_mut(place) else { return 0 };
    // SAFETY: a place of the array; the fields of a flow that lives do not change.
    let flow = unsafe { &*found };
    let Some(usage) = USAGE.get_ptr_mut(u32::from(flow.route)) else { return 0 };
    // Signed, as where the SYN came: a count that fell below nothing is small.
    if fetch_add(usage, 1) as i64 >= i64::from(most) {
        fetch_add(usage, u64::MAX);
        return 0;
    }
    if !replace(word(found), old, with_state(old, flow::OPEN)) {
        // Another packet of its has, or it is another flow's place.
        fetch_add(usage, u64::MAX);
        return 1;
    }
    count(packet::ESTABLISHED);
    balance::established(flow);
    remember_first(flow.route, flow.generation);
    1
}

/// Of each generation, as a switch wants to know it.
#[inline(always)]
pub(crate) fn remember_first(route: u16, generation: u32) {
    let Some(first) = FIRSTS.get_ptr_mut(u32::from(route)) else { return };
    // SAFETY: a field of the entry.
    let latest = unsafe { &raw mut (*first).generation };
    // SAFETY: one word.
    let known = unsafe { latest.read_volatile() };
    let is_later = generation.wrapping_sub(known as u32) as i32 > 0;
    if is_later && replace(latest, known, u64::from(generation)) {
        // SAFETY: a field of the entry.
        let at = unsafe { &raw mut (*first).at };
        // SAFETY: no arguments.
        let now = unsafe { bpf_ktime_get_ns() };
        // SAFETY: one word; who has set the generation writes it.
        unsafe { at.write_volatile(now) };
    }
}

/// A flow that both ends have closed, or one has reset, makes room for the next at once, and keeps its port until the
/// collector is sure that nothing of it is under way.
#[inline(always)]
pub(crate) fn close(place: u32) {
    flow_close(place);
}

/// By itself for the verifier, as `flow_free` is.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_close(place: u32) -> u32 {
    let Some(found) = FLOWS.get_ptr_mut(place) else { return 0 };
    // SAFETY: a place of the array.
    let flow = unsafe { &*found };
    let old = state(found);
    if state_of(old) == flow::OPEN && is_over(flow) && replace(word(found), old, with_state(old, flow::CLOSED)) {
        leave_route(flow);
    }
    1
}

#[inline(always)]
fn is_over(flow: &Flow) -> bool {
    (flow.client_flags | flow.node_flags) & RST != 0 || flow.client_flags & flow.node_flags & FIN != 0
}

/// Takes a place from its flow and returns it to the queue; nothing happens if its state is not `old` any more.
#[inline(always)]
pub(crate) fn free(place: u32, old: u64) -> bool {
    flow_free(place, old) != 0
}

/// Verified once, and not for each way that leads here: so it takes and gives words only.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn flow_free(place: u32, old: u64) -> u32 {
    let Some(found) = FLOWS.get_ptr_mut(place) else { return 0 };
    if state_of(old) == flow::FREE || !replace(word(found), old, with_state(old, flow::FREE)) {
        return 0;
    }
    // SAFETY: the place is ours now.
    let flow = unsafe { &*found };
    index::remove(flow, place);
    match state_of(old) {
        flow::HALF => balance::given_up(flow),
        flow::OPEN => leave_route(flow),
        _ => {}
    }
    give_back(place, flow);
    1
}

/// The flow counts among `max_connections` no more, nor as its slot's.
#[inline(always)]
fn leave_route(flow: &Flow) {
    if let Some(usage) = USAGE.get_ptr_mut(u32::from(flow.route)) {
        fetch_add(usage, u64::MAX);
    }
    balance::left(flow);
}

#[inline(always)]
fn give_back(place: u32, flow: &Flow) {
    mark(place, false);
    if let Some(queue) = FREE.get(u32::from(flow.node.through)) {
        // The queue has room for every place of its address.
        let _full = queue.push(place, 0);
    }
}

/// Whether the place still is the flow's that was found there. To be asked when everything that is needed of the record was
/// copied: a place may be freed, and another's, while a packet is under way.
#[inline(always)]
pub(crate) fn is_still(found: &Found) -> bool {
    let now = state(found.flow);
    state_of(now) != flow::FREE && now as u32 >> 8 == found.word as u32 >> 8
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

/// For a SYN on the addresses of a flow that has ended, or whose node has not answered and takes no new flows any more:
/// the state under which that one has to be freed.
#[inline(always)]
pub(crate) fn begins_anew(found: &Found, segment: &Segment) -> Option<u64> {
    if !segment.is_syn() {
        return None;
    }
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    let ended = match gate(flow) {
        _ if is_over(flow) => true,
        Gate::Ended => true,
        Gate::Paused => false,
        Gate::Open => is_half(found.word) && flow.node.packets == 0 && !is_wanted(flow, segment.v6),
    };
    ended.then_some(found.word)
}

/// Whether its slot takes new flows still.
#[inline(always)]
fn is_wanted(flow: &Flow, v6: bool) -> bool {
    balance::takes(u32::from(flow.route), u32::from(flow.slot), v6)
}

/// The port under which the node knows the flow in this place.
#[inline(always)]
pub(crate) fn own_port(snat: &Snat, place: u32) -> Port {
    snat.first_port.wrapping_add(place.wrapping_sub(snat.first) as u16).to_be_bytes()
}
