//! A frame as a driver hands it to XDP: nothing beside its bytes is known, and every checksum in it has to be right.

use core::ffi::c_void;

use aya_ebpf::{helpers::bpf_xdp_get_buff_len, programs::XdpContext};

use super::maps::{self, Interfaces};
use crate::kernel::{
    checksum,
    packet::{ETHERNET, Packet, Segment, TCP, Tcp, header, words},
};
use proxy_ebpf::{nat::Halves, xdp::Interface};

pub(crate) struct Frame {
    ctx: XdpContext,
    // Nothing that is called here moves them.
    data: usize,
    data_end: usize,
    interfaces: &'static Interfaces,
}

impl Frame {
    #[inline(always)]
    pub(crate) fn new(ctx: XdpContext) -> Option<Self> {
        Some(Self { data: ctx.data(), data_end: ctx.data_end(), interfaces: maps::interfaces()?, ctx })
    }

    /// What is known of an interface.
    #[inline(always)]
    pub(super) fn interface(&self, ifindex: u32) -> Option<&'static Interface> {
        maps::interface(self.interfaces, ifindex)
    }

    #[inline(always)]
    fn first_piece(&self) -> u32 {
        (self.data_end - self.data) as u32
    }

    /// Whether it is sent to this address, which is aligned as the frame's is: two bytes before a word.
    #[inline(always)]
    fn is_to(&self, mac: &[u16; 3]) -> bool {
        let Some(to) = header::<[u8; ETHERNET]>(self, 0) else { return false };
        let (to, mac): (*const u16, *const u16) = (to.cast(), mac.as_ptr());
        // SAFETY: inside the packet, and the record.
        let first = |mac: *const u16| unsafe { mac.read() };
        // SAFETY: as above.
        let rest = |mac: *const u16| unsafe { mac.wrapping_add(1).cast::<u32>().read() };
        first(to) == first(mac) && rest(to) == rest(mac)
    }

    /// It lies in several pieces, the headers in the first.
    #[inline(always)]
    pub(super) fn in_pieces(&self, segment: &Segment) -> bool {
        segment.length + ETHERNET as u32 > self.first_piece()
    }

    /// Whether the sender has left the TCP checksum to hardware: the field then has the sum of the pseudo-header alone
    /// (`__tcp_v4_send_check`). Of finished segments one in 65,536 looks like that.
    #[inline(always)]
    pub(super) fn is_unfinished(&self, segment: &Segment) -> bool {
        let Some(tcp) = header::<Tcp>(self, segment.tcp) else { return true };
        // SAFETY: inside the packet.
        let tcp = unsafe { &*tcp };
        let length = u32::from(tcp.offset >> 4) * 4 + segment.payload;
        let addresses = if segment.v6 {
            sum(segment.source) + sum(segment.destination)
        } else {
            u64::from(words(segment.source)[3]) + u64::from(words(segment.destination)[3])
        };
        is_sum(tcp.checksum, addresses + u64::from(length.to_be()) + u64::from(u32::from(TCP).to_be()))
    }
}

impl Packet for Frame {
    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.ctx.ctx.cast()
    }

    #[inline(always)]
    fn data(&self) -> usize {
        self.data
    }

    #[inline(always)]
    fn data_end(&self) -> usize {
        self.data_end
    }

    /// A call less where all that its IP header speaks of lies in the first piece.
    #[inline(always)]
    fn len(&self, said: u32) -> u32 {
        let there = self.first_piece();
        if said != 0 && said + ETHERNET as u32 <= there {
            return there;
        }
        // SAFETY: the context is the kernel's own.
        unsafe { bpf_xdp_get_buff_len(self.ctx.ctx) as u32 }
    }

    #[inline(always)]
    fn is_cut_later(&self) -> bool {
        false
    }

    /// Nobody has looked at the address yet. A tag in the frame makes it no IP; of one that the driver has taken off
    /// nothing is seen here, so an interface with VLANs does not pass the self-test.
    #[inline(always)]
    fn is_plain(&self) -> bool {
        self.interface(self.ctx.ingress_ifindex() as u32).is_some_and(|interface| self.is_to(&interface.mac))
    }

    /// What is not in the first piece is tc's.
    #[inline(always)]
    fn pull(&self, _len: u32) -> bool {
        false
    }

    #[inline(always)]
    fn correct(&self, offset: usize, addresses: u64, old: u32, new: u32) -> bool {
        let Some(field) = header::<u16>(self, offset) else { return false };
        let sum = checksum::difference(addresses, old, new);
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

/// Whether the field is `sum` itself, as it is before anybody has complemented it. A sum of addresses is not 0, and of a
/// field both zeros are one.
#[inline(always)]
fn is_sum(field: u16, sum: u64) -> bool {
    checksum::folded(sum) == if field == 0 { 0xffff } else { field }
}
