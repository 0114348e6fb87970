//! A subscriber: says nothing after SUBSCRIBE, writes down what it hears and when it was cut off.
//! It does not come back by itself: whether and when it was severed is what is asked of it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use redis::{FromRedisValue as _, Value};

use super::{Client, HangUp};
use crate::{netns::Namespace, wait};

#[derive(Debug, Default)]
struct Heard {
    messages: Vec<(Instant, String)>,
    ended: Option<(Instant, String)>,
}

#[derive(Debug)]
pub struct Subscriber {
    heard: Arc<Mutex<Heard>>,
    line: Option<HangUp>,
    reader: Option<JoinHandle<()>>,
}

impl Subscriber {
    /// Returns once the server has confirmed the subscription.
    pub fn start(namespace: &Namespace, to: SocketAddr, channel: &str) -> Result<Self> {
        let mut client = Client::connect(namespace, to)?;
        let _confirmed: Value = client.call(redis::cmd("SUBSCRIBE").arg(channel))?;
        client.set_limit(None)?;
        let line = Some(client.hang_up()?);
        let heard = Arc::<Mutex<Heard>>::default();
        let noted = Arc::clone(&heard);
        let reader = thread::spawn(move || listen(client, &noted));
        Ok(Self { heard, line, reader: Some(reader) })
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn messages(&self) -> Vec<(Instant, String)> {
        self.heard().messages.clone()
    }

    /// When and why the connection ended, if it has.
    pub fn ended(&self) -> Option<(Instant, String)> {
        self.heard().ended.clone()
    }

    pub fn wait_message(&self, text: &str, limit: Duration) -> Result<()> {
        wait::until_true(limit, format_args!("the message {text:?}"), || {
            self.heard().messages.iter().any(|(_, message)| message == text)
        })
    }

    pub fn wait_ended(&self, limit: Duration) -> Result<(Instant, String)> {
        wait::until(limit, "the subscriber to be cut off", || match self.ended() {
            Some(end) => Ok(end),
            None => bail!("it is still connected"),
        })
    }

    /// Waits until it is cut off, and returns when that was; an error if it ended in another way.
    pub fn ensure_torn_down(&self, limit: Duration) -> Result<Instant> {
        let (ended, error) = self.wait_ended(limit)?;
        // As `is_reset` has it: what redis-rs says keeps the kind to itself.
        ensure!(error.contains("reset") || error.contains("abort"), "it ended by FIN, not by RST: {error}");
        Ok(ended)
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        drop(self.line.take());
        if let Some(reader) = self.reader.take() {
            let _ended = reader.join();
        }
    }
}

fn listen(mut client: Client, heard: &Mutex<Heard>) {
    loop {
        let value = client.receive();
        let now = Instant::now();
        let mut heard = heard.lock().unwrap_or_else(PoisonError::into_inner);
        match value.map(Vec::<String>::from_redis_value) {
            // "message", channel, text
            Ok(Ok(parts)) => heard.messages.extend(parts.into_iter().nth(2).map(|text| (now, text))),
            Ok(Err(_)) => {}
            Err(error) => {
                heard.ended = Some((now, format!("{error:#}")));
                return;
            }
        }
    }
}
