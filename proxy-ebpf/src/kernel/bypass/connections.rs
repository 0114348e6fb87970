//! Connections to nodes as they begin and end. Both ends are entered when they are established: until then neither has sent
//! anything, and what they send first decides.

use aya_ebpf::{
    EbpfContext as _,
    bindings::{BPF_ANY, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG, bpf_sock, bpf_sock_ops},
    helpers::{
        bpf_get_current_pid_tgid, bpf_get_current_task, bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sock_hash_update,
    },
    programs::SockOpsContext,
};

use super::{
    ENDS, LATE, NODES, ORDERS, PROGRAMS, SOCKETS, add, count_client, orders, remove, set_waiting, socket, take_out,
};
use crate::field::{read, read_all};
use crate::kernel::{
    packet::{bytes, mapped, of_words},
    tables::globals,
};
use proxy_ebpf::{
    bypass::{End, Entered, Gate, Mark, NO_ROUTE, Orders, Path, Program, count, seat, way},
    nat::{Address, Port},
    steering::Dialled,
};

const AF_INET6: u32 = 10;
const TCP_CLOSE: u32 = 7;

/// A process dials, and is still in its call.
#[inline(always)]
pub(crate) fn dials(ctx: &SockOpsContext) {
    let Some(at) = socket_of(ctx) else { return };
    if let Some(path) = socket::path(at) {
        // It was connected before. What it has not read of that is nobody's any more, and nothing more may come from there.
        leave(path);
        socket::forget(at);
    }
    let Some(orders) = ORDERS.get_ptr_mut(0) else { return };
    // SAFETY: the entry is there for good.
    let orders = unsafe { &mut *orders };
    let end = end_of(ctx);
    if orders.on == 0 || !is_node(end.netns, &end.remote, end.remote_port) {
        return;
    }
    let process = (bpf_get_current_pid_tgid() >> 32) as u32;
    if orders.asking != 0 && orders.asking == u32::from(u16::from_be_bytes(end.remote_port)) {
        orders.spared = process;
    } else if orders.spared == process {
        return;
    }
    if is_excepted(orders) {
        return add(count::EXCEPTED, 1);
    }
    if !socket::remember(at, &path_of(&end, at, way::DIALLED, 1)) {
        return add(count::NO_ROOM, 1);
    }
    // Only what was remembered is a number to calculate with.
    let waits = |path: &mut Path| socket::is_blocking(orders, path.here.socket) == Some(true);
    if socket::path(at).is_some_and(waits) {
        socket::forget(at);
        add(count::BLOCKING, 1);
    }
}

/// Whether the process that dials is one of a program which may look past a socket's queue.
#[inline(always)]
fn is_excepted(orders: &Orders) -> bool {
    // SAFETY: no arguments; the kernel's own record of this thread.
    let thread = unsafe { bpf_get_current_task() };
    let first: Option<u64> = socket::word(thread, orders.group_leader);
    let name: Option<Program> = first.and_then(|first| socket::word(first, orders.comm));
    // SAFETY: the value is never looked at.
    name.is_some_and(|name| unsafe { PROGRAMS.get(name) }.is_some())
}

/// Whom [`dials`] has seen is connected.
#[inline(always)]
pub(crate) fn connected(ctx: &SockOpsContext) {
    let Some(at) = socket_of(ctx) else { return };
    let Some(path) = socket::path(at) else { return };
    if path.way == way::DIALLED && is_wanted() {
        path.peer = end_of(ctx).other();
        path.here.gate = socket::gate(at);
        enter(ctx, path);
    }
}

/// Somebody's connection was accepted. The other end is there already if it is on this host: it was established first.
#[inline(always)]
pub(crate) fn accepted(ctx: &SockOpsContext) {
    let Some(at) = socket_of(ctx) else { return };
    let end = end_of(ctx);
    if !is_wanted() || !is_node(end.netns, &end.local, end.local_port) || socket::path(at).is_some() {
        return;
    }
    // SAFETY: the value is never looked at.
    if unsafe { ENDS.get(end.other()) }.is_none() {
        return;
    }
    if !socket::remember(at, &path_of(&end, at, way::DIALLED, 0)) {
        return add(count::NO_ROOM, 1);
    }
    if let Some(path) = socket::path(at) {
        enter(ctx, path);
    }
}

/// TCP is asked to send on a socket. Whose connection goes by TCP from its beginning is taken out here, in the call that has
/// chosen: its process may wait in the next one already. That this is asked for each segment from then on has to be borne: the
/// flag is the socket's, and another program may have set it for itself.
#[inline(always)]
pub(crate) fn sends(ctx: &SockOpsContext) {
    let Some(path) = socket_of(ctx).and_then(socket::path) else { return };
    if path.way == way::TCP {
        path.way = way::OUT;
        take_out(path.peer.other());
        take_out(path.peer);
    }
}

/// Its state is another one from here on.
#[inline(always)]
pub(crate) fn changes(ctx: &SockOpsContext) {
    // SAFETY: the arguments of this operation.
    let args = unsafe { &ops(ctx).__bindgen_anon_1.args };
    if read(&args[1]) != TCP_CLOSE {
        return;
    }
    let Some(path) = socket_of(ctx).and_then(socket::path) else { return };
    if path.way == way::BYPASS {
        count_client(path, u64::MAX);
    }
    path.way = way::TCP;
    set_waiting(path, 0);
    let _was_late = LATE.remove(path.here.socket);
    // What is in its queue its process may read still, so the socket stays where that is.
    let own = path.peer.other();
    let _is_gone = ENDS.remove(own);
}

/// A socket with its connection, as it is before the first byte.
#[inline(always)]
fn enter(ctx: &SockOpsContext, path: &mut Path) {
    let ops = ops(ctx);
    let mut own = path.peer.other();
    // Others that want to hear of this socket go on to.
    let flags = read(&ops.bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG | BPF_SOCK_OPS_WRITE_HDR_OPT_CB_FLAG;
    let here = path.here;
    path.way = way::UNDECIDED;
    if ctx.set_cb_flags(flags as i32).is_err() || ENDS.insert(own, here, 0).is_err() {
        path.way = way::TCP;
        return add(count::NO_ROOM, 1);
    }
    let map = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: the context is the kernel's own, and the key of the map's size.
    let entered = unsafe { bpf_sock_hash_update(ctx.ops, map, (&raw mut own).cast(), BPF_ANY.into()) };
    if entered != 0 {
        path.way = way::TCP;
        let _is_gone = ENDS.remove(own);
        add(count::REFUSED, 1);
    }
}

/// Takes a socket out that is another connection's from here on.
#[inline(always)]
fn leave(path: &mut Path) {
    if path.way == way::BYPASS {
        count_client(path, u64::MAX);
    }
    set_waiting(path, 0);
    let mut own = path.peer.other();
    let _is_gone = ENDS.remove(own);
    remove(&mut own);
}

/// Somebody looks after what is bypassed, or did a moment ago.
#[inline(always)]
fn is_wanted() -> bool {
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    orders().is_some() && globals().is_some_and(|globals| now <= globals.clock.beat + globals.clock.grace)
}

#[inline(always)]
fn is_node(netns: u64, addr: &Address, port: Port) -> bool {
    let node = Dialled { netns, addr: *addr, port, _pad: [0; 6] };
    // SAFETY: the value is never looked at.
    unsafe { NODES.get(node) }.is_some()
}

#[inline(always)]
fn path_of(end: &End, at: *mut bpf_sock, way: u32, dialled: u32) -> Path {
    let gate = Gate { route: NO_ROUTE, slot: 0, generation: 0 };
    let here = Entered { socket: at as u64, gate, seat: seat::FREE };
    let mark = Mark { bytes: 0, cost: 0 };
    Path {
        peer: end.other(),
        way,
        dialled,
        here,
        there: 0,
        bytes: 0,
        cost: 0,
        place: 0,
        place_end: 0,
        piece: 0,
        in_sum: 0,
        marks: [mark; 2],
    }
}

#[inline(always)]
fn end_of(ctx: &SockOpsContext) -> End {
    let ops = ops(ctx);
    // SAFETY: the context is the kernel's own.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let (local, remote) = if read(&ops.family) == AF_INET6 {
        (of_words(read_all(&ops.local_ip6)), of_words(read_all(&ops.remote_ip6)))
    } else {
        (mapped(read(&ops.local_ip4)), mapped(read(&ops.remote_ip4)))
    };
    // One is in host byte order, the other in the second half of its word.
    let local_port = (read(&ops.local_port) as u16).to_be_bytes();
    let remote_port = ((read(&ops.remote_port) >> 16) as u16).to_ne_bytes();
    let (sent, received) = (read(&ops.snd_nxt), read(&ops.rcv_nxt));
    End { netns, local: bytes(local), remote: bytes(remote), local_port, remote_port, sent, received, _pad: 0 }
}

#[inline(always)]
fn ops(ctx: &SockOpsContext) -> &bpf_sock_ops {
    // SAFETY: the kernel's own, of this call alone.
    unsafe { &*ctx.ops }
}

#[inline(always)]
fn socket_of(ctx: &SockOpsContext) -> Option<*mut bpf_sock> {
    // SAFETY: the one variant that the kernel has.
    let socket = unsafe { ops(ctx).__bindgen_anon_2.sk };
    (!socket.is_null()).then_some(socket)
}
