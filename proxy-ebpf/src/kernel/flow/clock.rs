//! The time by the kernel's count of timer interrupts, which is a load where its clock is a call. The count goes with the
//! monotonic clock (`tick_do_update_jiffies64`, kernel/time/tick-sched.c: it rises by one for each whole `TICK_NSEC` of it),
//! so it is set by that clock once, at a SYN, and again if they should ever be apart.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns};

use super::super::tables::clock;
use proxy_ebpf::nat::{Clock, TICK_SHIFT};

/// In ticks of [`TICK_SHIFT`].
#[inline(always)]
pub(crate) fn now(clock: &Clock) -> u32 {
    let nanos = match known(clock) {
        // SAFETY: no arguments.
        Some((jiffy, zero)) if zero != 0 => unsafe { bpf_jiffies64() }.wrapping_sub(zero).wrapping_mul(jiffy),
        // SAFETY: as above.
        _ => unsafe { bpf_ktime_get_coarse_ns() },
    };
    (nanos >> TICK_SHIFT) as u32
}

/// That it is `now`, in ns.
#[inline(always)]
pub(super) fn set(now: u64) {
    let Some(clock) = clock() else { return };
    let Some((jiffy, known)) = known(clock) else { return };
    // SAFETY: no arguments.
    let zero = unsafe { bpf_jiffies64() }.wrapping_sub(now / jiffy);
    // The two are read one after the other.
    if zero.wrapping_sub(known).wrapping_add(1) > 2 {
        // SAFETY: a field of the entry.
        let field = unsafe { &raw mut (*clock).zero };
        // SAFETY: one word; whoever writes it now writes nearly the same.
        unsafe { field.write_volatile(zero) };
    }
}

/// The length of a jiffy, and what the count was when the clock was 0, if that is known; none: the daemon has not said how long a
/// jiffy is.
#[inline(always)]
fn known(clock: *const Clock) -> Option<(u64, u64)> {
    // SAFETY: a field of the entry.
    let jiffy = unsafe { &raw const (*clock).jiffy };
    // SAFETY: as above.
    let zero = unsafe { &raw const (*clock).zero };
    // SAFETY: one word, which the daemon has written before the program was attached.
    let jiffy = unsafe { jiffy.read_volatile() };
    // SAFETY: one word.
    let zero = unsafe { zero.read_volatile() };
    (jiffy != 0).then_some((jiffy, zero))
}
