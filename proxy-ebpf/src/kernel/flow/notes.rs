//! What a flow's record keeps of each end's segments: enough to reset it from outside, and to know when it has ended.

use super::{
    super::packet::{ACK, RST, SYN, Segment},
    Found, Who,
};
use proxy_ebpf::nat::{End, Flow};

/// Sequence numbers further apart are not believed to be of one connection: more than any window that Linux opens by
/// itself (net.ipv4.tcp_rmem), and a guess meets it once in 64.
const WINDOW: u32 = 1 << 25;

/// Whether its sender has not sent it before: the next of the stream, or further on.
#[inline(always)]
pub(crate) fn is_new(end: &End, segment: &Segment) -> bool {
    segment.flags & SYN == 0 && segment.sequence.wrapping_sub(end.next) as i32 >= 0
}

/// Whether an end was last heard in the stretch of 32 ticks, 4.3 s, that still lasts.
#[inline(always)]
pub(crate) fn is_recent(seen: u32, now: u32) -> bool {
    seen >> 5 == now >> 5
}

/// What an end has acknowledged. An `Option` has a number that is none where it is `None`, and the verifier sees it used.
#[derive(Clone, Copy)]
pub(crate) struct Acked {
    number: u32,
    /// Whether it ever did.
    known: bool,
}

impl Acked {
    #[inline(always)]
    pub(crate) fn or(self, other: u32) -> u32 {
        if self.known { self.number } else { other }
    }
}

#[inline(always)]
pub(crate) fn acked_by(flow: &Flow, by: Who) -> Acked {
    match by {
        Who::Client => Acked { number: flow.client.acked, known: flow.client_flags & ACK != 0 },
        Who::Node => Acked { number: flow.node.acked, known: flow.node_flags & ACK != 0 },
    }
}

/// Notes what an end has sent.
#[inline(always)]
pub(crate) fn note(found: &Found, by: Who, segment: &Segment, half: bool, now: u32) {
    // SAFETY: a place of the array. An end's fields are written by its own packets, each in one word.
    let flow = unsafe { &mut *found.flow };
    let other = acked_by(flow, by.other());
    match by {
        Who::Client => note_of(&mut flow.client, &mut flow.client_flags, other, segment, half, now),
        Who::Node => note_of(&mut flow.node, &mut flow.node_flags, other, segment, half, now),
    }
}

/// `other` is what the other end has acknowledged: who is not on the way cannot know it, so its packets neither move the numbers
/// that a later RST needs, nor end a flow.
#[inline(always)]
fn note_of(end: &mut End, flags: &mut u8, other: Acked, segment: &Segment, half: bool, now: u32) {
    end.bytes += u64::from(segment.payload);
    end.packets = end.packets.wrapping_add(1);
    // SYN and FIN take a number each.
    let syn_fin = u32::from(segment.flags & 1) + u32::from(segment.flags >> 1 & 1);
    let next = segment.sequence.wrapping_add(segment.payload).wrapping_add(syn_fin);
    if segment.flags & RST != 0 {
        // A receiver believes it at exactly the number that it expects (RFC 5961, 3.2).
        if segment.sequence == end.next || other.known && segment.sequence == other.number {
            *flags |= segment.flags;
            end.seen = now;
        }
        return;
    }
    let far = segment.sequence.wrapping_sub(other.number).wrapping_add(WINDOW) >= 2 * WINDOW;
    if other.known && far {
        return;
    }
    let anew = half && segment.flags & SYN != 0;
    if *flags == 0 || anew || next.wrapping_sub(end.next) as i32 > 0 {
        end.next = next;
    }
    end.seen = now;
    if segment.flags & ACK != 0 {
        end.acked = segment.acknowledgement;
    }
    // Both ends' flags lie in one line, and the packets of each end may be another processor's.
    if *flags | segment.flags != *flags {
        *flags |= segment.flags;
    }
}
