//! The Sentinels' events, as they are published, each with the moment in which it was heard.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::Instant,
};

use anyhow::Result;
use redis::FromRedisValue as _;
use switchmaster_tests::{Cluster, client::HangUp};

/// An event of one Sentinel.
#[derive(Debug, Clone)]
pub(crate) struct Sign {
    pub(crate) at: Instant,
    pub(crate) sentinel: String,
    pub(crate) channel: String,
}

/// Subscribed to every Sentinel. Its threads end when it is dropped, or with the Sentinels.
#[derive(Debug)]
pub(crate) struct Signs {
    signs: Arc<Mutex<Vec<Sign>>>,
    _lines: Vec<HangUp>,
}

impl Signs {
    pub(crate) fn listen(cluster: &Cluster) -> Result<Self> {
        let signs = Arc::<Mutex<Vec<Sign>>>::default();
        let mut lines = Vec::new();
        for sentinel in &cluster.sentinels {
            let mut client = sentinel.client()?;
            let _confirmed: redis::Value = client.call(redis::cmd("PSUBSCRIBE").arg("*"))?;
            client.set_limit(None)?;
            lines.push(client.hang_up()?);
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
        Ok(Self { signs, _lines: lines })
    }

    /// The first event of this kind since `since`.
    pub(crate) fn first(&self, since: Instant, channel: &str) -> Option<Sign> {
        lock(&self.signs).iter().find(|sign| sign.at >= since && sign.channel == channel).cloned()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
