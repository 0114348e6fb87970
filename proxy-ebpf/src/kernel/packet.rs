//! Reads the headers of a packet. Promises that what it returns is whole: an unfragmented TCP segment whose lengths
//! agree with each other. Everything else is left alone, with a counter for the reason.

use core::ffi::c_void;

use proxy_ebpf::nat::{Address, Halves, Port, packet};

pub(crate) const ETHERNET: usize = 14;
pub(crate) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(crate) const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const TCP: u8 = 6;
pub(crate) const FRAGMENT: u16 = 0x3fff;
const TCP_LEAST: usize = 20;

/// TCP flags.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A packet as a program's context has it.
pub(crate) trait Packet {
    /// What helpers want of it.
    fn context(&self) -> *mut c_void;
    fn data(&self) -> usize;
    fn data_end(&self) -> usize;
    /// Its length, with its link header. `said` is what its IP header says of itself and what follows, or 0.
    fn len(&self, said: u32) -> u32;
    /// It is for this host, and on no VLAN: a tag beside the packet would go out with it, on another link.
    fn is_plain(&self) -> bool;
    /// Makes so many bytes readable; pointers taken before are void.
    fn pull(&self, len: u32) -> bool;
    /// Corrects the checksum at `offset`: by the sum of what has changed in the pseudo-header, and for a word of what it
    /// covers that is another now. Pointers taken before are void.
    fn correct(&self, offset: usize, addresses: u64, old: u32, new: u32) -> bool;
    /// The kernel will cut it into several, each of a length that fits.
    fn is_cut_later(&self) -> bool;
    /// How long a packet an interface takes, without its link header.
    fn mtu(&self, ifindex: u32) -> Option<u32>;
}

#[repr(C)]
pub(crate) struct Ipv4 {
    pub(crate) version_ihl: u8,
    pub(crate) tos: u8,
    pub(crate) total: [u8; 2],
    pub(crate) id: [u8; 2],
    pub(crate) fragment: [u8; 2],
    /// Hop limit and protocol: one word of the checksum.
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    pub(crate) checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

#[repr(C)]
pub(crate) struct Ipv6 {
    pub(crate) version_class_label: u32,
    pub(crate) payload: [u8; 2],
    pub(crate) next: u8,
    pub(crate) hop_limit: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

#[repr(C)]
pub(crate) struct Tcp {
    /// Source port, then destination port.
    pub(crate) ports: u32,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) offset: u8,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    pub(crate) checksum: u16,
    pub(crate) urgent: u16,
}

/// A TCP segment.
#[derive(Clone, Copy)]
pub(crate) struct Segment {
    pub(crate) v6: bool,
    pub(crate) source: Halves,
    pub(crate) destination: Halves,
    pub(crate) source_port: Port,
    pub(crate) destination_port: Port,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) payload: u32,
    /// Of all of the packet, without its link header.
    pub(crate) length: u32,
    /// How often it may still be sent on.
    pub(crate) hops: u8,
    /// Where the TCP header begins.
    pub(crate) tcp: usize,
}

impl Segment {
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & (SYN | ACK | RST | FIN) == SYN
    }

    /// Its sender sends no more after it.
    pub(crate) fn may_end(&self) -> bool {
        self.flags & (RST | FIN) != 0
    }
}

/// A header inside the readable part. The kernel aligns IP headers to four bytes where the processor needs
/// it (NET_IP_ALIGN), and the verifier refuses what the processor cannot do.
#[inline(always)]
pub(crate) fn header<T>(packet: &impl Packet, offset: usize) -> Option<*mut T> {
    let start = packet.data() + offset;
    (start + size_of::<T>() <= packet.data_end()).then_some(start as *mut T)
}

/// The segment, or the counter of the reason why there is none.
#[inline(always)]
pub(crate) fn read(packet: &impl Packet) -> Result<Segment, u32> {
    match ethertype(packet)? {
        ETHERTYPE_IPV4 => read_v4(packet),
        ETHERTYPE_IPV6 => read_v6(packet),
        _ => Err(packet::NOT_IP),
    }
}

#[inline(always)]
pub(crate) fn ethertype(packet: &impl Packet) -> Result<u16, u32> {
    if !packet.is_plain() {
        return Err(packet::NOT_PLAIN);
    }
    // SAFETY: inside the packet.
    header::<u16>(packet, ETHERNET - 2).map(|field| u16::from_be(unsafe { *field })).ok_or(packet::NOT_IP)
}

#[inline(always)]
pub(crate) fn read_v4(packet: &impl Packet) -> Result<Segment, u32> {
    let least = ETHERNET + size_of::<Ipv4>() + TCP_LEAST;
    let mut ip = header::<Ipv4>(packet, ETHERNET);
    if header::<[u8; 54]>(packet, 0).is_none() {
        // Some drivers hand the headers up in a fragment of their own.
        if !packet.pull(least as u32) {
            return Err(too_short(packet));
        }
        ip = header::<Ipv4>(packet, ETHERNET);
    }
    let Some(ip) = ip else { return Err(packet::MALFORMED) };
    // SAFETY: inside the packet.
    let ip = unsafe { &*ip };
    if ip.version_ihl != 0x45 {
        return Err(if ip.version_ihl >> 4 == 4 && ip.version_ihl & 0xf > 5 {
            packet::OPTIONS
        } else {
            packet::MALFORMED
        });
    }
    if u16::from_be_bytes(ip.fragment) & FRAGMENT != 0 {
        return Err(packet::FRAGMENT);
    }
    if ip.protocol != TCP {
        return Err(packet::NOT_TCP);
    }
    let (source, destination) = (mapped(ip.source), mapped(ip.destination));
    let total = u32::from(u16::from_be_bytes(ip.total));
    read_tcp(
        packet,
        ETHERNET + size_of::<Ipv4>(),
        total,
        size_of::<Ipv4>() as u32,
        Segment { v6: false, source, destination, hops: ip.ttl, ..EMPTY },
    )
}

#[inline(always)]
pub(crate) fn read_v6(packet: &impl Packet) -> Result<Segment, u32> {
    let least = ETHERNET + size_of::<Ipv6>() + TCP_LEAST;
    let mut ip = header::<Ipv6>(packet, ETHERNET);
    if header::<[u8; 74]>(packet, 0).is_none() {
        if !packet.pull(least as u32) {
            return Err(too_short(packet));
        }
        ip = header::<Ipv6>(packet, ETHERNET);
    }
    let Some(ip) = ip else { return Err(packet::MALFORMED) };
    // SAFETY: inside the packet.
    let ip = unsafe { &*ip };
    if ip.version_class_label as u8 >> 4 != 6 {
        return Err(packet::MALFORMED);
    }
    match ip.next {
        TCP => {}
        44 => return Err(packet::FRAGMENT),
        // Hop-by-hop, routing, authentication, destination options, mobility.
        0 | 43 | 51 | 60 | 135 => return Err(packet::OPTIONS),
        _ => return Err(packet::NOT_TCP),
    }
    let (source, destination) = (of_words(ip.source), of_words(ip.destination));
    if is_mapped(source) || is_mapped(destination) {
        return Err(packet::MALFORMED);
    }
    let payload = u32::from(u16::from_be_bytes(ip.payload));
    let total = if payload == 0 { 0 } else { payload + size_of::<Ipv6>() as u32 };
    read_tcp(
        packet,
        ETHERNET + size_of::<Ipv6>(),
        total,
        size_of::<Ipv6>() as u32,
        Segment { v6: true, source, destination, hops: ip.hop_limit, ..EMPTY },
    )
}

/// `total` is what the IP header says of its packet's length: 0 for a GSO packet beyond 64 KiB (BIG TCP).
#[inline(always)]
fn read_tcp(packet: &impl Packet, at: usize, total: u32, ip: u32, segment: Segment) -> Result<Segment, u32> {
    let there = packet.len(total) - ETHERNET as u32;
    let total = if total == 0 { there } else { total };
    let Some(tcp) = header::<Tcp>(packet, at) else { return Err(packet::MALFORMED) };
    // SAFETY: inside the packet.
    let tcp = unsafe { &*tcp };
    let header = u32::from(tcp.offset >> 4) * 4;
    if header < TCP_LEAST as u32 || total > there || total < ip + header {
        return Err(packet::MALFORMED);
    }
    let [a, b, c, d] = tcp.ports.to_ne_bytes();
    Ok(Segment {
        source_port: [a, b],
        destination_port: [c, d],
        sequence: u32::from_be(tcp.sequence),
        acknowledgement: u32::from_be(tcp.acknowledgement),
        flags: tcp.flags,
        payload: total - ip - header,
        length: there,
        tcp: at,
        ..segment
    })
}

pub(crate) const EMPTY: Segment = Segment {
    v6: false,
    source: [0; 2],
    destination: [0; 2],
    source_port: [0; 2],
    destination_port: [0; 2],
    sequence: 0,
    acknowledgement: 0,
    flags: 0,
    payload: 0,
    length: 0,
    hops: 0,
    tcp: 0,
};

/// Shorter than any TCP segment: something else that is complete, or one that was cut.
#[inline(always)]
fn too_short(packet: &impl Packet) -> u32 {
    let v4 = header::<Ipv4>(packet, ETHERNET);
    let v6 = header::<Ipv6>(packet, ETHERNET);
    // SAFETY: inside the packet.
    let v4 =
        v4.is_some_and(|ip| matches!(unsafe { &*ip }, Ipv4 { version_ihl: 0x45, protocol, .. } if *protocol != TCP));
    // SAFETY: inside the packet.
    let v6 = v6.is_some_and(|ip| matches!(unsafe { &*ip }, Ipv6 { version_class_label, next, .. } if *version_class_label as u8 >> 4 == 6 && *next != TCP));
    if v4 || v6 { packet::NOT_TCP } else { packet::MALFORMED }
}

#[inline(always)]
pub(crate) fn mapped(address: u32) -> Halves {
    let [a, b, c, d] = address.to_ne_bytes();
    [0, u64::from_ne_bytes([0, 0, 0xff, 0xff, a, b, c, d])]
}

#[inline(always)]
pub(crate) fn is_mapped(address: Halves) -> bool {
    let [.., third, _] = words(address);
    address[0] == 0 && third == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

#[inline(always)]
pub(crate) fn words(address: Halves) -> [u32; 4] {
    // SAFETY: the same bytes.
    unsafe { core::mem::transmute(address) }
}

#[inline(always)]
pub(crate) fn of_words(words: [u32; 4]) -> Halves {
    // SAFETY: the same bytes.
    unsafe { core::mem::transmute(words) }
}

/// As a record has it.
#[inline(always)]
pub(crate) fn bytes(address: Halves) -> Address {
    // SAFETY: the same bytes.
    unsafe { core::mem::transmute(address) }
}
