//! MAC addresses in halfwords, as a program reads and writes them: to the verifier a frame begins two bytes before a word
//! (NET_IP_ALIGN), and a record's field at one.

use super::packet::{ETHERNET, Packet, header};

/// As it lies in a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u16; 3]);

impl Mac {
    /// Nobody's.
    pub(crate) const NONE: Self = Self([0; 3]);

    #[inline(always)]
    pub(crate) fn is_known(self) -> bool {
        let [a, b, c] = self.0;
        a | b | c != 0
    }
}

/// Gives a frame other addresses.
#[inline(always)]
pub(crate) fn address(packet: &impl Packet, to: Mac, from: Mac) -> bool {
    let Some(begins) = header::<[u8; ETHERNET]>(packet, 0) else { return false };
    let ([a, b, c], [d, e, f]) = (to.0, from.0);
    for (at, half) in [a, b, c, d, e, f].into_iter().enumerate() {
        // SAFETY: inside the packet.
        unsafe { begins.cast::<u16>().wrapping_add(at).write(half) };
    }
    true
}
