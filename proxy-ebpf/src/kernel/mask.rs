//! Choices without a branch: the verifier follows each branch through the rest of the program.

/// All bits, or none: of a number below 2^32. Of anything that the compiler understands it would make a branch.
#[cfg(target_arch = "bpf")]
#[inline(always)]
pub(crate) fn ones_if_zero(mut number: u64) -> u64 {
    // SAFETY: the instructions change the one register.
    unsafe {
        core::arch::asm!(
            "{number} += -1",
            "{number} s>>= 63",
            number = inout(reg) number,
            options(pure, nomem, nostack),
        );
    }
    number
}

/// On the host the crate is only linted.
#[cfg(not(target_arch = "bpf"))]
pub(crate) fn ones_if_zero(number: u64) -> u64 {
    ((number.wrapping_sub(1) as i64) >> 63) as u64
}
