//! What a round left behind, and what follows from it: which acknowledgements were good, who reigned when,
//! and which connections went wrong. Only clients, servers and data are asked; the proxy's own account
//! gives the moments of its decisions.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use switchmaster_tests::client::{Ack, End, Record};

use super::{
    dialers::{Dial, Outcome},
    ears::Heard,
    name::Drill,
    stalls::Stall,
    watch::Sightings,
};
use crate::journal::Journal;

/// Before the blow nothing is asked of publishes that are older: the witnesses may not have listened yet.
const BEFORE: Duration = Duration::from_secs(1);
/// So late the watch may be.
const BLINK: Duration = Duration::from_millis(10);

#[derive(Debug)]
pub(super) struct Evidence {
    pub(super) drill: Drill,
    /// The blow.
    pub(super) at: Instant,
    pub(super) old: usize,
    /// The surviving master.
    pub(super) new: usize,
    pub(super) ports: Vec<u16>,
    pub(super) writes: Record,
    pub(super) publishes: Record,
    /// The numbers that the surviving master has.
    pub(super) held: HashSet<u64>,
    /// What was heard at the surviving master.
    pub(super) witness: Heard,
    pub(super) subscriber: Heard,
    pub(super) dials: Vec<Dial>,
    pub(super) crowd: usize,
    pub(super) ends: Vec<End>,
    pub(super) sightings: Sightings,
    pub(super) stalls: Vec<Stall>,
    /// The proxy's own account, where it gives one.
    pub(super) journal: Option<Journal>,
}

impl Evidence {
    /// Who was the rightful master at a moment: the last node that became one.
    pub(super) fn reign(&self, at: Instant) -> usize {
        self.crowned().iter().rev().find(|(since, _)| *since <= at).map_or(self.old, |(_, node)| *node)
    }

    /// Those that became master and that the majority of the Sentinels named for it while they were: one that calls itself
    /// master and is called to order has no rights.
    pub(super) fn crowned(&self) -> Vec<(Instant, usize)> {
        let named = self.sightings.majorities();
        let mut crowned = self.sightings.crowned(self.at);
        crowned.retain(|(since, node)| {
            let end = self.sightings.demoted(*node, *since);
            let in_time = |at: &Instant| at >= since && end.is_none_or(|end| *at <= end);
            named.iter().any(|(at, named)| named == node && in_time(at))
        });
        crowned
    }

    /// When the surviving master became one.
    pub(super) fn role_change(&self) -> Option<Instant> {
        self.crowned().into_iter().find(|(_, node)| *node == self.new).map(|(at, _)| at)
    }

    /// When the role change that must be answered could first be seen.
    pub(super) fn visible(&self) -> Option<Instant> {
        match self.drill {
            Drill::Demote => self.sightings.demoted(self.old, self.at),
            _ => self.role_change(),
        }
    }

    /// Those that fell, even in part, between the blow and a moment.
    pub(super) fn stalls_until(&self, end: Option<Instant>) -> impl Iterator<Item = Stall> {
        let within = move |stall: &Stall| stall.to >= self.at && end.is_none_or(|end| stall.from <= end);
        self.stalls.iter().copied().filter(within)
    }

    pub(super) fn majority(&self) -> Option<Instant> {
        self.sightings.majority(self.old, self.at).map(|(at, _)| at)
    }

    /// When the proxy opened towards the surviving master, by its own account.
    pub(super) fn flip(&self, address: std::net::SocketAddr) -> Option<Instant> {
        self.journal.as_ref()?.opened(address)
    }

    pub(super) fn lost(&self) -> impl Iterator<Item = &Ack> {
        self.writes.acks.iter().filter(|ack| !self.held.contains(&ack.number))
    }

    /// Acknowledged and there.
    pub(super) fn good(&self) -> impl Iterator<Item = &Ack> {
        self.writes.acks.iter().filter(|ack| self.held.contains(&ack.number))
    }

    /// The first good write that `node` acknowledged after `since`.
    pub(super) fn first_good(&self, node: usize, since: Instant) -> Option<&Ack> {
        self.good().find(|ack| ack.acked >= since && ack.node == self.ports[node])
    }

    /// The last good write before the longest time without one, and that time.
    pub(super) fn gap(&self) -> Option<(Instant, Duration)> {
        let start = self.at - Duration::from_millis(100);
        let good: Vec<Instant> = self.good().map(|ack| ack.acked).filter(|at| *at >= start).collect();
        let pauses = good.windows(2).map(|pair| (pair[0], pair[1] - pair[0]));
        pauses.max_by_key(|(_, pause)| *pause)
    }

    /// Publishes that were acknowledged and are not on the surviving master's stream, unless the publisher
    /// was cut off before its next acknowledgement.
    pub(super) fn unheard(&self) -> impl Iterator<Item = &Ack> {
        let heard: HashSet<u64> = self.witness.numbers.iter().map(|(_, number)| *number).collect();
        let mut last: BTreeMap<u32, u64> = self.publishes.acks.iter().map(|ack| (ack.link, ack.number)).collect();
        if self.publishes.outages.last().is_none_or(|outage| outage.until.is_some()) {
            // The last connection was not cut off: the round was over.
            last.pop_last();
        }
        let start = self.at - BEFORE;
        self.publishes.acks.iter().filter(move |ack| {
            // Several masters: what the surviving one heard as a replica was broken off by each new sync.
            let master = if self.drill == Drill::Flap { self.reign(ack.acked) } else { self.new };
            ack.acked >= start
                && ack.node != self.ports[master]
                && !heard.contains(&ack.number)
                && last.get(&ack.link) != Some(&ack.number)
        })
    }

    /// Acknowledgements by another node than the rightful master. That a node is one may be heard by its clients before the
    /// watch asks it again.
    pub(super) fn by_the_deposed<'a>(&'a self, record: &'a Record) -> impl Iterator<Item = &'a Ack> {
        let after = record.acks.iter().filter(|ack| ack.acked >= self.at);
        after.filter(|ack| [ack.acked, ack.acked + BLINK].iter().all(|at| ack.node != self.ports[self.reign(*at)]))
    }

    /// Sent after the fence, and acknowledged by the old master all the same.
    pub(super) fn after_fence(&self, fence: Instant) -> usize {
        let acks = self.writes.acks.iter().chain(&self.publishes.acks);
        acks.filter(|ack| ack.sent > fence && ack.node == self.ports[self.old]).count()
    }

    /// New connections that a replica answered, or a master which at the time of the dial was none any more.
    pub(super) fn wrong(&self) -> usize {
        let wrong = |dial: &&Dial| match dial.outcome {
            Outcome::Answered { master, port } => {
                !master || (dial.dialled >= self.at && port != self.ports[self.reign(dial.dialled)])
            }
            _ => false,
        };
        // A dial that outlived a switch may well be answered by the new master, and that it is one may be
        // heard from itself before the watch asks it again.
        let settled = |dial: &&Dial| self.reign(dial.dialled) == self.reign(dial.ended + BLINK);
        self.dials.iter().filter(wrong).filter(settled).count()
    }

    pub(super) fn dials_that(&self, ended: fn(&Outcome) -> bool) -> usize {
        self.dials.iter().filter(|dial| dial.ended >= self.at && ended(&dial.outcome)).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drill::watch::{NameSeen, Role, RoleSeen};

    const PORTS: [u16; 2] = [6379, 6380];

    fn at(zero: Instant, ms: u64) -> Instant {
        zero + Duration::from_millis(ms)
    }

    /// Node 0 reigns until, 100 ms after the blow, node 1 says that it is master.
    fn evidence(zero: Instant) -> Evidence {
        let role = |ms, node, role| RoleSeen { at: at(zero, ms), node, role };
        let roles = vec![role(0, 0, Role::Master), role(0, 1, Role::Replica), role(1100, 1, Role::Master)];
        let name = |ms, sentinel, node| NameSeen { at: at(zero, ms), sentinel, node: Some(node) };
        let names = vec![name(0, 0, 0), name(0, 1, 0), name(0, 2, 0), name(1500, 0, 1), name(1600, 1, 1)];
        Evidence {
            drill: Drill::Planned,
            at: at(zero, 1000),
            old: 0,
            new: 1,
            ports: PORTS.to_vec(),
            writes: Record::default(),
            publishes: Record::default(),
            held: HashSet::new(),
            witness: Heard::default(),
            subscriber: Heard::default(),
            dials: Vec::new(),
            crowd: 0,
            ends: Vec::new(),
            sightings: Sightings { roles, names, sentinels: 3 },
            stalls: Vec::new(),
            journal: None,
        }
    }

    #[test]
    fn a_stall_counts_if_it_reaches_into_the_switch() {
        let zero = Instant::now();
        let mut evidence = evidence(zero);
        let stall = |from, to| Stall { cpu: 0, from: at(zero, from), to: at(zero, to) };
        evidence.stalls = vec![stall(990, 999), stall(990, 1001), stall(1490, 1510), stall(1501, 1502)];
        let counted: Vec<Instant> = evidence.stalls_until(Some(at(zero, 1500))).map(|stall| stall.to).collect();
        assert_eq!(counted, [at(zero, 1001), at(zero, 1510)]);
        assert_eq!(evidence.stalls_until(None).count(), 3);
    }

    fn ack(zero: Instant, ms: u64, number: u64, link: u32, node: usize) -> Ack {
        Ack { number, sent: at(zero, ms), acked: at(zero, ms + 1), link, node: PORTS[node] }
    }

    fn numbers<'a>(acks: impl Iterator<Item = &'a Ack>) -> Vec<u64> {
        acks.map(|ack| ack.number).collect()
    }

    #[test]
    fn what_the_survivor_lacks_is_lost_and_does_not_end_the_gap() {
        let zero = Instant::now();
        let mut evidence = evidence(zero);
        let writes = [(1050, 1, 1, 0), (1090, 2, 1, 0), (1150, 3, 1, 0), (1400, 4, 2, 1), (1401, 5, 2, 1)];
        evidence.writes.acks = writes.map(|(ms, number, link, node)| ack(zero, ms, number, link, node)).to_vec();
        evidence.held = [1, 2, 4, 5].into();
        assert_eq!(numbers(evidence.lost()), [3]);
        assert_eq!(numbers(evidence.by_the_deposed(&evidence.writes)), [3]);
        assert_eq!(evidence.gap(), Some((at(zero, 1091), Duration::from_millis(310))));
        assert_eq!(evidence.first_good(1, evidence.at).map(|ack| ack.number), Some(4));
        assert_eq!(evidence.after_fence(at(zero, 1149)), 1);
        assert_eq!(evidence.after_fence(at(zero, 1150)), 0);
    }

    #[test]
    fn who_is_master_only_by_his_own_word_does_not_reign() {
        let zero = Instant::now();
        let mut evidence = evidence(zero);
        assert_eq!(evidence.crowned(), [(at(zero, 1100), 1)]);
        assert_eq!(evidence.majority(), Some(at(zero, 1600)));
        evidence.sightings.names.pop();
        assert!(evidence.crowned().is_empty());
        assert_eq!(evidence.reign(at(zero, 1700)), 0);
        // It was called to order before it was named, for another time.
        let mut evidence = self::evidence(zero);
        let role = |ms, role| RoleSeen { at: at(zero, ms), node: 1, role };
        evidence.sightings.roles.extend([role(1200, Role::Replica), role(1550, Role::Master)]);
        assert_eq!(evidence.crowned(), [(at(zero, 1550), 1)]);
    }

    #[test]
    fn a_publish_is_excused_only_by_the_cut_that_followed_it() {
        let zero = Instant::now();
        let mut evidence = evidence(zero);
        let publishes = [(1080, 1, 1, 0), (1110, 2, 1, 0), (1120, 3, 1, 0), (1300, 4, 2, 1)];
        evidence.publishes.acks = publishes.map(|(ms, number, link, node)| ack(zero, ms, number, link, node)).to_vec();
        evidence.witness.numbers = vec![(at(zero, 1081), 1)];
        // The second was followed by another acknowledgement; the third by the end of its connection.
        assert_eq!(numbers(evidence.unheard()), [2]);
        evidence.publishes.acks.pop();
        // No later connection: nothing cut this one off.
        assert_eq!(numbers(evidence.unheard()), [2, 3]);
    }

    #[test]
    fn a_dial_is_wrong_if_neither_its_beginning_nor_its_end_belongs_to_the_answering_node() {
        let zero = Instant::now();
        let mut evidence = evidence(zero);
        let mut wrong = |dialled, ended, master, node: usize| {
            let outcome = Outcome::Answered { master, port: PORTS[node] };
            evidence.dials = vec![Dial { dialled: at(zero, dialled), ended: at(zero, ended), outcome }];
            evidence.wrong()
        };
        assert_eq!(wrong(1050, 1051, true, 0), 0);
        assert_eq!(wrong(1200, 1201, true, 0), 1);
        assert_eq!(wrong(1200, 1201, true, 1), 0);
        assert_eq!(wrong(1050, 1051, false, 1), 1);
        // Parked through the switch; and answered just before the watch saw it.
        assert_eq!(wrong(1050, 1300, true, 1), 0);
        assert_eq!(wrong(1095, 1098, true, 1), 0);
    }
}
