//! What becomes of a packet: translated and sent on, left to the stack, or dropped, with a counter for each. Promises
//! that nothing passes unless the target's gate is open for the flow's generation, and that whatever is addressed
//! to no route and no flow is untouched. A flow whose generation has ended is left to the stack, which knows
//! no such connection and answers with RST.

use super::{
    aside,
    flow::{self, Gate},
    packet::{self as wire, Packet, RST, Segment},
    rewrite::{Side, hops_left, rewrite},
    tables::{DOOR_OF, DOORS, SNAT_OF, SNATS, count},
};
use proxy_ebpf::nat::{Endpoint, Flow, packet};

/// What the program has to do with the packet.
pub(crate) enum Verdict {
    /// It is translated; send it out there.
    Send {
        ifindex: u32,
    },
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
        Ok(ifindex) => Verdict::Send { ifindex },
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

#[inline(always)]
fn translate(packet: &impl Packet) -> Result<u32, Not> {
    let segment = wire::read(packet).map_err(Not::Passed)?;
    let endpoint = Endpoint { addr: segment.destination, port: segment.destination_port, _pad: [0; 2] };
    // SAFETY: one word, written before a door is open.
    if let Some(&door) = unsafe { DOOR_OF.get(endpoint) } {
        return from_client(packet, &segment, door as u16);
    }
    // SAFETY: as above.
    if let Some(&snat) = unsafe { SNAT_OF.get(segment.destination) } {
        return from_node(packet, &segment, snat);
    }
    Err(Not::Passed(packet::NOT_OURS))
}

#[inline(always)]
fn from_client(packet: &impl Packet, segment: &Segment, door: u16) -> Result<u32, Not> {
    let (place, found) = match flow::of_client(segment, door) {
        None if !segment.is_syn() => return Err(no_flow(segment, door)),
        None => begin(packet, segment, door)?,
        Some((place, found)) => match flow::begins_anew(found, segment) {
            Some(old) => {
                flow::free(place, found, old);
                begin(packet, segment, door)?
            }
            None => (place, found),
        },
    };
    let word = flow::state(found);
    // SAFETY: a place of the array; the client's half is written by its packets only.
    let flow = unsafe { &mut *found };
    pass(flow)?;
    if !hops_left(packet, segment) {
        return Err(Not::Dropped(packet::EXPIRED));
    }
    let snat = SNATS.get(u32::from(flow.node.through)).ok_or(Not::Dropped(packet::UNROUTED))?;
    let (node, port, ifindex) = (flow.node.addr, flow.node.port, flow.node.ifindex);
    // Once more, now that it is known whose the copies are: see `is_still`.
    if !flow::is_still(found, word) || flow.client.addr != segment.source || flow.client.port != segment.source_port {
        return Err(Not::Dropped(packet::DUPLICATE));
    }
    flow::open(found, segment);
    flow::note(&mut flow.client, flow::acked(&flow.node), segment, flow::is_half(word));
    if segment.may_end() {
        flow::close(found);
    }
    let from = Side { addr: &snat.addr, port: flow::own_port(snat, place) };
    rewrite(packet, segment, &from, &Side { addr: &node, port }).map_err(Not::Dropped)?;
    count(packet::TO_NODE);
    Ok(ifindex)
}

#[inline(always)]
fn begin(packet: &impl Packet, segment: &Segment, number: u16) -> Result<(u32, *mut Flow), Not> {
    let door = DOORS.get(u32::from(number)).ok_or(Not::Passed(packet::LISTENER))?;
    flow::make(segment, (number, door), packet.ingress(), packet.is_released()).map_err(|reason| match reason {
        packet::DUPLICATE => Not::Dropped(reason),
        packet::PARKED => Not::TakenAside(door.route),
        _ => Not::Passed(reason),
    })
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
fn from_node(packet: &impl Packet, segment: &Segment, snat: u32) -> Result<u32, Not> {
    let found = flow::of_node(segment, snat).ok_or(Not::Passed(packet::NO_FLOW))?;
    let word = flow::state(found);
    // SAFETY: a place of the array; the node's half is written by its packets only.
    let flow = unsafe { &mut *found };
    pass(flow)?;
    if !hops_left(packet, segment) {
        return Err(Not::Dropped(packet::EXPIRED));
    }
    let door = DOORS.get(u32::from(flow.client.through)).ok_or(Not::Dropped(packet::UNROUTED))?;
    let (client, port, ifindex) = (flow.client.addr, flow.client.port, flow.client.ifindex);
    if !flow::is_still(found, word) || flow.node.addr != segment.source || flow.node.port != segment.source_port {
        return Err(Not::Dropped(packet::DUPLICATE));
    }
    flow::note(&mut flow.node, flow::acked(&flow.client), segment, flow::is_half(word));
    if segment.may_end() {
        flow::close(found);
    }
    let from = Side { addr: &door.addr, port: door.port };
    rewrite(packet, segment, &from, &Side { addr: &client, port }).map_err(Not::Dropped)?;
    count(packet::TO_CLIENT);
    Ok(ifindex)
}

#[inline(always)]
fn pass(flow: &Flow) -> Result<(), Not> {
    match flow::gate(flow) {
        Gate::Open => Ok(()),
        Gate::Paused => Err(Not::Dropped(packet::HELD)),
        Gate::Ended => Err(Not::Passed(packet::RESET)),
    }
}
