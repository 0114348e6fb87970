//! The ABI of steering: a `connect(2)` of this host's own to an address that a route listens at is led to the node itself,
//! and what is sent on that connection passes while the switch says so. Addresses and ports as in [`crate::nat`].

use crate::nat::{Address, Port};

/// Names of the maps, beside those of the packet datapaths, which say what routes and targets are.
pub mod names {
    /// `Dialled -> Listen`: the addresses that clients dial, each in its network namespace.
    pub const DIALLED: &str = "dialled";
    /// `Reached -> u32`: the nodes that clients of another namespace than the daemon's get to from there.
    pub const REACHED: &str = "reached";
    /// Storage of sockets: [`super::Steered`], of each that was led to a node. It goes with its socket.
    pub const STEERED: &str = "steered";
    /// Array of `u64`, by [`crate::balance::of_slot`]: sockets that were led to the slot and are not closed yet. Mapped
    /// into the daemon's memory.
    pub const STEERS: &str = "steers";
    /// Per-CPU array of one [`super::Counts`].
    pub const STEERINGS: &str = "steerings";
    /// The programs, by where they are attached.
    pub const CONNECT4: &str = "steer_connect4";
    pub const CONNECT6: &str = "steer_connect6";
    pub const PEER4: &str = "steer_peer4";
    pub const PEER6: &str = "steer_peer6";
    pub const EGRESS: &str = "steer_egress";
    pub const INGRESS: &str = "steer_ingress";
    pub const RELEASE: &str = "steer_release";
}

/// What a client dials, and where: the same address may be another host's in another namespace.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Dialled {
    /// The namespace's cookie (`SO_NETNS_COOKIE`).
    pub netns: u64,
    pub addr: Address,
    pub port: Port,
    pub _pad: [u8; 6],
}

/// Which route it is.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listen {
    /// From where the kernel would dial it, if the client does not say: this is what `allow` is asked for.
    pub source: Address,
    /// Flows and connections that the route may have.
    pub max_connections: u32,
    pub route: u16,
    /// One of [`place`].
    pub place: u16,
}

/// Values of [`Listen::place`].
pub mod place {
    /// The daemon's own namespace, where the address has its listener.
    pub const HOME: u16 = 0;
    /// Another namespace; the address is not of that one.
    pub const AWAY: u16 = 1;
    /// Another namespace, whose own address it is: the route listens at all, but a server there goes before it.
    pub const AWAY_OWN: u16 = 2;
}

/// A node as a namespace sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reached {
    pub netns: u64,
    pub addr: Address,
}

/// A socket that was led to a node.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Steered {
    /// What its client dialled, and believes to be connected to.
    pub addr: Address,
    pub port: Port,
    pub route: u16,
    pub slot: u16,
    pub _pad: u16,
    /// The low half of the target's generation.
    pub generation: u32,
    pub _end: u32,
}

/// Counted per CPU, by [`count`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts(pub [u64; count::COUNT as usize]);

/// Indexes of [`Counts`]: what became of a `connect(2)` to an address that is a route's, and of what was sent afterwards. This
/// table also makes the metrics.
pub mod count {
    pub const STEERED: u32 = 0;
    /// No proven master, or a pause: the listener parks it.
    pub const NO_TARGET: u32 = 1;
    /// The node has an address of the other family.
    pub const OTHER_FAMILY: u32 = 2;
    /// Not in `allow`: the listener refuses it.
    pub const NOT_ALLOWED: u32 = 3;
    /// The route has `max_connections`.
    pub const FULL: u32 = 4;
    /// The daemon has been dead for longer than `orphan_grace`.
    pub const ORPHANED: u32 = 5;
    /// The client has bound its socket to where no way leads to the node from, or to an interface.
    pub const BOUND: u32 = 6;
    /// The kernel had no memory for the record.
    pub const NO_ROOM: u32 = 7;
    /// From the client's namespace no way leads to the node.
    pub const UNREACHABLE: u32 = 8;
    /// In the client's namespace a server of its own listens there.
    pub const OCCUPIED: u32 = 9;
    /// A packet that was not let through, either way: the switch pauses its connection, or has ended it.
    pub const HELD: u32 = 10;
    pub const COUNT: u32 = 11;

    /// Label values of the metric `switchmaster_steering_total`, by index.
    pub const NAMES: [&str; COUNT as usize] = [
        "steered",
        "no_target",
        "other_family",
        "not_allowed",
        "full",
        "orphaned",
        "bound",
        "no_room",
        "unreachable",
        "occupied",
        "held",
    ];
}

const _: () = {
    assert!(size_of::<Dialled>() == 32);
    assert!(size_of::<Listen>() == 24);
    assert!(size_of::<Reached>() == 24);
    assert!(size_of::<Steered>() == 32);
};
