//! When the Sentinels' majority named another master, to the millisecond: every Sentinel is asked where
//! it sends clients, each by a thread of its own over its unix socket.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail};

use super::Cluster;
use crate::{Client, wait};

const STEP: Duration = Duration::from_millis(1);

type Named = (Instant, usize);

/// Watches until it is dropped.
#[derive(Debug)]
pub struct MajorityWatch {
    /// By Sentinel: when it first named another node than the old master, and which.
    named: Arc<Mutex<Vec<Option<Named>>>>,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl MajorityWatch {
    /// Waits for another master than node `old`.
    pub fn start(cluster: &Cluster, old: usize) -> Result<Self> {
        let named = Arc::new(Mutex::new(vec![None; cluster.sentinels.len()]));
        let mut watch = Self { named, stop: Arc::default(), threads: Vec::new() };
        let addresses: Vec<SocketAddr> = cluster.nodes.iter().map(|node| node.address).collect();
        for (index, sentinel) in cluster.sentinels.iter().enumerate() {
            let mut question = redis::cmd("SENTINEL");
            question.arg("GET-MASTER-ADDR-BY-NAME").arg(&cluster.spec.name);
            let (mut client, addresses) = (sentinel.client()?, addresses.clone());
            let (named, stop) = (Arc::clone(&watch.named), Arc::clone(&watch.stop));
            watch.threads.push(thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    if let Some(node) = answer(&mut client, &question, &addresses).filter(|node| *node != old) {
                        named.lock().unwrap_or_else(PoisonError::into_inner)[index] = Some((Instant::now(), node));
                        return;
                    }
                    wait::pause(STEP);
                }
            }));
        }
        Ok(watch)
    }

    /// The instant a strict majority named one and the same node, and which.
    pub fn wait(&self, limit: Duration) -> Result<(Instant, usize)> {
        wait::until(limit, "the majority to name another master", || {
            let named = self.named.lock().unwrap_or_else(PoisonError::into_inner);
            let mut votes: Vec<Named> = named.iter().flatten().copied().collect();
            votes.sort_unstable();
            let majority = named.len() / 2 + 1;
            for (at, node) in &votes {
                if votes.iter().filter(|(when, other)| when <= at && other == node).count() >= majority {
                    return Ok((*at, *node));
                }
            }
            bail!("they name {votes:?}")
        })
    }
}

impl Drop for MajorityWatch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ended = thread.join();
        }
    }
}

/// Which node it names, by address; names of hosts are not asked for.
fn answer(client: &mut Client, question: &redis::Cmd, addresses: &[SocketAddr]) -> Option<usize> {
    let words: Vec<String> = client.call(question).ok()?;
    let [host, port] = words.as_slice() else { return None };
    let address = SocketAddr::new(host.parse().ok()?, port.parse().ok()?);
    addresses.iter().position(|one| *one == address)
}
