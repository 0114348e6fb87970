//! The maps that only the program at XDP has.

use aya_ebpf::{
    btf_maps::{Array, DevMap},
    macros::btf_map,
};
use proxy_ebpf::xdp::{Interface, SLOTS, slot};

#[btf_map(name = "interfaces")]
static INTERFACES: Array<Interface, { SLOTS as usize }> = Array::new();
#[btf_map(name = "devices")]
pub(super) static DEVICES: DevMap<{ SLOTS as usize }> = DevMap::new();

/// What is known of an interface that passed the self-test.
#[inline(always)]
pub(super) fn interface(ifindex: u32) -> Option<&'static Interface> {
    INTERFACES.get(slot(ifindex)).filter(|known| known.ifindex == ifindex)
}
