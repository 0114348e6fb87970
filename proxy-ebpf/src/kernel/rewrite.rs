//! Gives a segment other addresses and ports, with every checksum right: also where the NIC is still to fill
//! it in, and for segments that GSO will cut later, since no length changes.

use super::{
    checksum,
    packet::{ETHERNET, Ipv4, Ipv6, Packet, Segment, Tcp, header, words},
};
use proxy_ebpf::nat::{Halves, Port, packet};

/// One side of a segment, as it shall be.
#[derive(Clone, Copy)]
pub(crate) struct Side {
    pub(crate) addr: Halves,
    pub(crate) port: Port,
}

#[inline(always)]
pub(crate) fn rewrite(packet: &impl Packet, segment: &Segment, from: &Side, to: &Side) -> Result<(), u32> {
    let tcp = header::<Tcp>(packet, segment.tcp).ok_or(packet::MALFORMED)?;
    let ports = u32::from_ne_bytes([from.port[0], from.port[1], to.port[0], to.port[1]]);
    // SAFETY: inside the packet.
    let old_ports = unsafe { core::mem::replace(&mut (*tcp).ports, ports) };
    let sum = readdress(packet, segment.v6, from, to)?;
    let checksum = segment.tcp + core::mem::offset_of!(Tcp, checksum);
    packet.correct(checksum, sum, old_ports, ports).then_some(()).ok_or(packet::UNROUTED)
}

/// Gives a packet other addresses, and one hop less. Returns by how much the addresses change the checksum of what they
/// are a pseudo-header of.
#[inline(always)]
pub(crate) fn readdress(packet: &impl Packet, v6: bool, from: &Side, to: &Side) -> Result<u64, u32> {
    if v6 { readdress_v6(packet, from, to) } else { readdress_v4(packet, from, to) }
}

#[inline(always)]
fn readdress_v4(packet: &impl Packet, from: &Side, to: &Side) -> Result<u64, u32> {
    let ip = header::<Ipv4>(packet, ETHERNET).ok_or(packet::MALFORMED)?;
    // SAFETY: inside the packet.
    let ip = unsafe { &mut *ip };
    let addresses = exchange_v4(ip, from, to);
    // The hop limit is the first byte of its word, and goes down by one.
    ip.ttl = ip.ttl.wrapping_sub(1);
    let hop = checksum::difference(addresses, u32::from(u16::from_ne_bytes([1, 0])), 0);
    ip.checksum = checksum::updated(ip.checksum, hop);
    Ok(addresses)
}

#[inline(always)]
fn readdress_v6(packet: &impl Packet, from: &Side, to: &Side) -> Result<u64, u32> {
    let ip = header::<Ipv6>(packet, ETHERNET).ok_or(packet::MALFORMED)?;
    // SAFETY: inside the packet.
    let ip = unsafe { &mut *ip };
    ip.hop_limit = ip.hop_limit.wrapping_sub(1);
    Ok(exchange_v6(ip, from, to))
}

/// Puts other addresses into a header. Returns by how much they change a sum that they are part of.
#[inline(always)]
pub(crate) fn exchange_v4(ip: &mut Ipv4, from: &Side, to: &Side) -> u64 {
    let (source, destination) = (words(from.addr)[3], words(to.addr)[3]);
    let sum = checksum::difference(checksum::difference(0, ip.source, source), ip.destination, destination);
    (ip.source, ip.destination) = (source, destination);
    sum
}

#[inline(always)]
pub(crate) fn exchange_v6(ip: &mut Ipv6, from: &Side, to: &Side) -> u64 {
    let (source, destination) = (words(from.addr), words(to.addr));
    let mut sum = 0;
    for word in 0..4 {
        sum = checksum::difference(sum, ip.source[word], source[word]);
        sum = checksum::difference(sum, ip.destination[word], destination[word]);
    }
    (ip.source, ip.destination) = (source, destination);
    sum
}
