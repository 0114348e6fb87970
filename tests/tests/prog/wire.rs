//! TCP segments and ICMP errors as a test thinks of them, built and read by etherparse.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice, checksum::Sum16BitWords};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// That of the interface on which the facility has packets come in: the loopback, if nothing else is said.
pub(crate) const OWN_MAC: [u8; 6] = if crate::FRONT { [2, 0, 0, 0, 0, 9] } else { [0; 6] };

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    /// As they lie in the header, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) hops: u8,
}

impl Segment {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr) -> Self {
        let (options, payload) = (Vec::new(), Vec::new());
        Self { from, to, seq: 1000, ack: None, syn: false, fin: false, rst: false, options, payload, hops: 64 }
    }

    pub(crate) fn syn(from: SocketAddr, to: SocketAddr) -> Self {
        Self { syn: true, ..Self::new(from, to) }
    }

    pub(crate) fn seq(self, seq: u32) -> Self {
        Self { seq, ..self }
    }

    pub(crate) fn ack(self, ack: u32) -> Self {
        Self { ack: Some(ack), ..self }
    }

    pub(crate) fn fin(self) -> Self {
        Self { fin: true, ..self }
    }

    pub(crate) fn rst(self) -> Self {
        Self { rst: true, ..self }
    }

    pub(crate) fn options(self, options: &[u8]) -> Self {
        Self { options: options.to_vec(), ..self }
    }

    pub(crate) fn payload(self, payload: &[u8]) -> Self {
        Self { payload: payload.to_vec(), ..self }
    }

    pub(crate) fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    /// What a translator makes of it.
    pub(crate) fn translated(&self, from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, hops: self.hops - 1, ..self.clone() }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
        let builder = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), self.hops),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), self.hops),
            _ => unreachable!("a packet is of one family"),
        };
        let mut tcp = TcpHeader::new(self.from.port(), self.to.port(), self.seq, 64240);
        (tcp.syn, tcp.fin, tcp.rst) = (self.syn, self.fin, self.rst);
        if let Some(ack) = self.ack {
            (tcp.ack, tcp.acknowledgment_number) = (true, ack);
        }
        let fits = tcp.set_options_raw(&self.options);
        assert!(fits.is_ok(), "options that do not fit: {self:?}");
        let builder = builder.tcp_header(tcp);
        let mut bytes = Vec::with_capacity(builder.size(self.payload.len()));
        let written = builder.write(&mut bytes, &self.payload);
        assert!(written.is_ok(), "a segment that cannot be built: {self:?}");
        bytes
    }

    /// The segment in a packet whose lengths and checksums are right.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let sliced = SlicedPacket::from_ethernet(bytes).context("not a packet")?;
        let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { bail!("no TCP in {sliced:?}") };
        let header = tcp.to_header();
        let (from, to, hops, checksum) = match sliced.net.context("no IP")? {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                ensure!(ip.calc_header_checksum() == ip.header_checksum, "the IP checksum is wrong");
                let checksum = header.calc_checksum_ipv4(&ip, tcp.payload()).context("the TCP checksum")?;
                (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.time_to_live, checksum)
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                let checksum = header.calc_checksum_ipv6(&ip, tcp.payload()).context("the TCP checksum")?;
                (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.hop_limit, checksum)
            }
            NetSlice::Arp(_) => bail!("ARP"),
        };
        ensure!(checksum == header.checksum, "the TCP checksum is {:#x}, not {checksum:#x}", header.checksum);
        Ok(Self {
            from: SocketAddr::new(from, header.source_port),
            to: SocketAddr::new(to, header.destination_port),
            seq: header.sequence_number,
            ack: header.ack.then_some(header.acknowledgment_number),
            syn: header.syn,
            fin: header.fin,
            rst: header.rst,
            options: header.options.as_slice().to_vec(),
            payload: tcp.payload().to_vec(),
            hops,
        })
    }
}

/// An ICMP or ICMPv6 packet that quotes another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Report {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) hops: u8,
    pub(crate) kind: u8,
    pub(crate) code: u8,
    /// What stands between the checksum and the quoted packet.
    pub(crate) word: [u8; 4],
    pub(crate) quoted: Vec<u8>,
}

impl Report {
    /// About the first `length` bytes of an IP packet.
    pub(crate) fn about(segment: &Segment, from: IpAddr, length: usize) -> Self {
        let quoted = segment.bytes().split_off(ETHERNET).into_iter().take(length).collect();
        Self { from, to: segment.from.ip(), hops: 60, kind: 3, code: 4, word: [0, 0, 5, 20], quoted }
    }

    pub(crate) fn kind(self, kind: u8, code: u8) -> Self {
        Self { kind, code, ..self }
    }

    pub(crate) fn hops(self, hops: u8) -> Self {
        Self { hops, ..self }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(CLIENT_MAC, OWN_MAC);
        let mut bytes = Vec::new();
        let written = match (self.from, self.to) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder
                .ipv4(from.octets(), to.octets(), self.hops)
                .icmpv4_raw(self.kind, self.code, self.word)
                .write(&mut bytes, &self.quoted),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder
                .ipv6(from.octets(), to.octets(), self.hops)
                .icmpv6_raw(self.kind, self.code, self.word)
                .write(&mut bytes, &self.quoted),
            _ => unreachable!("a packet is of one family"),
        };
        assert!(written.is_ok(), "an error that cannot be built: {self:?}");
        bytes
    }

    /// The error in a packet whose outer lengths and checksums are right.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self> {
        let sliced = SlicedPacket::from_ethernet(bytes).context("not a packet")?;
        let (from, to, hops) = match sliced.net.as_ref().context("no IP")? {
            NetSlice::Ipv4(ip) => {
                let ip = ip.header().to_header();
                ensure!(ip.calc_header_checksum() == ip.header_checksum, "the IP checksum is wrong");
                (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.time_to_live)
            }
            NetSlice::Ipv6(ip) => {
                let ip = ip.header().to_header();
                (IpAddr::from(ip.source), IpAddr::from(ip.destination), ip.hop_limit)
            }
            NetSlice::Arp(_) => bail!("ARP"),
        };
        let (right, kind, code, word, quoted) = match (&sliced.transport, from, to) {
            (Some(TransportSlice::Icmpv4(icmp)), ..) => {
                let right = Sum16BitWords::new().add_slice(icmp.slice()).ones_complement() == 0;
                (right, icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload().to_vec())
            }
            (Some(TransportSlice::Icmpv6(icmp)), IpAddr::V6(from), IpAddr::V6(to)) => {
                let right = icmp.is_checksum_valid(from.octets(), to.octets());
                (right, icmp.type_u8(), icmp.code_u8(), icmp.bytes5to8(), icmp.payload().to_vec())
            }
            other => bail!("no ICMP: {other:?}"),
        };
        ensure!(right, "the ICMP checksum is wrong");
        Ok(Self { from, to, hops, kind, code, word, quoted })
    }
}
