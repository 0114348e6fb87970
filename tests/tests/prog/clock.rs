//! The programs' clock: the kernel's timer ticks, set by its monotonic clock at a SYN.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use nix::time::{ClockId, clock_gettime};
use proxy_ebpf::nat::{Globals, TICK_SHIFT, names};
use switchmaster_tests::wait;

use crate::{
    wire::Segment,
    world::{FIRST_PORT, World, v4},
};

/// How far the record of a segment that is sent now is from the time, in ticks.
fn error(world: &mut World, sequence: u32) -> Result<u32> {
    let ask = Segment::new(world.at.client, world.at.door).seq(sequence).ack(5001).payload(b"x");
    world.send(&ask)?;
    let seen = world.flow(FIRST_PORT)?.client.seen;
    let now = Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC)?).as_nanos() as u64 >> TICK_SHIFT;
    Ok((now as u32).wrapping_sub(seen).cast_signed().unsigned_abs())
}

#[test]
fn a_record_says_when_an_end_was_heard() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    world.connect(world.at.client)?;
    ensure!(world.array::<Globals>(names::GLOBALS)?.get(&0, 0)?.clock.zero != 0, "it was not set by a SYN");
    for turn in 0..4 {
        wait::pause(Duration::from_millis(400));
        let error = error(&mut world, 1001 + turn)?;
        ensure!(error <= 1, "{error} ticks from the time");
    }
    Ok(())
}

#[test]
fn a_clock_that_is_wrong_is_set_by_the_next_syn() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    world.connect(world.at.client)?;
    world.globals(|globals| globals.clock.zero -= 100_000)?;
    let wrong = error(&mut world, 1001)?;
    ensure!(wrong > 100, "{wrong} ticks from the time: it is another clock");
    world.send(&Segment::syn(SocketAddr::new(world.at.client.ip(), 40_900), world.at.door))?;
    let right = error(&mut world, 1002)?;
    ensure!(right <= 1, "{right} ticks from the time");
    Ok(())
}

#[test]
fn who_does_not_know_how_long_a_tick_is_asks_the_kernel() -> Result<()> {
    let mut world = World::open(v4(), 64)?;
    world.connect(world.at.client)?;
    world.globals(|globals| (globals.clock.jiffy, globals.clock.zero) = (0, 7))?;
    let error = error(&mut world, 1001)?;
    ensure!(error <= 1, "{error} ticks from the time");
    Ok(())
}
