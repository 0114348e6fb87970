//! Where a route leads, as the switch has written it, and who may go there.

use aya_ebpf::btf_maps::lpm_trie::Key;

use super::{
    flow::halves,
    packet::{bytes, mapped},
    tables::{ALLOW, TARGETS},
};
use proxy_ebpf::{
    Target, TargetKey,
    nat::{ALLOWED_ROUTE_BITS, Allowed, Halves, Port, family},
    state,
};

const AF_INET: u16 = 2;

/// A copy of a target's entry.
#[inline(always)]
pub(crate) fn target_of(at: TargetKey) -> Option<Target> {
    // SAFETY: the memory stays that of an entry, whichever; the caller looks twice.
    Some(*unsafe { TARGETS.get(at) }?)
}

/// Of two looks at an entry.
#[inline(always)]
pub(crate) fn is_same(a: &Target, b: &Target) -> bool {
    (a.live, a.generation, a.state, a.family, a.port) == (b.live, b.generation, b.state, b.family, b.port)
        && halves(&a.addr) == halves(&b.addr)
}

/// Whether new flows of this family may be made to it.
#[inline(always)]
pub(crate) fn is_open(target: &Target, v6: bool) -> bool {
    let open = target.state == state::OPEN && target.live != 0 && target.live == target.generation;
    open && (target.family == AF_INET) != v6
}

/// Where a target is.
#[inline(always)]
pub(crate) fn node_of(target: &Target) -> (Halves, Port) {
    let [first, second] = halves(&target.addr);
    (if target.family == AF_INET { mapped(first as u32) } else { [first, second] }, target.port)
}

/// Whether the route takes a client from there.
#[inline(always)]
pub(crate) fn is_allowed(source: Halves, v6: bool, route: u32) -> bool {
    let client = Allowed { route: route.to_be_bytes(), addr: bytes(source) };
    let mine = if v6 { family::V6 } else { family::V4 };
    ALLOW.get(&Key::new(ALLOWED_ROUTE_BITS + 128, client)).is_some_and(|families| families & mine != 0)
}
