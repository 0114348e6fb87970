//! What must hold of every verdict, told from what was last said and nothing else. Written apart from the election, in
//! plain maps and counts, so that one mistake is not made twice.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    time::{Duration, Instant},
};

use super::announced::Announced;
use crate::{
    config::Commit,
    election::{Observation, Role, Rules, Target, Verdict, Way},
};

#[derive(Debug, Clone)]
pub(super) struct Model {
    sentinels: bool,
    grace: Duration,
    rise: usize,
    fall: usize,
    known: HashSet<SocketAddr>,
    views: HashMap<SocketAddr, (SocketAddr, u64)>,
    nodes: HashMap<SocketAddr, Past>,
    floor: u64,
    /// Since when no majority names the master in force.
    alone: Option<Instant>,
    /// Since when the same candidate of a majority has had a minority above it.
    contested: Option<((SocketAddr, u64), Instant)>,
    early: bool,
    announced: Announced,
    in_force: Option<SocketAddr>,
    /// Who is held although it is to be followed no more.
    condemned: Option<SocketAddr>,
}

/// All that a node ever did since it was listed: true is a report.
#[derive(Debug, Clone, Default)]
struct Past {
    probes: Vec<Option<Role>>,
    id: Option<String>,
}

impl Past {
    fn last_word(&self) -> Option<&Role> {
        self.probes.iter().rev().flatten().next()
    }

    fn failures(&self) -> usize {
        self.probes.iter().rev().take_while(|probe| probe.is_none()).count()
    }

    fn masters_in_a_row(&self) -> usize {
        self.probes.iter().rev().take_while(|probe| **probe == Some(Role::Master)).count()
    }
}

impl Model {
    pub(super) fn new(rules: &Rules) -> Self {
        Self {
            sentinels: rules.sentinels,
            grace: rules.quorum_grace,
            rise: rules.rise as usize,
            fall: rules.fall as usize,
            known: HashSet::new(),
            views: HashMap::new(),
            nodes: HashMap::new(),
            floor: 0,
            alone: None,
            contested: None,
            early: rules.commit == Commit::Early,
            announced: Announced::default(),
            in_force: None,
            condemned: None,
        }
    }

    pub(super) fn floor(&self) -> u64 {
        self.floor.max(self.views.values().map(|view| view.1).max().unwrap_or(0))
    }

    pub(super) fn decided(&self) -> u64 {
        self.floor
    }

    pub(super) fn learn(&mut self, observation: &Observation, now: Instant) {
        match observation {
            Observation::Sentinels(known) => {
                self.known = known.iter().copied().collect();
                self.views.retain(|from, _| self.known.contains(from));
            }
            Observation::View(from, view) if self.known.contains(from) => {
                self.views.insert(*from, (view.master, view.epoch));
                self.announced.doubt(*from, view.master_down && self.in_force == Some(view.master));
            }
            Observation::SentinelLost(from, _) => {
                self.views.remove(from);
                self.announced.doubt(*from, false);
            }
            Observation::Nodes(known) => {
                self.nodes.retain(|addr, _| known.contains(addr));
                for addr in known {
                    self.nodes.entry(*addr).or_default();
                }
            }
            Observation::Node(from, report) => {
                let Some(past) = self.nodes.get_mut(from) else { return };
                if past.id.is_some() && report.id.is_some() && past.id != report.id {
                    *past = Past::default();
                }
                past.id = report.id.clone().or(past.id.take());
                past.probes.push(Some(report.role.clone()));
            }
            Observation::NodeLost(from, _) => {
                if let Some(past) = self.nodes.get_mut(from) {
                    past.probes.push(None);
                }
            }
            Observation::Sign(from, sign) if self.known.contains(from) => self.announced.hear(sign, now),
            Observation::View(..) | Observation::Sign(..) => {}
        }
    }

    fn naming(&self, addr: SocketAddr) -> usize {
        self.views.values().filter(|view| view.0 == addr).count()
    }

    fn is_majority(&self, votes: usize) -> bool {
        2 * votes > self.known.len()
    }

    fn claims(&self, addr: SocketAddr) -> bool {
        self.nodes.get(&addr).is_some_and(|past| past.last_word() == Some(&Role::Master) && past.failures() < self.fall)
    }

    /// The majority's candidate and the epoch that a majority has reached for it.
    fn candidate(&self) -> Option<(SocketAddr, u64)> {
        let addr = self.views.values().map(|view| view.0).find(|addr| self.is_majority(self.naming(*addr)))?;
        let mut epochs: Vec<u64> = self.views.values().filter(|view| view.0 == addr).map(|view| view.1).collect();
        epochs.sort_unstable();
        // As many have this one, or a later one, as a majority takes.
        epochs.iter().rev().nth(self.known.len() / 2).map(|epoch| (addr, *epoch))
    }

    fn rivals(&self, (addr, epoch): (SocketAddr, u64)) -> Vec<SocketAddr> {
        self.views.values().filter(|view| view.0 != addr && view.1 > epoch).map(|view| view.0).collect()
    }

    pub(super) fn check(&mut self, before: &Verdict, after: &Verdict, now: Instant) -> Result<(), String> {
        self.watch(now);
        self.in_force = after.master.as_ref().map(|master| master.addr);
        ensure((after.way == Way::Closed) == after.master.is_none(), "closed means no master, and no master closed")?;
        self.check_replicas(after)?;
        self.announced.check_pause(before, after, now)?;
        if let Some(reached) = self.announced.review(self.candidate(), self.floor) {
            self.floor = reached;
        }
        let mut announced = std::mem::take(&mut self.announced);
        announced.forfeit(self.in_force, |addr| self.claims(addr));
        self.announced = announced;
        let Some(target) = &after.master else {
            (self.alone, self.condemned) = (None, None);
            return Ok(());
        };
        ensure(target.epoch >= self.floor, "an epoch went backwards")?;
        self.check_word(target)?;
        if before.master.as_ref() != Some(target) {
            ensure(after.way == Way::Open, "a decision opens")?;
            self.alone = None;
            if self.early
                && self.announced.promised(target, before.master.as_ref(), self.floor)
                && !self.is_decided(target)
            {
                self.check_turn(target)?;
                self.announced.lend(target, now);
            } else {
                self.check_decision(target, now)?;
                self.announced.settle();
                self.floor = target.epoch;
            }
        }
        if self.sentinels { self.check_support(target, after, now) } else { Ok(()) }
    }

    fn watch(&mut self, now: Instant) {
        let contested = self.candidate().filter(|candidate| !self.rivals(*candidate).is_empty());
        self.contested = contested.map(|candidate| match self.contested {
            Some((same, since)) if same == candidate => (same, since),
            _ => (candidate, now),
        });
    }

    /// A target has said master last, by the very server that was followed.
    fn check_word(&self, target: &Target) -> Result<(), String> {
        let Some(past) = self.nodes.get(&target.addr) else { return Ok(()) };
        ensure(past.last_word().is_none_or(|word| *word == Role::Master), "the target did not say master last")?;
        let other = target.id.is_some() && past.id.is_some() && target.id != past.id;
        ensure(!other, "another server answers at the target's address")
    }

    fn is_decided(&self, target: &Target) -> bool {
        self.candidate() == Some((target.addr, target.epoch))
    }

    /// Early: the node said replica, and then master, freshly.
    fn check_turn(&self, target: &Target) -> Result<(), String> {
        let past = self.nodes.get(&target.addr).ok_or("a node that nobody knows was followed")?;
        ensure(past.probes.last() == Some(&Some(Role::Master)), "followed without its fresh word")?;
        let said = past.probes.iter().rev().flatten().find(|role| **role != Role::Master);
        ensure(matches!(said, Some(Role::Replica(_))), "followed early though it never turned")
    }

    fn check_decision(&self, target: &Target, now: Instant) -> Result<(), String> {
        let past = self.nodes.get(&target.addr).ok_or("a node that nobody knows was followed")?;
        ensure(past.probes.last() == Some(&Some(Role::Master)), "followed without its fresh word")?;
        if !self.sentinels {
            ensure(past.masters_in_a_row() >= self.rise, "followed before it rose")?;
            ensure(!self.nodes.keys().any(|addr| *addr != target.addr && self.claims(*addr)), "followed one of two")?;
            return ensure(self.nodes.values().all(|past| !past.probes.is_empty()), "followed before all were asked");
        }
        let candidate = self.candidate().ok_or("followed without a majority")?;
        ensure(candidate == (target.addr, target.epoch), "followed another than the majority's")?;
        ensure(!self.rivals(candidate).iter().any(|rival| self.claims(*rival)), "followed an overtaken candidate")?;
        let settled = self.contested.is_none_or(|(_, since)| now - since >= self.grace);
        ensure(settled, "followed a candidate whose contest is young")
    }

    /// Rule 4, and that a majority for another one deposes.
    fn check_support(&mut self, target: &Target, after: &Verdict, now: Instant) -> Result<(), String> {
        let candidate = self.candidate();
        let second = self.nodes.keys().any(|addr| *addr != target.addr && self.claims(*addr));
        let silent =
            self.nodes.get(&target.addr).is_none_or(|past| past.last_word().is_none() || past.failures() >= self.fall);
        ensure(!(silent && after.way == Way::Open), "open to a silent node")?;
        // Nothing passes then, and for how long that may be is asked elsewhere: a successor may be about to be named.
        let held = after.way == Way::Paused;
        let open = after.way == Way::Open || held;
        if self.condemned.take_if(|condemned| *condemned != target.addr || !held).is_some_and(|it| it == target.addr) {
            ensure(
                candidate.is_some_and(|it| it.0 == target.addr),
                "who was to be followed no more came back by itself",
            )?;
        }
        if self.announced.was_lent(target.addr) {
            let on_credit = self.announced.on_credit(target.addr, now);
            ensure(on_credit || held || !second, "two masters, and no majority for the one on credit")?;
            if on_credit {
                self.alone = None;
                return Ok(());
            }
        }
        match candidate {
            Some((addr, _)) if addr == target.addr => {
                self.alone = None;
                let overtaken = candidate.is_some_and(|it| self.rivals(it).iter().any(|rival| self.claims(*rival)));
                self.condemned = self.condemned.or((held && overtaken).then_some(target.addr));
                ensure(held || !overtaken, "kept although a higher epoch's node says master")?;
                ensure(silent || open, "a supported master that speaks is not open")
            }
            Some((_, epoch)) if epoch >= self.floor && !self.announced.was_lent(target.addr) => {
                self.condemned = Some(target.addr);
                ensure(held, "kept although a majority deposed it")
            }
            _ => {
                let since = *self.alone.get_or_insert(now);
                self.condemned = self.condemned.or((held && second).then_some(target.addr));
                ensure(held || !second, "kept without a majority although a second node says master")?;
                let over = now - since >= self.grace;
                ensure(!(over && after.way == Way::Open), "open without a majority beyond the grace")?;
                ensure(over || silent || open, "the grace was not given")
            }
        }
    }

    fn check_replicas(&self, after: &Verdict) -> Result<(), String> {
        for replica in &after.replicas {
            let past = self.nodes.get(&replica.addr).ok_or("a replica that nobody knows")?;
            let up = match past.last_word() {
                Some(Role::Replica(link)) => Some(link.up),
                _ => None,
            };
            ensure(!replica.keep || up.is_some(), "kept a replica that is none")?;
            ensure(!replica.sound || (up == Some(true) && past.failures() < self.fall), "a sound replica that is not")?;
            ensure(
                after.master.as_ref().is_none_or(|master| master.addr != replica.addr),
                "master and replica at once",
            )?;
        }
        Ok(())
    }
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(otherwise.to_owned()) }
}
