//! A writer at a steady pace: adds one number after another to a set and writes down which ones were
//! acknowledged, and when. On an error it dials again at once, as a client's pool does.
//! What it was promised can then be compared with what the surviving master really holds.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::Client;
use crate::{netns::Namespace, wait};

/// The set it writes to.
pub const KEY: &str = "switchmaster:acks";
/// Between two attempts to dial: often enough to measure a gap in milliseconds.
const REDIAL: Duration = Duration::from_millis(2);

#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub number: u64,
    pub sent: Instant,
    pub acked: Instant,
}

/// From the first error to the first write that succeeded again.
#[derive(Debug, Clone)]
pub struct Outage {
    pub from: Instant,
    pub until: Option<Instant>,
    pub error: String,
}

#[derive(Debug, Clone, Default)]
pub struct Record {
    pub acks: Vec<Ack>,
    pub outages: Vec<Outage>,
}

impl Record {
    /// Numbers that were acknowledged but are not in `held`.
    pub fn lost(&self, held: &HashSet<u64>) -> Vec<u64> {
        self.acks.iter().map(|ack| ack.number).filter(|number| !held.contains(number)).collect()
    }
}

#[derive(Debug)]
pub struct Writer {
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Writer {
    /// Writes `per_second` numbers a second through `to`, one at a time, until it is stopped.
    pub fn start(namespace: &Namespace, to: SocketAddr, per_second: u32, password: Option<&str>) -> Self {
        let record = Arc::<Mutex<Record>>::default();
        let stop = Arc::<AtomicBool>::default();
        let work = Work {
            namespace: namespace.clone(),
            to,
            pause: Duration::from_secs(1) / per_second.max(1),
            password: password.map(str::to_owned),
            record: Arc::clone(&record),
            stop: Arc::clone(&stop),
        };
        let thread = thread::spawn(move || work.run());
        Self { record, stop, thread: Some(thread) }
    }

    fn locked(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn acked(&self) -> usize {
        self.locked().acks.len()
    }

    /// The acknowledgements from the `first` one on: for those who look on while it writes.
    pub fn acks_from(&self, first: usize) -> Vec<Ack> {
        self.locked().acks.get(first..).unwrap_or_default().to_vec()
    }

    /// All outages so far; the last one may go on still.
    pub fn outages(&self) -> Vec<Outage> {
        self.locked().outages.clone()
    }

    /// Waits for the first acknowledgement of a write that was sent after `since`.
    pub fn wait_ack_after(&self, since: Instant, limit: Duration) -> Result<Ack> {
        wait::until(limit, "an acknowledged write", || {
            let record = self.locked();
            match record.acks.iter().rev().take_while(|ack| ack.sent >= since).last() {
                Some(ack) => Ok(*ack),
                None => bail!("none; the last outage is {:?}", record.outages.last()),
            }
        })
    }

    /// Ends it and hands over the account.
    pub fn stop(mut self) -> Record {
        self.halt();
        std::mem::take(&mut self.locked())
    }

    fn halt(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.halt();
    }
}

/// The numbers the server behind `client` holds.
pub fn held(client: &mut Client) -> Result<HashSet<u64>> {
    client.call(redis::cmd("SMEMBERS").arg(KEY)).context("reading the writer's set back")
}

struct Work {
    namespace: Namespace,
    to: SocketAddr,
    pause: Duration,
    password: Option<String>,
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
}

impl Work {
    fn run(self) {
        let mut number = 0;
        let mut client = None;
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            let sent = Instant::now();
            match self.write(&mut client, number) {
                Ok(()) => self.acked(Ack { number, sent, acked: Instant::now() }),
                Err(error) => {
                    client = None;
                    self.failed(sent, &error);
                    wait::pause(REDIAL);
                }
            }
            due += self.pause;
            let now = Instant::now();
            match due.checked_duration_since(now) {
                Some(early) => wait::pause(early),
                // What was missed during an outage is not made up for in a burst.
                None => due = now,
            }
        }
    }

    fn write(&self, client: &mut Option<Client>, number: u64) -> Result<()> {
        let client = match client {
            Some(client) => client,
            None => {
                let mut fresh = Client::connect(&self.namespace, self.to)?;
                if let Some(password) = &self.password {
                    fresh.auth(None, password)?;
                }
                client.insert(fresh)
            }
        };
        client.call::<i64>(redis::cmd("SADD").arg(KEY).arg(number)).map(|_| ())
    }

    fn acked(&self, ack: Ack) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(outage) = record.outages.last_mut()
            && outage.until.is_none()
        {
            outage.until = Some(ack.acked);
        }
        record.acks.push(ack);
    }

    fn failed(&self, at: Instant, error: &anyhow::Error) {
        let mut record = self.record.lock().unwrap_or_else(PoisonError::into_inner);
        if record.outages.last().is_none_or(|outage| outage.until.is_some()) {
            record.outages.push(Outage { from: at, until: None, error: format!("{error:#}") });
        }
    }
}
