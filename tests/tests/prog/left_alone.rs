//! What is not ours, or not what it says it is, leaves as it came, with a counter for the reason.

use anyhow::{Context as _, Result, ensure};
use etherparse::{IpFragOffset, Ipv4Header, Ipv4Options, PacketBuilder, TcpHeader, ip_number::TCP};
use proxy_ebpf::nat::packet;

use crate::{
    wire::{CLIENT_MAC, OWN_MAC, Segment},
    world::{Addresses, SHOT, UNSPEC, World, v4, v6},
};

/// Sends it and wants it back untouched.
fn left_alone(world: &mut World, name: &str, bytes: &[u8], counter: u32) -> Result<()> {
    let outcome = world.run(bytes).with_context(|| name.to_owned())?;
    ensure!(outcome.verdict == UNSPEC, "{name}: verdict {}", outcome.verdict);
    ensure!(outcome.packet == bytes, "{name}: it was touched");
    outcome.counted(&[counter]).with_context(|| name.to_owned())
}

/// A changed byte in a good packet.
fn with(mut bytes: Vec<u8>, offset: usize, change: impl FnOnce(u8) -> u8) -> Vec<u8> {
    bytes[offset] = change(bytes[offset]);
    bytes
}

fn v4_with(at: Addresses, change: impl FnOnce(&mut Ipv4Header)) -> Result<Vec<u8>> {
    let (std::net::IpAddr::V4(from), std::net::IpAddr::V4(to)) = (at.client.ip(), at.door.ip()) else {
        anyhow::bail!("not IPv4");
    };
    let mut ip = Ipv4Header::new(0, 64, TCP, from.octets(), to.octets())?;
    change(&mut ip);
    let tcp = TcpHeader::new(at.client.port(), at.door.port(), 1, 64);
    let ip = etherparse::IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default());
    let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC).ip(ip).tcp_header(tcp);
    let mut bytes = Vec::new();
    builder.write(&mut bytes, b"payload")?;
    Ok(bytes)
}

#[test]
fn v4_packets_that_are_not_ours() -> Result<()> {
    let at = v4();
    let mut world = World::open(at, 64)?;
    let ours = Segment::syn(at.client, at.door).bytes();
    let elsewhere = std::net::SocketAddr::new(at.door.ip(), 6378);
    let data = Segment::new(at.client, at.door).seq(1).ack(1).payload(b"x");
    let mut udp = Vec::new();
    PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC)
        .ipv4([192, 0, 2, 10], [198, 51, 100, 1], 64)
        .udp(1, 6379)
        .write(&mut udp, b"payload of some length")?;
    let fragment = |more, offset| {
        v4_with(at, |ip| {
            ip.more_fragments = more;
            ip.fragment_offset = offset;
        })
    };
    let later = IpFragOffset::try_new(64)?;
    let options = v4_with(at, |ip| ip.options = Ipv4Options::from([1, 1, 1, 0]))?;
    let cases: Vec<(&str, Vec<u8>, u32)> = vec![
        ("another port", Segment::syn(at.client, elsewhere).bytes(), packet::NOT_OURS),
        ("another address", Segment::syn(at.client, at.node).bytes(), packet::NOT_OURS),
        ("no flow", data.bytes(), packet::NO_FLOW),
        ("a SYN-ACK", Segment::syn(at.client, at.door).ack(1).bytes(), packet::NO_FLOW),
        ("a SYN with FIN", Segment::syn(at.client, at.door).fin().bytes(), packet::NO_FLOW),
        ("UDP", udp, packet::NOT_TCP),
        ("the first fragment", fragment(true, IpFragOffset::ZERO)?, packet::FRAGMENT),
        ("a later fragment", fragment(true, later)?, packet::FRAGMENT),
        ("the last fragment", fragment(false, later)?, packet::FRAGMENT),
        ("options", options, packet::OPTIONS),
        ("ARP", with(ours.clone(), 13, |_| 0x06), packet::NOT_IP),
        ("for another host", with(ours.clone(), 0, |byte| byte ^ 4), packet::NOT_PLAIN),
        ("a VLAN tag", with(with(ours.clone(), 12, |_| 0x81), 13, |_| 0), packet::NOT_IP),
        ("version 5", with(ours.clone(), 14, |_| 0x55), packet::MALFORMED),
        ("a short IP header", with(ours.clone(), 14, |_| 0x44), packet::MALFORMED),
        ("longer than it is", with(ours.clone(), 17, |length| length + 1), packet::MALFORMED),
        ("shorter than its headers", with(ours.clone(), 17, |length| length - 1), packet::MALFORMED),
        ("a short TCP header", with(ours.clone(), 46, |_| 0x40), packet::MALFORMED),
        ("a TCP header beyond its end", with(ours.clone(), 46, |_| 0xf0), packet::MALFORMED),
    ];
    for (name, bytes, counter) in cases {
        left_alone(&mut world, name, &bytes, counter)?;
    }
    ensure!(world.usage()? == 0, "one of them made a flow");
    Ok(())
}

#[test]
fn v6_packets_that_are_not_ours() -> Result<()> {
    const NEXT: usize = 20;
    let at = v6();
    let mut world = World::open(at, 64)?;
    let ours = Segment::syn(at.client, at.door).bytes();
    let mut cases: Vec<(String, Vec<u8>, u32)> = vec![
        ("another address".to_owned(), Segment::syn(at.client, at.node).bytes(), packet::NOT_OURS),
        ("a fragment".to_owned(), with(ours.clone(), NEXT, |_| 44), packet::FRAGMENT),
        ("version 4".to_owned(), with(ours.clone(), 14, |_| 0x45), packet::MALFORMED),
        ("longer than it is".to_owned(), with(ours.clone(), 19, |length| length + 1), packet::MALFORMED),
        ("UDP".to_owned(), with(ours.clone(), NEXT, |_| 17), packet::NOT_TCP),
        ("ICMPv6 echo".to_owned(), with(ours.clone(), NEXT, |_| 58), packet::NOT_TCP),
    ];
    for header in [0, 43, 51, 60, 135] {
        cases.push((format!("extension header {header}"), with(ours.clone(), NEXT, |_| header), packet::OPTIONS));
    }
    // A v4-mapped address on the wire would look like an IPv4 client.
    let mut mapped = ours;
    mapped[22..34].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
    cases.push(("a v4-mapped source".to_owned(), mapped, packet::MALFORMED));
    for (name, bytes, counter) in cases {
        left_alone(&mut world, &name, &bytes, counter)?;
    }
    Ok(())
}

/// A packet that says more than there is of it, cut at every byte from the end of the IP header on: the kernel's
/// facility takes none that is shorter (6.18, net/bpf/test_run.c).
#[test]
fn truncated_at_every_byte() -> Result<()> {
    for (at, least) in [(v4(), 34), (v6(), 54)] {
        let mut world = World::open(at, 64)?;
        let whole = Segment::syn(at.client, at.door).payload(b"early data").bytes();
        for length in least..whole.len() {
            left_alone(&mut world, &format!("{length} bytes"), &whole[..length], packet::MALFORMED)?;
        }
        world.run(&whole)?.counted(&[packet::NEW, packet::TO_NODE])?;
    }
    Ok(())
}

#[test]
fn a_packet_at_its_last_hop_goes_no_further() -> Result<()> {
    for at in [v4(), v6()] {
        let mut world = World::open(at, 64)?;
        world.connect(at.client)?;
        for hops in [0, 1] {
            let outcome = world.send(&Segment::new(at.client, at.door).seq(1001).ack(5001).hops(hops))?;
            ensure!(outcome.verdict == SHOT, "verdict {}", outcome.verdict);
            outcome.counted(&[packet::EXPIRED])?;
        }
        world.send(&Segment::new(at.client, at.door).seq(1001).ack(5001).hops(2))?.counted(&[packet::TO_NODE])?;
    }
    Ok(())
}

/// The sender's mistake stays visible to the receiver: a checksum is corrected by the change, not made anew.
#[test]
fn a_wrong_checksum_stays_wrong() -> Result<()> {
    for (at, checksum) in [(v4(), 50), (v6(), 70)] {
        let mut world = World::open(at, 64)?;
        let broken = with(Segment::syn(at.client, at.door).bytes(), checksum, |byte| byte ^ 0x40);
        let outcome = world.run(&broken)?;
        outcome.counted(&[packet::NEW, packet::TO_NODE])?;
        let fault = Segment::read(&outcome.packet);
        ensure!(fault.is_err_and(|fault| fault.to_string().contains("TCP checksum")), "it was made good");
    }
    Ok(())
}
