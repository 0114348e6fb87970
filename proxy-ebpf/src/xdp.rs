//! The ABI of the datapath xdp: an accelerator in front of the packet datapath (`nat`), whose maps it shares. It translates
//! packets of established flows before the kernel makes an sk_buff of them, and leaves all others to tc.

/// Names of its own maps, beside those of `nat`.
pub mod names {
    /// Array of one array of [`super::Interface`], by [`super::slot`], mapped into the daemon's memory.
    pub const INTERFACES: &str = "interfaces";
    /// Array of devices, by [`super::slot`]: where frames may go out; exactly the interfaces that passed the self-test.
    pub const DEVICES: &str = "devices";
    /// The program, at the driver.
    pub const XDP: &str = "nat_xdp";
}

/// How many places there are for interfaces; two whose numbers fall on the same one cannot both have it.
pub const SLOTS: u32 = 4096;

/// The place of an interface.
#[inline(always)]
pub const fn slot(ifindex: u32) -> u32 {
    ifindex & (SLOTS - 1)
}

/// An interface that passed the self-test.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Interface {
    /// 0: nobody has this place.
    pub ifindex: u32,
    /// It also takes frames that lie in several pieces.
    pub takes_pieces: u32,
    pub _pad: u16,
    /// Its own address, as it lies in a frame, and aligned as there: those to any other are not for this host.
    pub mac: [u16; 3],
}

/// What the program did with a packet. Indexes of [`crate::nat::Counters::fates`]; this table also makes the metrics.
pub mod fate {
    /// Translated and sent on; counted in `packets` too.
    pub const SENT: u32 = 0;
    /// Of no established flow: another's, a SYN, a handshake, what tc would not translate either.
    pub const NO_FLOW: u32 = 1;
    /// Its route is served by tc alone.
    pub const OTHER_ROUTE: u32 = 2;
    /// Its flow's generation is paused or has ended: tc knows what to do.
    pub const GATE: u32 = 3;
    /// Its hop limit is used up.
    pub const LAST_HOP: u32 = 4;
    /// The first after a silence of its sender, if it is sent again, if something of its flow was, or if the silence was long: so
    /// what was lost here is sent again by the kernel's own way, which is used now and then, and its neighbours stay proven.
    pub const DUE: u32 = 5;
    /// Its sender left the TCP checksum to hardware that is not there.
    pub const UNFINISHED: u32 = 6;
    /// The interface that it has to leave by is none of `devices`.
    pub const NO_DEVICE: u32 = 7;
    /// No route, no neighbour, or no forwarding.
    pub const NO_WAY: u32 = 8;
    /// Longer than the way takes.
    pub const TOO_BIG: u32 = 9;
    /// Another flow has its flow's place by now.
    pub const OTHERS: u32 = 10;
    pub const COUNT: u32 = 11;

    /// Label values of the metric `switchmaster_xdp_packets_total`, by index.
    pub const NAMES: [&str; COUNT as usize] = [
        "sent",
        "no_flow",
        "other_route",
        "gate",
        "last_hop",
        "due",
        "unfinished",
        "no_device",
        "no_way",
        "too_big",
        "others",
    ];
}

const _: () = {
    assert!(size_of::<Interface>() == 16);
    assert!(core::mem::offset_of!(Interface, mac) % 4 == 2);
    // In one word: it is never seen half.
    assert!(core::mem::offset_of!(Interface, mac) >= 8);
    assert!(SLOTS.is_power_of_two());
};
