//! What is remembered of a socket whose connection may be bypassed, and what the kernel's own record of it says.

use core::{ffi::c_void, ptr};

use aya_ebpf::{
    bindings::{BPF_SK_STORAGE_GET_F_CREATE, bpf_sock},
    btf_maps::SkStorage,
    helpers::{bpf_probe_read_kernel, bpf_sk_storage_delete, bpf_sk_storage_get},
    macros::btf_map,
};

use proxy_ebpf::{
    bypass::{Gate, NO_ROUTE, Orders, Path},
    steering::Steered,
};

#[btf_map(name = "bypass_paths")]
static PATHS: SkStorage<Path> = SkStorage::new();
#[btf_map(name = "steered")]
static STEERED: SkStorage<Steered> = SkStorage::new();

#[inline(always)]
fn paths() -> *mut c_void {
    (&raw const PATHS).cast_mut().cast()
}

/// What is known of a socket; none: it is nobody's whom the bypass knows.
#[inline(always)]
pub(super) fn path<'a>(socket: *mut bpf_sock) -> Option<&'a mut Path> {
    // SAFETY: the map is of that kind, and the socket the kernel's own.
    let found = unsafe { bpf_sk_storage_get(paths(), socket.cast(), ptr::null_mut(), 0) };
    // SAFETY: the storage of the socket, which the programs have for themselves while they hold its lock.
    unsafe { found.cast::<Path>().as_mut() }
}

/// Remembers it. False: there is no memory for that.
#[inline(always)]
pub(super) fn remember(socket: *mut bpf_sock, path: &Path) -> bool {
    let value = ptr::from_ref(path).cast_mut().cast();
    // SAFETY: as above; the kernel copies the value.
    let noted = unsafe { bpf_sk_storage_get(paths(), socket.cast(), value, BPF_SK_STORAGE_GET_F_CREATE.into()) };
    !noted.is_null()
}

#[inline(always)]
pub(super) fn forget(socket: *mut bpf_sock) {
    // SAFETY: as above.
    unsafe { bpf_sk_storage_delete(paths(), socket.cast()) };
}

/// Whose switch the client goes by.
#[inline(always)]
pub(super) fn gate(socket: *mut bpf_sock) -> Gate {
    let map = (&raw const STEERED).cast_mut().cast();
    // SAFETY: the map is of that kind, and the socket the kernel's own.
    let found = unsafe { bpf_sk_storage_get(map, socket.cast(), ptr::null_mut(), 0) };
    // SAFETY: the storage of the socket, which is there for as long as the program runs.
    match unsafe { found.cast::<Steered>().as_ref() } {
        Some(Steered { route, slot, generation, .. }) => Gate { route: *route, slot: *slot, generation: *generation },
        None => Gate { route: NO_ROUTE, slot: 0, generation: 0 },
    }
}

/// Whether its process waits inside of its calls. None: no process has it yet.
#[inline(always)]
pub(super) fn is_blocking(orders: &Orders, at: u64) -> Option<bool> {
    const O_NONBLOCK: u32 = 0x800;
    let socket: u64 = word(at, orders.socket).filter(|it| *it != 0)?;
    let file: u64 = word(socket, orders.file).filter(|it| *it != 0)?;
    word(file, orders.f_flags).map(|flags: u32| flags & O_NONBLOCK == 0)
}

/// A word of the kernel's own; 0 where nothing can be read. Of a socket that is gone it is a word of whatever is there now: who
/// asks believes it only of one that is there.
#[inline(always)]
pub(super) fn word<T: Copy>(record: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((record + u64::from(offset)) as *const T) }.ok()
}
