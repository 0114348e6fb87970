//! The largest segment that a handshake agrees on fits this host's own links.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, ensure};
use nix::sched::{CloneFlags, unshare};
use proxy_ebpf::nat::packet;

use crate::{
    wire::Segment,
    world::{Addresses, FIRST_PORT, World, v4, v6},
};

const MTU: u16 = 1400;

/// Every packet of these worlds comes in at the loopback interface and leaves there: in a namespace of its own, so that
/// its MTU is ours to choose.
fn narrow() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("a network namespace (needs root)")?;
    let output =
        Command::new("ip").args(["link", "set", "lo", "mtu", &MTU.to_string(), "up"]).output().context("ip")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn fitting(at: Addresses) -> u16 {
    MTU - 20 - if at.door.is_ipv4() { 20 } else { 40 }
}

fn mss(value: u16) -> [u8; 4] {
    let [high, low] = value.to_be_bytes();
    [2, 4, high, low]
}

/// Sends a SYN with these options, and wants it translated with those.
fn becomes(world: &mut World, number: u16, options: &[u8], expected: &[u8]) -> Result<()> {
    let at = world.at;
    let syn = Segment::syn(SocketAddr::new(at.client.ip(), 1000 + number), at.door).options(options);
    let own = SocketAddr::new(at.snat, FIRST_PORT + number);
    let expected = syn.clone().options(expected).translated(own, at.node);
    world.through(&syn, &expected).with_context(|| format!("{options:?}"))?.counted(&[packet::NEW, packet::TO_NODE])
}

#[test]
fn a_syn_asks_for_no_more_than_fits() -> Result<()> {
    narrow()?;
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let most = fitting(at);
        let [too_much, fits] = [mss(9000), mss(most)];
        let before = [1, 3, 3, 7, 4, 2, 1, 1];
        let behind = [4, 2, 8, 10, 0, 1, 2, 3, 0, 0, 0, 0];
        let odd = |value: [u8; 4]| [&[1][..], &value, &[1, 1, 0]].concat();
        let cases: Vec<(Vec<u8>, Vec<u8>)> = vec![
            (mss(most + 1).to_vec(), fits.to_vec()),
            (mss(u16::MAX).to_vec(), fits.to_vec()),
            (fits.to_vec(), fits.to_vec()),
            (mss(536).to_vec(), mss(536).to_vec()),
            (Vec::new(), Vec::new()),
            ([&too_much[..], &behind].concat(), [&fits[..], &behind].concat()),
            ([&before[..], &too_much].concat(), [&before[..], &fits].concat()),
            // At an odd place its bytes are halves of two words of the checksum.
            (odd(too_much), odd(fits)),
            // What looks like one and is none: behind the end of the list, within another option, of another length.
            ([&[0, 0, 0, 0][..], &too_much].concat(), [&[0, 0, 0, 0][..], &too_much].concat()),
            ([&[254, 8, 0, 0][..], &too_much].concat(), [&[254, 8, 0, 0][..], &too_much].concat()),
            (vec![2, 3, 9, 9], vec![2, 3, 9, 9]),
            (vec![5, 0, 9, 9, 2, 4, 35, 40], vec![5, 0, 9, 9, 2, 4, 35, 40]),
        ];
        for (number, (options, expected)) in (0..).zip(&cases) {
            becomes(&mut world, number, options, expected)?;
        }
    }
    Ok(())
}

#[test]
fn nor_does_the_answer() -> Result<()> {
    narrow()?;
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        let (too_much, fits) = (mss(9000), mss(fitting(at)));
        world.send(&Segment::syn(at.client, at.door))?;
        let own = SocketAddr::new(at.snat, FIRST_PORT);
        let answer = Segment::syn(at.node, own).seq(5000).ack(1001).options(&too_much);
        world.through(&answer, &answer.clone().options(&fits).translated(at.door, at.client))?;
        // Only a handshake says so: the same bytes later are somebody else's business.
        let later = Segment::new(at.client, at.door).seq(1001).ack(5001).options(&too_much);
        world.through(&later, &later.translated(own, at.node))?;
    }
    Ok(())
}
