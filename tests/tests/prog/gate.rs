//! What the switch says is what happens, from the very next packet on.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use proxy_ebpf::{
    nat::{First, names, packet},
    state,
};

use crate::{
    wire::Segment,
    world::{Outcome, SHOT, UNSPEC, World, v4, v6},
};

fn both_ways(world: &mut World, port: u16) -> Result<[Outcome; 2]> {
    let at = world.at;
    let ask = Segment::new(at.client, at.door).seq(1001).ack(5001).payload(b"x");
    let reply = Segment::new(at.node, SocketAddr::new(at.snat, port)).seq(5001).ack(1001).payload(b"y");
    Ok([world.send(&ask)?, world.send(&reply)?])
}

#[test]
fn a_pause_holds_both_ways_and_loses_no_flow() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let port = world.connect(at.client)?;
        world.lead(state::PAUSED, 0, 7)?;
        for outcome in both_ways(&mut world, port)? {
            ensure!(outcome.verdict == SHOT, "verdict {}", outcome.verdict);
            outcome.counted(&[packet::HELD])?;
        }
        world.lead(state::OPEN, 7, 7)?;
        let [ask, reply] = both_ways(&mut world, port)?;
        ask.counted(&[packet::TO_NODE])?;
        reply.counted(&[packet::TO_CLIENT])?;
    }
    Ok(())
}

#[test]
fn a_flow_of_an_old_generation_is_left_to_the_stack_for_its_reset() -> Result<()> {
    let ends = [(state::CLOSED, 0, 7), (state::OPEN, 8, 8), (state::PAUSED, 0, 8)];
    for (state, live, generation) in ends {
        let at = v4();
        let mut world = World::open(at, 64)?;
        let port = world.connect(at.client)?;
        world.lead(state, live, generation)?;
        for outcome in both_ways(&mut world, port)? {
            ensure!(outcome.verdict == UNSPEC, "verdict {} for {state}", outcome.verdict);
            outcome.counted(&[packet::RESET])?;
        }
    }
    Ok(())
}

#[test]
fn established_flows_live_on_where_new_ones_wait() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    let port = world.connect(at.client)?;
    world.lead(state::ESTABLISHED_ONLY, 7, 7)?;
    let [ask, reply] = both_ways(&mut world, port)?;
    ask.counted(&[packet::TO_NODE])?;
    reply.counted(&[packet::TO_CLIENT])?;
    let other = SocketAddr::new(at.client.ip(), 40_002);
    world.send(&Segment::syn(other, at.door))?.counted(&[packet::PARKED])
}

#[test]
fn a_client_that_comes_back_after_a_switch_goes_to_the_new_node() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.connect(at.client)?;
    let new: SocketAddr = ([203, 0, 113, 3], 6381).into();
    world.lead_to(new, state::OPEN, 8, 8)?;
    let syn = Segment::syn(at.client, at.door).seq(9000);
    let outcome = world.send(&syn)?;
    outcome.counted(&[packet::NEW, packet::TO_NODE])?;
    let out = Segment::read(&outcome.packet)?;
    ensure!(out.to == new, "it goes to {}", out.to);
    Ok(())
}

#[test]
fn no_flow_is_made_to_a_target_of_another_family() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    let syn = Segment::syn(at.client, at.door);
    world.lead_to(v6().node, state::OPEN, 8, 8)?;
    world.send(&syn)?.counted(&[packet::LISTENER])?;
    ensure!(world.usage()? == 0, "places are counted for flows that were not made");
    Ok(())
}

#[test]
fn the_first_flow_of_each_generation_is_remembered() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    let first = |world: &mut World| -> Result<First> { Ok(world.array(names::FIRSTS)?.get(&0, 0)?) };
    let client = |port| SocketAddr::new(at.client.ip(), port);
    world.send(&Segment::syn(client(1), at.door))?;
    ensure!(first(&mut world)?.generation == 0, "one that is half-open counts");
    world.connect(client(2))?;
    let seventh = first(&mut world)?;
    world.connect(client(3))?;
    ensure!(seventh.generation == 7 && first(&mut world)? == seventh, "{seventh:?}, then {:?}", first(&mut world)?);
    world.lead(state::OPEN, 8, 8)?;
    world.connect(client(4))?;
    let eighth = first(&mut world)?;
    ensure!(eighth.generation == 8 && eighth.at > seventh.at, "{seventh:?}, then {eighth:?}");
    Ok(())
}
