//! The ABI between the daemon and its kernel programs: map names, keys, values and counters.
//! Written once and compiled for both sides; every layout is asserted below at compile time.
//! Fields are plain integers with explicit padding: no bool, enum, Option or usize crosses it.
#![no_std]

pub mod balance;
pub mod bypass;
pub mod index;
pub mod nat;
pub mod parking;
pub mod steering;
pub mod xdp;

/// What each kernel object has to bring by itself: an end for panics, which none of them reaches, and the licence, since
/// some helpers are for programs under the GPL only.
#[cfg(feature = "programs")]
#[macro_export]
macro_rules! complete_object {
    () => {
        #[cfg(not(test))]
        #[panic_handler]
        fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
            loop {}
        }

        #[unsafe(link_section = "license")]
        #[unsafe(no_mangle)]
        static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
    };
}

/// Names of the maps, as they appear in `bpftool map` and below the pin directory.
/// The kernel keeps 15 bytes of a map's name.
pub mod names {
    /// `TargetKey -> Target`: where each route leads. A write here is what a switch is; for packets, together with the one in
    /// [`crate::nat::names::GATES`].
    pub const TARGETS: &str = "targets";
    /// `Cookie -> Link`: what a spliced socket belongs to and how much it may send on.
    pub const LINKS: &str = "links";
    /// `Cookie -> Meter`: what the verdict program did with a socket's bytes.
    pub const METERS: &str = "meters";
    /// `Cookie -> socket`: the other end of each spliced socket.
    pub const PEERS: &str = "peers";
    /// `Cookie -> socket`: the sockets whose incoming bytes the verdict program sees.
    pub const SPLICED: &str = "spliced";
    /// Ring buffer of [`crate::Event`].
    pub const EVENTS: &str = "events";
    /// Per-CPU counters, indexed by [`crate::counter`].
    pub const COUNTERS: &str = "counters";
    /// The sk_skb stream verdict program.
    pub const VERDICT: &str = "verdict";
    /// Its constant: where the running kernel has `tcp_sock.copied_seq`, in bytes from the beginning.
    pub const COPIED_SEQ: &str = "COPIED_SEQ";
}

/// A socket cookie (`SO_COOKIE`): unique for the life of the host, never reused.
pub type Cookie = u64;

/// Which entry of `targets` a connection was made under.
/// A route to the master has slot 0 alone; a route to replicas has a slot for each replica.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TargetKey {
    pub route: u32,
    pub slot: u32,
}

/// Where a route leads now.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The one generation whose connections may carry bytes; 0: none may.
    /// The verdict program reads nothing else of the switch, so this word alone is the gate.
    pub live: u64,
    /// The generation that new connections are made under. Never goes backwards.
    pub generation: u64,
    /// Sentinel's config-epoch of the decision; 0 without Sentinels.
    pub epoch: u64,
    /// One of [`state`].
    pub state: u32,
    /// `AF_INET` (2) or `AF_INET6` (10); 0 while there never was a target.
    pub family: u16,
    /// In network byte order.
    pub port: [u8; 2],
    /// An IPv4 address takes the first four bytes.
    pub addr: [u8; 16],
}

/// Values of [`Target::state`].
pub mod state {
    /// Nothing passes: no master is proven.
    pub const CLOSED: u32 = 0;
    /// New and established connections pass.
    pub const OPEN: u32 = 1;
    /// Established connections live on, new ones wait.
    pub const ESTABLISHED_ONLY: u32 = 2;
    /// Nothing passes for now, as with `live` 0; `generation` lives on and loses nothing.
    pub const PAUSED: u32 = 3;
}

/// The daemon's half of a spliced socket's state: only the daemon writes it, entry by entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// The map's own key again, and the first word on purpose. A hash map hands a replaced element to
    /// the next writer at once (kernel/bpf/hashtab.c), maybe while the program still reads it. Whoever
    /// reads the other words first and finds its own cookie here last has read one whole entry.
    pub cookie: Cookie,
    pub target: TargetKey,
    pub generation: u64,
    /// How far [`Meter::charged`] may grow. Bounds the bytes that wait in the kernel for a peer
    /// that does not read: sockmap's own queue knows no limit.
    pub limit: u64,
    /// Where the daemon wants to be told, to raise `limit` before it is reached.
    pub notify_at: u64,
    /// How many passed bytes the daemon has read and written on. Once that is all of them the program
    /// may redirect again: it alone can see that no segment came in between.
    pub resume_at: u64,
}

/// The kernel's half of a spliced socket's state: the daemon makes it, and then only the verdict
/// program writes it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meter {
    /// Payload bytes redirected to the peer.
    pub bytes: u64,
    /// The same plus [`CHARGE_PER_SEGMENT`] for each segment: what they cost in kernel memory.
    pub charged: u64,
    /// Payload bytes left on the socket for the daemon to read, with those that it read before the socket was spliced.
    pub passed: u64,
    /// Not 0 once a segment was passed: every later one is passed too, or the stream would be
    /// reordered, until [`Link::resume_at`] says that all of them were read.
    pub passing: u32,
    /// 1 once the daemon was told of `notify_at`.
    pub notified: u32,
    /// The `notify_at` that `notified` speaks of.
    pub notified_at: u64,
    /// The daemon's own marks, handed back in each [`Event`]: which worker, and what it calls the flow.
    pub worker: u32,
    pub token: u32,
    /// The sequence number of the next byte of the stream, once `sequence` says that it is known.
    pub next: u32,
    /// One of [`sequence`].
    pub sequence: u32,
}

/// Values of [`Meter::sequence`].
pub mod sequence {
    /// No segment has come yet.
    pub const UNKNOWN: u32 = 0;
    /// Every byte so far came once and in order.
    pub const KNOWN: u32 = 1;
    /// Bytes are missing, or what the kernel says of a segment makes no sense: the connection has to end.
    pub const BROKEN: u32 = 2;
}

/// What a queued segment costs beyond its payload: the sk_buff and a receive buffer of half a page,
/// as most drivers hand them up (include/linux/skbuff.h, SKB_TRUESIZE, 64-bit).
pub const CHARGE_PER_SEGMENT: u64 = 2304;

/// What the verdict program tells the daemon.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    pub cookie: Cookie,
    /// One of [`event`].
    pub kind: u32,
    pub worker: u32,
    pub token: u32,
    /// [`event::BROKEN`]: bytes between the end of the stream and the segment; negative if the segment begins before it.
    pub gap: i32,
}

/// Values of [`Event::kind`].
pub mod event {
    /// `Meter::charged` went past `Link::notify_at`.
    pub const CREDIT_LOW: u32 = 1;
    /// The first segment was passed to the daemon, for lack of credit or because the gate is shut.
    pub const PASSING: u32 = 2;
    /// The stream is not whole any more: [`super::sequence::BROKEN`].
    pub const BROKEN: u32 = 3;
}

/// Indexes of the `counters` map: one for everything a verdict can be. This table also makes the metrics.
pub mod counter {
    pub const REDIRECTED: u32 = 0;
    pub const REDIRECTED_BYTES: u32 = 1;
    pub const PASSED_NO_CREDIT: u32 = 2;
    pub const PASSED_GATE_SHUT: u32 = 3;
    pub const PASSED_AFTER_PASS: u32 = 4;
    pub const PASSED_NOT_LINKED: u32 = 5;
    pub const PASSED_NO_PEER: u32 = 6;
    pub const EVENT_LOST: u32 = 7;
    /// An end without bytes: the daemon passes it on.
    pub const DROPPED_FIN: u32 = 8;
    /// A retransmission that began with bytes which had come before; those were cut off.
    pub const TRIMMED: u32 = 9;
    /// A segment that does not continue the stream: its connection is reset.
    pub const BROKEN: u32 = 10;
    pub const COUNT: u32 = 11;

    /// Label values of the metric `switchmaster_sockmap_verdicts_total`, by index.
    pub const NAMES: [&str; COUNT as usize] = [
        "redirected",
        "redirected_bytes",
        "passed_no_credit",
        "passed_gate_shut",
        "passed_after_pass",
        "passed_not_linked",
        "passed_no_peer",
        "event_lost",
        "dropped_fin",
        "trimmed",
        "broken",
    ];
}

const _: () = {
    assert!(size_of::<TargetKey>() == 8);
    assert!(size_of::<Target>() == 48);
    assert!(size_of::<Link>() == 48);
    assert!(size_of::<Meter>() == 56);
    assert!(size_of::<Event>() == 24);
};

#[cfg(feature = "user")]
mod user {
    use super::{
        Event, Link, Meter, Target, TargetKey,
        balance::{Balance, Load},
        bypass::{self, Orders},
        nat::{Allowed, Clock, Counters, Door, Egress, End, Endpoint, First, Flow, Globals, Life, Out, Snat},
        parking::Parked,
        steering::{Counts, Dialled, Listen, Reached, Steered},
        xdp::Interface,
    };

    /// Gives the ABI types to the crates that want proof that any bytes are a value.
    macro_rules! pod {
        ($($t:ty),*) => {$(
            // SAFETY: repr(C), integers only, no implicit padding (sizes asserted above), any bit pattern is valid.
            unsafe impl bytemuck::Zeroable for $t {}
            // SAFETY: as above.
            unsafe impl bytemuck::Pod for $t {}
            // SAFETY: as above.
            unsafe impl aya::Pod for $t {}
        )*};
    }
    pod!(TargetKey, Target, Link, Meter, Event);
    pod!(Endpoint, Allowed, Door, Snat, Egress, End, Flow, Clock, Globals, First, Life, Out, Counters);
    pod!(Balance, Load);
    pod!(Parked);
    pod!(Interface);
    pod!(Dialled, Listen, Reached, Steered, Counts);
    pod!(bypass::End, bypass::Late, Orders, bypass::Counts);
}
