//! Frames out of the ring, as NICs and as veths deliver them.

use std::net::{IpAddr, SocketAddr};

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice};
use proptest::prelude::*;
use proxy_ebpf::parking::{LONGEST, Parked};

use crate::{
    datapath::{Arrival, Ends},
    nat::syn::read,
};

fn ends(v6: bool, client: u16) -> Ends {
    let at = |four: [u8; 4], six: u16, port| {
        let ip = if v6 { IpAddr::from([0xfd77, 0, 0, 0, 0, 0, 0, six]) } else { four.into() };
        SocketAddr::new(ip, port)
    };
    Ends { client: at([10, 0, 0, 1], 1, client), door: at([10, 0, 0, 2], 2, 6379) }
}

fn frame(ends: Ends, sequence: u32, flags: impl Fn(&mut TcpHeader), payload: &[u8]) -> Vec<u8> {
    let ether = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match (ends.client.ip(), ends.door.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => ether.ipv4(from.octets(), to.octets(), 64),
        (IpAddr::V6(from), IpAddr::V6(to)) => ether.ipv6(from.octets(), to.octets(), 64),
        _ => unreachable!(),
    };
    let mut tcp = TcpHeader::new(ends.client.port(), ends.door.port(), sequence, 64240);
    tcp.set_options(&[TcpOptionElement::MaximumSegmentSize(1460), TcpOptionElement::Timestamp(77, 0)]).unwrap();
    flags(&mut tcp);
    let mut frame = Vec::new();
    ip.tcp_header(tcp).write(&mut frame, payload).unwrap();
    frame
}

fn syn(tcp: &mut TcpHeader) {
    tcp.syn = true;
}

fn record(frame: &[u8]) -> Parked {
    let mut record = Parked { ifindex: 3, route: 1, length: frame.len() as u16, frame: [0xee; LONGEST] };
    record.frame[..frame.len()].copy_from_slice(frame);
    record
}

fn checksum_at(v6: bool) -> usize {
    14 + if v6 { 40 } else { 20 } + 16
}

/// What the stack leaves to a NIC: the sum of the pseudo-header alone.
fn partial(frame: &[u8], v6: bool) -> Vec<u8> {
    let tcp = frame.len() - (checksum_at(v6) - 16);
    let addresses = if v6 { &frame[22..54] } else { &frame[26..34] };
    let words = addresses.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let mut sum: u32 = words.sum::<u32>() + 6 + tcp as u32;
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    let mut partial = frame.to_vec();
    partial[checksum_at(v6)..checksum_at(v6) + 2].copy_from_slice(&(sum as u16).to_be_bytes());
    partial
}

fn is_right(frame: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ethernet(frame).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return false };
    let (header, payload) = (tcp.to_header(), tcp.payload());
    let sum = match sliced.net.unwrap() {
        NetSlice::Ipv4(ip) => header.calc_checksum_ipv4(&ip.header().to_header(), payload),
        NetSlice::Ipv6(ip) => header.calc_checksum_ipv6(&ip.header().to_header(), payload),
        NetSlice::Arp(_) => return false,
    };
    sum.unwrap() == header.checksum
}

#[test]
fn a_whole_frame_is_left_as_it_is_and_a_partial_one_is_filled_in() {
    for v6 in [false, true] {
        let ends = ends(v6, 40_000);
        let whole = frame(ends, 9, syn, b"");
        for came in [whole.clone(), partial(&whole, v6)] {
            let Some(Arrival::Syn(read)) = read(&record(&came)) else { panic!("not read") };
            assert_eq!((read.ends, read.sequence, read.ifindex), (ends, 9, 3));
            assert_eq!(read.frame, whole);
        }
    }
}

#[test]
fn a_frame_that_was_damaged_on_its_way_is_dropped() {
    for v6 in [false, true] {
        let whole = frame(ends(v6, 40_000), 9, syn, b"");
        for at in checksum_at(v6) - 16..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= 0x10;
            assert_eq!(read(&record(&damaged)), None, "byte {at}");
        }
    }
}

#[test]
fn a_reset_says_who_leaves() {
    let ends = ends(false, 40_000);
    let reset = frame(ends, 10, |tcp| tcp.rst = true, b"");
    assert_eq!(read(&record(&reset)), Some(Arrival::Gone(ends, 10)));
}

#[test]
fn an_ethernet_frame_may_be_longer_than_its_packet() {
    let ends = ends(false, 40_000);
    let whole = frame(ends, 9, syn, b"");
    let padded = [&whole[..], &[0xaa; 6]].concat();
    let Some(Arrival::Syn(read)) = read(&record(&padded)) else { panic!("not read") };
    assert_eq!(read.frame, padded);
}

proptest! {
    #[test]
    fn whatever_came_goes_back_with_its_checksum_right(v6: bool, port: u16, sequence: u32, payload: Vec<u8>) {
        let payload = &payload[..payload.len().min(20)];
        let whole = frame(ends(v6, port), sequence, syn, payload);
        let Some(Arrival::Syn(read)) = read(&record(&partial(&whole, v6))) else { panic!("not read") };
        prop_assert!(is_right(&read.frame));
        prop_assert_eq!(read.frame.len(), whole.len());
    }

    #[test]
    fn nonsense_is_no_arrival(bytes in proptest::collection::vec(any::<u8>(), 0..LONGEST), length: u16) {
        let mut record = record(&bytes);
        record.length = length;
        // It may look like a RST, which nobody vouches for; it does not panic, and is no SYN.
        prop_assert!(!matches!(read(&record), Some(Arrival::Syn(_))));
    }
}
