//! A packet as tc hands it to a program: the kernel knows what is still to be filled in, and what it will be cut into.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{__sk_buff, BPF_F_PSEUDO_HDR, TC_ACT_SHOT},
    helpers::{
        bpf_check_mtu, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_pull_data,
    },
    programs::TcContext,
};

use crate::kernel::{checksum::partial, packet::Packet, tables::count};
use proxy_ebpf::nat::packet;

pub(super) struct Skb {
    pub(super) ctx: TcContext,
}

impl Skb {
    #[inline(always)]
    pub(super) fn new(skb: *mut __sk_buff) -> Self {
        Self { ctx: TcContext::new(skb) }
    }

    /// Out by an interface, as it is addressed; or straight into the other end of a veth.
    #[inline(always)]
    pub(super) fn send(&self, ifindex: u32, peered: bool) -> i32 {
        if !peered {
            // SAFETY: no pointers.
            return unsafe { bpf_redirect(ifindex, 0) } as i32;
        }
        // As a veth does: what this host marks is no affair of another network namespace.
        // SAFETY: the context is the kernel's own, and a program at tc may write this word of it.
        unsafe { (*self.ctx.skb.skb).mark = 0 };
        // SAFETY: no pointers.
        unsafe { bpf_redirect_peer(ifindex, 0) as i32 }
    }

    /// To the next hop that the kernel finds.
    #[inline(always)]
    pub(super) fn send_by_kernel(&self, ifindex: u32) -> i32 {
        // SAFETY: without parameters the kernel takes the next hop from the packet's own destination.
        let action = unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) } as i32;
        if action == TC_ACT_SHOT {
            count(packet::UNROUTED);
        }
        action
    }

    /// The interface it came in on.
    #[inline(always)]
    pub(super) fn ingress(&self) -> u32 {
        // SAFETY: the context is the kernel's own.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }
}

impl Packet for Skb {
    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.ctx.skb.skb.cast()
    }

    #[inline(always)]
    fn is_cut_later(&self) -> bool {
        // SAFETY: the context is the kernel's own.
        unsafe { (*self.ctx.skb.skb).gso_size != 0 }
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
    fn len(&self, _said: u32) -> u32 {
        self.ctx.len()
    }

    #[inline(always)]
    fn is_plain(&self) -> bool {
        const PACKET_HOST: u32 = 0;
        // SAFETY: as above.
        let skb = unsafe { &*self.ctx.skb.skb };
        skb.pkt_type == PACKET_HOST && skb.vlan_present == 0
    }

    #[inline(always)]
    fn pull(&self, len: u32) -> bool {
        // SAFETY: as above.
        unsafe { bpf_skb_pull_data(self.ctx.skb.skb, len) == 0 }
    }

    /// The helper knows what the NIC or GSO is still to fill in, and that ports are no part of it then.
    #[inline(always)]
    fn correct(&self, offset: usize, addresses: u64, old: u32, new: u32) -> bool {
        let (skb, offset) = (self.ctx.skb.skb, offset as u32);
        let [addresses, old, new] = [partial(addresses), old, new].map(u64::from);
        // SAFETY: as above.
        let addressed = unsafe { bpf_l4_csum_replace(skb, offset, 0, addresses, u64::from(BPF_F_PSEUDO_HDR)) };
        // SAFETY: as above.
        addressed == 0 && unsafe { bpf_l4_csum_replace(skb, offset, old, new, 4) == 0 }
    }

    #[inline(always)]
    fn mtu(&self, ifindex: u32) -> Option<u32> {
        let mut mtu = 0;
        // SAFETY: the context is the kernel's own. What it says of this packet does not matter, only the MTU.
        unsafe { bpf_check_mtu(self.ctx.skb.skb.cast(), ifindex, &raw mut mtu, 0, 0) };
        (mtu != 0).then_some(mtu)
    }
}
