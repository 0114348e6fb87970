//! Internet checksums (RFC 1071), kept up to date by differences (RFC 1624). Words are taken as they lie in memory:
//! the sum does not care about byte order as long as nobody mixes two.

/// What replacing one 32-bit word by another adds to a sum.
#[inline(always)]
pub(crate) fn difference(sum: u64, old: u32, new: u32) -> u64 {
    sum + u64::from(!old) + u64::from(new)
}

/// 32 bits of it, as the kernel's `__wsum`.
#[inline(always)]
pub(crate) fn partial(sum: u64) -> u32 {
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    ((sum >> 32) + (sum & 0xffff_ffff)) as u32
}

/// 16 bits of it; 0 only if it is 0.
#[inline(always)]
pub(crate) fn folded(sum: u64) -> u16 {
    let sum = partial(sum);
    // The carry of the lower half comes out in the upper one (`csum_fold`).
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The checksum field after `sum` was added to what it covers.
#[inline(always)]
pub(crate) fn updated(field: u16, sum: u64) -> u16 {
    !folded(sum + u64::from(!field))
}
