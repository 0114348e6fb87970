//! Limits: places, ports, half-open flows, and the daemon's own life.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use proxy_ebpf::nat::{ALLOWED_MAPPED_BITS, ALLOWED_ROUTE_BITS, MOST_HALF_OPEN, family, packet};

use crate::{
    wire::Segment,
    world::{UNSPEC, World, mapped, v4, v6},
};

fn syn_from(world: &World, number: u32) -> Segment {
    let [_, a, b, c] = number.to_be_bytes();
    Segment::syn(([10, a, b, c], 1024).into(), world.at.door)
}

#[test]
fn more_than_max_connections_go_to_the_listener() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.limit(2)?;
    world.connect(at.client)?;
    world.connect(SocketAddr::new(at.client.ip(), 40_002))?;
    let syn = Segment::syn(SocketAddr::new(at.client.ip(), 40_003), at.door);
    let outcome = world.send(&syn)?;
    outcome.counted(&[packet::FULL])?;
    ensure!(outcome.verdict == UNSPEC && outcome.packet == syn.bytes(), "it was touched");
    ensure!(world.usage()? == 2, "{} places are counted", world.usage()?);
    // Who leaves makes room at once, not when the collector comes by.
    world.send(&Segment::new(at.client, at.door).seq(1001).rst())?;
    world.send(&syn)?.counted(&[packet::NEW, packet::TO_NODE])
}

/// Those who come at once have all begun before the first of them counts.
#[test]
fn of_those_who_come_at_once_no_more_than_max_connections_are_kept() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.limit(2)?;
    let clients = [40_001, 40_002, 40_003].map(|port| SocketAddr::new(at.client.ip(), port));
    let mut acks = Vec::new();
    for client in clients {
        acks.push(world.half_open(client)?.1);
    }
    world.send(&acks[0])?.counted(&[packet::ESTABLISHED, packet::TO_NODE])?;
    world.send(&acks[1])?.counted(&[packet::ESTABLISHED, packet::TO_NODE])?;
    let outcome = world.send(&acks[2])?;
    outcome.counted(&[packet::FULL])?;
    ensure!(outcome.verdict == UNSPEC && outcome.packet == acks[2].bytes(), "it was touched");
    ensure!(world.usage()? == 2, "{} places are counted", world.usage()?);
    world.send(&acks[2])?.counted(&[packet::NO_FLOW])
}

#[test]
fn who_is_not_allowed_goes_to_the_listener() -> Result<()> {
    for (at, bits) in [(v4(), ALLOWED_MAPPED_BITS + 24), (v6(), ALLOWED_ROUTE_BITS + 64)] {
        let mut world = World::open(at, 64)?;
        let syn = Segment::syn(at.client, at.door);
        world.allow_nobody()?;
        world.send(&syn)?.counted(&[packet::NOT_ALLOWED])?;
        world.allow(bits, mapped(at.node.ip()), family::ALL)?;
        world.send(&syn)?.counted(&[packet::NOT_ALLOWED])?;
        // The other family's: `::/0` covers the mapped addresses too, and lets no IPv4 client in.
        let (own, other) = if at.client.is_ipv4() { (family::V4, family::V6) } else { (family::V6, family::V4) };
        world.allow(ALLOWED_ROUTE_BITS, [0; 16], other)?;
        world.send(&syn)?.counted(&[packet::NOT_ALLOWED])?;
        world.allow(bits, mapped(at.client.ip()), own)?;
        world.send(&syn)?.counted(&[packet::NEW, packet::TO_NODE])?;
    }
    Ok(())
}

#[test]
fn without_a_free_port_a_client_goes_to_the_listener() -> Result<()> {
    let mut world = World::open(v4(), 3)?;
    for number in 0..3 {
        world.send(&syn_from(&world, number))?.counted(&[packet::NEW, packet::TO_NODE])?;
    }
    world.send(&syn_from(&world, 3))?.counted(&[packet::NO_PORT])?;
    ensure!(world.usage()? == 0, "half-open flows are counted");
    Ok(())
}

#[test]
fn the_clients_end_chooses_among_own_addresses_and_a_free_port_is_found_on_any() -> Result<()> {
    for (at, second) in [(v4(), IpAddr::from([203, 0, 113, 10])), (v6(), "2001:db8:0:9::10".parse()?)] {
        let mut world = World::open(at, 2)?;
        world.own(6, second, 1000, 1)?;
        world.seen_as(&[5, 6])?;
        let client = at.client.ip();
        for (port, own) in [(1024, at.snat), (1026, second), (1030, at.snat)] {
            let made = world.send(&Segment::syn(SocketAddr::new(client, port), at.door))?;
            made.counted(&[packet::NEW, packet::TO_NODE])?;
            let seen = Segment::read(&made.packet)?.from;
            ensure!(seen.ip() == own, "the client's port {port} is seen from {seen}");
            // The way back is the address's own.
            let back = Segment::syn(at.node, seen).seq(5000).ack(1001);
            world.send(&back)?.counted(&[packet::TO_CLIENT])?;
        }
        let late = Segment::syn(SocketAddr::new(client, 1028), at.door);
        world.send(&late)?.counted(&[packet::NO_PORT])?;
        world.seen_as(&[])?;
        world.send(&late)?.counted(&[packet::NO_PORT])?;
    }
    Ok(())
}

#[test]
fn new_flows_end_with_the_daemons_grace_and_old_ones_do_not() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.connect(at.client)?;
    world.beat(1)?;
    world.send(&syn_from(&world, 0))?.counted(&[packet::ORPHANED])?;
    let ask = Segment::new(at.client, at.door).seq(1001).ack(5001).payload(b"x");
    world.send(&ask)?.counted(&[packet::TO_NODE])
}

#[test]
fn a_flood_ends_its_own_half_open_flows_only() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 9000)?;
    world.limit(2)?;
    world.connect(at.client)?;
    let [mut evicted, mut made] = [0; 2];
    for number in 0..3 * MOST_HALF_OPEN {
        let outcome = world.send(&syn_from(&world, number))?;
        made += outcome.counted.get("new").copied().unwrap_or(0);
        evicted += outcome.counted.get("evicted").copied().unwrap_or(0);
    }
    ensure!(made == u64::from(3 * MOST_HALF_OPEN), "only {made} flows were made");
    // The established one has left its turn among the half-open ones to nobody.
    ensure!(evicted == u64::from(2 * MOST_HALF_OPEN), "{evicted} flows were evicted");
    ensure!(world.usage()? == 1, "{} places are counted", world.usage()?);
    let ask = Segment::new(at.client, at.door).seq(1001).ack(5001).payload(b"x");
    world.send(&ask)?.counted(&[packet::TO_NODE])
}
