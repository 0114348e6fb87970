//! Clients on the daemon's own host.

use crate::{
    Spec,
    daemon::{Config, RouteStatus},
    netns::HUB,
};

const NODES: u16 = 7379;

/// How they get to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LocalWay {
    Steered,
    /// Steered, and past TCP to a node on the same host.
    Bypassed,
}

impl LocalWay {
    /// By the name that stands in a datapath's place.
    pub fn of(way: &str) -> Option<Self> {
        match way {
            "steered" => Some(Self::Steered),
            "bypassed" => Some(Self::Bypassed),
            _ => None,
        }
    }

    /// With the nodes where they can be reached so: for the bypass on the daemon's host, at ports that no route has.
    pub fn place(way: Option<Self>, spec: Spec) -> Spec {
        match way {
            Some(Self::Bypassed) => Spec { node_namespaces: vec![HUB.to_owned()], first_node_port: NODES, ..spec },
            _ => spec,
        }
    }

    /// How many clients of a route go it.
    pub fn count(self, route: &RouteStatus) -> u64 {
        match self {
            Self::Steered => route.steered,
            Self::Bypassed => route.bypassed,
        }
    }

    pub fn configure(self, config: Config) -> Config {
        let bypass = match self {
            Self::Steered => "\"off\"",
            Self::Bypassed => "\"on\"",
        };
        config.local("steering", "\"on\"").local("bypass", bypass)
    }
}
