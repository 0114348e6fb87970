//! What the Sentinels say, seen by nobody but the demo: their events, and the moment from which a
//! majority of them names another master. The daemon has no part in it.

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
use redis::FromRedisValue as _;
use switchmaster_tests::{Client, Cluster, redis::Sentinel, wait};

const LOOK: Duration = Duration::from_millis(1);

/// An event of one Sentinel.
#[derive(Debug, Clone)]
pub(super) struct Sign {
    pub(super) at: Instant,
    pub(super) sentinel: String,
    pub(super) channel: String,
}

/// Subscribed to every Sentinel. Its threads end with the Sentinels.
#[derive(Debug)]
pub(super) struct Witness {
    signs: Arc<Mutex<Vec<Sign>>>,
}

impl Witness {
    pub(super) fn listen(cluster: &Cluster) -> Result<Self> {
        let signs = Arc::<Mutex<Vec<Sign>>>::default();
        for sentinel in &cluster.sentinels {
            let mut client = sentinel.client()?;
            let _confirmed: redis::Value = client.call(redis::cmd("PSUBSCRIBE").arg("*"))?;
            client.set_limit(None)?;
            let (signs, name) = (Arc::clone(&signs), sentinel.name().to_owned());
            thread::spawn(move || {
                while let Ok(value) = client.receive() {
                    let at = Instant::now();
                    // "pmessage", pattern, channel, text
                    let Ok(parts) = Vec::<String>::from_redis_value(value) else { continue };
                    let Some(channel) = parts.into_iter().nth(2) else { continue };
                    lock(&signs).push(Sign { at, sentinel: name.clone(), channel });
                }
            });
        }
        Ok(Self { signs })
    }

    /// The first event of this kind since `since`.
    pub(super) fn first(&self, since: Instant, channel: &str) -> Option<Sign> {
        lock(&self.signs).iter().find(|sign| sign.at >= since && sign.channel == channel).cloned()
    }
}

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
