//! Steering, at a cgroup: a `connect(2)` to an address that a route listens at goes to the node itself, without a hop. The client
//! sees the address that it dialled. Promises: only TCP, and only the routes' own addresses in their namespaces; who cannot
//! be led to a node dials the listener as if there were no steering; and on a connection that was led nothing passes
//! once the switch has ended or paused it. Needs cgroup2, its hook for getpeername (5.8) and that for closing (5.9), storage
//! of sockets at all of them (5.13), and a helper that knows MPTCP (5.19).
#![no_std]
#![no_main]
#![cfg_attr(target_arch = "bpf", feature(asm_experimental_arch))]
#![expect(clippy::needless_pass_by_value, reason = "the signature that the macro wants")]

#[path = "../kernel/field.rs"]
mod field;
#[path = "../kernel/mod.rs"]
#[expect(dead_code, unused_imports, reason = "packets are translated by others; routes and targets are the same")]
mod kernel;
#[path = "../kernel/steering/mod.rs"]
mod steer;

use aya_ebpf::{
    macros::{cgroup_skb, cgroup_sock, cgroup_sock_addr},
    programs::{SkBuffContext, SockAddrContext, SockContext},
};

use self::steer::{address, connect, may_pass, peer, socket};

/// The kernel goes on with the call, or the packet.
const GO_ON: i32 = 1;
const DROP: i32 = 0;

#[cgroup_sock_addr(connect4)]
fn steer_connect4(mut ctx: SockAddrContext) -> i32 {
    if let Some(node) = connect(&ctx, address::v4(&ctx)) {
        address::set_v4(&mut ctx, node);
    }
    GO_ON
}

#[cgroup_sock_addr(connect6)]
fn steer_connect6(mut ctx: SockAddrContext) -> i32 {
    if let Some(node) = connect(&ctx, address::v6(&ctx)) {
        address::set_v6(&mut ctx, node);
    }
    GO_ON
}

#[cgroup_sock_addr(getpeername4)]
fn steer_peer4(mut ctx: SockAddrContext) -> i32 {
    if let Some(dialled) = peer(&ctx) {
        address::set_v4(&mut ctx, dialled);
    }
    GO_ON
}

#[cgroup_sock_addr(getpeername6)]
fn steer_peer6(mut ctx: SockAddrContext) -> i32 {
    if let Some(dialled) = peer(&ctx) {
        address::set_v6(&mut ctx, dialled);
    }
    GO_ON
}

#[cgroup_skb(egress)]
fn steer_egress(ctx: SkBuffContext) -> i32 {
    if may_pass(&ctx) { GO_ON } else { DROP }
}

/// What a node answers after the fence to what it heard before is no answer: the new master may not have it.
#[cgroup_skb(ingress)]
fn steer_ingress(ctx: SkBuffContext) -> i32 {
    if may_pass(&ctx) { GO_ON } else { DROP }
}

#[cgroup_sock(sock_release)]
fn steer_release(ctx: SockContext) -> i32 {
    socket::closed(ctx.sock);
    GO_ON
}

proxy_ebpf::complete_object!();
