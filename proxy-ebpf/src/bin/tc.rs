//! The packet datapath at tc ingress: full NAT of every flow of a route, and nothing else. Promises what
//! `kernel::nat` does; what it does not translate goes on to the next program, and to the stack, as it came.
//! Needs bpf_redirect_neigh and bpf_redirect_peer (5.10), mapped arrays (5.5), atomic compare-and-exchange and bpf_check_mtu (5.12), and tcx
//! links (6.6).
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[path = "../kernel/mod.rs"]
mod kernel;

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_F_PSEUDO_HDR, TC_ACT_SHOT, TC_ACT_UNSPEC},
    helpers::{
        bpf_check_mtu, bpf_l4_csum_replace, bpf_redirect, bpf_redirect_neigh, bpf_redirect_peer, bpf_skb_pull_data,
    },
    macros::classifier,
    programs::TcContext,
};
use proxy_ebpf::{nat::packet, parking::mark};

use self::kernel::{
    aside,
    nat::{Onward, Verdict, handle},
    packet::{ETHERNET, Packet},
    tables::count,
};

struct Skb {
    ctx: TcContext,
    released: bool,
}

#[classifier]
fn nat_tc(ctx: TcContext) -> i32 {
    let mark = take_mark(&ctx);
    if mark == mark::TO_LISTENER {
        count(packet::TURNED);
        return TC_ACT_UNSPEC;
    }
    let skb = Skb { ctx, released: mark == mark::TO_NODE };
    match handle(&skb) {
        Verdict::Send(onward) => send(&skb, &onward),
        Verdict::Pass => TC_ACT_UNSPEC,
        Verdict::Drop => TC_ACT_SHOT,
        Verdict::Aside { route } if aside::take(&skb.ctx, route, skb.ingress()) => {
            count(packet::PARKED);
            TC_ACT_SHOT
        }
        Verdict::Aside { .. } => {
            count(packet::UNPARKED);
            TC_ACT_UNSPEC
        }
        Verdict::Show { route } => {
            // If it is not heard, the place is free when its time is up.
            let _unheard = aside::take(&skb.ctx, route, skb.ingress());
            TC_ACT_UNSPEC
        }
    }
}

/// The daemon's mark on a frame that it sent in again. Whoever routes or filters by marks sees none.
#[inline(always)]
fn take_mark(ctx: &TcContext) -> u32 {
    // SAFETY: the context is the kernel's own, and a program at tc may write this word of it.
    let mark = unsafe { &mut (*ctx.skb.skb).mark };
    match *mark {
        ours @ (mark::TO_NODE | mark::TO_LISTENER) => {
            *mark = 0;
            ours
        }
        _ => 0,
    }
}

#[inline(always)]
fn send(skb: &Skb, onward: &Onward) -> i32 {
    let ifindex = onward.ifindex;
    if onward.way.is_known() && onward.way.address(skb) {
        if onward.peered == 0 {
            // SAFETY: no pointers.
            return unsafe { bpf_redirect(ifindex, 0) } as i32;
        }
        // As a veth does: what this host marks is no affair of another network namespace.
        // SAFETY: the context is the kernel's own, and a program at tc may write this word of it.
        unsafe { (*skb.ctx.skb.skb).mark = 0 };
        // SAFETY: no pointers.
        return unsafe { bpf_redirect_peer(ifindex, 0) } as i32;
    }
    // SAFETY: without parameters the kernel takes the next hop from the packet's own destination.
    let action = unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) } as i32;
    if action == TC_ACT_SHOT {
        count(packet::UNROUTED);
    }
    action
}

impl Packet for Skb {
    #[inline(always)]
    fn context(&self) -> *mut c_void {
        self.ctx.skb.skb.cast()
    }

    #[inline(always)]
    fn wire_len(&self) -> u16 {
        // SAFETY: the context is the kernel's own.
        let is_cut_later = unsafe { (*self.ctx.skb.skb).gso_size } != 0;
        if is_cut_later { 0 } else { (self.len() - ETHERNET as u32) as u16 }
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
        self.ctx.len()
    }

    #[inline(always)]
    fn ingress(&self) -> u32 {
        // SAFETY: the context is the kernel's own.
        unsafe { (*self.ctx.skb.skb).ifindex }
    }

    #[inline(always)]
    fn is_released(&self) -> bool {
        self.released
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
    fn correct(&self, offset: usize, addresses: u32, old: u32, new: u32) -> bool {
        let (skb, offset) = (self.ctx.skb.skb, offset as u32);
        let [addresses, old, new] = [addresses, old, new].map(u64::from);
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

proxy_ebpf::complete_object!();
