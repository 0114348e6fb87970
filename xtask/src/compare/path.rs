//! The ways from the client to Redis that are compared. `direct` is routed: no proxy sees it.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Path {
    Direct,
    Haproxy,
    Copy,
    Sockmap,
}

impl Path {
    pub(super) const ALL: [Self; 4] = [Self::Direct, Self::Haproxy, Self::Copy, Self::Sockmap];

    /// The datapath of the daemon that serves it.
    pub(super) fn datapath(self) -> Option<&'static str> {
        match self {
            Self::Direct | Self::Haproxy => None,
            Self::Copy => Some("copy"),
            Self::Sockmap => Some("sockmap"),
        }
    }

    /// The port it listens on in `proxy`.
    pub(super) fn port(self) -> u16 {
        7000 + self as u16
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Direct => "direct",
            Self::Haproxy => "haproxy",
            Self::Copy => "copy",
            Self::Sockmap => "sockmap",
        })
    }
}
