//! The maps that only the program at XDP has.

use aya_ebpf::{
    btf_maps::{Array, DevMapHash, PerCpuArray},
    macros::btf_map,
};
use proxy_ebpf::xdp::{Interface, MOST_DEVICES, SLOTS, fate, slot};

#[btf_map(name = "interfaces")]
static INTERFACES: Array<Interface, { SLOTS as usize }> = Array::new();
#[btf_map(name = "devices")]
pub(super) static DEVICES: DevMapHash<{ MOST_DEVICES as usize }> = DevMapHash::new();
#[btf_map(name = "by_xdp")]
static BY_XDP: Array<u32, 256> = Array::new();
#[btf_map(name = "xdp_fates")]
static FATES: PerCpuArray<u64, { fate::COUNT as usize }> = PerCpuArray::new();

/// What is known of an interface that passed the self-test.
#[inline(always)]
pub(super) fn interface(ifindex: u32) -> Option<&'static Interface> {
    INTERFACES.get(slot(ifindex)).filter(|known| known.ifindex == ifindex)
}

/// Whether the route's flows are translated here.
#[inline(always)]
pub(super) fn takes(route: u16) -> bool {
    BY_XDP.get(u32::from(route)).is_some_and(|takes| *takes != 0)
}

#[inline(always)]
pub(super) fn count(index: u32) {
    if let Some(value) = FATES.get_ptr_mut(index) {
        // SAFETY: the entry is this CPU's own.
        unsafe { *value += 1 };
    }
}
