//! What the Sentinels say, and what a strict majority of them agrees on (rule 1). The majority is
//! counted over every known Sentinel: one that is silent weighs against, one that is unknown does not
//! exist. Memory is bounded by the latest list of Sentinels.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
};

use super::{address::canonical, observation::SentinelView};

#[derive(Debug, Clone, Default)]
pub(super) struct Ballot {
    seats: BTreeMap<SocketAddr, Seat>,
}

#[derive(Debug, Clone, Default)]
enum Seat {
    /// Not asked yet.
    #[default]
    Empty,
    /// Asked, without an answer that counts.
    Silent,
    Vote(Vote),
}

#[derive(Debug, Clone, Copy)]
struct Vote {
    master: SocketAddr,
    epoch: u64,
    master_down: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Count {
    /// Nobody was heard, nor given up on.
    Unheard,
    /// Fewer answer than make a majority.
    TooFew,
    /// A majority answers, but names different addresses.
    Split,
    Agreed(Agreed),
}

/// The one address that a strict majority names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) addr: SocketAddr,
    /// The highest epoch that a majority has reached for this address. One Sentinel which runs ahead
    /// (the leader of a failover does) cannot raise it alone, one which lags cannot lower it alone.
    pub(super) epoch: u64,
    /// Some Sentinel that names it thinks it down, or is failing it over.
    pub(super) doubted: bool,
    /// Other addresses, named by a minority at a higher epoch.
    pub(super) rivals: Vec<SocketAddr>,
}

impl Ballot {
    /// Replaces the list of Sentinels. Views of those who stay are kept.
    pub(super) fn seat(&mut self, known: Vec<SocketAddr>) {
        let mut before = std::mem::take(&mut self.seats);
        let known: BTreeSet<SocketAddr> = known.into_iter().map(canonical).collect();
        self.seats = known.into_iter().map(|addr| (addr, before.remove(&addr).unwrap_or_default())).collect();
    }

    pub(super) fn cast(&mut self, from: SocketAddr, view: &SentinelView) {
        if let Some(seat) = self.seats.get_mut(&canonical(from)) {
            *seat =
                Seat::Vote(Vote { master: canonical(view.master), epoch: view.epoch, master_down: view.master_down });
        }
    }

    pub(super) fn knows(&self, from: SocketAddr) -> bool {
        self.seats.contains_key(&canonical(from))
    }

    pub(super) fn withdraw(&mut self, from: SocketAddr) {
        if let Some(seat) = self.seats.get_mut(&canonical(from)) {
            *seat = Seat::Silent;
        }
    }

    pub(super) fn count(&self) -> Count {
        let majority = self.seats.len() / 2 + 1;
        let mut named: BTreeMap<SocketAddr, Vec<Vote>> = BTreeMap::new();
        for vote in self.votes() {
            named.entry(vote.master).or_default().push(vote);
        }
        if named.values().map(Vec::len).sum::<usize>() < majority {
            let heard = self.seats.values().any(|seat| !matches!(seat, Seat::Empty));
            return if heard { Count::TooFew } else { Count::Unheard };
        }
        let Some((addr, mut votes)) = named.into_iter().find(|(_, votes)| votes.len() >= majority) else {
            return Count::Split;
        };
        votes.sort_unstable_by_key(|vote| Reverse(vote.epoch));
        let epoch = votes[majority - 1].epoch;
        let doubted = votes.iter().any(|vote| vote.master_down);
        let rivals = self.votes().filter(|vote| vote.master != addr && vote.epoch > epoch);
        Count::Agreed(Agreed { addr, epoch, doubted, rivals: rivals.map(|vote| vote.master).collect() })
    }

    fn votes(&self) -> impl Iterator<Item = Vote> + '_ {
        self.seats.values().filter_map(|seat| match seat {
            Seat::Vote(vote) => Some(*vote),
            Seat::Empty | Seat::Silent => None,
        })
    }
}
