//! Routes to replicas: to which slot a SYN goes, for each way to balance them, and what it does when the lists that
//! propose a slot are older than the entries that decide.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use aya::maps::{Array, ArrayOfMaps, MapData};
use proxy_ebpf::{
    TargetKey,
    balance::{self, Balance, Load, PLACES, SLOTS, Table, kind},
    nat::packet,
    state,
};

use crate::{
    wire::Segment,
    world::{Addresses, LOOPBACK, REDIRECT, SHOT, UNSPEC, World, egress, v4, v6},
};

const GENERATION: u64 = 7;

/// The node that holds a slot of these tests, in the world's family.
fn node(at: Addresses, slot: u16) -> SocketAddr {
    SocketAddr::new(at.node.ip(), 7000 + slot)
}

/// The clients of these tests have an address each.
pub(crate) fn address(at: Addresses, number: u32) -> IpAddr {
    match at.client.ip() {
        IpAddr::V4(ip) => IpAddr::from((u32::from(ip) + (number << 4)).to_be_bytes()),
        IpAddr::V6(ip) => IpAddr::from((u128::from(ip) + (u128::from(number) << 64)).to_be_bytes()),
    }
}

fn client(at: Addresses, number: u16) -> SocketAddr {
    SocketAddr::new(address(at, u32::from(number)), 40_001)
}

/// The slot a SYN of this client was led to.
pub(crate) fn led(world: &mut World, from: SocketAddr) -> Result<u16> {
    let at = world.at;
    let outcome = world.send(&Segment::syn(from, at.door))?;
    ensure!(outcome.verdict == REDIRECT, "verdict {}, counted {:?}", outcome.verdict, outcome.counted);
    outcome.counted(&[packet::NEW, packet::TO_NODE])?;
    let to = Segment::read(&outcome.packet)?.to;
    let slot = to.port() - 7000;
    ensure!(to == node(at, slot), "it went to {to}");
    Ok(slot)
}

/// `number` clients after another; how many each of `slots` got, and nobody else any.
pub(crate) fn shares(world: &mut World, from: u16, number: u16, slots: &[u16]) -> Result<Vec<usize>> {
    let at = world.at;
    let mut shares = vec![0; slots.len()];
    for number in from..from + number {
        let slot = led(world, client(at, number))?;
        let at = slots.iter().position(|one| *one == slot).with_context(|| format!("slot {slot} got one"))?;
        shares[at] += 1;
    }
    Ok(shares)
}

/// Until the route leads somewhere.
fn parked(world: &mut World, from: SocketAddr) -> Result<()> {
    let outcome = world.send(&Segment::syn(from, world.at.door))?;
    outcome.counted(&[packet::PARKED])?;
    ensure!(outcome.verdict == SHOT && world.parked()?.is_some(), "it is nowhere");
    Ok(())
}

fn left_to_the_listener(world: &mut World, from: SocketAddr) -> Result<()> {
    let syn = Segment::syn(from, world.at.door);
    let outcome = world.send(&syn)?;
    outcome.counted(&[packet::LISTENER])?;
    ensure!(outcome.verdict == UNSPEC && outcome.packet == syn.bytes(), "it was touched");
    Ok(())
}

impl World {
    /// A route to replicas with these slots, all open and listed.
    pub(crate) fn replicas(at: Addresses, kind: u32, slots: &[u16]) -> Result<Self> {
        let mut world = Self::open(at, 4096)?;
        // The master's slot is another route's here.
        world.slot_is(0, node(at, 0), state::CLOSED, 0)?;
        for &slot in slots {
            world.slot_is(slot, node(at, slot), state::OPEN, GENERATION)?;
            let key = TargetKey { route: 0, slot: u32::from(slot) };
            world.hash(proxy_ebpf::nat::names::EGRESS)?.insert(key, egress(LOOPBACK, &[5]), 0)?;
        }
        world.list(at.client.is_ipv6(), kind, slots)?;
        Ok(world)
    }

    fn slot_is(&mut self, slot: u16, node: SocketAddr, state: u32, live: u64) -> Result<()> {
        self.lead_slot(u32::from(slot), node, (state, live, GENERATION))
    }

    /// Shuts a slot, and leaves the list as it is.
    pub(crate) fn shut(&mut self, slot: u16) -> Result<()> {
        self.slot_is(slot, node(self.at, slot), state::CLOSED, 0)
    }

    fn list(&mut self, v6: bool, kind: u32, listed: &[u16]) -> Result<()> {
        let mut slots = [0; SLOTS as usize];
        slots[..listed.len()].copy_from_slice(listed);
        let record = Balance { kind, count: listed.len() as u32, slots };
        Ok(self.array(balance::names::BALANCE)?.set(balance::of_route(0, v6), record, 0)?)
    }

    pub(crate) fn table(&mut self, v6: bool, table: &Table) -> Result<()> {
        let mut inner = Array::<MapData, Table>::create(1, 0)?;
        inner.set(0, table, 0)?;
        let map = self.object().map_mut(balance::names::MAGLEV).context("no tables")?;
        Ok(ArrayOfMaps::<_, Array<MapData, Table>>::try_from(map)?.set(balance::of_route(0, v6), &inner, 0)?)
    }

    fn load(&mut self, slot: u16) -> Result<Load> {
        Ok(self.array(balance::names::LOADS)?.get(&balance::of_slot(0, u32::from(slot)), 0)?)
    }

    fn loaded(&mut self, slot: u16, taken: u64) -> Result<()> {
        let load = Load { taken, established: 0 };
        Ok(self.array(balance::names::LOADS)?.set(balance::of_slot(0, u32::from(slot)), load, 0)?)
    }
}

#[test]
fn round_robin_gives_each_replica_the_same() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::replicas(at, kind::ROUND_ROBIN, &[1, 4, 255])?;
        ensure!(shares(&mut world, 0, 30, &[1, 4, 255])? == [10, 10, 10]);
        // Clients that come by both families in turn would else meet every other replica only.
        let other = balance::of_route(0, !at.client.is_ipv6());
        ensure!(world.array::<u64>(balance::names::TURN)?.get(&other, 0)? == 0, "it was the other family's turn");
        let next = led(&mut world, client(at, 100))?;
        // Sent again, a SYN belongs to its flow and takes nobody's turn.
        let again = world.send(&Segment::syn(client(at, 100), at.door))?;
        ensure!(Segment::read(&again.packet)?.to == node(at, next), "it went elsewhere");
        let after = [led(&mut world, client(at, 101))?, led(&mut world, client(at, 102))?];
        let wheel = [1, 4, 255, 1, 4];
        ensure!(wheel.windows(3).any(|three| three == [next, after[0], after[1]]), "{next}, then {after:?}");
    }
    Ok(())
}

/// What is listed is a proposal: the entry of the slot decides, at this very SYN.
#[test]
fn a_replica_that_is_shut_is_passed_over_whatever_the_list_says() -> Result<()> {
    let at = v4();
    for kind in [kind::ROUND_ROBIN, kind::LEAST_CONNECTIONS, kind::SOURCE_HASH] {
        for (state, live) in [(state::CLOSED, 0), (state::PAUSED, 0), (state::ESTABLISHED_ONLY, GENERATION)] {
            let mut world = World::replicas(at, kind, &[1, 2, 3])?;
            world.table(false, &by_thirds())?;
            world.slot_is(2, node(at, 2), state, live)?;
            let shares = shares(&mut world, 0, 60, &[1, 3])?;
            ensure!(
                shares.iter().sum::<usize>() == 60 && shares.iter().all(|share| *share >= 10),
                "{kind}: {shares:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn with_every_replica_shut_a_client_waits() -> Result<()> {
    let at = v4();
    for kind in [kind::ROUND_ROBIN, kind::LEAST_CONNECTIONS, kind::SOURCE_HASH] {
        let mut world = World::replicas(at, kind, &[1, 2, 3])?;
        world.table(false, &by_thirds())?;
        let from = client(at, 0);
        for slot in 1..=3 {
            world.shut(slot)?;
        }
        parked(&mut world, from)?;
        world.list(false, kind, &[])?;
        parked(&mut world, from)?;
        ensure!(world.usage()? == 0 && world.load(1)?.taken == 0, "places are counted for flows that were not made");
    }
    Ok(())
}

/// A client's family has a list of its own, and an entry of the other family is never taken.
#[test]
fn only_replicas_of_the_clients_family() -> Result<()> {
    for (at, other) in [(v4(), v6()), (v6(), v4())] {
        let is_v6 = at.client.is_ipv6();
        for kind in [kind::ROUND_ROBIN, kind::LEAST_CONNECTIONS, kind::SOURCE_HASH] {
            let mut world = World::replicas(at, kind, &[1, 2, 3])?;
            world.table(is_v6, &by_thirds())?;
            world.slot_is(2, other.node, state::OPEN, GENERATION)?;
            let mine = shares(&mut world, 0, 40, &[1, 3])?;
            ensure!(mine.iter().sum::<usize>() == 40, "{mine:?}");
            // What is listed for the other family is not for this one.
            world.list(is_v6, kind, &[])?;
            world.list(!is_v6, kind, &[1, 3])?;
            world.shut(1)?;
            world.table(is_v6, &[1; PLACES as usize])?;
            left_to_the_listener(&mut world, client(at, 100))?;
        }
    }
    Ok(())
}

#[test]
fn a_list_that_makes_no_sense_leads_to_no_stranger() -> Result<()> {
    let at = v4();
    for kind in [kind::ROUND_ROBIN, kind::LEAST_CONNECTIONS] {
        let mut world = World::replicas(at, kind, &[1])?;
        let record = Balance { kind, count: u32::MAX, slots: [u16::MAX; SLOTS as usize] };
        world.array(balance::names::BALANCE)?.set(0, record, 0)?;
        for number in 0..10 {
            parked(&mut world, client(at, number))?;
        }
    }
    Ok(())
}

#[test]
fn least_connections_fills_up_the_emptiest() -> Result<()> {
    let mut world = World::replicas(v4(), kind::LEAST_CONNECTIONS, &[1, 2, 3])?;
    world.loaded(1, 6)?;
    world.loaded(2, 2)?;
    world.loaded(3, 2)?;
    ensure!(shares(&mut world, 0, 8, &[1, 2, 3])? == [0, 4, 4]);
    // All have six now: the next ones take turns.
    ensure!(shares(&mut world, 100, 9, &[1, 2, 3])? == [3, 3, 3]);
    Ok(())
}

#[test]
fn least_connections_of_many() -> Result<()> {
    let at = v4();
    let slots: Vec<u16> = (0..SLOTS as u16).collect();
    let mut world = World::replicas(at, kind::LEAST_CONNECTIONS, &slots)?;
    world.slot_is(0, node(at, 0), state::OPEN, GENERATION)?;
    for slot in &slots {
        world.loaded(*slot, if *slot == 201 { 3 } else { 5 })?;
    }
    ensure!(shares(&mut world, 0, 2, &[201])? == [2], "the emptiest was not found");
    ensure!(shares(&mut world, 10, 256, &slots)?.iter().all(|share| *share <= 2), "one got too many");
    Ok(())
}

#[test]
fn a_slot_counts_its_flows_from_the_first_syn_to_the_end() -> Result<()> {
    let mut world = World::replicas(v4(), kind::ROUND_ROBIN, &[2])?;
    let at = world.at;
    let from = client(at, 1);
    let taken = |world: &mut World| -> Result<(u64, u64)> {
        let load = world.load(2)?;
        Ok((load.taken, load.established))
    };
    led(&mut world, from)?;
    ensure!(taken(&mut world)? == (1, 0));
    let port = Segment::read(&world.send(&Segment::syn(from, at.door))?.packet)?.from.port();
    let syn_ack = Segment::syn(node(at, 2), SocketAddr::new(at.snat, port)).seq(5000).ack(1001);
    world.send(&syn_ack)?.counted(&[packet::TO_CLIENT])?;
    world.send(&Segment::new(from, at.door).seq(1001).ack(5001))?.counted(&[packet::ESTABLISHED, packet::TO_NODE])?;
    ensure!(taken(&mut world)? == (1, 1));
    ensure!(world.flow(port)?.slot == 2, "the flow has another slot");
    world.send(&Segment::new(from, at.door).seq(1001).ack(5001).rst())?;
    ensure!(taken(&mut world)? == (0, 0), "it has ended: {:?}", world.load(2)?);
    // A new SYN from the same port ends it, and begins the next.
    led(&mut world, from)?;
    ensure!(taken(&mut world)? == (1, 0), "{:?}", world.load(2)?);
    Ok(())
}

/// A third of the places each, so that the test knows whom a client has to meet.
pub(crate) fn by_thirds() -> Box<Table> {
    let places: Vec<u16> = (0..PLACES).map(|place| (place % 3) as u16 + 1).collect();
    places.into_boxed_slice().try_into().unwrap_or_else(|_| unreachable!("as many as there are places"))
}

/// A client whose SYN went to a replica that died repeats it, and need not wait for that one.
#[test]
fn a_syn_that_nobody_answered_goes_elsewhere_when_its_replica_is_left() -> Result<()> {
    let at = v4();
    let mut world = World::replicas(at, kind::ROUND_ROBIN, &[1, 2])?;
    let (unheard, answered) = (client(at, 1), client(at, 2));
    let [first, second] = [led(&mut world, unheard)?, led(&mut world, answered)?];
    let again = world.send(&Segment::syn(answered, at.door))?;
    let own = Segment::read(&again.packet)?.from;
    world.send(&Segment::syn(node(at, second), own).seq(5000).ack(1001))?.counted(&[packet::TO_CLIENT])?;
    for slot in [first, second] {
        world.slot_is(slot, node(at, slot), state::ESTABLISHED_ONLY, GENERATION)?;
    }
    world.send(&Segment::syn(answered, at.door))?.counted(&[packet::TO_NODE])?;
    parked(&mut world, unheard)?;
    world.slot_is(second, node(at, second), state::OPEN, GENERATION)?;
    ensure!(led(&mut world, unheard)? == second);
    ensure!(world.load(first)?.taken == 0, "the flow that was given up is counted: {:?}", world.load(first)?);
    Ok(())
}

#[test]
fn a_replica_that_loses_its_role_takes_its_own_flows_along_only() -> Result<()> {
    let mut world = World::replicas(v4(), kind::ROUND_ROBIN, &[1, 2])?;
    let at = world.at;
    let mut flows = Vec::new();
    for number in 0..4 {
        let from = client(at, number);
        flows.push((from, led(&mut world, from)?));
    }
    world.shut(1)?;
    for (from, slot) in flows {
        let outcome = world.send(&Segment::new(from, at.door).seq(1001).ack(1).payload(b"x"))?;
        outcome.counted(&[if slot == 1 { packet::RESET } else { packet::TO_NODE }])?;
    }
    Ok(())
}
