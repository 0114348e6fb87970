//! What the Sentinels say, seen by nobody but the demo: the moment from which a majority of them names
//! another master. The daemon has no part in it.

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
use switchmaster_tests::{Client, Cluster, redis::Sentinel, wait};

const LOOK: Duration = Duration::from_millis(1);

/// Asks every Sentinel every millisecond, until a majority names another master than `old`.
#[derive(Debug)]
pub(super) struct Majority {
    found: Arc<Mutex<Option<(Instant, SocketAddr)>>>,
    stop: Arc<AtomicBool>,
}

impl Majority {
    pub(super) fn watch(cluster: &Cluster, old: SocketAddr) -> Result<Self> {
        let (found, stop) = (Arc::<Mutex<Option<_>>>::default(), Arc::<AtomicBool>::default());
        let clients = cluster.sentinels.iter().map(Sentinel::client).collect::<Result<Vec<Client>>>()?;
        let (noted, told, name) = (Arc::clone(&found), Arc::clone(&stop), cluster.spec.name.clone());
        thread::spawn(move || {
            let mut clients = clients;
            while !told.load(Ordering::Relaxed) {
                if let Some(new) = named_by_majority(&mut clients, &name).filter(|new| *new != old) {
                    *lock(&noted) = Some((Instant::now(), new));
                    return;
                }
                wait::pause(LOOK);
            }
        });
        Ok(Self { found, stop })
    }

    pub(super) fn found(&self) -> Option<(Instant, SocketAddr)> {
        *lock(&self.found)
    }
}

impl Drop for Majority {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn named_by_majority(clients: &mut [Client], name: &str) -> Option<SocketAddr> {
    let views: Vec<SocketAddr> = clients.iter_mut().filter_map(|client| named(client, name).ok()).collect();
    let votes = |addr: &&SocketAddr| views.iter().filter(|view| view == addr).count();
    views.iter().find(|addr| votes(addr) * 2 > clients.len()).copied()
}

fn named(client: &mut Client, name: &str) -> Result<SocketAddr> {
    let (ip, port): (String, u16) = client.call(redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name))?;
    Ok(SocketAddr::new(ip.parse().context("address")?, port))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
