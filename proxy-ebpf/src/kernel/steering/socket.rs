//! What is remembered of a socket that was led to a node, and counted for as long as it is open.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::{Array, SkStorage},
    helpers::{bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};

use crate::kernel::tables::{LOADS, MAPPED, USAGE, fetch_add};
use proxy_ebpf::{
    balance::{Load, SLOTS, of_slot},
    steering::Steered,
};

#[btf_map(name = "steered")]
static STEERED: SkStorage<Steered> = SkStorage::new();
#[btf_map(name = "steers")]
static STEERS: Array<u64, { SLOTS as usize }, MAPPED> = Array::new();

#[inline(always)]
fn storage() -> *mut c_void {
    (&raw const STEERED).cast_mut().cast()
}

/// What is known of a socket; none: it was not led anywhere.
#[inline(always)]
pub(super) fn steered<'a>(socket: *mut bpf_sock) -> Option<&'a Steered> {
    // SAFETY: the map is of that kind, and the socket the kernel's own, or none.
    let found = unsafe { bpf_sk_storage_get(storage(), socket.cast(), ptr::null_mut(), 0) };
    // SAFETY: the storage of the socket, which is there for as long as the program runs.
    unsafe { found.cast::<Steered>().as_ref() }
}

/// Notes where a socket is led. False: there is no memory for that.
#[inline(always)]
pub(super) fn lead(socket: *mut bpf_sock, steered: &Steered) -> bool {
    let value = ptr::from_ref(steered).cast_mut().cast();
    // SAFETY: as above; the kernel copies the value.
    let noted = unsafe { bpf_sk_storage_get(storage(), socket.cast(), value, BPF_SK_STORAGE_GET_F_CREATE.into()) };
    if noted.is_null() {
        return false;
    }
    count(steered, 1);
    true
}

/// A socket that dials again is led anew, or not at all.
#[inline(always)]
pub(super) fn forget(socket: *mut bpf_sock) {
    if let Some(steered) = steered(socket) {
        count(steered, u64::MAX);
        // SAFETY: as above.
        unsafe { bpf_sk_storage_delete(storage(), socket.cast()) };
    }
}

/// The record stays: what the socket has still to send goes by it.
#[inline(always)]
pub(crate) fn closed(socket: *mut bpf_sock) {
    if let Some(steered) = steered(socket) {
        count(steered, u64::MAX);
    }
}

/// It counts among its route's `max_connections`, and as its slot's.
#[inline(always)]
fn count(steered: &Steered, by: u64) {
    let (route, slot) = (u32::from(steered.route), u32::from(steered.slot));
    let at = of_slot(route, slot);
    if let Some(steers) = STEERS.get_ptr_mut(at) {
        fetch_add(steers, by);
    }
    if let Some(usage) = USAGE.get_ptr_mut(route) {
        fetch_add(usage, by);
    }
    if let Some(load) = LOADS.get_ptr_mut(at) {
        // SAFETY: a field of the entry.
        fetch_add(unsafe { (&raw mut (*load.cast::<Load>()).taken).cast() }, by);
        // SAFETY: as above.
        fetch_add(unsafe { (&raw mut (*load.cast::<Load>()).established).cast() }, by);
    }
}
