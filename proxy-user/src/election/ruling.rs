//! What a rule says at one instant, and the master that was followed until then.

use std::{net::SocketAddr, time::Instant};

use super::{
    node::is_other,
    observation::Role,
    roster::Roster,
    verdict::{Reason, Target, Way},
};

#[derive(Debug)]
pub(super) struct Ruling {
    pub(super) call: Call,
    /// When time alone would change the call.
    pub(super) wake: Option<Instant>,
}

#[derive(Debug)]
pub(super) enum Call {
    /// A decision: a new generation.
    Follow(Target),
    /// The incumbent stays, and this much may pass.
    Keep(Way, Reason),
    /// Nobody is followed; the candidate, if there is one, is who the reason speaks of.
    Close(Reason, Option<SocketAddr>),
}

impl From<Call> for Ruling {
    fn from(call: Call) -> Self {
        Self { call, wake: None }
    }
}

/// How far the incumbent can be relied on, once a lost role and a stranger are out of the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    Nobody,
    SaysMaster,
    /// Its probes fail, `fall` in a row; or it left the list of nodes.
    Silent,
}

/// What the incumbent's own words make of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    SaysMaster,
    Silent,
    RoleLost,
    Stranger,
}

/// The master in force.
#[derive(Debug, Clone)]
pub(super) struct Incumbent {
    pub(super) target: Target,
    /// The target's id, or the first one seen since: an id that becomes visible later is no other
    /// server and no new generation, but another one after it is.
    server: Option<String>,
}

impl Incumbent {
    pub(super) fn new(target: Target) -> Self {
        Self { server: target.id.clone(), target }
    }

    pub(super) fn standing(&mut self, roster: &Roster) -> Standing {
        let Some(node) = roster.get(self.target.addr) else { return Standing::Silent };
        if is_other(self.server.as_deref(), node.id()) {
            return Standing::Stranger;
        }
        if self.server.is_none() {
            self.server = node.id().map(str::to_owned);
        }
        match node.said() {
            None => Standing::Silent,
            Some(Role::Master) if node.lost() => Standing::Silent,
            Some(Role::Master) => Standing::SaysMaster,
            Some(Role::Replica(_) | Role::Loading) => Standing::RoleLost,
        }
    }
}
