//! The address of a socket call, as the kernel shows it to a program at a cgroup and takes it back.

use aya_ebpf::{bindings::bpf_sock_addr, programs::SockAddrContext};

use crate::field::{read, read_all};
use crate::kernel::packet::{is_mapped, mapped, of_words, words};
use proxy_ebpf::nat::{Halves, Port};

/// Where somebody dials, or is to.
#[derive(Clone, Copy)]
pub(crate) struct At {
    pub(crate) addr: Halves,
    pub(crate) port: Port,
}

const LOOPBACK: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const LOOPBACK6: Halves = [0, u64::from_ne_bytes([0, 0, 0, 0, 0, 0, 0, 1])];

/// Of an IPv4 socket. Who dials no address means the loopback one, to the kernel too.
#[inline(always)]
pub(crate) fn v4(ctx: &SockAddrContext) -> At {
    let call = call(ctx);
    At { addr: mapped(or_loopback(read(&call.user_ip4))), port: port(call) }
}

/// Of an IPv6 socket, which may dial an IPv4 address.
#[inline(always)]
pub(crate) fn v6(ctx: &SockAddrContext) -> At {
    let call = call(ctx);
    let words = read_all(&call.user_ip6);
    let addr = match of_words(words) {
        [0, 0] => LOOPBACK6,
        v4 if is_mapped(v4) => mapped(or_loopback(words[3])),
        v6 => v6,
    };
    At { addr, port: port(call) }
}

/// Makes it this one, which is mapped.
#[inline(always)]
pub(crate) fn set_v4(ctx: &mut SockAddrContext, at: At) {
    let call = call_mut(ctx);
    let [.., ip] = words(at.addr);
    write(&mut call.user_ip4, ip);
    set_port(call, at.port);
}

#[inline(always)]
pub(crate) fn set_v6(ctx: &mut SockAddrContext, at: At) {
    let call = call_mut(ctx);
    let [first, second, third, last] = words(at.addr);
    write(&mut call.user_ip6[0], first);
    write(&mut call.user_ip6[1], second);
    write(&mut call.user_ip6[2], third);
    write(&mut call.user_ip6[3], last);
    set_port(call, at.port);
}

#[inline(always)]
pub(super) fn call(ctx: &SockAddrContext) -> &bpf_sock_addr {
    // SAFETY: the kernel's own, of this call alone.
    unsafe { &*ctx.sock_addr }
}

#[inline(always)]
fn call_mut(ctx: &mut SockAddrContext) -> &mut bpf_sock_addr {
    // SAFETY: as above.
    unsafe { &mut *ctx.sock_addr }
}

#[inline(always)]
fn write(field: &mut u32, value: u32) {
    // SAFETY: a reference is valid for writes.
    unsafe { core::ptr::from_mut(field).write_volatile(value) };
}

#[inline(always)]
fn or_loopback(ip: u32) -> u32 {
    if ip == 0 { LOOPBACK } else { ip }
}

/// Kept in network byte order in the first half of its word.
#[inline(always)]
fn port(call: &bpf_sock_addr) -> Port {
    (read(&call.user_port) as u16).to_ne_bytes()
}

#[inline(always)]
fn set_port(call: &mut bpf_sock_addr, port: Port) {
    write(&mut call.user_port, u32::from(u16::from_ne_bytes(port)));
}

#[inline(always)]
pub(crate) fn is_loopback(addr: Halves) -> bool {
    if is_mapped(addr) {
        let [.., ip] = words(addr);
        ip.to_ne_bytes()[0] == 127
    } else {
        addr == LOOPBACK6
    }
}
