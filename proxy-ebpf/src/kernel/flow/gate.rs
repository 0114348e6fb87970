//! Whether the switch lets a flow's packet pass.

use super::super::tables::GATES;
use proxy_ebpf::{
    balance::of_slot,
    nat::{Flow, gate as says},
};

/// What a flow may do now.
pub(crate) enum Gate {
    Open,
    /// Wait: neither carry a packet nor end.
    Paused,
    Ended,
}

/// What the switch says of a flow.
#[inline(always)]
pub(crate) fn gate(flow: &Flow) -> Gate {
    gate_of(u32::from(flow.route), u32::from(flow.slot), flow.generation)
}

/// What it says of the flows of a slot that have this generation, in one word that is read whole.
#[inline(always)]
pub(crate) fn gate_of(route: u32, slot: u32, generation: u32) -> Gate {
    let Some(word) = GATES.get_ptr(of_slot(route, slot)) else { return Gate::Ended };
    // SAFETY: an entry of the array.
    let word = unsafe { word.read_volatile() };
    if word as u32 != generation {
        return Gate::Ended;
    }
    match word & !0xffff_ffff {
        says::OPEN => Gate::Open,
        says::PAUSED => Gate::Paused,
        _ => Gate::Ended,
    }
}
