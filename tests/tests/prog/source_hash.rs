//! Source-hash: a client's address decides, by a table, and the daemon comes to the same answer.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Result, ensure};
use proxy_ebpf::balance::{LOOKS, Looks, Table, kind};

use crate::{
    replicas::{address, by_thirds, led, shares},
    world::{World, mapped, v4, v6},
};

/// What the daemon would answer.
fn drawn_to(table: &Table, client: IpAddr, is_open: impl Fn(u16) -> bool) -> Option<u16> {
    let mut looks = Looks::of(&mapped(client));
    (0..LOOKS).map(|_| table[looks.next_place() as usize]).find(|slot| is_open(*slot))
}

#[test]
fn source_hash_leads_a_client_to_the_same_replica_and_moves_those_of_a_lost_one_only() -> Result<()> {
    const CLIENTS: u32 = 600;
    for at in [v4(), v6()] {
        let mut world = World::replicas(at, kind::SOURCE_HASH, &[1, 2, 3])?;
        let table = by_thirds();
        world.table(at.client.is_ipv6(), &table)?;
        let ask = |world: &mut World, port: u16| -> Result<Vec<u16>> {
            (0..CLIENTS).map(|number| led(world, SocketAddr::new(address(at, number), port))).collect()
        };
        let first = ask(&mut world, 1000)?;
        let told: Vec<u16> =
            (0..CLIENTS).filter_map(|number| drawn_to(&table, address(at, number), |_| true)).collect();
        ensure!(first == told, "the daemon would lead them elsewhere");
        for slot in 1..=3 {
            let share = first.iter().filter(|one| **one == slot).count();
            ensure!((150..250).contains(&share), "{share} of {CLIENTS} are led to {slot}");
        }
        ensure!(ask(&mut world, 1001)? == first, "the same clients were led elsewhere");
        world.shut(2)?;
        let without = ask(&mut world, 1002)?;
        for (number, (before, now)) in (0..).zip(first.iter().zip(&without)) {
            ensure!(*before == 2 || now == before, "client {number} was moved from {before} to {now}");
            let told = drawn_to(&table, address(at, number), |slot| slot != 2);
            ensure!(
                told.is_none_or(|told| told == *now),
                "the daemon would lead client {number} to {told:?}, not {now}"
            );
        }
        let took = without.iter().zip(&first).filter(|(now, before)| **before == 2 && **now == 1).count();
        let lost = first.iter().filter(|slot| **slot == 2).count();
        ensure!(took > lost / 4 && took < lost * 3 / 4, "one of the others took {took} of {lost}");
    }
    Ok(())
}

/// Until a table is there clients are led in turn, and nobody is turned away.
#[test]
fn source_hash_without_a_table() -> Result<()> {
    let mut world = World::replicas(v4(), kind::SOURCE_HASH, &[1, 2])?;
    ensure!(shares(&mut world, 0, 10, &[1, 2])? == [5, 5]);
    Ok(())
}
