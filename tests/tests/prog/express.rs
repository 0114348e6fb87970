//! What XDP takes, and what it leaves to tc and why. That tc then does the right thing the other tests show.

use std::{net::SocketAddr, ops::RangeInclusive, time::Duration};

use anyhow::{Context as _, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use proxy_ebpf::{
    nat::{Out, TICK_SHIFT, in_frame, names, packet},
    state,
    xdp::slot,
};

use switchmaster_tests::wait;

use crate::{
    front::{Front, Ground, NEXT_MAC},
    wire::{OWN_MAC, Segment},
    world::{Addresses, FIRST_PLACE, FIRST_PORT, Outcome, World, v4, v6},
};

/// 32 ticks.
const TURN: Duration = Duration::from_nanos(32 << TICK_SHIFT);

fn fate(outcome: &Outcome, expected: &str) -> Result<()> {
    ensure!(outcome.fate == Some(expected), "its fate is {:?}, not {expected}", outcome.fate);
    Ok(())
}

/// An established flow, and a segment each way.
fn established(world: &mut World) -> Result<[Segment; 2]> {
    let at = world.at;
    let own = SocketAddr::new(at.snat, world.connect(at.client)?);
    let ask = Segment::new(at.client, at.door).seq(1001).ack(5001).payload(b"PING\r\n");
    Ok([ask, Segment::new(at.node, own).seq(5001).ack(1007).payload(b"+PONG\r\n")])
}

fn front(world: &mut World) -> Result<&mut Front> {
    world.front.as_mut().context("no XDP in front")
}

#[test]
fn an_established_flow_is_sent_both_ways_to_its_end() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let [ask, reply] = established(&mut world)?;
        let own = SocketAddr::new(at.snat, FIRST_PORT);
        let (fin, end) = (ask.clone().seq(1007).payload(b"").fin(), reply.clone().seq(5008).payload(b"").fin());
        for segment in [&ask, &fin] {
            let outcome = world.through(segment, &segment.translated(own, at.node))?;
            fate(&outcome, "sent")?;
            outcome.counted(&[packet::TO_NODE])?;
        }
        for segment in [&reply, &end] {
            let outcome = world.through(segment, &segment.translated(at.door, at.client))?;
            fate(&outcome, "sent")?;
            outcome.counted(&[packet::TO_CLIENT])?;
        }
        let flow = world.flow(FIRST_PORT)?;
        ensure!((flow.client.next, flow.client.acked) == (1008, 5001), "{:?}", flow.client);
        ensure!((flow.node.next, flow.node.acked) == (5009, 1007), "{:?}", flow.node);
    }
    Ok(())
}

#[test]
fn a_reset_is_sent_and_noted() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    let [ask, _] = established(&mut world)?;
    fate(&world.send(&ask.payload(b"").rst())?, "due")?;
    ensure!(world.flow(FIRST_PORT)?.client_flags & 4 != 0, "the reset was not noted");
    Ok(())
}

#[test]
fn a_handshake_is_left_to_tc() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let syn = world.send(&Segment::syn(at.client, at.door))?;
        let own = SocketAddr::new(at.snat, FIRST_PORT);
        let answer = world.send(&Segment::syn(at.node, own).seq(5000).ack(1001))?;
        let ack = world.send(&Segment::new(at.client, at.door).seq(1001).ack(5001))?;
        for outcome in [syn, answer, ack] {
            fate(&outcome, "no_flow")?;
        }
        fate(&world.send(&Segment::syn(at.client, at.door))?, "no_flow")?;
    }
    Ok(())
}

/// As a veth hands it over whose other end would have hardware compute them.
fn unfinished(segment: &Segment) -> Vec<u8> {
    let mut bytes = segment.bytes();
    let (addresses, tcp) = if segment.from.is_ipv4() { (26..34, 34) } else { (22..54, 54) };
    let length = (bytes.len() - tcp) as u32;
    let words = bytes[addresses].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])));
    let mut sum = words.sum::<u32>() + 6 + length;
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[tcp + 16..tcp + 18].copy_from_slice(&(sum as u16).to_be_bytes());
    bytes
}

#[test]
fn what_a_sender_left_to_hardware_is_left_to_tc() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        for mut segment in established(&mut world)? {
            for length in [0, 1, 2, 600, 1400] {
                segment = segment.payload(&vec![b'x'; length]);
                fate(&world.run(&unfinished(&segment))?, "unfinished")?;
                // tc has sent that one, so this is the next.
                segment = {
                    let next = segment.seq + length as u32;
                    segment.seq(next)
                };
                fate(&world.send(&segment)?, "sent")?;
                segment = {
                    let next = segment.seq + length as u32;
                    segment.seq(next)
                };
            }
        }
    }
    Ok(())
}

/// Changes something, and says what then becomes of a segment of an established flow.
type Case = (&'static str, fn(&mut World) -> Result<()>, &'static str);

const CASES: &[Case] = &[
    ("a pause", |world| world.lead(state::PAUSED, 0, 7), "gate"),
    ("a switch", |world| world.lead(state::OPEN, 8, 8), "gate"),
    ("no target", |world| world.lead(state::CLOSED, 0, 7), "gate"),
    ("a route of tc's", |world| world.by_xdp(false), "other_route"),
    ("another host's frame", |world| front(world)?.know([2, 0, 0, 0, 0, 8], true), "no_flow"),
    ("an interface that did not pass", |world| front(world)?.able(false), "no_device"),
    ("a silence", |world| world.silence(FIRST_PORT), "due"),
];

#[test]
fn whatever_is_not_sure_is_left_to_tc() -> Result<()> {
    for at in [v4(), v6()] {
        for (name, change, expected) in CASES {
            let mut world = World::open(at, 64)?;
            let both = established(&mut world)?;
            change(&mut world)?;
            for segment in &both {
                fate(&world.send(segment)?, expected).context(*name)?;
            }
        }
    }
    Ok(())
}

#[test]
fn after_a_silence_tc_has_the_first_packet_and_xdp_the_next() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    let [ask, _] = established(&mut world)?;
    world.silence(FIRST_PORT)?;
    let first = world.send(&ask)?;
    fate(&first, "due")?;
    first.counted(&[packet::TO_NODE])?;
    fate(&world.send(&ask.seq(1007))?, "sent")
}

#[test]
fn after_a_short_silence_tc_has_what_is_sent_again_and_the_next_back() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    until_tick(8..=16)?;
    let [ask, reply] = established(&mut world)?;
    let (later, more) = (|seq: u32| ask.clone().seq(seq), |seq: u32| reply.clone().seq(seq));
    let fates = |world: &mut World, segments: &[(&Segment, &str)]| -> Result<()> {
        segments.iter().try_for_each(|(segment, expected)| fate(&world.send(segment)?, expected))
    };
    // What follows a busy end's retransmission would overtake it.
    fates(&mut world, &[(&ask, "sent"), (&ask, "sent"), (&later(1007), "sent"), (&reply, "sent")])?;
    world.silence_of(FIRST_PORT, 3)?;
    fates(&mut world, &[(&later(1013), "sent"), (&more(5008), "sent")])?;
    world.silence_of(FIRST_PORT, 3)?;
    fates(&mut world, &[(&later(1013), "due"), (&later(1019), "sent")])?;
    fates(&mut world, &[(&more(5015), "due"), (&more(5022), "sent")])
}

#[test]
fn frames_in_pieces_go_where_they_are_taken() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    let [ask, _] = established(&mut world)?;
    // A test run of tc takes no frame of more than a page: XDP alone is asked.
    let long = ask.payload(&[b'x'; 8000]).bytes();
    let front = front(&mut world)?;
    let refused = front.know(OWN_MAC, false).and_then(|()| front.run(&long))?.0;
    let sent = front.know(OWN_MAC, true).and_then(|()| front.run(&long))?.0;
    ensure!((sent, refused) == ("sent", "no_device"), "{sent}, {refused}");
    Ok(())
}

/// Waits for one of these of the 32 ticks in a stretch that begins with a turn of the kernel's own way.
fn until_tick(ticks: RangeInclusive<u64>) -> Result<()> {
    wait::until(TURN * 2, "the programs' clock", || {
        let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).context("the clock")?);
        ensure!(ticks.contains(&(now.as_nanos() as u64 >> TICK_SHIFT & 31)), "it is not the time");
        Ok(())
    })
}

/// The program may address frames that go out by this interface, and does so for a second at least: it is not the turn of
/// the kernel's own way.
fn lead_out(world: &mut World, ifindex: u32) -> Result<()> {
    until_tick(1..=23)?;
    let out = Out { ifindex, mac: in_frame(OWN_MAC), peered: 0 };
    Ok(world.array(names::OUTS)?.set(slot(ifindex), out, 0)?)
}

/// Where tc alone translates, and the next hop is written by the program.
fn passing_by(more: &str, at: Addresses) -> Result<[u8; 12]> {
    let mut world = World::open_on(Some(Ground::new(more)?), at, 64)?;
    let [ask, reply] = established(&mut world)?;
    world.by_xdp(false)?;
    let ifindex = front(&mut world)?.ifindex();
    let own = SocketAddr::new(at.snat, FIRST_PORT);
    let kernels = world.through(&ask, &ask.translated(own, at.node))?.packet;
    ensure!(kernels[..12] == ask.bytes()[..12], "the addresses of the frame are the kernel's to write");
    lead_out(&mut world, ifindex)?;
    let again = world.through(&ask, &ask.translated(own, at.node))?.packet;
    ensure!(again[..12] == ask.bytes()[..12], "what is sent again goes on as the kernel says");
    // And so do the next each way.
    let next = |segment: &Segment| segment.clone().seq(segment.seq + segment.payload.len() as u32);
    let (ask, more) = (next(&ask), next(&reply));
    let both = [(&ask, ask.translated(own, at.node)), (&reply, reply.translated(at.door, at.client))];
    for (segment, expected) in both {
        let sent = world.through(segment, &expected)?.packet;
        ensure!(sent[..12] == segment.bytes()[..12], "of a flow that is in doubt");
    }
    let ask = next(&ask);
    let sent = world.through(&ask, &ask.translated(own, at.node))?.packet;
    let answered = world.through(&more, &more.translated(at.door, at.client))?.packet;
    ensure!(sent[..12] == answered[..12], "to the node {:x?}, to the client {:x?}", &sent[..12], &answered[..12]);
    Ok(sent[..12].try_into()?)
}

#[test]
fn the_next_hop_is_written_by_the_program() -> Result<()> {
    for at in [v4(), v6()] {
        let macs = passing_by("", at)?;
        ensure!(macs[..] == [NEXT_MAC, OWN_MAC].concat(), "{macs:x?}");
        // Then it is the kernel that asks for it.
        let unknown = "neigh del 198.18.0.2 dev out\nneigh del fd00:18::2 dev out";
        let macs = passing_by(unknown, at)?;
        ensure!(macs[..6] == OWN_MAC, "{macs:x?}");
    }
    Ok(())
}

/// Says that a flow's next hops were found to be this one.
fn remember(world: &mut World, port: u16, mac: [u8; 6]) -> Result<()> {
    let [a, b, c, d, e, f] = mac;
    let [g, h] = 1500_u16.to_ne_bytes();
    let word = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
    let (place, mut flow) = (FIRST_PLACE + u32::from(port - FIRST_PORT), world.flow(port)?);
    (flow.client.hop, flow.node.hop) = (word, word);
    Ok(world.array(names::FLOWS)?.set(place, flow, 0)?)
}

#[test]
fn a_next_hop_is_remembered_for_a_while_and_for_each_flow() -> Result<()> {
    const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
    let at = v4();
    let mut world = World::open_on(Some(Ground::new("")?), at, 64)?;
    let [ask, _] = established(&mut world)?;
    world.by_xdp(false)?;
    let ifindex = front(&mut world)?.ifindex();
    lead_out(&mut world, ifindex)?;
    let mut seq = 1001;
    let mut next_hop = |world: &mut World| -> Result<[u8; 6]> {
        let sent = world.send(&ask.clone().seq(seq))?.packet;
        seq += 6;
        Ok(sent[..6].try_into()?)
    };
    // The first in this stretch may be the kernel's.
    next_hop(&mut world)?;
    ensure!(next_hop(&mut world)? == NEXT_MAC, "it is not the kernel's");
    remember(&mut world, FIRST_PORT, OTHER_MAC)?;
    ensure!(next_hop(&mut world)? == OTHER_MAC, "it is asked for each time");
    world.silence(FIRST_PORT)?;
    ensure!(next_hop(&mut world)? == OWN_MAC, "the first after a silence does not go on as the kernel says");
    ensure!(next_hop(&mut world)? == NEXT_MAC, "it is remembered for longer than a stretch");
    remember(&mut world, FIRST_PORT, OTHER_MAC)?;
    let again = world.send(&ask)?.packet;
    ensure!(again[..6] == OWN_MAC, "what is sent again goes on as the kernel says: {:x?}", &again[..6]);
    ensure!(next_hop(&mut world)? == OWN_MAC, "it is believed of a flow that is in doubt");
    ensure!(next_hop(&mut world)? == NEXT_MAC, "what was doubted is believed again");
    remember(&mut world, FIRST_PORT + 1, OTHER_MAC)?;
    let other = SocketAddr::new(at.client.ip(), at.client.port() + 1);
    ensure!(world.connect(other)? == FIRST_PORT + 1, "another place than the next");
    let sent = world.send(&Segment::new(other, at.door).seq(1001).ack(5001).payload(b"PING\r\n"))?.packet;
    ensure!(sent[..6] == NEXT_MAC, "a flow goes where the last one in its place went: {:x?}", &sent[..6]);
    Ok(())
}

#[test]
fn now_and_then_a_packet_takes_the_kernels_own_way() -> Result<()> {
    let mut world = World::open_on(Some(Ground::new("")?), v4(), 64)?;
    let [ask, _] = established(&mut world)?;
    world.by_xdp(false)?;
    let ifindex = front(&mut world)?.ifindex();
    lead_out(&mut world, ifindex)?;
    let mut seq = 1001;
    let mut next_hop = || -> Result<[u8; 6]> {
        let sent = world.send(&ask.clone().seq(seq))?.packet;
        seq += 6;
        Ok(sent[..6].try_into()?)
    };
    next_hop()?;
    until_tick(31..=31)?;
    // The programs' clock may be a timer interrupt behind ours.
    until_tick(1..=23)?;
    let three = [next_hop()?, next_hop()?, next_hop()?];
    ensure!(three == [OWN_MAC, NEXT_MAC, NEXT_MAC], "{three:x?}");
    Ok(())
}

/// What the ground has been changed by, and what becomes of a segment there.
fn on_other_ground(at: Addresses, more: &str, payload: usize, expected: &str) -> Result<()> {
    let mut world = World::open_on(Some(Ground::new(more)?), at, 64)?;
    for segment in established(&mut world)? {
        fate(&world.send(&segment.payload(&vec![b'x'; payload]))?, expected).with_context(|| more.to_owned())?;
    }
    Ok(())
}

#[test]
fn the_kernel_decides_on_the_way() -> Result<()> {
    let (small4, small6) = (
        "route change default via 198.18.0.2 dev out mtu lock 1000",
        "route change default via fd00:18::2 dev out mtu lock 1300",
    );
    on_other_ground(v4(), small4, 961, "too_big")?;
    on_other_ground(v4(), small4, 960, "sent")?;
    on_other_ground(v6(), small6, 1241, "too_big")?;
    on_other_ground(v6(), small6, 1240, "sent")?;
    on_other_ground(v4(), "neigh del 198.18.0.2 dev out", 1, "no_way")?;
    on_other_ground(v6(), "neigh del fd00:18::2 dev out", 1, "no_way")?;
    on_other_ground(v4(), "route del default dev out\nroute add unreachable default", 1, "no_way")?;
    on_other_ground(v6(), "route del default via fd00:18::2 dev out", 1, "no_way")
}
