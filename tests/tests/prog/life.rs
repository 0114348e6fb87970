//! A flow from its first packet to its last, and what is remembered of it.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use anyhow::{Context as _, Result, ensure};
use proxy_ebpf::nat::{flow, fold, halves, packet};

use crate::{
    wire::Segment,
    world::{Addresses, FIRST_PORT, UNSPEC, World, mapped, v4, v6},
};

fn from_handshake_to_fin(at: Addresses) -> Result<()> {
    let mut world = World::open(at, 64)?;
    let own = SocketAddr::new(at.snat, FIRST_PORT);
    let to_node = |segment: &Segment| segment.translated(own, at.node);
    let to_client = |segment: &Segment| segment.translated(at.door, at.client);

    let syn = Segment::syn(at.client, at.door).seq(1000);
    world.through(&syn, &to_node(&syn))?.counted(&[packet::NEW, packet::TO_NODE])?;
    ensure!(world.flow(FIRST_PORT)?.state & flow::MASK == flow::HALF, "it is open before its handshake");
    ensure!(world.usage()? == 0, "it has a place before its handshake");
    // The client did not hear of it, and asks again: the same flow.
    world.through(&syn, &to_node(&syn))?.counted(&[packet::TO_NODE])?;
    let syn_ack = Segment::syn(at.node, own).seq(5000).ack(1001);
    world.through(&syn_ack, &to_client(&syn_ack))?.counted(&[packet::TO_CLIENT])?;
    // Somebody who did not see the answer cannot acknowledge it.
    let blind = Segment::new(at.client, at.door).seq(1001).ack(77);
    world.through(&blind, &to_node(&blind))?.counted(&[packet::TO_NODE])?;
    let ack = Segment::new(at.client, at.door).seq(1001).ack(5001);
    world.through(&ack, &to_node(&ack))?.counted(&[packet::ESTABLISHED, packet::TO_NODE])?;

    ensure!(world.usage()? == 1, "it has no place");
    let ask = ack.clone().payload(b"*1\r\n$4\r\nPING\r\n");
    world.through(&ask, &to_node(&ask))?.counted(&[packet::TO_NODE])?;
    let reply = Segment::new(at.node, own).seq(5001).ack(1015).payload(b"+PONG\r\n");
    world.through(&reply, &to_client(&reply))?.counted(&[packet::TO_CLIENT])?;
    // Sent again: counted as a packet, but no step forward.
    world.through(&reply, &to_client(&reply))?;
    let fin = Segment::new(at.client, at.door).seq(1015).ack(5008).fin();
    world.through(&fin, &to_node(&fin))?;
    ensure!(world.usage()? == 1, "one end still sends");
    let end = Segment::new(at.node, own).seq(5008).ack(1016).fin();
    world.through(&end, &to_client(&end))?;
    ensure!(world.usage()? == 0, "nobody sends any more, and it counts among the route's connections");
    // It was lost: what is under way still passes, and counts nothing twice.
    world.through(&end, &to_client(&end))?.counted(&[packet::TO_CLIENT])?;
    ensure!(world.usage()? == 0, "{} places are counted", world.usage()?);

    let known = world.flow(FIRST_PORT)?;
    ensure!(known.state & flow::MASK == flow::CLOSED, "state {:#x}", known.state);
    let (client, node) = (known.client, known.node);
    ensure!((client.next, client.acked, client.bytes, client.packets) == (1016, 5008, 14, 6), "{client:?}");
    ensure!((node.next, node.acked, node.bytes, node.packets) == (5009, 1016, 14, 5), "{node:?}");
    ensure!(known.client_flags & known.node_flags & 1 == 1, "an end was not noted");
    Ok(())
}

fn dialled(at: SocketAddr) -> u16 {
    fold(halves(mapped(at.ip())), at.port().to_be_bytes())
}

/// Another address that has the same fold.
fn like(door: SocketAddr) -> Result<SocketAddr> {
    let ip = match door.ip() {
        IpAddr::V4(ip) => Ipv4Addr::from(u32::from(ip) + 1).into(),
        IpAddr::V6(ip) => Ipv6Addr::from(u128::from(ip) + 1).into(),
    };
    let mut others = (1..=u16::MAX).map(|port| SocketAddr::new(ip, port));
    others.find(|other| dialled(*other) == dialled(door)).context("no port has the same fold")
}

#[test]
fn flows_whose_keys_are_the_same_do_not_meet() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let other = like(at.door)?;
        world.connect(at.client)?;
        let before = world.flow(FIRST_PORT)?;
        let ask = |to| Segment::new(at.client, to).seq(1001).ack(5001).payload(b"PING");
        let stray = world.send(&ask(other))?;
        ensure!(stray.verdict == UNSPEC, "what is sent to another address went to the node");
        stray.counted(&[packet::NOT_OURS])?;
        world.door(4, other, 10)?;
        world.send(&ask(other))?.counted(&[packet::NO_FLOW])?;
        let syn = world.send(&Segment::syn(at.client, other))?;
        ensure!(syn.verdict == UNSPEC, "the verdict on its SYN is {}", syn.verdict);
        syn.counted(&[packet::NO_PORT])?;
        ensure!(!world.is_taken(FIRST_PORT + 1)?, "the place that it got is lost");
        ensure!(world.flow(FIRST_PORT)? == before, "the first flow has changed");
        let own = SocketAddr::new(at.snat, FIRST_PORT);
        world.through(&ask(at.door), &ask(at.door).translated(own, at.node))?;
        // From another port there is nothing in its way.
        let neighbour = SocketAddr::new(at.client.ip(), at.client.port() + 1);
        world.send(&Segment::syn(neighbour, other))?.counted(&[packet::NEW, packet::TO_NODE])?;
    }
    Ok(())
}

#[test]
fn where_nobody_listens_any_more_nothing_is_translated() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    let at = world.at;
    world.connect(at.client)?;
    world.shut_door(3, at.door)?;
    let ask = Segment::new(at.client, at.door).seq(1001).ack(5001).payload(b"PING");
    let outcome = world.send(&ask)?;
    ensure!(outcome.verdict == UNSPEC, "it went to the node");
    outcome.counted(&[packet::NOT_OURS])?;
    world.limit(10)?;
    let own = SocketAddr::new(at.snat, FIRST_PORT);
    world.through(&ask, &ask.translated(own, at.node)).map(drop)
}

#[test]
fn doors_of_one_host_have_different_folds() {
    let ports = (1..=u16::MAX).map(|port| SocketAddr::from(([10, 0, 0, 1], port)));
    let most = ports.fold(HashMap::<u16, u32>::new(), |mut counts, at| {
        *counts.entry(dialled(at)).or_default() += 1;
        counts
    });
    assert!(most.values().all(|count| *count <= 3), "{} folds", most.len());
    let addresses = (0..=255).map(|last| dialled(SocketAddr::from(([10, 0, 0, last], 6379))));
    assert_eq!(addresses.collect::<HashSet<_>>().len(), 256);
    let others = (0..=255).map(|last| dialled(SocketAddr::from(([0xfd00, 0, 0, 0, 0, 0, 0, last], 6379))));
    assert_eq!(others.collect::<HashSet<_>>().len(), 256);
}

#[test]
fn from_handshake_to_fin_v4() -> Result<()> {
    from_handshake_to_fin(v4())
}

#[test]
fn from_handshake_to_fin_v6() -> Result<()> {
    from_handshake_to_fin(v6())
}

#[test]
fn a_client_port_that_is_used_again_gets_a_new_flow() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    let first = world.connect(at.client)?;
    world.send(&Segment::new(at.client, at.door).seq(1001).ack(5001).rst())?;
    ensure!(world.usage()? == 0, "a flow that was reset counts among the route's connections");
    let second = world.connect(at.client)?;
    ensure!(first != second, "the port that was just given back is used at once");
    ensure!(world.flow(first)?.state & flow::MASK == flow::FREE, "the old place is still taken");
    ensure!(!world.is_taken(first)? && world.is_taken(second)?, "the daemon looks at a free place, or not at a flow");
    ensure!(world.usage()? == 1, "{} places are counted for one flow", world.usage()?);
    Ok(())
}

/// Who sends under somebody's address without seeing the answers moves nothing that a RST needs, and ends nothing.
#[test]
fn a_blind_stranger_changes_no_record() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let port = world.connect(at.client)?;
        let before = world.flow(port)?;
        let far = 1001_u32.wrapping_add(1 << 31);
        let blind = Segment::new(at.client, at.door);
        for segment in
            [blind.clone().seq(far).ack(1).payload(b"x"), blind.clone().seq(far).ack(1).fin(), blind.seq(77).rst()]
        {
            world.send(&segment)?;
            let after = world.flow(port)?;
            let is_same = (after.client.next, after.client.acked) == (before.client.next, before.client.acked);
            ensure!(is_same && after.client_flags == before.client_flags, "{segment:?}: {after:?}");
        }
        world.send(&Segment::new(at.client, at.door).seq(1001).rst())?;
        ensure!(world.flow(port)?.client_flags & 4 != 0, "the client's own RST was not noted");
    }
    Ok(())
}

#[test]
fn ports_are_used_in_turn() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 4)?;
    let mut used = Vec::new();
    for _ in 0..5 {
        used.push(world.connect(at.client)?);
        world.send(&Segment::new(at.client, at.door).seq(1001).ack(5001).rst())?;
    }
    ensure!(used == [FIRST_PORT, FIRST_PORT + 1, FIRST_PORT + 2, FIRST_PORT + 3, FIRST_PORT], "{used:?}");
    Ok(())
}

#[test]
fn only_the_node_itself_answers() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    let port = world.connect(at.client)?;
    let own = SocketAddr::new(at.snat, port);
    let stranger: SocketAddr = ([203, 0, 113, 77], at.node.port()).into();
    let other_port = SocketAddr::new(at.node.ip(), at.node.port() + 1);
    for source in [stranger, other_port] {
        let spoofed = Segment::new(source, own).seq(5001).ack(1001).payload(b"no");
        let outcome = world.send(&spoofed)?;
        outcome.counted(&[packet::NO_FLOW])?;
        ensure!(outcome.packet == spoofed.bytes(), "it was touched");
    }
    Ok(())
}
