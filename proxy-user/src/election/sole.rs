//! Rule 6, for a group without Sentinels: exactly one node says master, and has said it `rise` times.
//! Nothing outranks a node's own word here, so whoever is followed stays while it says master.

use std::net::SocketAddr;

use super::{
    roster::Roster,
    ruling::{Call, Held, Ruling},
    verdict::{Reason, Target, Way},
};

pub(super) fn rule(roster: &Roster, incumbent: Option<&Target>, held: Held) -> Ruling {
    let masters: Vec<SocketAddr> = roster.eligible_masters().collect();
    match (held, incumbent) {
        (Held::SaysMaster, Some(target)) => keep(&masters, target),
        (Held::Silent, Some(target)) => outlast(roster, &masters, target),
        _ => find(roster, &masters),
    }
    .into()
}

fn keep(masters: &[SocketAddr], target: &Target) -> Call {
    let second = masters.iter().any(|addr| *addr != target.addr);
    Call::Keep(Way::Open, if second { Reason::TwoMasters } else { Reason::Proven })
}

/// The incumbent is silent: it is followed no further, but only another master ends its connections.
fn outlast(roster: &Roster, masters: &[SocketAddr], target: &Target) -> Call {
    if masters.contains(&target.addr) {
        return Call::Keep(Way::Established, Reason::ProbeLost);
    }
    match masters {
        [] => Call::Keep(Way::Established, Reason::ProbeLost),
        [only] => follow(roster, *only).unwrap_or(Call::Keep(Way::Established, Reason::ProbeLost)),
        [_, _, ..] => Call::Close(Reason::TwoMasters, None),
    }
}

fn find(roster: &Roster, masters: &[SocketAddr]) -> Call {
    match masters {
        [_, _, ..] => Call::Close(Reason::TwoMasters, None),
        _ if !roster.all_asked() => Call::Close(Reason::Starting, None),
        [] => Call::Close(Reason::NoMaster, None),
        [only] => follow(roster, *only).unwrap_or(Call::Close(Reason::Unconfirmed, Some(*only))),
    }
}

/// "Exactly one" is known only once every node was asked: else the first to answer would win.
fn follow(roster: &Roster, addr: SocketAddr) -> Option<Call> {
    let node = roster.confirmed(addr).filter(|_| roster.all_asked())?;
    Some(Call::Follow(Target { addr, epoch: 0, id: node.id().map(str::to_owned) }))
}
