//! The ABI of the bypass: what a client of this host and its node, on this host too, send each other goes from socket to socket,
//! without TCP in between. Addresses and ports as in [`crate::nat`].

use crate::nat::{Address, Port};

/// Names of the maps, beside those of the packet datapaths and [`crate::steering::names::STEERED`].
pub mod names {
    /// `Dialled -> u32`: the nodes that are at home in a network namespace.
    pub const NODES: &str = "bypass_nodes";
    /// `End -> socket`: both ends of each connection that may be bypassed.
    pub const SOCKETS: &str = "bypass_sockets";
    /// `End -> Entered`: what each end has to know of the other before it believes that it is the other.
    pub const ENDS: &str = "bypass_ends";
    /// Storage of sockets: [`super::Path`]. It goes with its socket.
    pub const PATHS: &str = "bypass_paths";
    /// Array of one [`super::Orders`].
    pub const ORDERS: &str = "bypass_orders";
    /// Array of `u64`, by [`crate::balance::of_slot`]: steered clients whose requests are bypassed. Mapped into the daemon's
    /// memory.
    pub const CLIENTS: &str = "bypass_clients";
    /// Array of `u64`, by [`super::sum`]. Mapped into the daemon's memory.
    pub const SUMS: &str = "bypass_sums";
    /// `u64 -> Late`, by the kernel's address of the socket: readers that have something unread which stands before what comes by
    /// TCP.
    pub const LATE: &str = "bypass_late";
    /// Ring buffer of `u64`: each that is entered there.
    pub const HURRY: &str = "bypass_hurry";
    /// `Program -> u32`: whose connections are left to TCP.
    pub const PROGRAMS: &str = "bypass_programs";
    /// Per-CPU array of one [`super::Counts`].
    pub const COUNTS: &str = "bypass_counts";
    /// The programs: connections as they begin and end, and what is sent on them.
    pub const CONNECTIONS: &str = "bypass_conns";
    pub const SEND: &str = "bypass_send";
    /// And the one that is run over all sockets, for those of [`LATE`].
    pub const REMIND: &str = "bypass_remind";
}

/// A reader that is to be told once more that there is something to read.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Late {
    /// The kernel's address of it, once more: a number to calculate with.
    pub reader: u64,
    /// How often it was met: a socket that is never met is none any more.
    pub met: u64,
}

/// A program, by the name that the kernel has for a process's first thread (`comm`), with zeros behind.
pub type Program = [u8; 16];
/// As many may be named; the daemon's own names are two more.
pub const MOST_PROGRAMS: usize = 64;

/// A socket, by its connection. The same addresses and ports are another connection's before and after it, and at the same time in
/// another namespace; with the sequence numbers it is this one and no other. TCP has drawn both at random, so two sockets of
/// which each expects the other's are the two ends of one connection, whatever lies between.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct End {
    /// The namespace's cookie (`SO_NETNS_COOKIE`).
    pub netns: u64,
    pub local: Address,
    pub remote: Address,
    pub local_port: Port,
    pub remote_port: Port,
    /// The next to be sent, and the next to be received, when the connection was established.
    pub sent: u32,
    pub received: u32,
    pub _pad: u32,
}

impl End {
    #[inline(always)]
    #[must_use]
    pub fn other(&self) -> Self {
        Self {
            netns: self.netns,
            local: self.remote,
            remote: self.local,
            local_port: self.remote_port,
            remote_port: self.local_port,
            sent: self.received,
            received: self.sent,
            _pad: 0,
        }
    }
}

/// A socket as it was when its connection was established.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entered {
    /// The kernel's own address of it.
    pub socket: u64,
    pub gate: Gate,
    /// One of [`seat`].
    pub seat: u64,
}

/// Whose switch a connection goes by, as in [`crate::steering::Steered`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gate {
    /// [`NO_ROUTE`]: nobody's, its client has dialled the node itself.
    pub route: u16,
    pub slot: u16,
    pub generation: u32,
}

pub const NO_ROUTE: u16 = u16::MAX;

/// Values of [`Entered::seat`]: a socket to which something was handed over stays in for life, or what it has not read would be
/// lost.
pub mod seat {
    pub const FREE: u64 = 0;
    /// The other end hands over to it.
    pub const TAKEN: u64 = 1;
    /// It goes out with what is sent next, and nobody hands over to it any more.
    pub const LEAVING: u64 = 2;
}

/// What a socket sends on.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// The other end of its connection.
    pub peer: End,
    /// One of [`way`].
    pub way: u32,
    /// 1: it has dialled, and not accepted.
    pub dialled: u32,
    /// What it was when it was entered.
    pub here: Entered,
    /// The kernel's address of the other end, once the way is chosen.
    pub there: u64,
    /// How much was handed over so far: its bytes, and what the kernel needs to hold each message beside them.
    pub bytes: u64,
    pub cost: u64,
    /// Where the kernel has put the last message, where its first part ends, and in which [`PIECE`] it begins.
    pub place: u64,
    pub place_end: u64,
    pub piece: u64,
    /// How much of what waits for its reader is in [`sum::WAITING`].
    pub in_sum: u64,
    /// Two places in what was handed over, of which the reader is at or beyond the first.
    pub marks: [Mark; 2],
}

/// A place in what was handed over.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub bytes: u64,
    pub cost: u64,
}

/// Indexes of [`names::SUMS`].
pub mod sum {
    /// What waits for readers of this host, as [`super::Path::cost`] counts it, to 64 KiB for each.
    pub const WAITING: u32 = 0;
    /// Clients that have dialled a node themselves and are bypassed.
    pub const DIRECT: u32 = 1;
    pub const COUNT: u32 = 2;
}

/// Values of [`Path::way`]. It is chosen once, when the socket sends for the first time, and is TCP for good once it is that.
pub mod way {
    /// It has dialled, and is not connected yet.
    pub const DIALLED: u32 = 0;
    pub const UNDECIDED: u32 = 1;
    pub const BYPASS: u32 = 2;
    pub const TCP: u32 = 3;
    /// The same, and whoever was let go is out.
    pub const OUT: u32 = 4;
}

/// What the daemon says to the programs.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Orders {
    /// 0: nothing is bypassed any more.
    pub on: u32,
    /// The process whose own connections are left alone, by its number where the kernel counts all; 0: none.
    pub spared: u32,
    /// The port, in host byte order, that the daemon dials to have the program write its number here.
    pub asking: u32,
    /// Where fields of the kernel's own records begin, in bytes: those of a socket ...
    pub rmem_alloc: u32,
    pub rcvlowat: u32,
    pub write_seq: u32,
    pub prot: u32,
    pub socket: u32,
    pub ulp_ops: u32,
    /// ... of its protocol ...
    pub memory_allocated: u32,
    pub sysctl_mem: u32,
    /// ... and from there to the flags that its process has set.
    pub file: u32,
    pub f_flags: u32,
    /// ... and of a thread: to its process's first one, and that one's name.
    pub group_leader: u32,
    pub comm: u32,
    pub _pad: u32,
}

/// How much may wait for a reader, with what the kernel needs to hold it, in bytes.
pub const MOST_WAITING: u64 = 4 << 20;
/// Up to there nobody asks how much waits for all readers together, and whether TCP has enough memory.
pub const ALWAYS_WAITING: u64 = 64 << 10;
/// How much may wait for all of them together.
pub const MOST_IN_ALL: u64 = 256 << 20;
/// `struct sk_msg`, which each message has.
pub const PER_MESSAGE: u64 = 1024;
/// The pieces of memory in which the kernel puts what is sent (`SKB_FRAG_PAGE_ORDER`): one of them is held by any byte in it.
pub const PIECE: u64 = 32 << 10;

/// Counted per CPU, by [`count`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts(pub [u64; count::COUNT as usize]);

/// Indexes of [`Counts`]. This table also makes the metrics.
pub mod count {
    /// Directions of connections for which the bypass was chosen.
    pub const CHOSEN: u32 = 0;
    /// From here on: why a direction went to TCP instead, at once or later. The other end is not on this host, or not below
    /// the cgroup, or was not yet there.
    pub const NO_PEER: u32 = 1;
    /// Something had gone by TCP before.
    pub const MIXED: u32 = 2;
    /// Its reader is too far behind.
    pub const BEHIND: u32 = 3;
    /// Its reader is behind, and so are many others, or TCP has little memory left.
    pub const MEMORY: u32 = 4;
    /// One of the ends has another protocol between TCP and its process (kTLS).
    pub const ULP: u32 = 5;
    /// The switch pauses its connection, or has ended it.
    pub const HELD: u32 = 6;
    /// The other end is closed.
    pub const GONE: u32 = 7;
    /// The kernel did not take the socket: somebody else's program has it.
    pub const REFUSED: u32 = 8;
    /// The kernel had no memory for the record.
    pub const NO_ROOM: u32 = 9;
    /// The bypass was switched off.
    pub const OFF: u32 = 10;
    /// Its process waits inside of recv(2), which the kernel lets end for nothing on such a socket.
    pub const BLOCKING: u32 = 11;
    /// Its program is named in [`super::names::PROGRAMS`].
    pub const EXCEPTED: u32 = 12;
    /// To here.
    pub const BYTES: u32 = 13;
    pub const MESSAGES: u32 = 14;
    pub const COUNT: u32 = 15;

    /// Label values of the metric `switchmaster_bypass_total`, by index.
    pub const NAMES: [&str; BYTES as usize] = [
        "bypassed", "no_peer", "mixed", "behind", "memory", "ulp", "held", "gone", "refused", "no_room", "off",
        "blocking", "excepted",
    ];
}

const _: () = {
    assert!(size_of::<End>() == 56);
    assert!(size_of::<Entered>() == 24);
    assert!(size_of::<Path>() == 176);
    assert!(size_of::<Orders>() == 64);
};
