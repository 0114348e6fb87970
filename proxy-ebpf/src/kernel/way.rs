//! The next hop of a flow's packets by the kernel's own routes and neighbours, for the interface that the flow leaves by.
//! It is asked for once in a stretch of 4.3 s (`flow::is_recent`), and remembered for those that follow, until something of the
//! flow has to be sent again. Whatever the kernel does not know at once is none: its own way can wait for an answer.

use aya_ebpf::{
    bindings::{BPF_FIB_LKUP_RET_SUCCESS, BPF_FIB_LOOKUP_OUTPUT},
    helpers::bpf_fib_lookup,
};

use super::{
    flow::Who,
    mac::{self, Mac},
    packet::{ETHERNET, Ipv4, Ipv6, Packet, Segment, TCP, header, words},
    rewrite::Side,
};
use proxy_ebpf::nat::Flow;

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;

/// The kernel's `struct bpf_fib_lookup`, word by word: it has unions, and fields of six bytes that LLVM would set one by one.
type Lookup = [u32; 16];
const IFINDEX: usize = 2;
const SOURCE_MAC: usize = 13;

const _: () = assert!(size_of::<Lookup>() == size_of::<aya_ebpf::bindings::bpf_fib_lookup>());

/// A frame's addresses, if they are known. An `Option` of it in a structure becomes a type that the kernel's BTF does not
/// take.
#[derive(Clone, Copy)]
pub(crate) struct Way {
    to: Mac,
    from: Mac,
}

/// Why there is none.
pub(crate) enum NoWay {
    /// No route by this interface.
    Elsewhere,
    TooBig,
    /// No route, no neighbour, or no forwarding.
    Unknown,
    /// This one segment is to take the kernel's own way.
    Doubted,
}

/// What the `hop` of an end says, in one word, so that it is read whole: the halves of the next hop's address, lowest first, and
/// above them the length of the longest packet. 0 says nothing yet; without an address it says why there is none. It outlives the program:
/// where it means something else, [`proxy_ebpf::nat::ABI`] is another.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Hop(u64);

const ELSEWHERE: Hop = Hop::none(1);
const UNKNOWN: Hop = Hop::none(2);
const DOUBTED: Hop = Hop::none(3);

/// What it said. Read early: of a million flows neither line of a record lies in a cache, and so the processor waits for both at
/// once.
#[derive(Clone, Copy)]
pub(crate) struct Known(u64);

#[inline(always)]
pub(crate) fn known(flow: *mut Flow, to: Who) -> Known {
    // SAFETY: one word of the record.
    Known(unsafe { word(flow, to).read_volatile() })
}

/// Whose way is looked for.
pub(crate) struct Leg<'a> {
    pub(crate) flow: *mut Flow,
    pub(crate) to: Who,
    pub(crate) known: Known,
    /// The segment's ends as they will be. No tuple: its type would have a name that the kernel's BTF does not take.
    pub(crate) source: &'a Side,
    pub(crate) destination: &'a Side,
    pub(crate) trust: &'a Trust,
}

/// How far what was found earlier is believed.
pub(crate) struct Trust {
    /// The sender was heard in this tick already: what was found then is good still, also that there is no way.
    pub(crate) heard: bool,
    /// It was heard in this stretch already, and this is nothing that it sends again: a next hop that was found is good still.
    pub(crate) recent: bool,
    /// A segment of a flow in doubt asks anew. Else it is to take the kernel's own way.
    pub(crate) asks: bool,
}

/// An interface by which packets go out, and its own address.
#[derive(Clone, Copy)]
pub(crate) struct Exit {
    pub(crate) ifindex: u32,
    pub(crate) mac: Mac,
}

/// The way of a segment, which may have other addresses yet. Nothing of it is touched.
#[inline(always)]
pub(crate) fn find(packet: &impl Packet, segment: &Segment, leg: &Leg<'_>, exit: Exit) -> Result<Way, NoWay> {
    let hop = Hop(leg.known.0);
    let doubted = hop == DOUBTED;
    if doubted && !leg.trust.asks {
        return Err(NoWay::Doubted);
    }
    let believed = leg.trust.heard || leg.trust.recent && hop.is_known();
    let hop = if believed && hop.0 != 0 && !doubted {
        hop
    } else {
        let asked = ask(packet, segment, leg, exit);
        set(leg.flow, leg.to, asked.0);
        asked
    };
    hop.way(packet, segment, exit)
}

/// The next segment of the same sender asks anew: this one was heard and did not ask.
#[inline(always)]
pub(crate) fn forget(flow: *mut Flow, to: Who) {
    set(flow, to, 0);
}

/// Something of the flow was sent again: it got lost, or the answer did. The next segment each way takes the kernel's own
/// way, also of an end that sends nothing again because it only acknowledges.
#[inline(always)]
pub(crate) fn doubt(flow: *mut Flow) {
    [Who::Client, Who::Node].into_iter().for_each(|to| set(flow, to, DOUBTED.0));
}

#[inline(always)]
fn set(flow: *mut Flow, to: Who, hop: u64) {
    // SAFETY: one word of the record.
    unsafe { word(flow, to).write_volatile(hop) };
}

#[inline(always)]
fn word(flow: *mut Flow, to: Who) -> *mut u64 {
    let at = match to {
        Who::Client => core::mem::offset_of!(Flow, client.hop),
        Who::Node => core::mem::offset_of!(Flow, node.hop),
    };
    flow.cast::<u8>().wrapping_add(at).cast()
}

#[inline(always)]
fn ask(packet: &impl Packet, segment: &Segment, leg: &Leg<'_>, exit: Exit) -> Hop {
    let (from, to) = (leg.source, leg.destination);
    let family = if segment.v6 { AF_INET6 } else { AF_INET };
    // So short a packet fits everywhere: the kernel then says what would.
    let [a, b] = 1_u16.to_ne_bytes();
    let [s0, s1, s2, s3] = address(segment, from);
    let [d0, d1, d2, d3] = address(segment, to);
    let mut lookup: Lookup = [
        // No ports: bpf_redirect_neigh asks without, and both are to find the same of several next hops.
        u32::from_ne_bytes([family, TCP, 0, 0]),
        u32::from_ne_bytes([0, 0, a, b]),
        exit.ifindex,
        class(packet, segment),
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
    if found as u32 != BPF_FIB_LKUP_RET_SUCCESS {
        return UNKNOWN;
    }
    // Another interface than was asked for.
    if lookup[IFINDEX] != exit.ifindex {
        return ELSEWHERE;
    }
    let [_, longest] = halves(lookup[1]);
    let [[a, b], [c, d], [e, f]] = [0, 1, 2].map(|word| halves(lookup[SOURCE_MAC + word]));
    // The interface has got another address, and the daemon has not seen it yet.
    if Mac([a, b, c]) != exit.mac {
        return UNKNOWN;
    }
    Hop::to(Mac([d, e, f]), longest)
}

/// What the packet asks of the network, as routing sees it: IPv4's field in the first byte, IPv6's class and label.
#[inline(always)]
fn class(packet: &impl Packet, segment: &Segment) -> u32 {
    if segment.v6 {
        // SAFETY: inside the packet.
        return header::<Ipv6>(packet, ETHERNET)
            .map_or(0, |ip| unsafe { (*ip).version_class_label } & 0x0fff_ffff_u32.to_be());
    }
    // SAFETY: inside the packet.
    header::<Ipv4>(packet, ETHERNET).map_or(0, |ip| u32::from_ne_bytes([unsafe { (*ip).tos }, 0, 0, 0]))
}

/// As the kernel wants it: IPv4 in the first word.
#[inline(always)]
fn address(segment: &Segment, side: &Side) -> [u32; 4] {
    let words = words(side.addr);
    if segment.v6 { words } else { [words[3], 0, 0, 0] }
}

/// As they lie in memory.
#[inline(always)]
fn halves(word: u32) -> [u16; 2] {
    let [a, b, c, d] = word.to_ne_bytes();
    [[a, b], [c, d]].map(u16::from_ne_bytes)
}

impl Hop {
    #[inline(always)]
    const fn none(why: u16) -> Self {
        Self::to(Mac::NONE, why)
    }

    #[inline(always)]
    const fn to(Mac([a, b, c]): Mac, longest: u16) -> Self {
        Self(a as u64 | (b as u64) << 16 | (c as u64) << 32 | (longest as u64) << 48)
    }

    #[inline(always)]
    const fn is_known(self) -> bool {
        self.0 << 16 != 0
    }

    #[inline(always)]
    fn next(self) -> Mac {
        Mac([self.0 as u16, (self.0 >> 16) as u16, (self.0 >> 32) as u16])
    }

    #[inline(always)]
    fn longest(self) -> u32 {
        (self.0 >> 48) as u32
    }

    #[inline(always)]
    fn way(self, packet: &impl Packet, segment: &Segment, exit: Exit) -> Result<Way, NoWay> {
        if !self.is_known() {
            return Err(if self == ELSEWHERE { NoWay::Elsewhere } else { NoWay::Unknown });
        }
        if segment.length > self.longest() && !packet.is_cut_later() {
            return Err(NoWay::TooBig);
        }
        Ok(Way { to: self.next(), from: exit.mac })
    }
}

impl Way {
    pub(crate) const UNKNOWN: Self = Self { to: Mac::NONE, from: Mac::NONE };

    #[inline(always)]
    pub(crate) fn is_known(&self) -> bool {
        self.to.is_known()
    }

    /// Puts the addresses of this hop into the frame.
    #[inline(always)]
    pub(crate) fn address(&self, packet: &impl Packet) -> bool {
        mac::address(packet, self.to, self.from)
    }
}
