//! The bypass, at a cgroup: what a client and its node on the same host send each other goes from socket to socket. Promises:
//! only connections to the nodes that the daemon names, and only between sockets that have proven to be the two ends of one
//! connection; a direction is bypassed from its first byte on or never, and once on TCP stays there, so that nothing is
//! reordered; no reader holds more than it may; and nothing passes once the switch has ended or paused a connection. Needs the
//! reader's memory charged to the reader (6.13, or an older kernel that had it put in), and `bpf_get_current_pid_tgid` for
//! programs of any kind (6.10).
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macro wants")]

#[path = "../kernel/field.rs"]
mod field;
#[path = "../kernel/mod.rs"]
#[expect(dead_code, unused_imports, reason = "packets are translated by others; gates are the same")]
mod kernel;
#[path = "../kernel/bypass/mod.rs"]
mod pass;

use aya_ebpf::{
    bindings::{
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, BPF_SOCK_OPS_HDR_OPT_LEN_CB, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB,
        BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_TCP_CONNECT_CB,
    },
    macros::{sk_msg, sock_ops},
    programs::{SkMsgContext, SockOpsContext},
};

use self::pass::{connections, remind, send};

/// What the kernel asked is left to it.
const GO_ON: u32 = 1;

#[sock_ops]
fn bypass_conns(ctx: SockOpsContext) -> u32 {
    match ctx.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connections::dials(&ctx),
        BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB => connections::connected(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => connections::accepted(&ctx),
        BPF_SOCK_OPS_HDR_OPT_LEN_CB => connections::sends(&ctx),
        BPF_SOCK_OPS_STATE_CB => connections::changes(&ctx),
        _ => {}
    }
    GO_ON
}

#[sk_msg]
fn bypass_send(ctx: SkMsgContext) -> u32 {
    send::verdict(&ctx)
}

/// There is no macro for programs of this kind. It writes nothing for who reads.
#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/tcp")]
fn bypass_remind(ctx: &remind::Visit) -> u32 {
    remind::visit(ctx);
    0
}

proxy_ebpf::complete_object!();
