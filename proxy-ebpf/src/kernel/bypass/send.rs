//! What a socket sends: handed to the other end, or left to TCP.

use aya_ebpf::{
    bindings::{BPF_F_INGRESS, bpf_sock, sk_msg_md},
    helpers::bpf_msg_redirect_hash,
    programs::SkMsgContext,
};

use super::{ENDS, SOCKETS, SUMS, add, count_client, let_go, orders, remind::be_reminded, set_waiting, socket};
use crate::field::read;
use crate::kernel::{
    flow::{Gate as Says, gate::gate_of},
    tables::replace,
};
use proxy_ebpf::bypass::{
    ALWAYS_WAITING, Entered, MOST_IN_ALL, MOST_WAITING, Mark, NO_ROUTE, Orders, PER_MESSAGE, PIECE, Path, count, seat,
    sum, way,
};

/// TCP has it, unless a socket was named to hand it to.
const SK_PASS: u32 = 1;

const TCP_ESTABLISHED: u32 = 1;
const TCP_CLOSE_WAIT: u32 = 8;

#[inline(always)]
pub(crate) fn verdict(ctx: &SkMsgContext) -> u32 {
    // SAFETY: the kernel's own.
    let msg = unsafe { &*ctx.msg };
    // SAFETY: the one variant that the kernel has.
    let at = unsafe { msg.__bindgen_anon_3.sk };
    let Some(path) = socket::path(at) else { return SK_PASS };
    if path.way != way::UNDECIDED && path.way != way::BYPASS {
        if path.in_sum != 0 {
            give_back(path);
        }
        return SK_PASS;
    }
    if let Err(why) = hand_over(ctx, msg, at, path) {
        if path.way == way::BYPASS {
            count_client(path, u64::MAX);
            if why != count::GONE {
                be_reminded(path.there);
            }
        } else if let_go(&path.peer.other()) {
            let_go(&path.peer);
        }
        path.way = way::TCP;
        add(why, 1);
    }
    SK_PASS
}

/// The error is the counter of the reason why TCP has it, and all that comes after it.
#[inline(always)]
fn hand_over(ctx: &SkMsgContext, msg: &sk_msg_md, at: *mut bpf_sock, path: &mut Path) -> Result<(), u32> {
    let orders = orders().ok_or(count::OFF)?;
    // SAFETY: the kernel's own.
    let state = read(&unsafe { &*at }.state);
    if state != TCP_ESTABLISHED && state != TCP_CLOSE_WAIT {
        return Err(count::GONE);
    }
    // Who has begun to send before the socket was entered goes on with TCP in that very call.
    if socket::word(path.here.socket, orders.write_seq) != Some(path.peer.received) {
        return Err(count::MIXED);
    }
    if path.way == way::UNDECIDED {
        decide(orders, path)?;
    }
    for end in [path.here.socket, path.there] {
        if socket::word::<u64>(end, orders.ulp_ops) != Some(0) {
            return Err(count::ULP);
        }
    }
    let gate = path.here.gate;
    if gate.route != NO_ROUTE && !matches!(gate_of(gate.route.into(), gate.slot.into(), gate.generation), Says::Open) {
        return Err(count::HELD);
    }
    let size = u64::from(read(&msg.size));
    place(ctx, path);
    let mark = account(orders, path, size)?;
    let map = (&raw const SOCKETS).cast_mut().cast();
    // SAFETY: the context is the kernel's own, and the key of the map's size.
    let found = unsafe { bpf_msg_redirect_hash(ctx.msg, map, (&raw mut path.peer).cast(), BPF_F_INGRESS.into()) };
    if found as u32 != SK_PASS {
        return Err(count::GONE);
    }
    (path.bytes, path.cost) = (mark.bytes, mark.cost);
    add(count::BYTES, size);
    add(count::MESSAGES, 1);
    Ok(())
}

/// Whether the other end is there, and is the other end.
#[inline(always)]
fn decide(orders: &Orders, path: &mut Path) -> Result<(), u32> {
    let entry = ENDS.get_ptr_mut(path.peer).ok_or(count::NO_PEER)?;
    // SAFETY: a copy, of that connection's other end or of what has come to its memory since: both are no more than read.
    let there: Entered = unsafe { *entry };
    let waits = |at| socket::is_blocking(orders, at) == Some(true);
    if waits(path.here.socket) || waits(there.socket) {
        return Err(count::BLOCKING);
    }
    // SAFETY: a field of the entry.
    if !replace(unsafe { &raw mut (*entry).seat }, seat::FREE, seat::TAKEN) {
        return Err(count::NO_PEER);
    }
    // What is forgotten for want of room is at once another's, maybe while it was read: then this finds nothing any more.
    // SAFETY: the value is never looked at.
    if unsafe { ENDS.get(path.peer) }.is_none() {
        return Err(count::NO_PEER);
    }
    path.there = there.socket;
    if path.dialled == 0 {
        path.here.gate = there.gate;
    }
    path.way = way::BYPASS;
    count_client(path, 1);
    add(count::CHOSEN, 1);
    Ok(())
}

/// Notes where the kernel has put the message.
#[inline(always)]
fn place(ctx: &SkMsgContext, path: &mut Path) {
    // The verifier lets nobody calculate with a pointer; what was written to a map is a number again, once the compiler has
    // forgotten that it knows it.
    let (start, end) = (&raw mut path.place, &raw mut path.place_end);
    // SAFETY: a field of the record.
    unsafe { start.write_volatile(ctx.data() as u64) };
    // SAFETY: as above.
    unsafe { end.write_volatile(ctx.data_end() as u64) };
}

/// Gives back what waited when the direction went to TCP, once its reader has read everything.
#[inline(always)]
fn give_back(path: &mut Path) {
    let unread = orders().and_then(|orders| socket::word::<u32>(path.there, orders.rmem_alloc));
    if unread == Some(0) {
        set_waiting(path, 0);
    }
}

/// Whether there is room for a message behind what the reader has not read yet; then where that leads.
#[inline(always)]
fn account(orders: &Orders, path: &mut Path, size: u64) -> Result<Mark, u32> {
    let unread: u32 = socket::word(path.there, orders.rmem_alloc).ok_or(count::GONE)?;
    let unread = u64::from(unread);
    let now = Mark { bytes: path.bytes, cost: path.cost };
    if unread == 0 {
        path.marks = [now; 2];
    } else if path.bytes - path.marks[1].bytes >= unread {
        // The reader is beyond the second.
        path.marks[0] = path.marks[1];
        path.marks[1] = now;
    }
    let (start, end) = (&raw const path.place, &raw const path.place_end);
    // SAFETY: a field of the record.
    let start = unsafe { start.read_volatile() };
    // SAFETY: as above.
    let end = unsafe { end.read_volatile() };
    let piece = start & !(PIECE - 1);
    // What it holds beside its bytes: the piece that it begins in, if the one before does not hold that already, and one more
    // where it ends in another.
    let begun = if piece == path.piece && piece != 0 { 0 } else { PIECE };
    let ended = if size > end.wrapping_sub(start) { PIECE } else { 0 };
    let cost = path.cost + PER_MESSAGE + begun + ended;
    path.piece = piece;
    let waiting = unread + size + (cost - path.marks[0].cost);
    if waiting > MOST_WAITING {
        return Err(count::BEHIND);
    }
    if waiting > ALWAYS_WAITING || path.in_sum != 0 {
        set_waiting(path, if waiting > ALWAYS_WAITING { waiting } else { 0 });
    }
    if waiting > ALWAYS_WAITING && (is_crowded() || is_pressed(orders, path.here.socket)) {
        return Err(count::MEMORY);
    }
    Ok(Mark { bytes: path.bytes + size, cost })
}

/// Too much waits for all readers together.
#[inline(always)]
fn is_crowded() -> bool {
    // SAFETY: one word.
    SUMS.get_ptr(sum::WAITING).is_none_or(|sum| unsafe { sum.read_volatile() } > MOST_IN_ALL)
}

/// TCP has taken as much memory as it is to have (the first word of `net.ipv4.tcp_mem`): a sender would be refused soon, where
/// TCP makes it wait.
#[inline(always)]
fn is_pressed(orders: &Orders, at: u64) -> bool {
    let pressed = || -> Option<bool> {
        let protocol: u64 = socket::word(at, orders.prot)?;
        let taken: u64 = socket::word(protocol, orders.memory_allocated)?;
        let allowed: u64 = socket::word(protocol, orders.sysctl_mem)?;
        // Signed: what each CPU keeps for itself is not in it, so that it may be below nothing.
        Some(socket::word::<i64>(taken, 0)? > socket::word::<i64>(allowed, 0)?)
    };
    pressed().unwrap_or(true)
}
