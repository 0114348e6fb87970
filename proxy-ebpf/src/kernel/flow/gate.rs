//! Whether the switch lets a flow's packet pass.

use super::super::tables::TARGETS;
use proxy_ebpf::{TargetKey, nat::Flow, state as way};

/// What a flow may do now.
pub(crate) enum Gate {
    Open,
    /// Wait: neither carry a packet nor end.
    Paused,
    Ended,
}

/// What the switch says of a flow. An entry of `targets` is replaced by a new one, and the old one's memory is at
/// once another's (kernel/bpf/hashtab.c): read in between it may look ended when it is not, but never open, since
/// generations are not used twice. So whatever is not open is read again.
#[inline(always)]
pub(crate) fn gate(flow: &Flow) -> Gate {
    let key = whole_key(flow);
    match gate_once(&key, flow.generation) {
        Gate::Open => Gate::Open,
        _ => gate_once(&key, flow.generation),
    }
}

/// A [`TargetKey`] in one word, as [`super::Dial`] is in three.
#[inline(always)]
fn whole_key(flow: &Flow) -> u64 {
    // SAFETY: the same bytes.
    unsafe { core::mem::transmute([u32::from(flow.route), u32::from(flow.slot)]) }
}

#[inline(always)]
fn gate_once(key: &u64, generation: u32) -> Gate {
    let key: *const TargetKey = core::ptr::from_ref(key).cast();
    // SAFETY: the same bytes.
    let key = unsafe { &*key };
    // SAFETY: see above.
    match unsafe { TARGETS.get(key) } {
        Some(target) if target.live != 0 && target.live as u32 == generation => Gate::Open,
        Some(target) if target.state == way::PAUSED && target.generation as u32 == generation => Gate::Paused,
        _ => Gate::Ended,
    }
}
