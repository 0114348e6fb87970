//! ICMP and ICMPv6 errors about packets that went on from here, translated by the packet that they quote, so that path
//! MTU discovery works across the NAT. Promises that an error is about a packet that its receiver has under way
//! (RFC 5927, 4.1), and that every checksum is as right as it was. Quotes that end before the sequence number,
//! or have options, extension headers or a fragment, are left alone. An error comes from the address its receiver speaks to.

use crate::kernel::{
    checksum::{difference, partial, updated},
    flow::{Who, notes::acked_by},
    packet::{EMPTY, ETHERNET, FRAGMENT, Ipv4, Ipv6, Packet, Segment, TCP, Tcp, header, mapped, of_words},
    rewrite::{Side, exchange_v4, exchange_v6, readdress},
};
use proxy_ebpf::nat::{Flow, packet};

const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// What a router quotes of the TCP header at least (RFC 792): the ports and the sequence number.
const LEAST: usize = 8;
const TO_CHECKSUM: usize = core::mem::offset_of!(Tcp, checksum) + size_of::<u16>();
/// No window is larger (RFC 7323, 2.3).
const LARGEST_WINDOW: u32 = 1 << 30;

#[repr(C)]
struct Icmp {
    kind: u8,
    code: u8,
    checksum: u16,
    /// What more there is to say, such as an MTU.
    word: u32,
}

/// An error, by the packet that it quotes.
pub(super) struct Error {
    /// That packet turned round, as an answer to it would come in; the sequence number is its own.
    pub(super) answer: Segment,
    /// Where its IP header begins.
    quote: usize,
    /// Whether its TCP checksum is quoted.
    whole: bool,
}

/// The error in a packet that holds no TCP, or the counter of the reason why there is none.
#[inline(always)]
pub(super) fn read(packet: &impl Packet) -> Result<Error, u32> {
    let version = header::<u8>(packet, ETHERNET).ok_or(packet::NOT_TCP)?;
    // SAFETY: inside the packet.
    if unsafe { *version } >> 4 == 6 { read_v6(packet) } else { read_v4(packet) }
}

#[inline(always)]
fn read_v4(packet: &impl Packet) -> Result<Error, u32> {
    let at = ETHERNET + size_of::<Ipv4>();
    let (quote, tcp) = (at + size_of::<Icmp>(), at + size_of::<Icmp>() + size_of::<Ipv4>());
    let ip = header::<Ipv4>(packet, ETHERNET).ok_or(packet::NOT_TCP)?;
    // SAFETY: inside the packet.
    let ip = unsafe { &*ip };
    // Destination unreachable, time exceeded, parameter problem.
    if ip.protocol != ICMP || !matches!(kind(packet, at), Some(3 | 11 | 12)) {
        return Err(packet::NOT_TCP);
    }
    let (receiver, hops) = (ip.destination, ip.ttl);
    let whole = is_whole(packet, tcp, ETHERNET + usize::from(u16::from_be_bytes(ip.total)))?;
    let inner = header::<Ipv4>(packet, quote).ok_or(packet::ICMP_CUT)?;
    // SAFETY: inside the packet.
    let inner = unsafe { &*inner };
    if inner.version_ihl != 0x45 || u16::from_be_bytes(inner.fragment) & FRAGMENT != 0 {
        return Err(packet::ICMP_CUT);
    }
    if inner.protocol != TCP {
        return Err(packet::NOT_TCP);
    }
    if inner.source != receiver {
        return Err(packet::ICMP_NO_FLOW);
    }
    let (source, destination) = (mapped(inner.destination), mapped(inner.source));
    let answer = turned(packet, tcp, Segment { v6: false, source, destination, hops, ..EMPTY })?;
    Ok(Error { answer, quote, whole })
}

#[inline(always)]
fn read_v6(packet: &impl Packet) -> Result<Error, u32> {
    let at = ETHERNET + size_of::<Ipv6>();
    let (quote, tcp) = (at + size_of::<Icmp>(), at + size_of::<Icmp>() + size_of::<Ipv6>());
    let ip = header::<Ipv6>(packet, ETHERNET).ok_or(packet::NOT_TCP)?;
    // SAFETY: inside the packet.
    let ip = unsafe { &*ip };
    // Destination unreachable, packet too big, time exceeded, parameter problem.
    if ip.next != ICMPV6 || !matches!(kind(packet, at), Some(1..=4)) {
        return Err(packet::NOT_TCP);
    }
    let (receiver, hops) = (ip.destination, ip.hop_limit);
    let whole = is_whole(packet, tcp, at + usize::from(u16::from_be_bytes(ip.payload)))?;
    let inner = header::<Ipv6>(packet, quote).ok_or(packet::ICMP_CUT)?;
    // SAFETY: inside the packet.
    let inner = unsafe { &*inner };
    if inner.version_class_label as u8 >> 4 != 6 {
        return Err(packet::ICMP_CUT);
    }
    match inner.next {
        TCP => {}
        0 | 43 | 44 | 51 | 60 | 135 => return Err(packet::ICMP_CUT),
        _ => return Err(packet::NOT_TCP),
    }
    if inner.source != receiver {
        return Err(packet::ICMP_NO_FLOW);
    }
    let (source, destination) = (of_words(inner.destination), of_words(inner.source));
    let answer = turned(packet, tcp, Segment { v6: true, source, destination, hops, ..EMPTY })?;
    Ok(Error { answer, quote, whole })
}

#[inline(always)]
fn kind(packet: &impl Packet, at: usize) -> Option<u8> {
    // SAFETY: inside the packet.
    header::<Icmp>(packet, at).map(|icmp| unsafe { (*icmp).kind })
}

/// Makes what there is of the quoted headers readable, if that is enough: whether the checksum is among it.
/// The packet ends at `end`, whatever comes behind.
#[inline(always)]
fn is_whole(packet: &impl Packet, tcp: usize, end: usize) -> Result<bool, u32> {
    let whole = end >= tcp + TO_CHECKSUM;
    let wanted = if whole { tcp + TO_CHECKSUM } else { tcp + LEAST };
    let enough = end >= wanted && end <= packet.len((end - ETHERNET) as u32) as usize && packet.pull(wanted as u32);
    enough.then_some(whole).ok_or(packet::ICMP_CUT)
}

/// With the ports that an answer to the quoted packet has.
#[inline(always)]
fn turned(packet: &impl Packet, tcp: usize, answer: Segment) -> Result<Segment, u32> {
    let quoted = header::<[u32; LEAST / 4]>(packet, tcp).ok_or(packet::ICMP_CUT)?;
    // SAFETY: inside the packet.
    let [ports, sequence] = unsafe { *quoted };
    let [a, b, c, d] = ports.to_ne_bytes();
    let sequence = u32::from_be(sequence);
    Ok(Segment { source_port: [c, d], destination_port: [a, b], sequence, tcp, ..answer })
}

/// Whether this end has sent it, and not yet heard of its arrival.
#[inline(always)]
pub(super) fn is_under_way(sequence: u32, flow: &Flow, by: Who) -> bool {
    let (next, flags, heard) = match by {
        Who::Client => (flow.client.next, flow.client_flags, acked_by(flow, Who::Node)),
        Who::Node => (flow.node.next, flow.node_flags, acked_by(flow, Who::Client)),
    };
    // Who has heard nothing has sent a SYN, which takes one number.
    let first = heard.or(next.wrapping_sub(1));
    let unheard = next.wrapping_sub(first);
    flags != 0 && unheard <= LARGEST_WINDOW && sequence.wrapping_sub(first) <= unheard
}

/// As if `to` had sent what is quoted itself, to `from`.
#[inline(always)]
pub(super) fn rewrite(packet: &impl Packet, error: &Error, from: &Side, to: &Side) -> Result<(), u32> {
    let segment = &error.answer;
    let outer = readdress(packet, segment.v6, from, to)?;
    let (addresses, mut sum) =
        if segment.v6 { quote_v6(packet, error.quote, to, from) } else { quote_v4(packet, error.quote, to, from) }?;
    let tcp = header::<u32>(packet, segment.tcp).ok_or(packet::ICMP_CUT)?;
    let ports = u32::from_ne_bytes([to.port[0], to.port[1], from.port[0], from.port[1]]);
    // SAFETY: inside the packet.
    let old_ports = unsafe { core::mem::replace(&mut *tcp, ports) };
    sum = difference(sum, old_ports, ports);
    if error.whole {
        let field =
            header::<u16>(packet, segment.tcp + core::mem::offset_of!(Tcp, checksum)).ok_or(packet::ICMP_CUT)?;
        // SAFETY: inside the packet.
        let field = unsafe { &mut *field };
        let checksum = updated(*field, difference(addresses, old_ports, ports));
        sum = difference(sum, u32::from(core::mem::replace(field, checksum)), u32::from(checksum));
    }
    // ICMPv6 has a pseudo-header, ICMP has none.
    let outer = if segment.v6 { outer } else { 0 };
    let checksum = error.quote - size_of::<Icmp>() + core::mem::offset_of!(Icmp, checksum);
    packet.correct(checksum, outer, 0, partial(sum)).then_some(()).ok_or(packet::UNROUTED)
}

/// Returns by how much the addresses change the quoted TCP checksum, and the header that they are in the sum of it all.
#[inline(always)]
fn quote_v4(packet: &impl Packet, at: usize, from: &Side, to: &Side) -> Result<(u64, u64), u32> {
    let ip = header::<Ipv4>(packet, at).ok_or(packet::ICMP_CUT)?;
    // SAFETY: inside the packet.
    let ip = unsafe { &mut *ip };
    let addresses = exchange_v4(ip, from, to);
    let checksum = updated(ip.checksum, addresses);
    let old = core::mem::replace(&mut ip.checksum, checksum);
    Ok((addresses, difference(addresses, u32::from(old), u32::from(checksum))))
}

#[inline(always)]
fn quote_v6(packet: &impl Packet, at: usize, from: &Side, to: &Side) -> Result<(u64, u64), u32> {
    let ip = header::<Ipv6>(packet, at).ok_or(packet::ICMP_CUT)?;
    // SAFETY: inside the packet.
    let addresses = exchange_v6(unsafe { &mut *ip }, from, to);
    Ok((addresses, addresses))
}
