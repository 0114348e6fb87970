//! When a failover came how far, to the millisecond: every server is asked again and again, each by a
//! thread of its own over its unix socket.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::Cluster;
use crate::{Client, wait};

const STEP: Duration = Duration::from_millis(1);

type Named = (Instant, usize);

/// Servers that are asked until each has named a node, or this is dropped.
#[derive(Debug)]
struct Watch {
    /// By server: when it first named a node, and which.
    named: Arc<Mutex<Vec<Option<Named>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Watch {
    fn new(servers: usize) -> Self {
        Self { named: Arc::new(Mutex::new(vec![None; servers])), stop: Arc::default(), threads: Vec::new() }
    }

    fn ask(&mut self, server: usize, mut question: impl FnMut() -> Option<usize> + Send + 'static) {
        let (named, stop) = (Arc::clone(&self.named), Arc::clone(&self.stop));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Some(node) = question() {
                    named.lock().unwrap_or_else(PoisonError::into_inner)[server] = Some((Instant::now(), node));
                    return;
                }
                wait::pause(STEP);
            }
        }));
    }

    /// What was named so far, the earliest first.
    fn named(&self) -> Vec<Named> {
        let mut named: Vec<Named> =
            self.named.lock().unwrap_or_else(PoisonError::into_inner).iter().flatten().copied().collect();
        named.sort_unstable();
        named
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Whom the Sentinels name. Watches until it is dropped.
#[derive(Debug)]
pub struct MajorityWatch {
    watch: Watch,
    majority: usize,
}

impl MajorityWatch {
    /// Waits for another master than node `old`.
    pub fn start(cluster: &Cluster, old: usize) -> Result<Self> {
        let mut watch = Watch::new(cluster.sentinels.len());
        let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.address).collect();
        for (index, sentinel) in cluster.sentinels.iter().enumerate() {
            let mut question = redis::cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(&cluster.spec.name);
            let (mut client, addresses) = (sentinel.client()?, addresses.clone());
            watch.ask(index, move || answer(&mut client, &question, &addresses).filter(|node| *node != old));
        }
        Ok(Self { watch, majority: cluster.sentinels.len() / 2 + 1 })
    }

    /// The instant a strict majority named one and the same node, and which.
    pub fn wait(&self, limit: Duration) -> Result<(Instant, usize)> {
        wait::until(limit, "the majority to name another master", || {
            let votes = self.watch.named();
            for (at, node) in &votes {
                if votes.iter().filter(|(when, other)| when <= at && other == node).count() >= self.majority {
                    return Ok((*at, *node));
                }
            }
            bail!("they name {votes:?}")
        })
    }
}

/// Which node turns master. Watches until it is dropped.
#[derive(Debug)]
pub struct RoleWatch {
    watch: Watch,
}

impl RoleWatch {
    /// Waits for any node but `old` to say that it is master.
    pub fn start(cluster: &Cluster, old: usize) -> Self {
        let mut watch = Watch::new(cluster.nodes.len());
        for (index, node) in cluster.nodes.iter().enumerate().filter(|(index, _)| *index != old) {
            let door = node.door().clone();
            // A connection each time: a promotion kills those that there are.
            watch.ask(index, move || (door.client().ok()?.role().ok()? == "master").then_some(index));
        }
        Self { watch }
    }

    /// The instant it said so for the first time, and which node.
    pub fn wait(&self, limit: Duration) -> Result<(Instant, usize)> {
        wait::until(limit, "a replica to turn master", || self.watch.named().first().copied().context("none has"))
    }
}

/// Which node it names, by address; names of hosts are not asked for.
fn answer(client: &mut Client, question: &redis::Cmd, addresses: &[SocketAddr]) -> Option<usize> {
    let words: Vec<String> = client.call(question).ok()?;
    let [host, port] = words.as_slice() else { return None };
    let address = SocketAddr::new(host.parse().ok()?, port.parse().ok()?);
    addresses.iter().position(|one| *one == address)
}
