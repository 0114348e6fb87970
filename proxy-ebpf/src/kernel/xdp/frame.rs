//! A frame as a driver hands it to XDP: nothing beside its bytes is known, and every checksum in it has to be right.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_xdp_get_buff_len, programs::XdpContext};

use super::maps;
use crate::kernel::{
    checksum,
    packet::{ETHERNET, ETHERTYPE_IPV4, ETHERTYPE_IPV6, Ipv4, Ipv6, Packet, Segment, TCP, Tcp, header, words},
};
use proxy_ebpf::nat::Halves;

pub(crate) struct Frame {
    ctx: XdpContext,
    /// All of its pieces, in bytes.
    len: u32,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Self {
        let mut frame = Self { ctx, len: 0 };
        frame.len = frame.all_in_first().unwrap_or_else(|| {
            // SAFETY: the context is the kernel's own.
            unsafe { bpf_xdp_get_buff_len(frame.ctx.ctx) as u32 }
        });
        frame
    }

    /// Its length, if all that its IP header speaks of lies in the first piece: a call less. A header that says nothing (0, of
    /// what is longer than it can say) is none.
    #[inline(always)]
    fn all_in_first(&self) -> Option<u32> {
        let there = (self.data_end() - self.data()) as u32;
        // SAFETY: inside the packet.
        let (said, header) = match u16::from_be(unsafe { *header::<u16>(self, ETHERNET - 2)? }) {
            // SAFETY: as above.
            ETHERTYPE_IPV4 => (unsafe { (*header::<Ipv4>(self, ETHERNET)?).total }, 0),
            // SAFETY: as above.
            ETHERTYPE_IPV6 => (unsafe { (*header::<Ipv6>(self, ETHERNET)?).payload }, size_of::<Ipv6>()),
            _ => return None,
        };
        let end = u32::from(u16::from_be_bytes(said)) + (header + ETHERNET) as u32;
        (said != [0; 2] && end <= there).then_some(there)
    }

    /// It lies in several pieces, the headers in the first.
    #[inline(always)]
    pub(super) fn in_pieces(&self) -> bool {
        self.len() as usize > self.data_end() - self.data()
    }

    /// Whether the sender has left the TCP checksum to hardware: the field then has the sum of the pseudo-header alone
    /// (`__tcp_v4_send_check`). Of finished segments one in 65,536 looks like that.
    #[inline(always)]
    pub(super) fn is_unfinished(&self, segment: &Segment) -> bool {
        let Some(tcp) = header::<Tcp>(self, segment.tcp) else { return true };
        // SAFETY: inside the packet.
        let tcp = unsafe { &*tcp };
        let length = u32::from(tcp.offset >> 4) * 4 + segment.payload;
        // The words before a mapped IPv4 address are 0 and, in ones' complement, 0.
        let addresses = sum(segment.source) + sum(segment.destination);
        is_sum(tcp.checksum, addresses + u64::from(length.to_be()) + u64::from(u32::from(TCP).to_be()))
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.ctx.ctx.cast()
    }

    #[inline(always)]
    fn wire_len(&self) -> u16 {
        (self.len() - ETHERNET as u32) as u16
    }

    #[inline(always)]
    fn data(&self) -> usize {
        self.ctx.data()
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        self.ctx.data_end()
    }

    #[inline(always)]
    fn len(&self) -> u32 {
        self.len
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        self.ctx.ingress_ifindex() as u32
    }

    /// Where it is sent in again, tc sees it only.
    #[inline(always)]
    fn is_released(&self) -> bool {
        false
    }

    /// Nobody has looked at the address yet. A tag in the frame makes it no IP; of one that the driver has taken off
    /// nothing is seen here, so an interface with VLANs does not pass the self-test.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        let Some(interface) = maps::interface(self.ingress()) else { return false };
        // SAFETY: inside the packet.
        header::<[u16; 3]>(self, 0).is_some_and(|to| unsafe { *to } == interface.mac)
    }

    /// What is not in the first piece is tc's.
    #[inline(always)]
    fn pull(&self, _len: u32) -> bool {
        false
    }

    #[inline(always)]
    fn correct(&self, offset: usize, addresses: u32, old: u32, new: u32) -> bool {
        let Some(field) = header::<u16>(self, offset) else { return false };
        let sum = checksum::difference(u64::from(addresses), old, new);
        // SAFETY: inside the packet.
        let field = unsafe { &mut *field };
        *field = checksum::updated(*field, sum);
        true
    }

    /// No connection begins here.
    #[inline(always)]
    fn mtu(&self, _ifindex: u32) -> Option<u32> {
        None
    }
}

#[inline(always)]
fn sum(address: Halves) -> u64 {
    let [a, b, c, d] = words(address).map(u64::from);
    a + b + c + d
}

/// Whether the field is `sum` itself, as it is before anybody has complemented it. Both zeros are one.
#[inline(always)]
fn is_sum(field: u16, sum: u64) -> bool {
    let sum = u64::from(checksum::partial(sum));
    let sum = (sum >> 16) + (sum & 0xffff);
    let sum = ((sum >> 16) + (sum & 0xffff)) as u16;
    sum == field || (sum ^ field == 0xffff && (field == 0 || sum == 0))
}
