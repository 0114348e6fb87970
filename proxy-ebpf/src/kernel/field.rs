//! Fields of a context, which the kernel shows one by one and in their own size only.

/// A field that may not be read together with its neighbour.
#[inline(always)]
pub(crate) fn read(field: &u32) -> u32 {
    // SAFETY: a reference is valid for reads.
    unsafe { core::ptr::from_ref(field).read_volatile() }
}

#[inline(always)]
pub(crate) fn read_all([first, second, third, last]: &[u32; 4]) -> [u32; 4] {
    [read(first), read(second), read(third), read(last)]
}
