//! The ABI of the packet datapaths: full NAT, flow by flow, in the kernel. A flow is a record in the array
//! `flows`; its place there is its source port towards the node, so that the way back needs no search.
//! Addresses are IPv6 or v4-mapped, ports are in network byte order, numbers and times in the host's.

/// Names of the maps, beside those of the crate.
pub mod names {
    /// Array of one [`super::Globals`], mapped into the daemon's memory.
    pub const GLOBALS: &str = "globals";
    /// `Endpoint -> u32`: the addresses that clients dial. The number is the place in [`super::Globals::doors`].
    pub const DOOR_OF: &str = "door_of";
    /// `address -> u32`: the addresses that nodes see. The number is the place in [`super::Globals::snats`].
    pub const SNAT_OF: &str = "snat_of";
    /// Longest-prefix-match trie of [`super::Allowed`]: which clients a route takes; the value has the bits of [`super::family`].
    pub const ALLOW: &str = "allow";
    /// `TargetKey -> Egress`: how a node is reached.
    pub const EGRESS: &str = "egress";
    /// Array of [`crate::index::Bucket`]: a client's flow, as its place in [`FLOWS`], if that agrees. Mapped into the daemon's memory.
    pub const FLOW_OF: &str = "flow_of";
    /// Array of `u64`, by [`crate::balance::of_slot`]: the [`super::gate`] of each target. Mapped into the daemon's memory.
    pub const GATES: &str = "gates";
    /// Array of [`super::Flow`], mapped into the daemon's memory.
    pub const FLOWS: &str = "flows";
    /// Array of `u64`: a bit for each place that is not free, so that the daemon looks at those only. Mapped into its memory.
    pub const TAKEN: &str = "taken";
    /// Array of queues of `u32`: the places that are free, longest first, one queue for each [`super::Snat`].
    pub const FREE: &str = "free";
    /// Array of `u64`: the latest half-open flows, place and state, oldest replaced first.
    pub const HALF_OPEN: &str = "half_open";
    /// Array of `u64`, by route: established flows, and connections of the listener, mapped into the daemon's memory.
    pub const USAGE: &str = "usage";
    /// Array of [`super::First`], by route.
    pub const FIRSTS: &str = "firsts";
    /// Per-CPU array of one [`super::Counters`].
    pub const PACKETS: &str = "packets";
    /// Array of one [`super::Life`]: the daemon's own, pinned last.
    pub const LIFE: &str = "life";
    /// Array of [`super::RouteName`], by route: the daemon's own.
    pub const ROUTE_NAMES: &str = "route_names";
    /// The program at tc ingress.
    pub const TC: &str = "nat_tc";
    /// Array of [`super::Out`], by [`crate::xdp::slot`]: the interfaces whose frames the program may address itself.
    pub const OUTS: &str = "outs";
}

/// Which layout all of this is: one more whenever a record, or what it means, changes. Flows outlive the daemon, and
/// the next one may be of another version.
pub const ABI: u32 = 7;

/// An IPv6 address, or an IPv4 one as ::ffff:a.b.c.d (which no IPv6 packet may carry).
pub type Address = [u8; 16];
/// The same bytes as a program holds them: it reads, writes and compares bytes one by one.
pub type Halves = [u64; 2];

#[must_use]
pub const fn halves([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p]: Address) -> Halves {
    [u64::from_ne_bytes([a, b, c, d, e, f, g, h]), u64::from_ne_bytes([i, j, k, l, m, n, o, p])]
}

pub type Port = [u8; 2];

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    pub addr: Address,
    pub port: Port,
    pub _pad: [u8; 2],
}

/// An address that clients dial.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Door {
    pub addr: Address,
    pub port: Port,
    pub route: u16,
    /// Flows that the route may have.
    pub max_connections: u32,
    /// Not 0 while somebody listens there: else its flows' clients speak to an address that is no more ours.
    pub open: u32,
    /// Not 0: its flows are translated at XDP where they can be.
    pub by_xdp: u32,
}

/// An address that nodes see, and the ports on it that are ours: the same on every one.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Snat {
    pub addr: Address,
    /// The first of its places in `flows`.
    pub first: u32,
    pub first_port: u16,
    pub ports: u16,
}

/// As so many addresses one node may see us: more than a million flows.
pub const MOST_SNATS: usize = 48;

/// How a node is reached, written before `targets` leads to it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Egress {
    pub ifindex: u32,
    /// How many of `snats` there are.
    pub count: u32,
    /// As which addresses the node sees us: their numbers. A flow gets the one that its client's end chooses, or one after
    /// it that has a free port.
    pub snats: [u8; MOST_SNATS],
}

/// What an entry of `allow` is found by, behind its prefix length in bits: a prefix of a route's number and an address.
/// A route that takes everyone has the entry of length [`ALLOWED_ROUTE_BITS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Allowed {
    /// In network byte order, as the trie compares bits.
    pub route: [u8; 4],
    pub addr: Address,
}

/// Whom an entry of `allow` lets in: an IPv6 network may cover the mapped addresses, and means no IPv4 client.
pub mod family {
    pub const V4: u32 = 1;
    pub const V6: u32 = 2;
    pub const ALL: u32 = V4 | V6;
}

pub const ALLOWED_ROUTE_BITS: u32 = 32;
/// The bits before an IPv4 address.
pub const ALLOWED_MAPPED_BITS: u32 = ALLOWED_ROUTE_BITS + 96;

/// Of an address that was dialled, and its port. So a packet needs no search for its door. Two flows of one client's port to
/// two doors may have the same, and then the second is left to the listener.
#[inline(always)]
#[must_use]
pub const fn fold(addr: Halves, port: Port) -> u16 {
    // Addresses that differ in their last byte have different folds: the last byte of the product is a permutation of it.
    // Of the ports of one address at most three have the same (tests).
    let sum = (addr[0] ^ addr[1]).wrapping_add(u16::from_be_bytes(port) as u64);
    (sum.wrapping_mul(crate::balance::GOLDEN) >> 48) as u16
}

/// What is known of one end of a flow. Written by the packets that come from it, which come one CPU at a
/// time (a NIC keeps a flow on one queue); a count may be a little short where they do not. Only `hop` is those packets' that go
/// to it, and of both while a flow is in doubt.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    pub addr: Address,
    pub bytes: u64,
    /// The next hop on the way to it, as a program last found it (`Hop`). Of no concern to the daemon, but the next one's
    /// program goes by it.
    pub hop: u64,
    /// After 2^32 of them it begins again at 0: who adds them up takes differences.
    pub packets: u32,
    /// The sequence number after the last byte that it sent.
    pub next: u32,
    /// The last acknowledgement number that it sent.
    pub acked: u32,
    /// When it last sent something, in [`TICK_SHIFT`] ticks of the monotonic clock.
    pub seen: u32,
    /// Where packets to it go out: for a client where its SYN came in, for a node what [`Egress`] said.
    pub ifindex: u32,
    pub port: Port,
    /// Whom it speaks to: for a client a place in [`Globals::doors`], for a node one in [`Globals::snats`].
    pub through: u16,
}

/// A flow: two cache lines, one for each end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub client: End,
    /// One of [`flow`] in the low byte; above it a number that is another for each flow in this place.
    pub state: u32,
    pub route: u16,
    pub slot: u16,
    pub node: End,
    /// The low half of the target's generation.
    pub generation: u32,
    /// The [`fold`] of what its client dialled.
    pub dialled: u16,
    /// All TCP flags that the client ever sent, and the node.
    pub client_flags: u8,
    pub node_flags: u8,
}

/// What may pass to and from a target, in one word: the low half of a generation, and above it one of these. It says to each
/// packet what `targets` says to a route's new flows, which ask both; whoever writes the one writes the other.
pub mod gate {
    use crate::{Target, state};

    /// Nothing; what has another generation has ended.
    pub const SHUT: u64 = 0;
    pub const OPEN: u64 = 1 << 32;
    /// Nothing for now, and nothing ends.
    pub const PAUSED: u64 = 2 << 32;

    #[must_use]
    pub const fn word(target: &Target) -> u64 {
        if target.live != 0 {
            OPEN | target.live as u32 as u64
        } else if target.state == state::PAUSED {
            PAUSED | target.generation as u32 as u64
        } else {
            SHUT
        }
    }
}

/// The low byte of [`Flow::state`].
pub mod flow {
    /// Nobody's; the place is in the queue, or on its way to it.
    pub const FREE: u32 = 0;
    /// Its client has not yet acknowledged what the node sent.
    pub const HALF: u32 = 1;
    /// It is kept until it ends, and counts among its route's `max_connections`.
    pub const OPEN: u32 = 2;
    /// Both ends have closed it, or one has reset it: it only keeps its port for what is still under way.
    pub const CLOSED: u32 = 3;
    pub const MASK: u32 = 0xff;
    /// One flow later in the same place.
    pub const NEXT: u32 = 0x100;
}

/// One tick of [`End::seen`]: 2^27 ns, 0.134 s.
pub const TICK_SHIFT: u32 = 27;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// When the daemon was last alive, in ns of CLOCK_MONOTONIC.
    pub beat: u64,
    /// How long after that new flows are still made, in ns.
    pub grace: u64,
    /// How many flows were half-open so far: the next place in `half_open`.
    pub half_open: u64,
    /// To the end of the cache line: above is what each SYN changes, below what each packet reads.
    pub _pad: [u64; 5],
    /// How long a timer tick of the kernel lasts, in ns; 0: the daemon does not know.
    pub jiffy: u64,
    /// How many of them there were when the monotonic clock was 0, by the program; 0: it does not know yet.
    pub zero: u64,
    /// To the end of that line, so that no door lies in two.
    pub _rest: [u64; 6],
}

/// As many addresses clients can dial, a wildcard being one for each address of the host.
pub const MOST_DOORS: usize = 1024;
/// As many addresses nodes can see.
pub const MOST_SNATS_KNOWN: usize = 256;

/// What a packet may need beside its flow's record, in one entry, so that a program looks for it once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Globals {
    pub clock: Clock,
    pub snats: [Snat; MOST_SNATS_KNOWN],
    pub doors: [Door; MOST_DOORS],
}

/// What the next daemon has to know of whoever made the maps, before it believes the rest of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    /// [`ABI`]; first for all time.
    pub abi: u32,
    /// The source ports of each address.
    pub first_port: u16,
    pub last_port: u16,
    /// The network namespace, as its inode.
    pub netns: u64,
    /// That of [`crate::index`].
    pub seed: u64,
}

/// A MAC address in halfwords, as it lies in a frame: the type that a program reads at once.
#[must_use]
pub fn in_frame([a, b, c, d, e, f]: [u8; 6]) -> [u16; 3] {
    [[a, b], [c, d], [e, f]].map(u16::from_ne_bytes)
}

/// An Ethernet interface by which packets go out.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Out {
    /// 0: nobody has this place.
    pub ifindex: u32,
    /// Its own address, as it lies in a frame.
    pub mac: [u16; 3],
    /// Not 0: a veth whose frames may be put straight into its other end.
    pub peered: u16,
}

/// The first flow of a route that was established, or client that was led, under the generation that came last.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct First {
    pub generation: u64,
    /// When, in ns of the monotonic clock. Written after `generation`.
    pub at: u64,
}

/// What a route is called and where it leads, in words, filled up with zeros: its number outlives the daemon, its place
/// in the configuration may not.
pub type RouteName = [u8; 160];

/// How many flows may be half-open; one more ends the oldest. A power of two.
pub const MOST_HALF_OPEN: u32 = 8192;

/// What the programs count, in one entry, so that a packet that is counted twice looks for it once.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Indexed by [`packet`].
    pub packets: [u64; packet::COUNT as usize],
    /// Of the program at XDP, indexed by [`crate::xdp::fate`].
    pub fates: [u64; crate::xdp::fate::COUNT as usize],
}

/// Indexes of [`Counters::packets`]: one for everything a packet's way can be. This table also makes the metrics.
pub mod packet {
    /// Numbers the names in their order.
    macro_rules! table {
        (@ $at:expr;) => {};
        (@ $at:expr; $index:ident = $name:literal, $doc:literal; $($rest:tt)*) => {
            #[doc = $doc]
            pub const $index: u32 = $at;
            table!(@ $at + 1; $($rest)*);
        };
        ($($index:ident = $name:literal, $doc:literal;)*) => {
            table!(@ 0; $($index = $name, $doc;)*);
            /// Label values of the metric `switchmaster_packets_total`, by index.
            pub const NAMES: &[&str] = &[$($name),*];
        };
    }
    table! {
        TO_NODE = "to_node", "Translated, client to node.";
        TO_CLIENT = "to_client", "Translated, node to client.";
        NOT_OURS = "not_ours", "Addressed to no route and no flow: untouched.";
        NOT_PLAIN = "not_plain", "On a VLAN of the interface, or for another host: untouched.";
        NOT_IP = "not_ip", "Neither IPv4 nor IPv6: untouched.";
        FRAGMENT = "fragment", "A fragment: left to the stack.";
        OPTIONS = "options", "IPv4 options or IPv6 extension headers: left to the stack.";
        NOT_TCP = "not_tcp", "Neither TCP nor an ICMP error: left to the stack.";
        MALFORMED = "malformed", "Lengths that contradict each other, a header cut short: left to the stack.";
        NO_FLOW = "no_flow", "No SYN and of no flow: left to the stack, whose own connection it may be.";
        NEW = "new", "A SYN that made a flow.";
        ESTABLISHED = "established", "A handshake that its client finished.";
        PARKED = "parked", "A SYN taken aside: no open target, or others wait before it.";
        UNPARKED = "unparked", "A SYN left to the listener: it could not be taken aside.";
        TURNED = "turned", "A SYN that was parked and goes to the listener: its time was up, or there was no room.";
        LISTENER = "listener", "A SYN left to the listener: no way to the target, one of another family, or no room to park it.";
        FULL = "full", "A SYN left to the listener: the route has max_connections.";
        NOT_ALLOWED = "not_allowed", "A SYN left to the listener, which refuses it: not in `allow`.";
        DUPLICATE = "duplicate", "A SYN whose flow was made at the same time: dropped, TCP sends it again.";
        NO_PORT = "no_port", "A SYN left to the listener: no source port is free, its place in the index is full, or a flow from the same client's port has it.";
        ORPHANED = "orphaned", "A SYN left to the stack: the daemon has been dead for longer than orphan_grace.";
        HELD = "held", "Dropped in a pause: TCP sends it again.";
        RESET = "reset", "Of a flow whose generation has ended: answered by RST.";
        EVICTED = "evicted", "A half-open flow that made room for another.";
        EXPIRED = "expired", "Its hop limit is used up: dropped.";
        UNROUTED = "unrouted", "The kernel refused to send it on: dropped. Where it finds no neighbour, the interface counts it.";
        ICMP_TO_NODE = "icmp_to_node", "An ICMP error about a packet of the node's: translated.";
        ICMP_TO_CLIENT = "icmp_to_client", "An ICMP error about a packet of the client's: translated.";
        ICMP_NO_FLOW = "icmp_no_flow", "An ICMP error about a packet of no flow: left to the stack.";
        ICMP_CUT = "icmp_cut", "An ICMP error that quotes too little, options, extension headers or a fragment: left to the stack.";
        ICMP_STALE = "icmp_stale", "An ICMP error about what a flow's end has not under way: left to the stack.";
    }
    pub const COUNT: u32 = NAMES.len() as u32;
}

const _: () = {
    assert!(size_of::<Endpoint>() == 20);
    assert!(size_of::<Door>() == 32);
    assert!(size_of::<Snat>() == 24);
    assert!(size_of::<Egress>() == 56);
    assert!(size_of::<Allowed>() == 20);
    assert!(size_of::<End>() == 56);
    assert!(size_of::<Flow>() == 128);
    assert!(core::mem::offset_of!(Flow, node) == 64);
    assert!(size_of::<Clock>() == 128);
    assert!(core::mem::offset_of!(Clock, jiffy) == 64);
    assert!(size_of::<Globals>() == size_of::<Clock>() + MOST_SNATS_KNOWN * 24 + MOST_DOORS * 32);
    assert!(core::mem::offset_of!(Globals, doors).is_multiple_of(64));
    // Written last of a door; and an own address is known by its number.
    assert!(core::mem::offset_of!(Door, open) == 24);
    assert!(MOST_DOORS <= 1 << u16::BITS && MOST_SNATS_KNOWN <= 1 << u8::BITS);
    assert!(size_of::<First>() == 16);
    assert!(size_of::<Out>() == 12);
    assert!(size_of::<Life>() == 24);
    assert!(MOST_HALF_OPEN.is_power_of_two());
};
