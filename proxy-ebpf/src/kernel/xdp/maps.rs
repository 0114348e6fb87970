//! The maps that only the program at XDP has.

use aya_ebpf::{
    btf_maps::{Array, DevMap},
    macros::btf_map,
};
use proxy_ebpf::xdp::{Interface, SLOTS, slot};

use crate::kernel::tables::MAPPED;

#[btf_map(name = "interfaces")]
static INTERFACES: Array<Interfaces, 1, MAPPED> = Array::new();
#[btf_map(name = "devices")]
pub(super) static DEVICES: DevMap<{ SLOTS as usize }> = DevMap::new();

/// Those that passed the self-test. A packet asks twice: by which it came, and by which it goes.
pub(super) type Interfaces = [Interface; SLOTS as usize];

#[inline(always)]
pub(super) fn interfaces() -> Option<&'static Interfaces> {
    INTERFACES.get(0)
}

/// What is known of one of them.
#[inline(always)]
pub(super) fn interface(all: &Interfaces, ifindex: u32) -> Option<&Interface> {
    all.get(slot(ifindex) as usize).filter(|known| known.ifindex == ifindex)
}
