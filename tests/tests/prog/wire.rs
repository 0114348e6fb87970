//! TCP segments as a test thinks of them, built and read by etherparse.

use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, Result, bail, ensure};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TransportSlice};

pub(crate) const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
/// That of the loopback interface, on which the facility has packets come in.
pub(crate) const OWN_MAC: [u8; 6] = [0; 6];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddr,
    pub(crate) to: SocketAddr,
    pub(crate) seq: u32,
    pub(crate) ack: Option<u32>,
    pub(crate) syn: bool,
    pub(crate) fin: bool,
    pub(crate) rst: bool,
    pub(crate) payload: Vec<u8>,
    pub(crate) hops: u8,
}

impl Segment {
    pub(crate) fn new(from: SocketAddr, to: SocketAddr) -> Self {
        Self { from, to, seq: 1000, ack: None, syn: false, fin: false, rst: false, payload: Vec::new(), hops: 64 }
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
            payload: tcp.payload().to_vec(),
            hops,
        })
    }
}
