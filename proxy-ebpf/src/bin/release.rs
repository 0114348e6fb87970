//! Sends a frame in again at the interface that it came from, as if it arrived only now: the packet program meets it
//! there. The daemon runs this with BPF_PROG_TEST_RUN, the frame as data, interface and mark in the context; it is
//! attached to nothing. Needs test runs whose context names an interface (5.8).
#![no_std]
#![no_main]
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macro wants")]

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, TC_ACT_OK, TC_ACT_SHOT},
    helpers::bpf_clone_redirect,
    macros::classifier,
    programs::TcContext,
};

/// The clone keeps the mark: it stays in its network namespace.
#[classifier]
fn release(ctx: TcContext) -> i32 {
    let skb = ctx.skb.skb;
    // SAFETY: the context is the kernel's own.
    let ifindex = unsafe { (*skb).ifindex };
    // SAFETY: as above.
    let sent = unsafe { bpf_clone_redirect(skb, ifindex, u64::from(BPF_F_INGRESS)) };
    if sent == 0 { TC_ACT_OK } else { TC_ACT_SHOT }
}

proxy_ebpf::complete_object!();
