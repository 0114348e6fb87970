//! A reader that gets the rest of what was bypassed in one read, and then what came by TCP in the next, must come again by itself:
//! of TCP's bytes poll(2) has told long before. Whoever waits for the next word of epoll's edge, after a read that was shorter
//! than its buffer, would wait for ever. So it is told once more, for as long as it has something unread.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::{BPF_ANY, bpf_sock},
    helpers::{bpf_setsockopt, bpf_skc_to_tcp_sock},
};

use super::{HURRY, LATE, ORDERS, socket};
use crate::kernel::tables::fetch_add;
use proxy_ebpf::bypass::Late;

const SOL_SOCKET: i32 = 1;
const SO_RCVLOWAT: i32 = 18;

/// What the kernel hands to a program that it runs over all TCP sockets (`struct bpf_iter__tcp`).
#[repr(C)]
pub(crate) struct Visit {
    meta: *mut c_void,
    socket: *mut bpf_sock,
    uid: u32,
}

/// From here on its sender goes by TCP.
#[inline(always)]
pub(super) fn be_reminded(reader: u64) {
    let Some(orders) = ORDERS.get(0) else { return };
    if socket::word::<u32>(reader, orders.rmem_alloc).is_some_and(|unread| unread != 0)
        && LATE.insert(reader, Late { reader, met: 0 }, BPF_ANY.into()).is_ok()
    {
        // The daemon looks by itself as well, if not as soon.
        let _is_told = HURRY.output(reader, 0);
    }
}

/// The kernel has locked the socket, and it is none that closes meanwhile.
#[inline(always)]
pub(crate) fn visit(visit: &Visit) {
    let (at, Some(orders)) = (visit.socket, ORDERS.get(0)) else { return };
    if at.is_null() {
        return;
    }
    let Some(late) = LATE.get_ptr_mut(at as u64) else { return };
    // SAFETY: an integer of the entry.
    let met = unsafe { &raw mut (*late).met };
    fetch_add(met, 1);
    // SAFETY: as above.
    let reader = unsafe { &raw const (*late).reader };
    // SAFETY: as above.
    let reader = unsafe { reader.read_volatile() };
    // SAFETY: the kernel's own.
    let tcp = unsafe { bpf_skc_to_tcp_sock(at.cast()) };
    let (Some(unread), Some(mut least)) =
        (socket::word::<u32>(reader, orders.rmem_alloc), socket::word::<i32>(reader, orders.rcvlowat))
    else {
        return;
    };
    if unread == 0 || tcp.is_null() {
        let _is_gone = LATE.remove(reader);
        return;
    }
    // What it is already: the kernel wakes who waits if there is so much to read.
    let value = (&raw mut least).cast();
    // SAFETY: the kernel's own socket, and an integer.
    unsafe { bpf_setsockopt(tcp.cast(), SOL_SOCKET, SO_RCVLOWAT, value, size_of::<i32>() as i32) };
}
