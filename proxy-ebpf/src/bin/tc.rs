//! The packet datapath at tc ingress: full NAT of every flow of a route, and nothing else. Promises what
//! `translate` does; what it does not translate goes on to the next program, and to the stack, as it came.
//! Needs bpf_redirect_neigh and bpf_redirect_peer (5.10), mapped arrays (5.5), atomic compare-and-exchange and bpf_check_mtu (5.12), and tcx
//! links (6.6).
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macro wants")]

#[path = "../kernel/mod.rs"]
mod kernel;
#[path = "../kernel/tc/mod.rs"]
mod translate;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use proxy_ebpf::{nat::packet, parking::mark};

use self::{kernel::tables::count, translate::handle};

#[classifier]
fn nat_tc(ctx: TcContext) -> i32 {
    let mark = take_mark(&ctx);
    if mark == mark::TO_LISTENER {
        count(packet::TURNED);
        return TC_ACT_UNSPEC;
    }
    handle(ctx.skb.skb, mark == mark::TO_NODE)
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

proxy_ebpf::complete_object!();
