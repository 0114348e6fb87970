//! Somebody who hears every number that is published where he listens, and comes back when he is cut off.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use redis::{FromRedisValue as _, Value};
use switchmaster_tests::{
    Client,
    client::{HangUp, KEY},
    wait,
};

/// For the first of them to listen.
const FIRST: Duration = Duration::from_secs(10);
const REDIAL: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    pub(super) numbers: Vec<(Instant, u64)>,
    /// When he was cut off.
    pub(super) cuts: Vec<Instant>,
}

/// The thread ends when it is dropped.
#[derive(Debug)]
pub(super) struct Ears {
    heard: Arc<Mutex<Heard>>,
    stop: Arc<AtomicBool>,
    line: Line,
}

/// The connection of the moment.
type Line = Arc<Mutex<Option<HangUp>>>;

impl Ears {
    /// Listens over connections that `dial` makes. Returns when the first of them listens.
    pub(super) fn start(dial: impl Fn() -> Result<Client> + Send + 'static) -> Result<Self> {
        let (heard, stop, line) = (Arc::<Mutex<Heard>>::default(), Arc::<AtomicBool>::default(), Line::default());
        let (noted, told, held) = (Arc::clone(&heard), Arc::clone(&stop), Arc::clone(&line));
        let (ready, listens) = mpsc::sync_channel(1);
        thread::spawn(move || {
            while !told.load(Ordering::Relaxed) {
                match dial().and_then(|client| subscribe(client, &held)) {
                    Ok(client) => {
                        let _full = ready.try_send(());
                        // Being cut off is what is watched here, not a failure.
                        let _cut = listen(client, &noted, &told);
                        lock(&noted).cuts.push(Instant::now());
                    }
                    Err(_) => wait::pause(REDIAL),
                }
            }
        });
        let ears = Self { heard, stop, line };
        listens.recv_timeout(FIRST).context("nobody listens")?;
        Ok(ears)
    }

    pub(super) fn heard(&self) -> Heard {
        lock(&self.heard).clone()
    }
}

impl Drop for Ears {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        drop(lock(&self.line).take());
    }
}

fn subscribe(mut client: Client, line: &Mutex<Option<HangUp>>) -> Result<Client> {
    let _confirmed: Value = client.call(redis::cmd("SUBSCRIBE").arg(KEY))?;
    *lock(line) = Some(client.hang_up()?);
    client.set_limit(None)?;
    Ok(client)
}

fn listen(mut client: Client, heard: &Mutex<Heard>, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        // "message", channel, number
        let parts = Vec::<String>::from_redis_value(client.receive()?)?;
        let number = parts.get(2).and_then(|number| number.parse().ok());
        lock(heard).numbers.extend(number.map(|number| (Instant::now(), number)));
    }
    Ok(())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
