//! What becomes of a packet at tc: translated and sent on, left to the stack, or dropped, with a counter for each. Promises
//! that nothing passes unless the target's gate is open for the flow's generation, and that whatever is addressed
//! to no route and no flow is untouched. A flow whose generation has ended is left to the stack, which knows
//! no such connection and answers with RST. An ICMP error passes where an answer to what it quotes would.

mod icmp;
mod mss;
mod skb;

use aya_ebpf::bindings::{__sk_buff, TC_ACT_SHOT, TC_ACT_UNSPEC};

use self::skb::Skb;
use crate::kernel::{
    aside,
    flow::{self, Found, Gate, Who, make},
    mac::Mac,
    packet::{self as wire, RST, SYN, Segment, bytes},
    rewrite::{Side, rewrite},
    tables::{DOOR_OF, FLOWS, SNAT_OF, count, globals, out},
    way::{self, Exit, Leg, NoWay, Trust, Way},
};
use proxy_ebpf::nat::{End, Endpoint, Flow, Globals, packet};

/// Where a packet goes on to.
struct Onward {
    ifindex: u32,
    /// Known where the kernel need not be asked to find it.
    way: Way,
    /// Not 0: straight into the other end of a veth.
    peered: u16,
}

/// Why a packet is not sent on: a counter.
#[derive(Clone, Copy)]
enum Not {
    Passed(u32),
    Dropped(u32),
    /// It may begin a flow, or end one that has not begun: what was dialled, by its number.
    Begins(u32),
    /// No TCP.
    Other,
}

// The program is made of functions that take the packet and words, and give a word: the verifier looks at each once, and not for
// each way that leads there; and of their stacks only those count together that call each other. A word that one gives is a
// number, or why there is none.
const PASSED: u64 = 1 << 32;
const DROPPED: u64 = 2 << 32;
const BEGINS: u64 = 3 << 32;
const OTHER: u64 = 4 << 32;
/// For the place of a flow that is not known.
const NOWHERE: u32 = u32::MAX;

#[inline(always)]
fn to_word(result: Result<u32, Not>) -> u64 {
    match result {
        Ok(number) => u64::from(number),
        Err(Not::Passed(reason)) => PASSED | u64::from(reason),
        Err(Not::Dropped(reason)) => DROPPED | u64::from(reason),
        Err(Not::Begins(door)) => BEGINS | u64::from(door),
        Err(Not::Other) => OTHER,
    }
}

#[inline(always)]
fn of_word(word: u64) -> Result<u32, Not> {
    let number = word as u32;
    match word & !0xffff_ffff {
        0 => Ok(number),
        PASSED => Err(Not::Passed(number)),
        DROPPED => Err(Not::Dropped(number)),
        BEGINS => Err(Not::Begins(number)),
        _ => Err(Not::Other),
    }
}

/// What tc is to do with the packet. `released`: the daemon has sent it in again, because it is its turn.
#[inline(always)]
pub(crate) fn handle(skb: *mut __sk_buff, released: bool) -> i32 {
    let done = match of_word(nat_segment(skb, NOWHERE)) {
        Err(Not::Begins(door)) => {
            of_word(nat_begin(skb, door, u32::from(released))).and_then(|place| of_word(nat_segment(skb, place)))
        }
        Err(Not::Other) => of_word(nat_error(skb)).map(|ifindex| Skb::new(skb).send_by_kernel(ifindex) as u32),
        done => done,
    };
    match done {
        Ok(action) => action as i32,
        Err(Not::Dropped(reason)) => {
            count(reason);
            TC_ACT_SHOT
        }
        Err(Not::Passed(reason)) => {
            count(reason);
            TC_ACT_UNSPEC
        }
        Err(Not::Begins(_) | Not::Other) => TC_ACT_UNSPEC,
    }
}

/// How a packet of a flow goes on to one of its ends.
struct Course {
    from: Side,
    to: Side,
    ifindex: u32,
}

/// A segment, of the client's flow in that place if one is given: what tc is to do with it.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_segment(skb: *mut __sk_buff, place: u32) -> u64 {
    let packet = Skb::new(skb);
    let sent = translate(&packet, place).map(|onward| {
        if onward.way.is_known() && onward.way.address(&packet) {
            return packet.send(onward.ifindex, onward.peered != 0) as u32;
        }
        packet.send_by_kernel(onward.ifindex) as u32
    });
    to_word(sent)
}

#[inline(always)]
fn translate(packet: &Skb, place: u32) -> Result<Onward, Not> {
    let segment = wire::read(packet).map_err(|reason| match reason {
        packet::NOT_TCP => Not::Other,
        reason => Not::Passed(reason),
    })?;
    let globals = globals().ok_or(Not::Passed(packet::NOT_OURS))?;
    if place != NOWHERE {
        let found = flow::at(place, &segment).ok_or(Not::Dropped(packet::DUPLICATE))?;
        return from_client(packet, &segment, &found, globals);
    }
    if let Some(found) = flow::of_node(&segment, globals) {
        return from_node(packet, &segment, &found, globals);
    }
    if !segment.is_syn()
        && let Some((found, _)) = flow::of_client(&segment, globals)
    {
        return from_client(packet, &segment, &found, globals);
    }
    let door = door(&segment)?;
    let begins = segment.is_syn() || segment.flags & RST != 0;
    Err(if begins { Not::Begins(door) } else { Not::Passed(packet::NO_FLOW) })
}

/// An ICMP error: the interface it goes on by.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_error(skb: *mut __sk_buff) -> u64 {
    to_word(translate_error(&Skb::new(skb)))
}

#[inline(always)]
fn translate_error(packet: &Skb) -> Result<u32, Not> {
    let error = icmp::read(packet).map_err(Not::Passed)?;
    let globals = globals().ok_or(Not::Passed(packet::ICMP_NO_FLOW))?;
    match flow::of_node(&error.answer, globals) {
        Some(found) => tell_client(packet, &error, &found, globals),
        None => tell_node(packet, &error, globals),
    }
}

#[inline(always)]
fn from_client(packet: &Skb, segment: &Segment, found: &Found, globals: &Globals) -> Result<Onward, Not> {
    let course = to_node(segment, found, globals)?;
    if !flow::open(found, segment, globals) {
        return Err(Not::Passed(packet::FULL));
    }
    let now = flow::now(&globals.clock);
    // SAFETY: a place of the array.
    let sender = Sender::of(unsafe { &(*found.flow).client }, segment);
    let onward = onward(packet, segment, &course, (found.flow, Who::Node), sender, now);
    flow::note(found, Who::Client, segment, flow::is_half(found.word), now);
    finish(packet, segment, &course, found.place)?;
    count(packet::TO_NODE);
    Ok(onward)
}

/// What is left to do when a packet of a flow is noted.
#[inline(always)]
fn finish(packet: &Skb, segment: &Segment, course: &Course, place: u32) -> Result<(), Not> {
    if segment.may_end() {
        flow::close(place);
    }
    // A connection whose segments fit our own links is agreed on at its start.
    if segment.flags & SYN != 0 {
        of_word(nat_fit(packet.ctx.skb.skb, place))?;
    }
    rewrite(packet, segment, &course.from, &course.to).map_err(Not::Dropped)
}

/// By the kernel's own way.
#[inline(always)]
fn by_kernel(ifindex: u32) -> Onward {
    Onward { ifindex, way: Way::UNKNOWN, peered: 0 }
}

/// What its record says of who has sent a segment.
#[derive(Clone, Copy)]
struct Sender {
    seen: u32,
    /// The segment is none that it sent before.
    is_new: bool,
}

impl Sender {
    #[inline(always)]
    fn of(end: &End, segment: &Segment) -> Self {
        Self { seen: end.seen, is_new: flow::is_new(end, segment) }
    }
}

/// What is sent for the first time goes to the next hop that is known. What is sent again takes the kernel's own way: no answer
/// may mean that the next hop is another by now, and only there the kernel asks for it. So do SYNs, and RSTs, which nobody
/// sends again. And so do, not past a veth, where they would be overtaken, the next packet of its flow each way, and one now
/// and then, which keeps the kernel's neighbours proven.
#[inline(always)]
fn onward(
    packet: &Skb,
    segment: &Segment,
    course: &Course,
    (flow, to): (*mut Flow, Who),
    sender: Sender,
    now: u32,
) -> Onward {
    let ifindex = course.ifindex;
    if segment.flags & (SYN | RST) != 0 {
        way::forget(flow, to);
        return by_kernel(ifindex);
    }
    if !sender.is_new {
        way::doubt(flow);
        return by_kernel(ifindex);
    }
    let recent = flow::is_recent(sender.seen, now);
    let Some(out) = out(ifindex).filter(|out| recent || out.peered != 0) else {
        way::forget(flow, to);
        return by_kernel(ifindex);
    };
    let trust = Trust { heard: sender.seen == now, recent, asks: out.peered != 0 };
    let known = way::known(flow, to);
    let leg = Leg { flow, to, known, source: &course.from, destination: &course.to, trust: &trust };
    let exit = Exit { ifindex, mac: Mac(out.mac) };
    match way::find(packet, segment, &leg, exit) {
        Ok(way) => Onward { ifindex, way, peered: out.peered },
        Err(NoWay::Doubted) => {
            way::forget(flow, to);
            by_kernel(ifindex)
        }
        Err(_) => by_kernel(ifindex),
    }
}

/// What a client's packet, and an error about a node's, needs to go on.
#[inline(always)]
fn to_node(segment: &Segment, found: &Found, globals: &Globals) -> Result<Course, Not> {
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    pass(flow)?;
    if segment.hops <= 1 {
        return Err(Not::Dropped(packet::EXPIRED));
    }
    let snat = globals.snats.get(usize::from(flow.node.through)).ok_or(Not::Dropped(packet::UNROUTED))?;
    let course = Course {
        from: Side { addr: flow::halves(&snat.addr), port: flow::own_port(snat, found.place) },
        to: flow::side(&flow.node),
        ifindex: flow.node.ifindex,
    };
    if !flow::is_still(found) {
        return Err(Not::Dropped(packet::DUPLICATE));
    }
    Ok(course)
}

/// The number of what was dialled.
#[inline(always)]
fn door(segment: &Segment) -> Result<u32, Not> {
    let dialled = Endpoint { addr: bytes(segment.destination), port: segment.destination_port, _pad: [0; 2] };
    // SAFETY: one word, written before a door is open.
    if let Some(&number) = unsafe { DOOR_OF.get(dialled) } {
        return Ok(number);
    }
    // SAFETY: one word.
    let ours = unsafe { SNAT_OF.get(bytes(segment.destination)) }.is_some();
    Err(Not::Passed(if ours { packet::NO_FLOW } else { packet::NOT_OURS }))
}

/// For a client's packet that is a SYN, or of no flow: the place of its flow.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_begin(skb: *mut __sk_buff, door: u32, released: u32) -> u64 {
    let packet = Skb::new(skb);
    let segment = wire::read(&packet).map_err(Not::Passed);
    to_word(segment.and_then(|segment| begin(&packet, &segment, door, released != 0)))
}

#[inline(always)]
fn begin(packet: &Skb, segment: &Segment, number: u32, released: bool) -> Result<u32, Not> {
    let globals = globals().ok_or(Not::Passed(packet::LISTENER))?;
    if let Some((found, _)) = flow::of_client(segment, globals) {
        let Some(old) = flow::begins_anew(&found, segment) else { return Ok(found.place) };
        flow::free(found.place, old);
    }
    let door = globals.doors.get(number as usize).ok_or(Not::Passed(packet::LISTENER))?;
    if !segment.is_syn() {
        // A client that gives up while its SYN is parked may say so.
        if segment.flags & RST != 0 && aside::is_held(door.route) {
            // If it is not heard, the place is free when its time is up.
            let _unheard = aside::take(&packet.ctx, door.route, packet.ingress());
        }
        return Err(Not::Passed(packet::NO_FLOW));
    }
    make::flow(segment, globals, (number as u16, door), packet.ingress(), released).map_err(|reason| match reason {
        packet::DUPLICATE => Not::Dropped(reason),
        packet::PARKED if aside::take(&packet.ctx, door.route, packet.ingress()) => Not::Dropped(reason),
        packet::PARKED => Not::Passed(packet::UNPARKED),
        _ => Not::Passed(reason),
    })
}

#[inline(always)]
fn from_node(packet: &Skb, segment: &Segment, found: &Found, globals: &Globals) -> Result<Onward, Not> {
    let course = to_client(segment, found, globals)?;
    let now = flow::now(&globals.clock);
    // SAFETY: a place of the array.
    let sender = Sender::of(unsafe { &(*found.flow).node }, segment);
    let onward = onward(packet, segment, &course, (found.flow, Who::Client), sender, now);
    flow::note(found, Who::Node, segment, flow::is_half(found.word), now);
    finish(packet, segment, &course, found.place)?;
    count(packet::TO_CLIENT);
    Ok(onward)
}

/// What a node's packet, and an error about a client's, needs to go on.
#[inline(always)]
fn to_client(segment: &Segment, found: &Found, globals: &Globals) -> Result<Course, Not> {
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    pass(flow)?;
    if segment.hops <= 1 {
        return Err(Not::Dropped(packet::EXPIRED));
    }
    let door = globals.doors.get(usize::from(flow.client.through)).ok_or(Not::Dropped(packet::UNROUTED))?;
    let course = Course {
        from: Side { addr: flow::halves(&door.addr), port: door.port },
        to: flow::side(&flow.client),
        ifindex: flow.client.ifindex,
    };
    if !flow::is_still(found) {
        return Err(Not::Dropped(packet::DUPLICATE));
    }
    Ok(course)
}

/// Lowers what a SYN, or its answer, asks for to what both ways out can carry.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn nat_fit(skb: *mut __sk_buff, place: u32) -> u64 {
    let packet = Skb::new(skb);
    to_word(fit(&packet, place).map(|()| 0))
}

#[inline(always)]
fn fit(packet: &Skb, place: u32) -> Result<(), Not> {
    let segment = wire::read(packet).map_err(Not::Dropped)?;
    let flow = FLOWS.get(place).ok_or(Not::Dropped(packet::DUPLICATE))?;
    mss::clamp(packet, &segment, [flow.client.ifindex, flow.node.ifindex]).map_err(Not::Dropped)
}

/// About a packet of the node's, which could not go on to the client.
#[inline(always)]
fn tell_node(packet: &Skb, error: &icmp::Error, globals: &Globals) -> Result<u32, Not> {
    let (found, _) = flow::of_client(&error.answer, globals).ok_or(Not::Passed(packet::ICMP_NO_FLOW))?;
    let course = to_node(&error.answer, &found, globals)?;
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    if !icmp::is_under_way(error.answer.sequence, flow, Who::Node) {
        return Err(Not::Passed(packet::ICMP_STALE));
    }
    icmp::rewrite(packet, error, &course.from, &course.to).map_err(Not::Dropped)?;
    count(packet::ICMP_TO_NODE);
    Ok(course.ifindex)
}

/// About a packet of the client's, which could not go on to the node.
#[inline(always)]
fn tell_client(packet: &Skb, error: &icmp::Error, found: &Found, globals: &Globals) -> Result<u32, Not> {
    let course = to_client(&error.answer, found, globals)?;
    // SAFETY: a place of the array.
    let flow = unsafe { &*found.flow };
    if !icmp::is_under_way(error.answer.sequence, flow, Who::Client) {
        return Err(Not::Passed(packet::ICMP_STALE));
    }
    icmp::rewrite(packet, error, &course.from, &course.to).map_err(Not::Dropped)?;
    count(packet::ICMP_TO_CLIENT);
    Ok(course.ifindex)
}

#[inline(always)]
fn pass(flow: &Flow) -> Result<(), Not> {
    match flow::gate(flow) {
        Gate::Open => Ok(()),
        Gate::Paused => Err(Not::Dropped(packet::HELD)),
        Gate::Ended => Err(Not::Passed(packet::RESET)),
    }
}
