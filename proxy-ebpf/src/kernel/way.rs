//! The next hop of a packet by the kernel's own routes and neighbours, for the interface that its flow leaves by. Whatever
//! they do not know at once is none: the kernel's own way can wait for an answer.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT},
    helpers::bpf_fib_lookup,
};

use super::{
    packet::{ETHERNET, Ipv4, Packet, Segment, TCP, header, words},
    rewrite::Side,
};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The kernel's `struct bpf_fib_lookup`, word by word. Fields of six bytes would be set by calls to memset, which the
/// verifier does not know.
type Lookup = [u32; 16];
const IFINDEX: usize = 2;
const SOURCE_MAC: usize = 13;

const _: () = assert!(size_of::<Lookup>() == size_of::<aya_ebpf::bindings::bpf_fib_lookup>());

/// Both addresses of the frame, as they lie in it; zeros: they are not known. An `Option` of it in a structure becomes a
/// type that the kernel's BTF does not take.
#[derive(Clone, Copy)]
pub(crate) struct Way([u16; 6]);

/// Why there is none.
pub(crate) enum NoWay {
    /// No route by this interface.
    Elsewhere,
    TooBig,
    /// No route, no neighbour, or no forwarding.
    Unknown,
}

/// Of a segment that is to go from and to these ends, and may have other addresses yet. Nothing is touched.
#[inline(always)]
pub(crate) fn ask(
    packet: &impl Packet,
    segment: &Segment,
    from: &Side<'_>,
    to: &Side<'_>,
    ifindex: u32,
) -> Result<Way, NoWay> {
    let family = if segment.v6 { AF_INET6 } else { AF_INET };
    let [a, b] = packet.wire_len().to_ne_bytes();
    let [s0, s1, s2, s3] = address(segment, from);
    let [d0, d1, d2, d3] = address(segment, to);
    let mut lookup: Lookup = [
        u32::from_ne_bytes([family, TCP, from.port[0], from.port[1]]),
        u32::from_ne_bytes([to.port[0], to.port[1], a, b]),
        ifindex,
        tos(packet, segment),
        s0,
        s1,
        s2,
        s3,
        d0,
        d1,
        d2,
        d3,
        0,
        0,
        0,
        0,
    ];
    let size = size_of::<Lookup>() as i32;
    // SAFETY: the context is the kernel's own, and the question has the size that it says.
    let found = unsafe { bpf_fib_lookup(packet.context(), (&raw mut lookup).cast(), size, BPF_FIB_LOOKUP_OUTPUT) };
    match found as u32 {
        // Another interface than was asked for.
        BPF_FIB_LKUP_RET_SUCCESS if lookup[IFINDEX] != ifindex => Err(NoWay::Elsewhere),
        BPF_FIB_LKUP_RET_SUCCESS => {
            let [a, b, c, d] = lookup[SOURCE_MAC].to_ne_bytes();
            let [e, f, g, h] = lookup[SOURCE_MAC + 1].to_ne_bytes();
            let [i, j, k, l] = lookup[SOURCE_MAC + 2].to_ne_bytes();
            Ok(Way([[g, h], [i, j], [k, l], [a, b], [c, d], [e, f]].map(u16::from_ne_bytes)))
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(NoWay::TooBig),
        _ => Err(NoWay::Unknown),
    }
}

/// What the packet asks of the network, as routing sees it: IPv4's field in the first byte.
#[inline(always)]
fn tos(packet: &impl Packet, segment: &Segment) -> u32 {
    if segment.v6 {
        return 0;
    }
    // SAFETY: inside the packet.
    header::<Ipv4>(packet, ETHERNET).map_or(0, |ip| u32::from_ne_bytes([unsafe { (*ip).tos }, 0, 0, 0]))
}

/// As the kernel wants it: IPv4 in the first word.
#[inline(always)]
fn address(segment: &Segment, side: &Side<'_>) -> [u32; 4] {
    let words = words(side.addr);
    if segment.v6 { words } else { [words[3], 0, 0, 0] }
}

impl Way {
    pub(crate) const UNKNOWN: Self = Self([0; 6]);

    #[inline(always)]
    pub(crate) fn is_known(&self) -> bool {
        self.0[3] | self.0[4] | self.0[5] != 0
    }

    /// Puts the addresses of this hop into the frame.
    #[inline(always)]
    pub(crate) fn address(&self, packet: &impl Packet) -> bool {
        let Some(addresses) = header::<[u16; 6]>(packet, 0) else { return false };
        // SAFETY: inside the packet.
        let addresses = unsafe { &mut *addresses };
        for (field, word) in addresses.iter_mut().zip(self.0) {
            *field = word;
        }
        true
    }
}
