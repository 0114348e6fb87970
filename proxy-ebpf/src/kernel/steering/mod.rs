//! Whether a call leads to a node, and whether what is sent to one may go there.

pub(crate) mod address;
pub(crate) mod socket;

use aya_ebpf::{
    EbpfContext as _,
    bindings::{__sk_buff, BPF_F_CURRENT_NETNS, BPF_F_NO_PREALLOC, bpf_sock},
    btf_maps::{HashMap, PerCpuArray},
    helpers::{
        bpf_get_netns_cookie, bpf_ktime_get_ns, bpf_sk_lookup_tcp, bpf_sk_release, bpf_skb_load_bytes,
        bpf_skc_to_mptcp_sock,
    },
    macros::btf_map,
    programs::{SkBuffContext, SockAddrContext},
};

use self::address::{At, call, is_loopback};
use crate::field::{read, read_all};
use crate::kernel::{
    aside::{Turn, turn_of},
    balance,
    flow::{Gate, gate::gate_of, halves, remember_first},
    packet::{RST, TCP, bytes, is_mapped, mapped, of_words, words},
    tables::{USAGE, globals},
    target::{is_allowed, is_open, is_same, node_of, target_of},
};
use proxy_ebpf::{
    TargetKey,
    steering::{Counts, Dialled, Listen, Reached, Steered, count, place},
};

/// An entry takes memory once it is there.
const GROWS: usize = BPF_F_NO_PREALLOC as usize;

/// As many addresses as the packet datapath can have, in a few namespaces; the daemon makes it larger.
#[btf_map(name = "dialled")]
static DIALLED: HashMap<Dialled, Listen, 1024, GROWS> = HashMap::new();
#[btf_map(name = "reached")]
static REACHED: HashMap<Reached, u32, 1024, GROWS> = HashMap::new();
#[btf_map(name = "steerings")]
static STEERINGS: PerCpuArray<Counts, 1> = PerCpuArray::new();

const SOCK_STREAM: u32 = 1;

/// The node to dial instead; none: the call goes on as it is.
#[inline(always)]
pub(crate) fn connect(ctx: &SockAddrContext, at: At) -> Option<At> {
    let call = call(ctx);
    if read(&call.type_) != SOCK_STREAM || read(&call.protocol) != u32::from(TCP) {
        return None;
    }
    let socket = socket_of(ctx);
    // SAFETY: the socket is the kernel's own.
    if !unsafe { bpf_skc_to_mptcp_sock(socket.cast()) }.is_null() {
        // A part of an MPTCP connection: no socket of a process, and its end is told to nobody.
        return None;
    }
    socket::forget(socket);
    // SAFETY: the context is the kernel's own.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    let dialled = Dialled { netns, addr: bytes(at.addr), port: at.port, _pad: [0; 6] };
    // SAFETY: a copy; what is listened at there changes with the configuration only.
    let listen = *unsafe { DIALLED.get(dialled) }?;
    if listen.place == place::AWAY_OWN && is_occupied(ctx, at) {
        add(count::OCCUPIED);
        return None;
    }
    match lead(socket, &listen, at, netns) {
        Ok(node) => {
            add(count::STEERED);
            Some(node)
        }
        Err(why) => {
            add(why);
            None
        }
    }
}

/// Chooses a node and notes it with the socket. The error is the counter of the reason why there is none.
#[inline(always)]
fn lead(socket: *mut bpf_sock, listen: &Listen, at: At, netns: u64) -> Result<At, u32> {
    let globals = globals().ok_or(count::ORPHANED)?;
    let life = &globals.clock;
    // SAFETY: no arguments.
    let now = unsafe { bpf_ktime_get_ns() };
    if now > life.beat + life.grace {
        return Err(count::ORPHANED);
    }
    let v6 = !is_mapped(at.addr);
    let bound = bound_to(socket, v6).ok_or(count::BOUND)?;
    let source = if bound == UNBOUND { halves(&listen.source) } else { bound };
    let route = u32::from(listen.route);
    if !is_allowed(source, v6, route) {
        return Err(count::NOT_ALLOWED);
    }
    // Whoever waits with the listener keeps nobody there: what it accepts is its own for life.
    if matches!(turn_of(listen.route, life, now, false), Turn::Paced | Turn::Listener) {
        return Err(count::NO_TARGET);
    }
    let Some(slot) = balance::slot_for(&bytes(source), v6, route) else {
        return Err(if balance::has_slots(route, !v6) { count::OTHER_FAMILY } else { count::NO_TARGET });
    };
    let target = target_of(TargetKey { route, slot }).ok_or(count::NO_TARGET)?;
    if !is_open(&target, v6) {
        return Err(if is_open(&target, !v6) { count::OTHER_FAMILY } else { count::NO_TARGET });
    }
    // An entry of a hash that is replaced is at once another's (kernel/bpf/hashtab.c), maybe while it was read.
    if target_of(TargetKey { route, slot }).is_none_or(|again| !is_same(&again, &target)) {
        return Err(count::NO_TARGET);
    }
    let generation = target.generation as u32;
    // What is sent later is asked the same: this only spares the client a call that leads nowhere.
    if !matches!(gate_of(route, slot, generation), Gate::Open) {
        return Err(count::NO_TARGET);
    }
    let (addr, port) = node_of(&target);
    if bound != UNBOUND && is_loopback(bound) != is_loopback(addr) {
        return Err(count::BOUND);
    }
    // SAFETY: the value is never looked at.
    if listen.place != place::HOME && unsafe { REACHED.get(Reached { netns, addr: bytes(addr) }) }.is_none() {
        return Err(count::UNREACHABLE);
    }
    let usage = USAGE.get_ptr_mut(route).ok_or(count::FULL)?;
    // Signed: a count that fell below nothing is small, not large.
    // SAFETY: one word.
    if unsafe { usage.read_volatile() } as i64 >= i64::from(listen.max_connections) {
        return Err(count::FULL);
    }
    let steered = Steered {
        addr: bytes(at.addr),
        port: at.port,
        route: listen.route,
        slot: slot as u16,
        _pad: 0,
        generation,
        _end: 0,
    };
    if !socket::lead(socket, &steered) {
        return Err(count::NO_ROOM);
    }
    remember_first(listen.route, generation);
    Ok(At { addr, port })
}

/// Whether somebody listens at this address in the client's own namespace.
#[inline(always)]
fn is_occupied(ctx: &SockAddrContext, at: At) -> bool {
    let [first, second, third, last] = words(at.addr);
    let port = u16::from_ne_bytes(at.port);
    // As the kernel has them: source, destination, and their ports. Who dials does not matter.
    let (v4, v6) = (
        [last, last, u32::from(port) << 16],
        [first, second, third, last, first, second, third, last, u32::from(port) << 16],
    );
    let (tuple, size) =
        if is_mapped(at.addr) { (v4.as_ptr(), size_of_val(&v4)) } else { (v6.as_ptr(), size_of_val(&v6)) };
    // SAFETY: the context is the kernel's own, and the tuple of the size that is told.
    let found =
        unsafe { bpf_sk_lookup_tcp(ctx.as_ptr(), tuple.cast_mut().cast(), size as u32, BPF_F_CURRENT_NETNS as u64, 0) };
    if found.is_null() {
        return false;
    }
    // SAFETY: found a moment ago, and given back once.
    unsafe { bpf_sk_release(found.cast()) };
    true
}

const UNBOUND: [u64; 2] = [0; 2];

/// The address that the client has bound its socket to, or [`UNBOUND`]; none: it has chosen an interface.
#[inline(always)]
fn bound_to(socket: *const bpf_sock, v6: bool) -> Option<[u64; 2]> {
    // SAFETY: the kernel's own, which the call is about.
    let socket = unsafe { &*socket };
    if read(&socket.bound_dev_if) != 0 {
        return None;
    }
    if v6 {
        return Some(of_words(read_all(&socket.src_ip6)));
    }
    let ip = read(&socket.src_ip4);
    Some(if ip == 0 { UNBOUND } else { mapped(ip) })
}

/// What the client dialled, where it was led somewhere else.
#[inline(always)]
pub(crate) fn peer(ctx: &SockAddrContext) -> Option<At> {
    let steered = socket::steered(socket_of(ctx))?;
    Some(At { addr: halves(&steered.addr), port: steered.port })
}

#[inline(always)]
fn socket_of(ctx: &SockAddrContext) -> *mut bpf_sock {
    // SAFETY: the one variant that the kernel has.
    unsafe { call(ctx).__bindgen_anon_1.sk }
}

/// Whether a packet may leave its socket, or reach it. One that ends a connection may.
#[inline(always)]
pub(crate) fn may_pass(ctx: &SkBuffContext) -> bool {
    // SAFETY: the kernel's own.
    let skb = unsafe { &*ctx.skb.skb };
    // SAFETY: the one variant that the kernel has.
    let socket = unsafe { skb.__bindgen_anon_2.sk };
    if socket.is_null() {
        return true;
    }
    let Some(steered) = socket::steered(socket) else { return true };
    let gate = gate_of(u32::from(steered.route), u32::from(steered.slot), steered.generation);
    if matches!(gate, Gate::Open) || is_reset(ctx.skb.skb) {
        return true;
    }
    add(count::HELD);
    false
}

/// The packet begins with its IP header here. IPv6 has no other header before that of TCP where nobody asked for one.
#[inline(always)]
fn is_reset(skb: *mut __sk_buff) -> bool {
    const FLAGS: u32 = 13;
    let first = byte(skb, 0);
    let tcp = if first >> 4 == 4 { u32::from(first & 0xf) * 4 } else { 40 };
    byte(skb, tcp + FLAGS) & RST != 0
}

#[inline(always)]
fn byte(skb: *mut __sk_buff, at: u32) -> u8 {
    let mut byte = 0u8;
    // SAFETY: the helper checks the offset; on an error it writes a zero.
    unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut byte).cast(), 1) };
    byte
}

#[inline(always)]
fn add(index: u32) {
    let counts = STEERINGS.get_ptr_mut(0);
    // SAFETY: the entry is this CPU's own, and nobody keeps it.
    if let Some(counter) = counts.and_then(|counts| unsafe { &mut *counts }.0.get_mut(index as usize)) {
        *counter += 1;
    }
}
