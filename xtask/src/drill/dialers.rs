//! Clients that come anew all the time: each dials, asks who is there, and leaves. What becomes of every
//! single one is written down.

use std::{
    net::{SocketAddr, TcpStream},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use redis::{FromRedisValue as _, Value};
use switchmaster_tests::{Client, client, netns::Namespace, wait};

const DIALERS: usize = 4;
const EVERY: Duration = Duration::from_millis(20);
/// Longer than a parked connection waits.
const PATIENCE: Duration = Duration::from_secs(12);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Answered by the node that listens on this port.
    Answered { master: bool, port: u16 },
    /// Nobody took the connection, it was closed without a word, or an error came back.
    Refused(String),
    /// Reset before an answer came.
    Cut(String),
}

#[derive(Debug, Clone)]
pub(super) struct Dial {
    pub(super) dialled: Instant,
    pub(super) ended: Instant,
    pub(super) outcome: Outcome,
}

/// Its threads end when it is dropped, the parked ones when the proxy does.
#[derive(Debug)]
pub(super) struct Dialers {
    dials: Arc<Mutex<Vec<Dial>>>,
    stop: Arc<AtomicBool>,
}

impl Dialers {
    pub(super) fn start(namespace: &Namespace, to: SocketAddr) -> Self {
        let (dials, stop) = (Arc::<Mutex<Vec<Dial>>>::default(), Arc::<AtomicBool>::default());
        for _ in 0..DIALERS {
            let (namespace, dials, stop) = (namespace.clone(), Arc::clone(&dials), Arc::clone(&stop));
            let work = move || {
                while !stop.load(Ordering::Relaxed) {
                    let dial = dial(to, PATIENCE);
                    lock(&dials).push(dial);
                    wait::pause(EVERY);
                }
            };
            // A namespace that is gone means that the round is over.
            thread::spawn(move || drop(namespace.enter(work)));
        }
        Self { dials, stop }
    }

    pub(super) fn dials(&self) -> Vec<Dial> {
        lock(&self.dials).clone()
    }
}

impl Drop for Dialers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// From the namespace this thread is in.
pub(super) fn dial(to: SocketAddr, patience: Duration) -> Dial {
    let dialled = Instant::now();
    let outcome = ask(to, patience).unwrap_or_else(|error| {
        let io = error.downcast_ref::<std::io::Error>().or_else(|| error.root_cause().downcast_ref());
        let text = format!("{error:#}");
        let reset = io.is_some_and(|io| client::is_reset(io.kind()))
            || ["reset by peer", "connection abort"].iter().any(|end| text.contains(end));
        if reset { Outcome::Cut(text) } else { Outcome::Refused(text) }
    });
    Dial { dialled, ended: Instant::now(), outcome }
}

fn ask(to: SocketAddr, patience: Duration) -> Result<Outcome> {
    let mut client = Client::over(TcpStream::connect_timeout(&to, patience)?, patience)?;
    let mut questions = redis::cmd("ROLE").get_packed_command();
    questions.extend(redis::cmd("CONFIG").arg("GET").arg("port").get_packed_command());
    client.send_raw(&questions)?;
    let role = Vec::<Value>::from_redis_value(client.receive()?.extract_error()?)?;
    let role = role.into_iter().next().map(String::from_redis_value).transpose()?.unwrap_or_default();
    let port = Vec::<String>::from_redis_value(client.receive()?.extract_error()?)?;
    let port = port.get(1).and_then(|port| port.parse().ok()).unwrap_or_default();
    Ok(Outcome::Answered { master: role == "master", port })
}

fn lock(dials: &Mutex<Vec<Dial>>) -> MutexGuard<'_, Vec<Dial>> {
    dials.lock().unwrap_or_else(PoisonError::into_inner)
}
