//! The segments are taken apart again by the parser, which recomputes the checksums.

use std::net::SocketAddr;

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use proxy_ebpf::nat::Door;

use super::{
    super::{address::encode, segment::Rst},
    open, snat,
};

fn door() -> Door {
    Door {
        addr: encode([203, 0, 113, 7].into()),
        port: 6380u16.to_be_bytes(),
        route: 0,
        max_connections: 1,
        open: 1,
        by_xdp: 0,
    }
}

fn at(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn each_end_is_reset_where_the_other_has_come_to() {
    let mut flow = open(0);
    // Bytes are under way in both directions: `acked` lags behind.
    (flow.client.next, flow.client.acked) = (1000, 1500);
    (flow.node.next, flow.node.acked) = (2000, 700);
    (flow.client.ifindex, flow.node.ifindex) = (3, 4);
    assert_eq!(
        Rst::to_client(&flow, &door()).unwrap(),
        Rst { from: at("203.0.113.7:6380"), to: at("192.0.2.1:40001"), ifindex: 3, seq: 2000, ack: Some(1000) }
    );
    assert_eq!(
        Rst::to_node(&flow, &snat(22_000, 10_000, 22_000), 22_005).unwrap(),
        Rst { from: at("203.0.113.9:10005"), to: at("198.51.100.1:6379"), ifindex: 4, seq: 1000, ack: Some(2000) }
    );
}

#[test]
fn the_client_of_a_node_that_never_answered_is_told_nothing() {
    let mut flow = open(0);
    (flow.node_flags, flow.node.next) = (0, 0);
    assert_eq!(Rst::to_client(&flow, &door()), None, "it would hear that it is refused");
    assert_eq!(Rst::to_node(&flow, &snat(0, 10_000, 10), 0).unwrap().ack, None);
}

#[test]
fn a_place_of_another_address_makes_no_segment() {
    let flow = open(0);
    let snat = snat(100, 65_530, 10);
    assert_eq!(Rst::to_node(&flow, &snat, 105).unwrap().from.port(), 65_535);
    for place in [0, 99, 110, u32::MAX] {
        assert_eq!(Rst::to_node(&flow, &snat, place), None, "{place}");
    }
    assert_eq!(Rst::to_node(&flow, &snat, 106), None, "no such port");
}

#[test]
fn a_segment_is_what_its_bytes_say() {
    for (from, to) in [("203.0.113.7:6380", "192.0.2.1:40001"), ("[2001:db8::7]:6380", "[2001:db8:1::1]:40001")] {
        for ack in [None, Some(0xfedc_ba98)] {
            let rst = Rst { from: at(from), to: at(to), ifindex: 1, seq: 0x89ab_cdef, ack };
            let packet = rst.packet().unwrap();
            parsed_as(&rst, packet.as_ref());
        }
    }
}

fn parsed_as(rst: &Rst, bytes: &[u8]) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP: {sliced:?}") };
    let header = tcp.to_header();
    let (from, to, checksum, length) = match sliced.net {
        Some(NetSlice::Ipv4(ip)) => {
            let ip = ip.header().to_header();
            assert_eq!(ip.header_checksum, ip.calc_header_checksum());
            let checksum = header.calc_checksum_ipv4(&ip, &[]).unwrap();
            let (from, to) = (ip.source.into(), ip.destination.into());
            (from, to, checksum, usize::from(ip.total_len))
        }
        Some(NetSlice::Ipv6(ip)) => {
            let ip = ip.header().to_header();
            let checksum = header.calc_checksum_ipv6(&ip, &[]).unwrap();
            let length = usize::from(ip.payload_length) + 40;
            (ip.source_addr().into(), ip.destination_addr().into(), checksum, length)
        }
        other => panic!("no IP: {other:?}"),
    };
    assert_eq!(length, bytes.len());
    assert_eq!(header.checksum, checksum);
    assert_eq!((from, header.source_port), (rst.from.ip(), rst.from.port()));
    assert_eq!((to, header.destination_port), (rst.to.ip(), rst.to.port()));
    assert_eq!((header.sequence_number, header.acknowledgment_number), (rst.seq, rst.ack.unwrap_or(0)));
    assert_eq!((header.rst, header.ack), (true, rst.ack.is_some()));
    assert!(!header.syn && !header.fin && !header.psh && !header.urg);
    assert_eq!((header.window_size, header.options.len()), (0, 0));
}

#[test]
fn ends_of_two_families_make_no_packet() {
    let rst = Rst { from: at("[2001:db8::1]:1"), to: at("192.0.2.1:2"), ifindex: 1, seq: 0, ack: None };
    assert!(rst.packet().is_none());
}
