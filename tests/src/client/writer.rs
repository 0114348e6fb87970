//! A writer at a steady pace: adds one number after another to a set, or publishes it, and writes down
//! which ones were acknowledged, when, and by whom. On an error it dials again at once, as a client's
//! pool does. What it was promised can then be compared with what the surviving master really holds.

use std::{
    collections::HashSet,
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::{Client, LIMIT};
use crate::{netns::Namespace, wait};

/// The set it writes to, and the channel it publishes on.
pub const KEY: &str = "switchmaster:acks";
/// Between two attempts to dial that both fail: often enough to measure a gap in milliseconds.
const REDIAL: Duration = Duration::from_millis(2);

/// What it does with a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Add,
    Publish,
}

#[derive(Debug, Clone, Copy)]
pub struct Ack {
    pub number: u64,
    pub sent: Instant,
    pub acked: Instant,
    /// Which of its connections, counted from one.
    pub link: u32,
    /// The port the node at the other end listens on; asked once a connection, in front of its first
    /// number. 0 where that may not be asked.
    pub node: u16,
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
        Self::doing(Deed::Add, namespace, to, per_second, password)
    }

    /// The same, published.
    pub fn publishing(namespace: &Namespace, to: SocketAddr, per_second: u32) -> Self {
        Self::doing(Deed::Publish, namespace, to, per_second, None)
    }

    fn doing(deed: Deed, namespace: &Namespace, to: SocketAddr, per_second: u32, password: Option<&str>) -> Self {
        let record = Arc::<Mutex<Record>>::default();
        let stop = Arc::<AtomicBool>::default();
        let work = Work {
            deed,
            to,
            pause: Duration::from_secs(1) / per_second.max(1),
            password: password.map(str::to_owned),
            record: Arc::clone(&record),
            stop: Arc::clone(&stop),
        };
        let namespace = namespace.clone();
        // Inside once and for all, so that dialling again costs no more than the dial.
        let thread = thread::spawn(move || {
            if let Err(error) = namespace.enter(|| work.run()) {
                work.failed(Instant::now(), &error);
            }
        });
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
    deed: Deed,
    to: SocketAddr,
    pause: Duration,
    password: Option<String>,
    record: Arc<Mutex<Record>>,
    stop: Arc<AtomicBool>,
}

/// A connection and who is at its other end.
struct Link {
    client: Client,
    node: u16,
    useful: bool,
}

impl Work {
    fn run(&self) {
        let (mut number, mut links) = (0, 0);
        let mut link = None;
        let mut due = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            number += 1;
            let sent = Instant::now();
            links += u32::from(link.is_none());
            match self.attempt(&mut link, number) {
                Ok(node) => self.acked(Ack { number, sent, acked: Instant::now(), link: links, node }),
                Err(error) => {
                    self.failed(sent, &error);
                    if !link.take().is_some_and(|link| link.useful) {
                        wait::pause(REDIAL);
                    }
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

    /// Which node took it.
    fn attempt(&self, link: &mut Option<Link>, number: u64) -> Result<u16> {
        let mut command = match self.deed {
            Deed::Add => redis::cmd("SADD"),
            Deed::Publish => redis::cmd("PUBLISH"),
        };
        command.arg(KEY).arg(number);
        if let Some(link) = link {
            link.client.call::<i64>(&command)?;
            return Ok(link.node);
        }
        let client = Client::over(TcpStream::connect_timeout(&self.to, LIMIT).context("connect")?, LIMIT)?;
        let link = link.insert(Link { client, node: 0, useful: false });
        if let Some(password) = &self.password {
            link.client.auth(None, password)?;
        }
        // Both in one packet: knowing the node costs no round trip.
        let mut question = redis::cmd("CONFIG").arg("GET").arg("port").get_packed_command();
        question.extend(command.get_packed_command());
        link.client.send_raw(&question)?;
        let port: Vec<String> = redis::from_redis_value(link.client.receive()?).unwrap_or_default();
        let _count: i64 = redis::from_redis_value(link.client.receive()?.extract_error().context("error reply")?)?;
        link.node = port.get(1).and_then(|port| port.parse().ok()).unwrap_or_default();
        link.useful = true;
        Ok(link.node)
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
