//! The RST that ends one end of a flow, from the flow's record: pure.
//!
//! Which sequence number. RFC 5961 (3.2) has a receiver accept a RST only at exactly RCV.NXT; anything else in
//! its window it answers by a challenge ACK. RCV.NXT is one past all that the *other* end sent and that
//! arrived in order, so it is:
//! - that end's `next`, where all it sent has arrived or is on its way: what we forwarded before goes the
//!   same way as the RST and arrives before it. This is what an idle flow has, and nearly every busy one;
//! - the receiver's own `acked` only where packets were lost: an end acknowledges late (40 ms and more in
//!   Linux), so `acked` lags behind RCV.NXT whenever bytes are under way, and a RST below the window is dropped
//!   without an answer.
//!
//! So `next` it is. Where a segment was lost all the same, either the receiver has got later ones, and Linux takes
//! a RST at the end of its last SACK block too (tcp_validate_incoming), which is `next` again; or its challenge
//! ACK runs into the program, which answers a flow of an ended generation by a RST that fits.
//!
//! It carries ACK with what the receiver itself sent last: a client still in SYN-SENT believes no other
//! (RFC 9293, 3.10.7.3), and in every later state it is not looked at.

use std::net::{IpAddr, SocketAddr};

use etherparse::{IpNumber, Ipv4Header, Ipv6Header, TcpHeader};
use proxy_ebpf::nat::{Door, End, Flow, Snat};

use super::address::socket_address;

/// That of the host's own packets, net.ipv4.ip_default_ttl.
const HOPS: u8 = 64;
/// An IPv6 header and a TCP header.
const LONGEST: usize = Ipv6Header::LEN + TcpHeader::MIN_LEN;

/// A segment that ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rst {
    pub from: SocketAddr,
    pub to: SocketAddr,
    /// The interface that the receiver was heard on: a link-local address means nothing without.
    pub ifindex: u32,
    pub seq: u32,
    pub ack: Option<u32>,
}

impl Rst {
    /// The client sees it come from the door that it dialled. `None`: its node has not answered, and the client would take
    /// this for a refusal. Told nothing it sends its SYN again, and is at whoever is the target then.
    pub fn to_client(flow: &Flow, door: &Door) -> Option<Self> {
        let answered = flow.node_flags != 0;
        let from = socket_address(door.addr, door.port);
        answered.then(|| Self::new(from, (&flow.client, flow.client_flags), &flow.node))
    }

    /// The node sees it come from our own address and port. `None`: the place is none of this address.
    pub fn to_node(flow: &Flow, snat: &Snat, place: u32) -> Option<Self> {
        let at = place.checked_sub(snat.first).filter(|at| *at < u32::from(snat.ports))?;
        let port = snat.first_port.checked_add(u16::try_from(at).ok()?)?;
        let from = socket_address(snat.addr, port.to_be_bytes());
        Some(Self::new(from, (&flow.node, flow.node_flags), &flow.client))
    }

    fn new(from: SocketAddr, (receiver, flags): (&End, u8), sender: &End) -> Self {
        let spoke = flags != 0;
        Self {
            from,
            to: socket_address(receiver.addr, receiver.port),
            ifindex: receiver.ifindex,
            seq: sender.next,
            ack: spoke.then_some(receiver.next),
        }
    }

    /// The whole packet from its IP header on. `None`: its ends are of two families.
    pub fn packet(&self) -> Option<Packet> {
        let mut tcp = TcpHeader::new(self.from.port(), self.to.port(), self.seq, 0);
        tcp.rst = true;
        if let Some(ack) = self.ack {
            tcp.ack = true;
            tcp.acknowledgment_number = ack;
        }
        let mut packet = Packet { bytes: [0; LONGEST], length: 0 };
        match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => {
                let length = TcpHeader::MIN_LEN as u16;
                let mut ip = Ipv4Header::new(length, HOPS, IpNumber::TCP, from.octets(), to.octets()).ok()?;
                ip.header_checksum = ip.calc_header_checksum();
                tcp.checksum = tcp.calc_checksum_ipv4(&ip, &[]).ok()?;
                packet.append(&ip.to_bytes());
            }
            (IpAddr::V6(from), IpAddr::V6(to)) => {
                let ip = Ipv6Header {
                    payload_length: TcpHeader::MIN_LEN as u16,
                    next_header: IpNumber::TCP,
                    hop_limit: HOPS,
                    source: from.octets(),
                    destination: to.octets(),
                    ..Ipv6Header::default()
                };
                tcp.checksum = tcp.calc_checksum_ipv6(&ip, &[]).ok()?;
                packet.append(&ip.to_bytes());
            }
            _ => return None,
        }
        packet.append(&tcp.to_bytes());
        Some(packet)
    }
}

/// The bytes of a packet.
#[derive(Debug, Clone, Copy)]
pub struct Packet {
    bytes: [u8; LONGEST],
    length: usize,
}

impl Packet {
    fn append(&mut self, bytes: &[u8]) {
        let end = self.length + bytes.len();
        self.bytes[self.length..end].copy_from_slice(bytes);
        self.length = end;
    }
}

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}
