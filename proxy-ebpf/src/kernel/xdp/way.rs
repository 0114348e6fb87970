//! How a frame leaves this host: the kernel's own routes and neighbours are asked, for the interface that the flow
//! leaves by at tc too. Whatever they do not know at once is left to tc, which can wait for an answer.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_FRAG_NEEDED, BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT, xdp_action::XDP_PASS},
    helpers::bpf_fib_lookup,
};
use proxy_ebpf::xdp::fate;

use super::{Frame, maps};
use crate::kernel::{
    packet::{ETHERNET, Ipv4, Packet as _, Segment, TCP, header, words},
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

/// Both addresses of the frame, as they lie in it.
pub(super) struct Way([u16; 6]);

/// Finds the way of a segment that is to go from and to these ends, and makes `XDP_REDIRECT` mean the interface
/// it leaves by. The frame is not touched.
#[inline(always)]
pub(super) fn find(frame: &Frame, segment: &Segment, from: &Side<'_>, to: &Side<'_>, ifindex: u32) -> Result<Way, u32> {
    let interface = maps::interface(ifindex).ok_or(fate::NO_DEVICE)?;
    if frame.in_pieces() && interface.takes_pieces == 0 {
        return Err(fate::NO_DEVICE);
    }
    let way = ask(frame, segment, from, to, ifindex)?;
    maps::DEVICES.redirect(ifindex, u64::from(XDP_PASS)).map_err(|_passes| fate::NO_DEVICE)?;
    Ok(way)
}

#[inline(always)]
fn ask(frame: &Frame, segment: &Segment, from: &Side<'_>, to: &Side<'_>, ifindex: u32) -> Result<Way, u32> {
    let family = if segment.v6 { AF_INET6 } else { AF_INET };
    let [a, b] = ((frame.len() - ETHERNET as u32) as u16).to_ne_bytes();
    let [s0, s1, s2, s3] = address(segment, from);
    let [d0, d1, d2, d3] = address(segment, to);
    let mut lookup: Lookup = [
        u32::from_ne_bytes([family, TCP, from.port[0], from.port[1]]),
        u32::from_ne_bytes([to.port[0], to.port[1], a, b]),
        ifindex,
        tos(frame, segment),
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
    let found = unsafe { bpf_fib_lookup(frame.0.ctx.cast(), (&raw mut lookup).cast(), size, BPF_FIB_LOOKUP_OUTPUT) };
    match found as u32 {
        // Another interface than was asked for.
        BPF_FIB_LKUP_RET_SUCCESS if lookup[IFINDEX] != ifindex => Err(fate::NO_DEVICE),
        BPF_FIB_LKUP_RET_SUCCESS => {
            let [a, b, c, d] = lookup[SOURCE_MAC].to_ne_bytes();
            let [e, f, g, h] = lookup[SOURCE_MAC + 1].to_ne_bytes();
            let [i, j, k, l] = lookup[SOURCE_MAC + 2].to_ne_bytes();
            Ok(Way([[g, h], [i, j], [k, l], [a, b], [c, d], [e, f]].map(u16::from_ne_bytes)))
        }
        BPF_FIB_LKUP_RET_FRAG_NEEDED => Err(fate::TOO_BIG),
        _ => Err(fate::NO_WAY),
    }
}

/// What the packet asks of the network, as routing sees it: IPv4's field in the first byte.
#[inline(always)]
fn tos(frame: &Frame, segment: &Segment) -> u32 {
    if segment.v6 {
        return 0;
    }
    // SAFETY: inside the packet.
    header::<Ipv4>(frame, ETHERNET).map_or(0, |ip| u32::from_ne_bytes([unsafe { (*ip).tos }, 0, 0, 0]))
}

/// As the kernel wants it: IPv4 in the first word.
#[inline(always)]
fn address(segment: &Segment, side: &Side<'_>) -> [u32; 4] {
    let words = words(side.addr);
    if segment.v6 { words } else { [words[3], 0, 0, 0] }
}

impl Way {
    /// Puts the addresses of this hop into the frame.
    #[inline(always)]
    pub(super) fn address(&self, frame: &Frame) -> bool {
        let Some(addresses) = header::<[u16; 6]>(frame, 0) else { return false };
        // SAFETY: inside the packet.
        let addresses = unsafe { &mut *addresses };
        for (field, word) in addresses.iter_mut().zip(self.0) {
            *field = word;
        }
        true
    }
}
