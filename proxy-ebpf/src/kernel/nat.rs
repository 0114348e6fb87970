//! What becomes of a packet: translated and sent on, left to the stack, or dropped, with a counter for each. Promises
//! that nothing passes unless the target's gate is open for the flow's generation, and that whatever is addressed
//! to no route and no flow is untouched. A flow whose generation has ended is left to the stack, which knows
//! no such connection and answers with RST. An ICMP error passes where an answer to what it quotes would.

use super::{
    aside,
    flow::{self, Gate},
    icmp, mss,
    packet::{self as wire, Packet, RST, SYN, Segment, bytes},
    rewrite::{Side, hops_left, rewrite},
    tables::{DOOR_OF, DOORS, FLOWS, SNAT_OF, SNATS, count, out},
    way::{self, Leg, NoWay, To, Trust, Way},
};
use proxy_ebpf::nat::{End, Endpoint, Flow, packet};

/// What the program has to do with the packet.
pub(crate) enum Verdict {
    /// It is translated; send it on.
    Send(Onward),
    /// Leave it to the stack, as it came.
    Pass,
    Drop,
    /// Take it aside for the daemon; the stack has it where that cannot be done.
    Aside {
        route: u16,
    },
    /// Show it to the daemon, and leave it to the stack.
    Show {
        route: u16,
    },
}

/// Where a packet goes on to.
pub(crate) struct Onward {
    pub(crate) ifindex: u32,
    /// Known where the kernel need not be asked to find it.
    pub(crate) way: Way,
    /// Not 0: straight into the other end of a veth. A `bool` has values to spare, and a verdict would keep its own kind in
    /// them: the kernel's BTF takes no such type.
    pub(crate) peered: u16,
}

/// Why a packet is not sent on.
enum Not {
    Passed(u32),
    Dropped(u32),
    /// By route.
    TakenAside(u16),
    Shown(u16),
}

pub(crate) fn handle(packet: &impl Packet) -> Verdict {
    match translate(packet) {
        Ok(onward) => Verdict::Send(onward),
        Err(Not::Passed(reason)) => {
            count(reason);
            Verdict::Pass
        }
        Err(Not::Dropped(reason)) => {
            count(reason);
            Verdict::Drop
        }
        Err(Not::TakenAside(route)) => Verdict::Aside { route },
        Err(Not::Shown(route)) => {
            count(packet::NO_FLOW);
            Verdict::Show { route }
        }
    }
}

/// How a packet of a flow goes on to one of its ends.
struct Course {
    from: Side,
    to: Side,
    ifindex: u32,
    /// The flow's state when this was read of it.
    word: u64,
}

#[inline(always)]
fn translate(packet: &impl Packet) -> Result<Onward, Not> {
    let segment = match wire::read(packet) {
        Err(packet::NOT_TCP) => return translate_error(packet),
        read => read.map_err(Not::Passed)?,
    };
    match flow::of_node(&segment) {
        Some((place, found)) => from_node(packet, &segment, place, found),
        None => from_client(packet, &segment),
    }
}

#[inline(always)]
fn translate_error(packet: &impl Packet) -> Result<Onward, Not> {
    let error = icmp::read(packet).map_err(Not::Passed)?;
    match flow::of_node(&error.answer) {
        Some((_, found)) => tell_client(packet, &error, found),
        None => tell_node(packet, &error),
    }
}

#[inline(always)]
fn from_client(packet: &impl Packet, segment: &Segment) -> Result<Onward, Not> {
    let (place, found) = match flow::of_client(segment) {
        None => begin(packet, segment)?,
        Some((place, found)) => match flow::begins_anew(found, segment) {
            Some(old) => {
                flow::free(place, old);
                begin(packet, segment)?
            }
            None => (place, found),
        },
    };
    let course = to_node(packet, segment, place, found)?;
    // SAFETY: a place of the array; the client's half is written by its packets only.
    let flow = unsafe { &mut *found };
    flow::open(place, found, segment);
    let now = flow::now();
    let onward = onward(packet, segment, &course, (place, To::Node), &flow.client, now);
    flow::note(&mut flow.client, flow::acked(&flow.node), segment, flow::is_half(course.word), now);
    if segment.may_end() {
        flow::close(found);
    }
    fit(packet, segment, flow)?;
    rewrite(packet, segment, &course.from, &course.to).map_err(Not::Dropped)?;
    count(packet::TO_NODE);
    Ok(onward)
}

/// What is sent for the first time goes to the next hop that is known. What is sent again takes the kernel's own way: no answer
/// may mean that the next hop is another by now, and only there the kernel asks for it. So do SYNs, and RSTs, which nobody
/// sends again. And so do, not past a veth, where they would be overtaken, the next packet of its flow each way, and one now
/// and then, which keeps the kernel's neighbours proven.
#[inline(always)]
fn onward(
    packet: &impl Packet,
    segment: &Segment,
    course: &Course,
    (place, to): (u32, To),
    sender: &End,
    now: u32,
) -> Onward {
    let ifindex = course.ifindex;
    let by_kernel = Onward { ifindex, way: Way::UNKNOWN, peered: 0 };
    if segment.flags & (SYN | RST) != 0 {
        way::forget(place, to);
        return by_kernel;
    }
    if !flow::is_new(sender, segment) {
        way::doubt(place);
        return by_kernel;
    }
    let recent = flow::is_recent(sender, now);
    let Some(out) = out(ifindex).filter(|out| recent || out.peered != 0) else {
        way::forget(place, to);
        return by_kernel;
    };
    let trust = Trust { heard: sender.seen == now, recent, asks: out.peered != 0 };
    let leg = Leg { place, to, source: &course.from, destination: &course.to, trust: &trust };
    match way::find(packet, segment, &leg, out) {
        Ok(way) => Onward { ifindex, way, peered: out.peered },
        Err(NoWay::Doubted) => {
            way::forget(place, to);
            by_kernel
        }
        Err(_) => by_kernel,
    }
}

/// What a client's packet, and an error about a node's, needs to go on.
#[inline(always)]
fn to_node(packet: &impl Packet, segment: &Segment, place: u32, found: *mut Flow) -> Result<Course, Not> {
    let word = flow::state(found);
    // SAFETY: a place of the array.
    let flow = unsafe { &*found };
    pass(flow)?;
    if !hops_left(packet, segment) {
        return Err(Not::Dropped(packet::EXPIRED));
    }
    let snat = SNATS.get(u32::from(flow.node.through)).ok_or(Not::Dropped(packet::UNROUTED))?;
    let course = Course {
        from: Side { addr: flow::halves(&snat.addr), port: flow::own_port(snat, place) },
        to: flow::side(&flow.node),
        ifindex: flow.node.ifindex,
        word,
    };
    // Once more, now that it is known whose the copies are: see `is_still`.
    if !flow::is_still(found, word) || !flow::sent(&flow.client, segment) {
        return Err(Not::Dropped(packet::DUPLICATE));
    }
    Ok(course)
}

/// For a packet of no flow: the one that it makes if it is a SYN, or what it is instead.
#[inline(always)]
fn begin(packet: &impl Packet, segment: &Segment) -> Result<(u32, *mut Flow), Not> {
    let dialled = Endpoint { addr: bytes(segment.destination), port: segment.destination_port, _pad: [0; 2] };
    // SAFETY: one word, written before a door is open.
    let Some(&number) = (unsafe { DOOR_OF.get(dialled) }) else { return Err(stranger(segment)) };
    let number = number as u16;
    if !segment.is_syn() {
        return Err(no_flow(segment, number));
    }
    let door = DOORS.get(u32::from(number)).ok_or(Not::Passed(packet::LISTENER))?;
    let made = flow::make(segment, (number, door), packet.ingress(), packet.is_released());
    let place = made.map_err(|reason| match reason {
        packet::DUPLICATE => Not::Dropped(reason),
        packet::PARKED => Not::TakenAside(door.route),
        _ => Not::Passed(reason),
    })?;
    // Only now: a pointer, which only a success has, must not meet what only a failure has in one register.
    let found = FLOWS.get_ptr_mut(place).ok_or(Not::Dropped(packet::DUPLICATE))?;
    Ok((place, found))
}

/// To none of the addresses that clients dial.
#[inline(always)]
fn stranger(segment: &Segment) -> Not {
    // SAFETY: one word.
    let ours = unsafe { SNAT_OF.get(bytes(segment.destination)) }.is_some();
    Not::Passed(if ours { packet::NO_FLOW } else { packet::NOT_OURS })
}

/// A client that gives up while its SYN is parked may say so.
#[inline(always)]
fn no_flow(segment: &Segment, number: u16) -> Not {
    match DOORS.get(u32::from(number)) {
        Some(door) if segment.flags & RST != 0 && aside::is_held(door.route) => Not::Shown(door.route),
        _ => Not::Passed(packet::NO_FLOW),
    }
}

#[inline(always)]
fn from_node(packet: &impl Packet, segment: &Segment, place: u32, found: *mut Flow) -> Result<Onward, Not> {
    let course = to_client(packet, segment, found)?;
    // SAFETY: a place of the array; the node's half is written by its packets only.
    let flow = unsafe { &mut *found };
    let now = flow::now();
    let onward = onward(packet, segment, &course, (place, To::Client), &flow.node, now);
    flow::note(&mut flow.node, flow::acked(&flow.client), segment, flow::is_half(course.word), now);
    if segment.may_end() {
        flow::close(found);
    }
    fit(packet, segment, flow)?;
    rewrite(packet, segment, &course.from, &course.to).map_err(Not::Dropped)?;
    count(packet::TO_CLIENT);
    Ok(onward)
}

/// What a node's packet, and an error about a client's, needs to go on.
#[inline(always)]
fn to_client(packet: &impl Packet, segment: &Segment, found: *mut Flow) -> Result<Course, Not> {
    let word = flow::state(found);
    // SAFETY: a place of the array.
    let flow = unsafe { &*found };
    pass(flow)?;
    if !hops_left(packet, segment) {
        return Err(Not::Dropped(packet::EXPIRED));
    }
    let door = DOORS.get(u32::from(flow.client.through)).ok_or(Not::Dropped(packet::UNROUTED))?;
    let course = Course {
        from: Side { addr: flow::halves(&door.addr), port: door.port },
        to: flow::side(&flow.client),
        ifindex: flow.client.ifindex,
        word,
    };
    if !flow::is_still(found, word) || !flow::sent(&flow.node, segment) {
        return Err(Not::Dropped(packet::DUPLICATE));
    }
    Ok(course)
}

/// A connection whose segments fit our own links is agreed on at its start.
#[inline(always)]
fn fit(packet: &impl Packet, segment: &Segment, flow: &Flow) -> Result<(), Not> {
    if segment.flags & SYN == 0 {
        return Ok(());
    }
    mss::clamp(packet, segment, [flow.client.ifindex, flow.node.ifindex]).map_err(Not::Dropped)
}

/// About a packet of the node's, which could not go on to the client.
#[inline(always)]
fn tell_node(packet: &impl Packet, error: &icmp::Error) -> Result<Onward, Not> {
    let (place, found) = flow::of_client(&error.answer).ok_or(Not::Passed(packet::ICMP_NO_FLOW))?;
    let course = to_node(packet, &error.answer, place, found)?;
    // SAFETY: a place of the array.
    let flow = unsafe { &*found };
    if !icmp::is_under_way(error.answer.sequence, &flow.node, &flow.client) {
        return Err(Not::Passed(packet::ICMP_STALE));
    }
    icmp::rewrite(packet, error, &course.from, &course.to).map_err(Not::Dropped)?;
    count(packet::ICMP_TO_NODE);
    Ok(Onward { ifindex: course.ifindex, way: Way::UNKNOWN, peered: 0 })
}

/// About a packet of the client's, which could not go on to the node.
#[inline(always)]
fn tell_client(packet: &impl Packet, error: &icmp::Error, found: *mut Flow) -> Result<Onward, Not> {
    let course = to_client(packet, &error.answer, found)?;
    // SAFETY: a place of the array.
    let flow = unsafe { &*found };
    if !icmp::is_under_way(error.answer.sequence, &flow.client, &flow.node) {
        return Err(Not::Passed(packet::ICMP_STALE));
    }
    icmp::rewrite(packet, error, &course.from, &course.to).map_err(Not::Dropped)?;
    count(packet::ICMP_TO_CLIENT);
    Ok(Onward { ifindex: course.ifindex, way: Way::UNKNOWN, peered: 0 })
}

#[inline(always)]
fn pass(flow: &Flow) -> Result<(), Not> {
    match flow::gate(flow) {
        Gate::Open => Ok(()),
        Gate::Paused => Err(Not::Dropped(packet::HELD)),
        Gate::Ended => Err(Not::Passed(packet::RESET)),
    }
}
