//! Reads the frames that the kernel program has taken aside, and makes them fit to come in again: pure.
//!
//! A frame from a veth or a virtual machine on this host may have a TCP checksum that a NIC was still to fill in: the
//! kernel knew that beside the packet, and knows it no more. Such a one is filled in here. One that is simply wrong is
//! no SYN that anybody sent: to set it right would be to vouch for it.

use std::{
    net::{IpAddr, SocketAddr},
    ops::Range,
};

use etherparse::{IpNumber, NetSlice, SlicedPacket, TransportSlice, checksum::Sum16BitWords};
use proxy_ebpf::parking::Parked;

use crate::datapath::{Arrival, Ends, Syn};

/// Where TCP headers have their checksum.
const CHECKSUM: Range<usize> = 16..18;

/// What a record says its client did; `None` where it makes no sense.
pub fn read(record: &Parked) -> Option<Arrival> {
    let mut frame = record.frame.get(..usize::from(record.length))?.to_vec();
    let Facts { ends, sequence, is_rst, segment, pseudo } = facts(&frame)?;
    if is_rst {
        return Some(Arrival::Gone(ends, sequence));
    }
    fill_in(frame.get_mut(segment)?, pseudo)?;
    Some(Arrival::Syn(Syn { ends, sequence, ifindex: record.ifindex, frame }))
}

struct Facts {
    ends: Ends,
    sequence: u32,
    is_rst: bool,
    /// Where in the frame the TCP segment is.
    segment: Range<usize>,
    /// The sum of its pseudo-header.
    pseudo: Sum16BitWords,
}

fn facts(frame: &[u8]) -> Option<Facts> {
    let sliced = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(TransportSlice::Tcp(tcp)) = &sliced.transport else { return None };
    let segment = tcp.slice();
    let mut pseudo = Sum16BitWords::new().add_2bytes([0, IpNumber::TCP.0]);
    pseudo = pseudo.add_4bytes(u32::try_from(segment.len()).ok()?.to_be_bytes());
    let (client, door): (IpAddr, IpAddr) = match sliced.net? {
        NetSlice::Ipv4(ip) => {
            let ip = ip.header();
            pseudo = pseudo.add_4bytes(ip.source()).add_4bytes(ip.destination());
            (ip.source_addr().into(), ip.destination_addr().into())
        }
        NetSlice::Ipv6(ip) => {
            let ip = ip.header();
            pseudo = pseudo.add_16bytes(ip.source()).add_16bytes(ip.destination());
            (ip.source_addr().into(), ip.destination_addr().into())
        }
        NetSlice::Arp(_) => return None,
    };
    let start = segment.as_ptr().addr() - frame.as_ptr().addr();
    Some(Facts {
        ends: Ends {
            client: SocketAddr::new(client, tcp.source_port()),
            door: SocketAddr::new(door, tcp.destination_port()),
        },
        sequence: tcp.sequence_number(),
        is_rst: tcp.rst(),
        segment: start..start + segment.len(),
        pseudo,
    })
}

/// Fills in the checksum of a segment if that is still to be done; `None`: it is wrong.
fn fill_in(segment: &mut [u8], pseudo: Sum16BitWords) -> Option<()> {
    if pseudo.clone().add_slice(segment).ones_complement() == 0 {
        return Some(());
    }
    // What the kernel puts there for the NIC to add to (CHECKSUM_PARTIAL): the sum of the pseudo-header.
    let partial = (!pseudo.ones_complement()).to_ne_bytes();
    if segment.get(CHECKSUM)? != partial {
        return None;
    }
    segment.get_mut(CHECKSUM)?.fill(0);
    let sum = pseudo.add_slice(segment).ones_complement().to_ne_bytes();
    segment.get_mut(CHECKSUM)?.copy_from_slice(&sum);
    Some(())
}
