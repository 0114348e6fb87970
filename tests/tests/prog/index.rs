//! The index of flows: whoever finds no room in it is the listener's, and one client never has two entries.

use std::{net::SocketAddr, sync::Barrier, thread};

use anyhow::{Context as _, Result, ensure};
use aya::programs::{SchedClassifier, TestRun as _, TestRunOptions};
use proxy_ebpf::{
    index::{Bucket, EMPTY, ENTRIES, place},
    nat::{flow, names, packet},
};

use crate::{
    wire::Segment,
    world::{World, v4},
};

fn syn_from(world: &World, port: u16) -> Segment {
    Segment::syn(SocketAddr::new(world.at.client.ip(), port), world.at.door)
}

fn led(world: &mut World) -> Result<Vec<u32>> {
    let index = world.array::<Bucket>(names::FLOW_OF)?;
    let buckets = (0..index.len()).map(|at| Ok(index.get(&at, 0)?)).collect::<Result<Vec<Bucket>>>()?;
    Ok(buckets.concat().into_iter().filter(|entry| *entry != EMPTY).map(place).collect())
}

/// With two buckets, each of which is the second one of some clients.
#[test]
fn who_finds_no_room_goes_to_the_listener_until_somebody_leaves() -> Result<()> {
    let at = v4();
    let mut world = World::with_buckets(at, 64, 2)?;
    let client = |port| SocketAddr::new(at.client.ip(), port);
    let (mut clients, mut refused) = (Vec::new(), Vec::new());
    for port in 1..=40 {
        let made = world.send(&syn_from(&world, port))?;
        if made.counted.contains_key(packet::NAMES[packet::NEW as usize]) { &mut clients } else { &mut refused }
            .push(port);
    }
    ensure!(clients.len() == 2 * ENTRIES, "{} clients found room", clients.len());
    // Each is found, whichever bucket it is in: the SYN again is of its flow.
    for port in &clients {
        world.send(&syn_from(&world, *port))?.counted(&[packet::TO_NODE])?;
    }
    let late = syn_from(&world, refused[0]);
    for _ in 0..100 {
        // More often than there are ports: whoever is turned away keeps none.
        world.send(&late)?.counted(&[packet::NO_PORT])?;
    }
    // Who has left and comes again on the same addresses takes the room that it had.
    for port in &clients {
        world.send(&Segment::new(client(*port), at.door).seq(1001).rst())?.counted(&[packet::TO_NODE])?;
        world.send(&syn_from(&world, *port))?.counted(&[packet::NEW, packet::TO_NODE])?;
    }
    ensure!(led(&mut world)?.len() == 2 * ENTRIES, "{:?}", led(&mut world)?);
    Ok(())
}

/// A NIC keeps a flow on one queue, but a client's SYN may come by two interfaces.
#[test]
fn of_one_syn_on_two_cpus_at_most_one_makes_a_flow() -> Result<()> {
    const CLIENTS: u16 = 2000;
    let mut world = World::open(v4(), 10_000)?;
    let start = Barrier::new(2);
    let program: &SchedClassifier = world.program(names::TC)?.try_into()?;
    let send = || -> Result<()> {
        for port in 1..=CLIENTS {
            let packet = syn_from(&world, port).bytes();
            start.wait();
            program.test_run(TestRunOptions { data_in: Some(&packet), ..TestRunOptions::default() })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let other = scope.spawn(send);
        send()?;
        other.join().ok().context("the other CPU's thread panicked")?
    })?;
    let mut led = led(&mut world)?;
    let entries = led.len();
    led.sort_unstable();
    led.dedup();
    ensure!(led.len() == entries, "{} places have two entries", entries - led.len());
    let flows = world.flows()?;
    let mut clients: Vec<_> = flows.iter().map(|(_, flow)| flow.client.port).collect();
    clients.sort_unstable();
    clients.dedup();
    ensure!(clients.len() == flows.len(), "{} clients have two flows", flows.len() - clients.len());
    ensure!(flows.iter().all(|(place, _)| led.binary_search(place).is_ok()), "a flow that nobody finds");
    ensure!(entries == flows.len(), "{entries} entries for {} flows", flows.len());
    let left = world.counted()?.get(packet::NAMES[packet::NO_PORT as usize]).copied().unwrap_or(0);
    ensure!(left == 0, "{left} SYNs were left to the listener");
    // Where both saw each other neither has one, and the client sends its SYN again.
    ensure!(flows.len() > usize::from(CLIENTS) / 2, "only {} of {CLIENTS} clients have a flow", flows.len());
    ensure!(flows.iter().all(|(_, flow)| flow.state & flow::MASK == flow::HALF), "not half-open");
    Ok(())
}
