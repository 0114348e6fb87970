//! What becomes of a frame at XDP: sent on if it is of an established flow and everything that it needs is known, else left
//! to tc. Promises that a frame is changed only when it is certain that it goes out, that it passes the same
//! gate as at tc, and that it is noted and counted as there.

mod frame;
mod maps;
mod out;

use aya_ebpf::bindings::xdp_action::{XDP_DROP, XDP_PASS, XDP_REDIRECT};
use proxy_ebpf::{
    nat::{Door, End, Flow, Globals, flow::HALF, packet},
    xdp::fate,
};

pub(crate) use self::frame::Frame;
use crate::kernel::{
    flow::{self, Found, Gate, Who},
    packet::{self as wire, ETHERTYPE_IPV4, ETHERTYPE_IPV6, RST, SYN, Segment},
    rewrite::{Side, rewrite},
    tables::{counters, globals},
    way::{self, Known, Leg, Trust, Way},
};

#[inline(always)]
pub(crate) fn forward(frame: &Frame) -> u32 {
    translate(frame).unwrap_or_else(|reason| {
        if let Some(counter) = counters().and_then(|counters| counters.fates.get_mut(reason as usize)) {
            *counter += 1;
        }
        XDP_PASS
    })
}

/// The verdict, or the counter of the reason why it is left to tc. The code is there once for each IP version, in which offsets
/// and the first half of an IPv4 address are constants.
#[inline(always)]
fn translate(frame: &Frame) -> Result<u32, u32> {
    match wire::ethertype(frame) {
        Ok(ETHERTYPE_IPV4) => translate_segment(frame, wire::read_v4(frame)),
        Ok(ETHERTYPE_IPV6) => translate_segment(frame, wire::read_v6(frame)),
        _ => Err(fate::NO_FLOW),
    }
}

#[inline(always)]
fn translate_segment(frame: &Frame, segment: Result<Segment, u32>) -> Result<u32, u32> {
    let segment = segment.map_err(|_reason| fate::NO_FLOW)?;
    if segment.flags & SYN != 0 {
        return Err(fate::NO_FLOW);
    }
    let globals = globals().ok_or(fate::NO_FLOW)?;
    match flow::of_node(&segment, globals) {
        Some(found) => to_client(frame, &segment, &found, globals),
        None => {
            let (found, door) = flow::of_client(&segment, globals).ok_or(fate::NO_FLOW)?;
            to_node(frame, &segment, &found, door, globals)
        }
    }
}

/// A segment of a flow, with what is looked up for it before all else: the processor then waits for all of it at once.
#[derive(Clone, Copy)]
struct Case<'a> {
    frame: &'a Frame,
    segment: &'a Segment,
    found: &'a Found,
    door: &'a Door,
    known: Known,
    now: u32,
}

/// Of a sender that was heard in this tick, as almost all are whose segments come here.
const BUSY: Trust = Trust { heard: true, recent: false, asks: true };

impl Case<'_> {
    /// Whether [`BUSY`] is said of its sender. The code that follows is there once for this case, with nothing left to be asked of
    /// what is trusted, and once for all others.
    #[inline(always)]
    fn is_busy(&self, sender: &End) -> bool {
        sender.seen == self.now && self.segment.flags & RST == 0
    }
}

#[inline(always)]
fn to_node(frame: &Frame, segment: &Segment, found: &Found, door: &Door, globals: &Globals) -> Result<u32, u32> {
    let known = way::known(found.flow, Who::Node);
    let case = Case { frame, segment, found, door, known, now: flow::now(&globals.clock) };
    // SAFETY: a place of the array.
    let sender = unsafe { &(*found.flow).client };
    if case.is_busy(sender) {
        return trusted_to_node(&case, globals, &BUSY);
    }
    trusted_to_node(&case, globals, &trust(sender, segment, case.now))
}

#[inline(always)]
fn trusted_to_node(case: &Case<'_>, globals: &Globals, trust: &Trust) -> Result<u32, u32> {
    let Case { frame, segment, found, door, known, now } = *case;
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    may_go(frame, segment, flow, found.word, door, trust)?;
    let snat = globals.snats.get(usize::from(flow.node.through)).ok_or(fate::NO_FLOW)?;
    let from = Side { addr: flow::halves(&snat.addr), port: flow::own_port(snat, found.place) };
    let (to, ifindex) = (flow::side(&flow.node), flow.node.ifindex);
    let leg = Leg { flow: found.flow, to: Who::Node, known, source: &from, destination: &to, trust };
    let way = out::find(frame, segment, &leg, ifindex)
        .map_err(|reason| check_is_still(found, Who::Node).err().unwrap_or(reason))?;
    check_is_still(found, Who::Node)?;
    flow::note(found, Who::Client, segment, false, now);
    send(frame, segment, found.place, (&from, &to), &way, packet::TO_NODE)
}

#[inline(always)]
fn to_client(frame: &Frame, segment: &Segment, found: &Found, globals: &Globals) -> Result<u32, u32> {
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    let known = way::known(found.flow, Who::Client);
    let door = globals.doors.get(usize::from(flow.client.through)).ok_or(fate::NO_FLOW)?;
    let case = Case { frame, segment, found, door, known, now: flow::now(&globals.clock) };
    if case.is_busy(&flow.node) {
        return trusted_to_client(&case, &BUSY);
    }
    trusted_to_client(&case, &trust(&flow.node, segment, case.now))
}

#[inline(always)]
fn trusted_to_client(case: &Case<'_>, trust: &Trust) -> Result<u32, u32> {
    let Case { frame, segment, found, door, known, now } = *case;
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    may_go(frame, segment, flow, found.word, door, trust)?;
    let from = Side { addr: flow::halves(&door.addr), port: door.port };
    let (to, ifindex) = (flow::side(&flow.client), flow.client.ifindex);
    let leg = Leg { flow: found.flow, to: Who::Client, known, source: &from, destination: &to, trust };
    let way = out::find(frame, segment, &leg, ifindex)
        .map_err(|reason| check_is_still(found, Who::Client).err().unwrap_or(reason))?;
    check_is_still(found, Who::Client)?;
    flow::note(found, Who::Node, segment, false, now);
    send(frame, segment, found.place, (&from, &to), &way, packet::TO_CLIENT)
}

/// A place may have become another flow's meanwhile, and what was remembered there is not that one's.
#[inline(always)]
fn check_is_still(found: &Found, to: Who) -> Result<(), u32> {
    if flow::is_still(found) {
        return Ok(());
    }
    way::forget(found.flow, to);
    Err(fate::OTHERS)
}

/// Only after a silence of its sender is a segment left to tc because of its next hop: of a busy one the next segments would
/// overtake it. Where a next hop is gone both ends fall silent, for as long as TCP waits before it sends again: 200 ms at
/// least, and then twice as long. A RST is followed by nothing, and nobody sends it again.
#[inline(always)]
fn trust(sender: &End, segment: &Segment, now: u32) -> Trust {
    if segment.flags & RST != 0 {
        return Trust { heard: false, recent: false, asks: false };
    }
    let recent = flow::is_recent(sender.seen, now) && flow::is_new(sender, segment);
    // Who was heard in this tick is `BUSY`.
    Trust { heard: false, recent, asks: now.wrapping_sub(sender.seen) <= 1 }
}

/// What can be said before the way out is known. Whatever needs an answer or a note of its own is tc's.
#[inline(always)]
fn may_go(frame: &Frame, segment: &Segment, flow: &Flow, word: u64, door: &Door, trust: &Trust) -> Result<(), u32> {
    // Open, or closed a moment ago.
    if flow::state_of(word) <= HALF {
        return Err(fate::NO_FLOW);
    }
    if door.by_xdp == 0 {
        return Err(fate::OTHER_ROUTE);
    }
    if !matches!(flow::gate(flow), Gate::Open) {
        return Err(fate::GATE);
    }
    if segment.hops <= 1 {
        return Err(fate::LAST_HOP);
    }
    if !trust.asks && !trust.recent {
        return Err(fate::DUE);
    }
    if frame.is_unfinished(segment) {
        return Err(fate::UNFINISHED);
    }
    Ok(())
}

/// From here on the frame is not the one that came: if anything failed it would have to be dropped.
#[inline(always)]
fn send(
    frame: &Frame,
    segment: &Segment,
    place: u32,
    (from, to): (&Side, &Side),
    way: &Way,
    counter: u32,
) -> Result<u32, u32> {
    if segment.may_end() {
        flow::close(place);
    }
    if rewrite(frame, segment, from, to).is_err() || !way.address(frame) {
        return Ok(XDP_DROP);
    }
    if let Some(counters) = counters() {
        counters.packets[counter as usize] += 1;
        counters.fates[fate::SENT as usize] += 1;
    }
    Ok(XDP_REDIRECT)
}
