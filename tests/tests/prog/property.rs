//! Whatever the addresses, ports, numbers and bytes: what comes out is what went in, with the other addresses, and
//! every checksum right.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, anyhow};
use proptest::{collection::vec, prelude::*, test_runner::TestRunner};

use crate::{
    icmp::{ENDS, Talk},
    wire::Segment,
    world::{Addresses, FIRST_PORT, World},
};

fn ip(v6: bool) -> BoxedStrategy<IpAddr> {
    if v6 {
        // Not those that are mapped from IPv4.
        any::<u128>().prop_map(|bits| IpAddr::from(Ipv6Addr::from(bits | 1 << 120))).boxed()
    } else {
        any::<u32>().prop_map(|bits| IpAddr::from(Ipv4Addr::from(bits))).boxed()
    }
}

fn addresses(v6: bool) -> BoxedStrategy<Addresses> {
    let end = move || (ip(v6), 1..=u16::MAX).prop_map(SocketAddr::from);
    (end(), end(), ip(v6), end())
        .prop_filter("the addresses are those of four hosts", |(client, door, snat, node)| {
            let mut all = [client.ip(), door.ip(), *snat, node.ip()];
            all.sort_unstable();
            all.windows(2).all(|pair| pair[0] != pair[1])
        })
        .prop_map(|(client, door, snat, node)| Addresses { client, door, snat, node })
        .boxed()
}

fn segments() -> impl Strategy<Value = (u32, u32, Vec<u8>, u8, bool)> {
    (any::<u32>(), any::<u32>(), vec(any::<u8>(), 0..200), 2..=255_u8, any::<bool>())
}

fn both_ways(at: Addresses, sent: &[(u32, u32, Vec<u8>, u8, bool)]) -> Result<()> {
    let mut world = World::open(at, 4)?;
    world.connect(at.client)?;
    let own = SocketAddr::new(at.snat, FIRST_PORT);
    for (seq, ack, payload, hops, fin) in sent {
        let like =
            |from, to| Segment { fin: *fin, ..Segment::new(from, to).seq(*seq).ack(*ack).payload(payload).hops(*hops) };
        let (ask, reply) = (like(at.client, at.door), like(at.node, own));
        world.through(&ask, &ask.translated(own, at.node))?;
        world.through(&reply, &reply.translated(at.door, at.client))?;
    }
    Ok(())
}

#[test]
fn nothing_but_the_addresses_changes() -> Result<()> {
    for v6 in [false, true] {
        let mut runner =
            TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() });
        let worlds = (addresses(v6), vec(segments(), 1..20));
        runner
            .run(&worlds, |(at, sent)| both_ways(at, &sent).map_err(|error| TestCaseError::fail(format!("{error:#}"))))
            .map_err(|error| anyhow!("{error}"))?;
    }
    Ok(())
}

/// Nor what is quoted, wherever the quote ends.
#[test]
fn nothing_but_the_addresses_changes_in_an_error() -> Result<()> {
    for v6 in [false, true] {
        let mut runner =
            TestRunner::new(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() });
        let errors_of = |at: Addresses, lengths: &[usize]| -> Result<()> {
            let mut talk = Talk::begin(at)?;
            lengths.iter().try_for_each(|length| ENDS.iter().try_for_each(|end| talk.tells(*end, *length)))
        };
        runner
            .run(&(addresses(v6), vec(60..200_usize, 1..20)), |(at, lengths)| {
                errors_of(at, &lengths).map_err(|error| TestCaseError::fail(format!("{error:#}")))
            })
            .map_err(|error| anyhow!("{error}"))?;
    }
    Ok(())
}
