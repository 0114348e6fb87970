//! Takes SYNs aside for the daemon to park: the frame goes into a ring buffer, and the packet nowhere. Promises that a
//! SYN is either taken whole or left to the listener, and that none is taken for a daemon that has fallen silent.

use aya_ebpf::{
    EbpfContext as _,
    btf_maps::{Array, RingBuf},
    helpers::bpf_skb_load_bytes,
    macros::btf_map,
    programs::TcContext,
};

use super::tables::MAPPED;
use proxy_ebpf::{
    nat::Clock,
    parking::{LONGEST, PATIENCE, Parked, turn},
};

/// Some 7,000 frames: as many clients as may dial before the daemon has its turn.
const RING: usize = 1 << 20;

#[btf_map(name = "parked")]
static PARKED: RingBuf<Parked, RING> = RingBuf::new();
#[btf_map(name = "syn_turns")]
static SYN_TURNS: Array<u64, 256, MAPPED> = Array::new();

/// What becomes of a SYN that comes in now.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It makes a flow if the target is open, and is the listener's if not.
    Unparked,
    /// It makes a flow if the target is open, and is taken aside if not.
    Free,
    Held,
    Paced,
    Full,
    Listener,
}

#[inline(always)]
pub(crate) fn turn_of(route: u16, clock: &Clock, now: u64, released: bool) -> Turn {
    if now > clock.beat + PATIENCE {
        return Turn::Unparked;
    }
    // The daemon knew whose turn it was.
    if released {
        return Turn::Free;
    }
    match SYN_TURNS.get(u32::from(route)) {
        Some(&turn::FREE) => Turn::Free,
        Some(&turn::HELD) => Turn::Held,
        Some(&turn::PACED) => Turn::Paced,
        Some(&turn::FULL) => Turn::Full,
        Some(_) => Turn::Listener,
        None => Turn::Unparked,
    }
}

/// Whether SYNs of the route may be parked now.
#[inline(always)]
pub(crate) fn is_held(route: u16) -> bool {
    matches!(SYN_TURNS.get(u32::from(route)), Some(&(turn::HELD | turn::PACED)))
}

/// False where it cannot be taken: it is too long, or the daemon has not read what came before.
#[inline(always)]
pub(crate) fn take(ctx: &TcContext, route: u16, ifindex: u32) -> bool {
    let length = opaque(u64::from(ctx.len()));
    if length > LONGEST as u64 {
        return false;
    }
    let length = opaque(length);
    if length == 0 {
        return false;
    }
    let Some(mut entry) = PARKED.reserve(0) else { return false };
    let record = entry.as_mut_ptr();
    // SAFETY: the record is ours until it is submitted.
    let head = unsafe { &mut *record };
    (head.ifindex, head.route, head.length) = (ifindex, route, length as u16);
    let frame = (&raw mut head.frame).cast();
    // SAFETY: as long as `length` may be.
    let read = unsafe { bpf_skb_load_bytes(ctx.as_ptr().cast(), 0, frame, length as u32) };
    if read != 0 {
        entry.discard(0);
        return false;
    }
    entry.submit(0);
    true
}

/// The same number, of which the compiler knows nothing: two comparisons of it stay two, as the verifier wants them.
#[inline(always)]
fn opaque(number: u64) -> u64 {
    #[cfg(target_arch = "bpf")]
    {
        let mut number = number;
        // SAFETY: it changes nothing.
        unsafe { core::arch::asm!("{number} = {number}", number = inlateout(reg) number) };
        return number;
    }
    #[cfg(not(target_arch = "bpf"))]
    number
}
