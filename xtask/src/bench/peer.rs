//! The ways from the client to Redis that are measured: without anything between, through what people use
//! today, and through each datapath of the daemon. Adding a datapath is a line here; one that the daemon
//! does not know is left out, and the report says why.

use std::fmt;

use clap::ValueEnum;
use serde::{Serialize, Serializer};

use super::workload::Place;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(super) enum Peer {
    /// Routed through the proxy's namespace, nothing else
    Direct,
    /// The kernel's NAT: nftables with DNAT and SNAT
    Nftables,
    /// HAProxy, tcp mode, two threads
    Haproxy,
    /// The same with option splice-auto
    HaproxySplice,
    /// nginx's stream module, two workers
    Nginx,
    /// Twemproxy (Debian's nutcracker), which speaks Redis and puts all clients on one connection
    Twemproxy,
    /// The daemon, datapath copy
    Copy,
    /// The daemon, datapath sockmap
    Sockmap,
    /// The daemon, datapath tc
    Tc,
    /// The daemon, datapath xdp
    Xdp,
    /// The daemon's steering, for clients on its own host
    Steered,
    /// The same with the bypass, for a Redis on that host too
    Bypassed,
    /// Direct, by a program at XDP that does nothing else: what XDP itself costs on these links. Measured only if it is named
    XdpRoute,
}

impl Peer {
    /// The datapath of the daemon that it is.
    pub(super) fn datapath(self) -> Option<&'static str> {
        match self {
            Self::Copy => Some("copy"),
            Self::Sockmap => Some("sockmap"),
            Self::Tc => Some("tc"),
            Self::Xdp => Some("xdp"),
            Self::Direct
            | Self::Nftables
            | Self::Haproxy
            | Self::HaproxySplice
            | Self::Nginx
            | Self::Twemproxy
            | Self::Steered
            | Self::Bypassed
            | Self::XdpRoute => None,
        }
    }

    /// A connection is no socket of the daemon's: its packets are rewritten as they come in.
    pub(super) fn moves_packets(self) -> bool {
        matches!(self, Self::Tc | Self::Xdp)
    }

    /// XDP sees what a veth's sender left for the hardware to do; there is none, so it must be done before.
    pub(super) fn wants_whole_packets(self) -> bool {
        matches!(self, Self::Xdp | Self::XdpRoute)
    }

    /// Clients dial the server itself.
    pub(super) fn is_routed(self) -> bool {
        matches!(self, Self::Direct | Self::XdpRoute)
    }

    /// Compares nothing that people use.
    pub(super) fn is_a_yardstick(self) -> bool {
        self == Self::XdpRoute
    }

    /// Whether it is measured where all are on one host: there packets pass no interface.
    pub(super) fn is_at(self, place: Place) -> bool {
        match self {
            Self::Direct | Self::Haproxy | Self::Nginx | Self::Copy | Self::Sockmap => true,
            Self::Steered | Self::Bypassed => place == Place::Together,
            Self::Nftables | Self::HaproxySplice | Self::Twemproxy | Self::Tc | Self::Xdp | Self::XdpRoute => {
                place == Place::Apart
            }
        }
    }

    pub(super) fn carries_messages(self) -> bool {
        // It ends a connection that subscribes or publishes.
        self != Self::Twemproxy
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.pad(value.as_ref().map_or("?", |value| value.get_name()))
    }
}

impl Serialize for Peer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
