//! Keeps what the two ends send within the MTUs of this host's own interfaces, which no redirect looks at: what is
//! too long for a link is lost without a word. So the largest segment that a SYN asks for is lowered to what both
//! ways out can carry, as nftables does by `rt mtu`. Links further away are found out by the ends (`icmp`).

use crate::kernel::packet::{Ipv4, Ipv6, Packet, Segment, Tcp, header};
use proxy_ebpf::nat::packet;

const END: u8 = 0;
const NOTHING: u8 = 1;
const MSS: u8 = 2;
const MSS_LENGTH: usize = 4;
/// The first one may be, without options, and the last one in the longest header.
const FIRST: usize = size_of::<Tcp>();
const LAST: usize = 60 - MSS_LENGTH;
/// How many options are looked at. Every stack writes this one first.
const MOST: usize = 8;

/// For a SYN, or the answer to one, of a connection that goes out by these interfaces. Pointers taken before are void.
#[inline(always)]
pub(super) fn clamp(packet: &impl Packet, segment: &Segment, ways: [u32; 2]) -> Result<(), u32> {
    let headers = size_of::<Tcp>() + if segment.v6 { size_of::<Ipv6>() } else { size_of::<Ipv4>() };
    let [Some(one), Some(other)] = ways.map(|ifindex| packet.mtu(ifindex)) else { return Ok(()) };
    let most = one.min(other).saturating_sub(headers as u32);
    let tcp = header::<Tcp>(packet, segment.tcp).ok_or(packet::MALFORMED)?;
    // SAFETY: inside the packet.
    let end = usize::from(unsafe { (*tcp).offset } >> 4) * 4;
    if !packet.pull((segment.tcp + end) as u32) {
        return Err(packet::MALFORMED);
    }
    let mut at = FIRST;
    for _ in 0..MOST {
        if at > LAST || at + MSS_LENGTH > end {
            return Ok(());
        }
        let option = header::<[u8; MSS_LENGTH]>(packet, segment.tcp + at).ok_or(packet::MALFORMED)?;
        // SAFETY: inside the packet.
        let [kind, length, high, low] = unsafe { *option };
        let length = usize::from(length);
        match kind {
            END => return Ok(()),
            NOTHING => at += 1,
            MSS if length == MSS_LENGTH && u32::from(u16::from_be_bytes([high, low])) > most => {
                let lower = (most as u16).to_be_bytes();
                // SAFETY: as above.
                unsafe { *option = [kind, MSS_LENGTH as u8, lower[0], lower[1]] };
                let checksum = segment.tcp + core::mem::offset_of!(Tcp, checksum);
                let [old, new] = [[high, low], lower].map(|bytes| word(at, bytes));
                return packet.correct(checksum, 0, old, new).then_some(()).ok_or(packet::MALFORMED);
            }
            MSS => return Ok(()),
            _ if length < 2 => return Ok(()),
            _ => at += length,
        }
    }
    Ok(())
}

/// What two bytes add to a checksum, whose words begin at even offsets.
#[inline(always)]
fn word(at: usize, [first, second]: [u8; 2]) -> u32 {
    u32::from(u16::from_ne_bytes(if at.is_multiple_of(2) { [first, second] } else { [second, first] }))
}
