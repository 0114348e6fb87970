//! MAC addresses in as few words as a program can hold, read and write them in. To the verifier a frame begins two bytes
//! before a word (NET_IP_ALIGN), and a record's field at one.

use super::packet::{ETHERNET, Packet, header};

/// The six bytes as they lie in memory, and two that are 0.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(u64);

impl Mac {
    /// 0 is nobody's.
    pub(crate) const NONE: Self = Self(0);
    const BYTES: u64 = u64::from_ne_bytes([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0]);

    /// The first six bytes of a word.
    #[inline(always)]
    pub(crate) const fn begins(word: u64) -> Self {
        Self(word & Self::BYTES)
    }

    /// Of a record in which it is aligned to four bytes.
    #[inline(always)]
    pub(crate) fn of_record(field: &[u16; 3]) -> Self {
        let begins: *const u8 = core::ptr::from_ref(field).cast();
        // SAFETY: the first four bytes of the field.
        let [a, b, c, d] = unsafe { begins.cast::<u32>().read() }.to_ne_bytes();
        // SAFETY: the last two.
        let [e, f] = unsafe { begins.wrapping_add(4).cast::<u16>().read() }.to_ne_bytes();
        Self(u64::from_ne_bytes([a, b, c, d, e, f, 0, 0]))
    }

    #[inline(always)]
    pub(crate) const fn is_known(self) -> bool {
        self.0 != 0
    }
}

/// Gives a frame other addresses.
#[inline(always)]
pub(crate) fn address(packet: &impl Packet, to: Mac, from: Mac) -> bool {
    let Some(begins) = header::<[u8; ETHERNET]>(packet, 0) else { return false };
    let begins: *mut u8 = begins.cast();
    let [a, b, c, d, e, f, ..] = to.0.to_ne_bytes();
    // SAFETY: inside the packet.
    unsafe { begins.cast::<u16>().write(u16::from_ne_bytes([a, b])) };
    // SAFETY: as above.
    unsafe { begins.wrapping_add(2).cast::<u32>().write(u32::from_ne_bytes([c, d, e, f])) };
    let [a, b, c, d, e, f, ..] = from.0.to_ne_bytes();
    // SAFETY: as above.
    unsafe { begins.wrapping_add(6).cast::<u32>().write(u32::from_ne_bytes([a, b, c, d])) };
    // SAFETY: as above.
    unsafe { begins.wrapping_add(10).cast::<u16>().write(u16::from_ne_bytes([e, f])) };
    true
}
