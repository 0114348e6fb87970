//! SYNs that find no open target, or others before them: taken aside whole, and nowhere else.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use proxy_ebpf::{
    nat::packet,
    parking::{LONGEST, mark, turn},
    state,
};

use crate::{
    wire::Segment,
    world::{Addresses, REDIRECT, SHOT, UNSPEC, World, v4, v6},
};

/// Every state of a target in which nobody new is let through.
const SHUT: [(u32, u64, u64); 3] = [(state::CLOSED, 0, 7), (state::PAUSED, 0, 7), (state::ESTABLISHED_ONLY, 7, 7)];

fn syn(at: Addresses) -> Segment {
    Segment::syn(at.client, at.door).seq(9000)
}

/// The frame is in the ring, as it came, with where it came from; the packet is nowhere.
fn taken(world: &mut World, frame: &[u8]) -> Result<()> {
    let outcome = world.run(frame)?;
    ensure!(outcome.verdict == SHOT, "verdict {}, counted {:?}", outcome.verdict, outcome.counted);
    outcome.counted(&[packet::PARKED])?;
    let record = world.parked()?.context("the ring is empty")?;
    ensure!(record.frame[..usize::from(record.length)] == *frame, "the frame is another one: {record:?}");
    ensure!((record.ifindex, record.route) == (1, 0), "{record:?}");
    ensure!(world.parked()?.is_none(), "there is more in the ring");
    Ok(())
}

fn left_alone(world: &mut World, frame: &[u8], fate: u32) -> Result<()> {
    let outcome = world.run(frame)?;
    ensure!(outcome.verdict == UNSPEC, "verdict {}, counted {:?}", outcome.verdict, outcome.counted);
    ensure!(outcome.packet == frame, "it was touched");
    outcome.counted(&[fate])?;
    ensure!(world.parked()?.is_none(), "it is in the ring");
    Ok(())
}

#[test]
fn a_syn_that_finds_no_open_target_is_taken_aside_whole() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        for (state, live, generation) in SHUT {
            world.lead(state, live, generation)?;
            taken(&mut world, &syn(at).bytes())?;
        }
        ensure!(world.usage()? == 0, "places are counted for flows that were not made");
    }
    Ok(())
}

#[test]
fn while_others_wait_nobody_overtakes_them_but_who_is_sent_on() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        world.turn(turn::HELD)?;
        taken(&mut world, &syn(at).bytes())?;
        let outcome = world.run_marked(&syn(at).bytes(), mark::TO_NODE)?;
        ensure!(outcome.verdict == REDIRECT, "verdict {}, counted {:?}", outcome.verdict, outcome.counted);
        outcome.counted(&[packet::NEW, packet::TO_NODE])?;
        ensure!(outcome.mark == 0, "its mark goes out with it");
        // The client's own next one is of that flow.
        world.run(&syn(at).bytes())?.counted(&[packet::TO_NODE])?;
    }
    Ok(())
}

#[test]
fn one_that_is_sent_on_to_a_target_that_shut_again_is_taken_aside_again() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    for turn in [turn::HELD, turn::LISTENER] {
        world.turn(turn)?;
        world.lead(state::PAUSED, 0, 7)?;
        let outcome = world.run_marked(&syn(at).bytes(), mark::TO_NODE)?;
        outcome.counted(&[packet::PARKED])?;
        ensure!(world.parked()?.is_some(), "it is lost");
    }
    Ok(())
}

#[test]
fn whose_time_is_up_goes_to_the_listener_whatever_the_target() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    for (state, live, generation) in SHUT.into_iter().chain([(state::OPEN, 7, 7)]) {
        world.lead(state, live, generation)?;
        world.turn(turn::HELD)?;
        let outcome = world.run_marked(&syn(at).bytes(), mark::TO_LISTENER)?;
        ensure!(outcome.verdict == UNSPEC && outcome.packet == syn(at).bytes(), "it was touched");
        ensure!(outcome.mark == 0, "the stack sees the mark");
        outcome.counted(&[packet::TURNED])?;
    }
    Ok(())
}

#[test]
fn marks_of_others_are_left_alone() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    for theirs in [1, mark::TO_NODE ^ 0x10, u32::MAX] {
        let outcome = world.run_marked(&syn(at).bytes(), theirs)?;
        ensure!(outcome.mark == theirs, "{theirs:#x} became {:#x}", outcome.mark);
    }
    Ok(())
}

#[test]
fn without_room_all_are_left_to_the_listener() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.turn(turn::LISTENER)?;
    left_alone(&mut world, &syn(at).bytes(), packet::LISTENER)?;
    world.lead(state::PAUSED, 0, 7)?;
    left_alone(&mut world, &syn(at).bytes(), packet::LISTENER)
}

#[test]
fn a_full_ring_leaves_them_to_the_listener() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.lead(state::PAUSED, 0, 7)?;
    let syn = syn(at).bytes();
    let mut taken = 0_u32;
    let last = loop {
        let outcome = world.run(&syn)?;
        if outcome.verdict != SHOT {
            break outcome;
        }
        taken += 1;
    };
    ensure!(taken > 5000, "the ring holds {taken} only");
    ensure!(last.verdict == UNSPEC && last.packet == syn, "it was touched");
    last.counted(&[packet::UNPARKED])?;
    world.parked()?.context("the ring is empty")?;
    world.run(&syn)?.counted(&[packet::PARKED])
}

#[test]
fn one_that_is_too_long_is_left_to_the_listener() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.lead(state::PAUSED, 0, 7)?;
    let of_length = |length: usize| syn(at).payload(&vec![7; length - 54]).bytes();
    taken(&mut world, &of_length(LONGEST))?;
    left_alone(&mut world, &of_length(LONGEST + 1), packet::UNPARKED)
}

#[test]
fn strangers_and_the_daemonless_are_not_parked() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.lead(state::PAUSED, 0, 7)?;
    world.silent_for(3_000_000_000)?;
    left_alone(&mut world, &syn(at).bytes(), packet::LISTENER)?;
    world.silent_for(6_000_000_000)?;
    left_alone(&mut world, &syn(at).bytes(), packet::ORPHANED)?;
    world.silent_for(0)?;
    taken(&mut world, &syn(at).bytes())?;
    world.allow_nobody()?;
    left_alone(&mut world, &syn(at).bytes(), packet::NOT_ALLOWED)
}

/// A daemon that was killed while others waited must not keep new clients from the master that still is.
#[test]
fn a_silent_daemon_holds_nobody() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.turn(turn::HELD)?;
    world.silent_for(3_000_000_000)?;
    world.run(&syn(at).bytes())?.counted(&[packet::NEW, packet::TO_NODE])
}

#[test]
fn a_client_that_says_it_leaves_is_heard_by_both() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    world.lead(state::PAUSED, 0, 7)?;
    let rst = Segment::new(at.client, at.door).seq(9001).rst().bytes();
    left_alone(&mut world, &rst, packet::NO_FLOW)?;
    world.turn(turn::HELD)?;
    let outcome = world.run(&rst)?;
    ensure!(outcome.verdict == UNSPEC && outcome.packet == rst, "it was touched");
    outcome.counted(&[packet::NO_FLOW])?;
    let record = world.parked()?.context("the ring is empty")?;
    ensure!(record.frame[..usize::from(record.length)] == *rst, "{record:?}");
    // Others of no flow are nobody's business.
    let stray = Segment::new(at.client, at.door).seq(9001).ack(1).bytes();
    left_alone(&mut world, &stray, packet::NO_FLOW)
}

#[test]
fn a_client_of_another_family_is_parked_as_well_and_then_the_listeners() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    let other: SocketAddr = v6().node;
    world.lead_to(other, state::PAUSED, 0, 8)?;
    taken(&mut world, &syn(at).bytes())?;
    world.lead_to(other, state::OPEN, 8, 8)?;
    world.run_marked(&syn(at).bytes(), mark::TO_NODE)?.counted(&[packet::LISTENER])
}
