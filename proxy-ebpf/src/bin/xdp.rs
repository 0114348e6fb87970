//! The accelerator of the packet datapath, at the driver: translates packets of established flows and sends them out by
//! another interface before the kernel has made an sk_buff of them. Promises that whatever it does not send it leaves
//! as it came, for `tc` behind it. Needs bpf_fib_lookup, device maps and frames in pieces (5.18).
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]

#[path = "../kernel/xdp/mod.rs"]
mod forward;
#[path = "../kernel/mod.rs"]
#[expect(dead_code, reason = "flows are made, ended and answered for by tc alone")]
mod kernel;

use aya_ebpf::{bindings::xdp_action::XDP_PASS, macros::xdp, programs::XdpContext};

use self::forward::{Frame, forward};

#[xdp(frags)]
#[inline(always)]
fn nat_xdp(ctx: XdpContext) -> u32 {
    Frame::new(ctx).map_or(XDP_PASS, |frame| forward(&frame))
}

proxy_ebpf::complete_object!();
