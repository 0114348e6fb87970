//! What the servers say, asked directly every two milliseconds and by nobody whom the proxy knows: each
//! node its role, each Sentinel whom it names. Written down when it changes.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use switchmaster_tests::{
    Client, Cluster, instrument,
    redis::{Door, Node, Sentinel},
    wait,
};

const STEP: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Master,
    Replica,
    /// It does not answer.
    Silent,
}

/// From then on this node had this role.
#[derive(Debug, Clone, Copy)]
pub(super) struct RoleSeen {
    pub(super) at: Instant,
    pub(super) node: usize,
    pub(super) role: Role,
}

/// From then on this Sentinel named this node.
#[derive(Debug, Clone, Copy)]
pub(super) struct NameSeen {
    pub(super) at: Instant,
    pub(super) sentinel: usize,
    pub(super) node: Option<usize>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Sightings {
    pub(super) roles: Vec<RoleSeen>,
    pub(super) names: Vec<NameSeen>,
    pub(super) sentinels: usize,
}

impl Sightings {
    /// Each time after `since` that a node which was a replica became master.
    pub(super) fn crowned(&self, since: Instant) -> Vec<(Instant, usize)> {
        let was_replica = |seen: &RoleSeen| {
            let mut before = self.roles.iter().filter(|one| one.node == seen.node && one.at < seen.at);
            before.rfind(|one| one.role != Role::Silent).is_some_and(|one| one.role == Role::Replica)
        };
        let crowned = self.roles.iter().filter(|seen| seen.at >= since && seen.role == Role::Master);
        crowned.filter(|seen| was_replica(seen)).map(|seen| (seen.at, seen.node)).collect()
    }

    /// When `node` first said after `since` that it is a replica.
    pub(super) fn demoted(&self, node: usize, since: Instant) -> Option<Instant> {
        let replica = |seen: &&RoleSeen| seen.node == node && seen.at >= since && seen.role == Role::Replica;
        self.roles.iter().find(replica).map(|seen| seen.at)
    }

    /// Whom a strict majority of all Sentinels named, each time that it became another node.
    pub(super) fn majorities(&self) -> Vec<(Instant, usize)> {
        let mut named = vec![None; self.sentinels];
        let mut majorities: Vec<(Instant, usize)> = Vec::new();
        for seen in &self.names {
            named[seen.sentinel] = seen.node;
            let Some(node) = seen.node else { continue };
            let votes = named.iter().filter(|one| **one == Some(node)).count();
            if votes * 2 > self.sentinels && majorities.last().is_none_or(|(_, last)| *last != node) {
                majorities.push((seen.at, node));
            }
        }
        majorities
    }

    /// When, after `since`, the majority first named another node than `old`, and which.
    pub(super) fn majority(&self, old: usize, since: Instant) -> Option<(Instant, usize)> {
        self.majorities().into_iter().find(|(at, node)| *at >= since && *node != old)
    }
}

/// Its threads end when it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    seen: Arc<Mutex<Sightings>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn start(cluster: &Cluster) -> Self {
        let sightings = Sightings { sentinels: cluster.sentinels.len(), ..Sightings::default() };
        let watch = Self { seen: Arc::new(Mutex::new(sightings)), stop: Arc::default() };
        for (node, door) in cluster.nodes.iter().map(Node::door).enumerate() {
            watch.each_step(door, Role::Silent, role, move |seen, at, role| {
                seen.roles.push(RoleSeen { at, node, role });
            });
        }
        let addresses: Arc<[SocketAddr]> = cluster.nodes.iter().map(|node| node.address).collect();
        for (sentinel, door) in cluster.sentinels.iter().map(Sentinel::door).enumerate() {
            let (addresses, name) = (Arc::clone(&addresses), cluster.spec.name.clone());
            let ask = move |client: &mut Client| named(client, &name, &addresses);
            watch.each_step(door, None, ask, move |seen, at, node| {
                seen.names.push(NameSeen { at, sentinel, node });
            });
        }
        watch
    }

    pub(super) fn seen(&self) -> Sightings {
        lock(&self.seen).clone()
    }

    /// Asks from a thread of its own and notes what changed; `silence` stands for no answer.
    fn each_step<T: Copy + PartialEq + Send + 'static>(
        &self,
        door: &Door,
        silence: T,
        ask: impl Fn(&mut Client) -> Result<T> + Send + 'static,
        note: impl Fn(&mut Sightings, Instant, T) + Send + 'static,
    ) {
        let (seen, stop, door) = (Arc::clone(&self.seen), Arc::clone(&self.stop), door.clone());
        thread::spawn(move || {
            instrument::first();
            let (mut client, mut last) = (None, None);
            while !stop.load(Ordering::Relaxed) {
                let answer = answer(&mut client, &door, &ask).unwrap_or(silence);
                if last != Some(answer) {
                    note(&mut lock(&seen), Instant::now(), answer);
                    last = Some(answer);
                }
                wait::pause(STEP);
            }
        });
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// A connection that was cut is replaced at once: a node that changes its role cuts its clients off, and
/// that is the very moment which is waited for.
fn answer<T>(client: &mut Option<Client>, door: &Door, ask: &impl Fn(&mut Client) -> Result<T>) -> Result<T> {
    if let Some(open) = client {
        if let Ok(answer) = ask(open) {
            return Ok(answer);
        }
        *client = None;
    }
    let mut fresh = door.client()?;
    let answer = ask(&mut fresh)?;
    *client = Some(fresh);
    Ok(answer)
}

fn role(client: &mut Client) -> Result<Role> {
    Ok(if client.role()? == "master" { Role::Master } else { Role::Replica })
}

/// Whom a Sentinel names.
fn named(client: &mut Client, name: &str, nodes: &[SocketAddr]) -> Result<Option<usize>> {
    let question = redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).to_owned();
    let (ip, port): (String, u16) = client.call(&question)?;
    let address = SocketAddr::new(ip.parse().context("address")?, port);
    Ok(nodes.iter().position(|node| *node == address))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(zero: Instant, ms: u64) -> Instant {
        zero + Duration::from_millis(ms)
    }

    #[test]
    fn a_node_is_crowned_only_if_it_was_a_replica() {
        let zero = Instant::now();
        let role = |ms, node, role| RoleSeen { at: at(zero, ms), node, role };
        let roles = vec![
            role(0, 0, Role::Master),
            role(0, 1, Role::Replica),
            role(5, 0, Role::Silent),
            role(7, 1, Role::Master),
            role(9, 0, Role::Master),
            role(20, 0, Role::Replica),
        ];
        let sightings = Sightings { roles, ..Sightings::default() };
        assert_eq!(sightings.crowned(zero), [(at(zero, 7), 1)]);
        assert_eq!(sightings.demoted(0, zero), Some(at(zero, 20)));
        assert!(sightings.crowned(at(zero, 8)).is_empty());
    }

    #[test]
    fn two_of_three_are_a_majority_and_one_that_went_back_does_not_count() {
        let zero = Instant::now();
        let name = |ms, sentinel, node| NameSeen { at: at(zero, ms), sentinel, node: Some(node) };
        let mut names: Vec<NameSeen> = (0..3).map(|sentinel| name(0, sentinel, 0)).collect();
        names.extend([name(5, 1, 2), name(6, 1, 0), name(7, 2, 2)]);
        let mut sightings = Sightings { names, sentinels: 3, ..Sightings::default() };
        assert_eq!(sightings.majority(0, zero), None);
        sightings.names.push(name(9, 0, 2));
        assert_eq!(sightings.majority(0, zero), Some((at(zero, 9), 2)));
    }
}
