//! A publisher and a subscriber through the daemon, each on a connection of its own. Whoever is cut
//! off dials again, as an ordinary client does; when the subscriber was cut off and heard again is kept.

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
use redis::Value;
use switchmaster_tests::{Client, Namespace, wait};

const CHANNEL: &str = "demo";
const EVERY: Duration = Duration::from_millis(10);
const REDIAL: Duration = Duration::from_millis(5);

#[derive(Debug, Default)]
struct Heard {
    messages: Vec<Instant>,
    cuts: Vec<Instant>,
}

#[derive(Debug)]
pub(super) struct Audience {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
}

impl Audience {
    /// Its threads end by themselves, at the latest when the daemon does.
    pub(super) fn start(namespace: &Namespace, to: SocketAddr) -> Self {
        let (heard, stop) = (Arc::<Mutex<Heard>>::default(), Arc::<AtomicBool>::default());
        let (space, told) = (namespace.clone(), Arc::clone(&stop));
        thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                // Being cut off is what is shown here, not a failure.
                let _cut = publish(&space, to, &told);
                wait::pause(REDIAL);
            }
        });
        let (space, told, noted) = (namespace.clone(), Arc::clone(&stop), Arc::clone(&heard));
        thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                let mut subscribed = false;
                let _cut = subscribe(&space, to, &noted, &told, &mut subscribed);
                if subscribed {
                    lock(&noted).cuts.push(Instant::now());
                }
                wait::pause(REDIAL);
            }
        });
        Self { heard, stop }
    }

    pub(super) fn heard_within(&self, window: Duration) -> usize {
        let now = Instant::now();
        lock(&self.heard).messages.iter().rev().take_while(|at| now.duration_since(**at) < window).count()
    }

    /// The first time since `since` that the subscriber was cut off, and the first message after it.
    pub(super) fn cut_since(&self, since: Instant) -> (Option<Instant>, Option<Instant>) {
        let heard = lock(&self.heard);
        let cut = heard.cuts.iter().copied().find(|at| *at >= since);
        let back = cut.and_then(|cut| heard.messages.iter().copied().find(|at| *at > cut));
        (cut, back)
    }
}

impl Drop for Audience {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn publish(namespace: &Namespace, to: SocketAddr, stop: &AtomicBool) -> Result<()> {
    let mut client = Client::connect(namespace, to)?;
    while !stop.load(Ordering::Relaxed) {
        client.call::<i64>(redis::cmd("PUBLISH").arg(CHANNEL).arg("tick"))?;
        wait::pause(EVERY);
    }
    Ok(())
}

fn subscribe(
    namespace: &Namespace,
    to: SocketAddr,
    heard: &Mutex<Heard>,
    stop: &AtomicBool,
    subscribed: &mut bool,
) -> Result<()> {
    let mut client = Client::connect(namespace, to)?;
    let _confirmed: Value = client.call(redis::cmd("SUBSCRIBE").arg(CHANNEL))?;
    *subscribed = true;
    // A subscriber may be silent for days: only the connection's end tells it anything.
    client.set_limit(None)?;
    while !stop.load(Ordering::Relaxed) {
        client.receive().context("cut off")?;
        lock(heard).messages.push(Instant::now());
    }
    Ok(())
}

fn lock(heard: &Mutex<Heard>) -> MutexGuard<'_, Heard> {
    heard.lock().unwrap_or_else(PoisonError::into_inner)
}
