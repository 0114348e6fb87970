//! All events of the daemon, numbered in the order in which they ended. The newest are kept in memory
//! and, if asked for, all go to a writer for the disk. Publishing never waits.

use std::{
    collections::VecDeque,
    fmt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::timeout,
};

use super::{
    disk::{self, OpenError, Writer},
    record::Event,
    recording::Recording,
    timeline::Timeline,
};
use crate::config::Name;

/// So many events are kept in memory.
pub const MOST_EVENTS: usize = 512;
/// Events that may wait for the disk. A failover takes seconds: this is minutes of a hanging disk.
const UNWRITTEN: usize = 256;
/// Followers that may wait at once; the others are answered at once.
const FOLLOWERS: usize = 16;

/// Told of events as they end. Must return at once.
pub trait Tally: Send + Sync {
    fn ended(&self, event: &Event);
    /// An event did not reach the disk.
    fn unwritten(&self);
}

pub struct Log {
    kept: Mutex<Kept>,
    newest: watch::Sender<u64>,
    places: Semaphore,
    tally: Arc<dyn Tally>,
    /// Tells one daemon's life from the next.
    started: String,
    on_disk: bool,
}

#[derive(Default)]
struct Kept {
    /// Shared, so that whoever reads them all holds nobody up who has one more.
    ring: VecDeque<Arc<Event>>,
    last: u64,
    open: Vec<Weak<Recording>>,
    disk: Option<mpsc::Sender<Arc<Event>>>,
}

/// What `/api/v1/events` answers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Page {
    /// When this daemon started; another value is another daemon.
    pub started: String,
    /// The numbers go on across restarts: events are on disk.
    pub on_disk: bool,
    /// The newest number given; 0 before the first.
    pub last: u64,
    /// Oldest first.
    pub events: Vec<Event>,
    /// What is going on now, or may still change.
    pub open: Vec<Event>,
}

impl Log {
    pub fn in_memory(tally: Arc<dyn Tally>) -> Arc<Self> {
        Self::new(tally, Vec::new(), None)
    }

    /// Takes up what an earlier daemon left in `dir`. The writer must be run by a thread that may wait.
    pub fn on_disk(dir: &Path, tally: Arc<dyn Tally>) -> Result<(Arc<Self>, Writer), OpenError> {
        let (disk, left) = disk::open(dir, MOST_EVENTS)?;
        let (sender, receiver) = mpsc::channel(UNWRITTEN);
        let writer = Writer::new(disk, receiver, Arc::clone(&tally));
        Ok((Self::new(tally, left, Some(sender)), writer))
    }

    fn new(tally: Arc<dyn Tally>, left: Vec<Event>, disk: Option<mpsc::Sender<Arc<Event>>>) -> Arc<Self> {
        let last = left.iter().map(|event| event.seq).max().unwrap_or(0);
        let on_disk = disk.is_some();
        Arc::new(Self {
            kept: Mutex::new(Kept { ring: left.into_iter().map(Arc::new).collect(), last, open: Vec::new(), disk }),
            newest: watch::Sender::new(last),
            places: Semaphore::new(FOLLOWERS),
            tally,
            started: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            on_disk,
        })
    }

    pub fn timeline(self: &Arc<Self>, group: Name) -> Timeline {
        Timeline::new(group, Arc::clone(self))
    }

    /// The events after `since`, or the newest ones; at most `limit` of them.
    pub fn page(&self, since: Option<u64>, limit: usize) -> Page {
        let kept = self.kept();
        let open: Vec<_> = kept.open.iter().filter_map(Weak::upgrade).collect();
        let found = kept.ring.iter().filter(|event| since.is_none_or(|since| event.seq > since));
        let events: Vec<_> = match since {
            Some(_) => found.take(limit).cloned().collect(),
            None => found.skip(kept.ring.len().saturating_sub(limit)).cloned().collect(),
        };
        let last = kept.last;
        // Whoever lets go of a recording last publishes it, and that takes the lock.
        drop(kept);
        let events = events.iter().map(|event| Event::clone(event)).collect();
        let open = open.iter().map(|recording| recording.event()).collect();
        Page { started: self.started.clone(), on_disk: self.on_disk, last, events, open }
    }

    /// Returns when there is an event after `since`, or after `patience`. At once if too many wait, or if
    /// `since` is a number of another daemon, which only looks like one that is still to come.
    pub async fn wait(&self, since: u64, patience: Duration) {
        let Ok(_place) = self.places.try_acquire() else { return };
        let mut newest = self.newest.subscribe();
        let _out_of_time = timeout(patience, newest.wait_for(|newest| *newest != since)).await;
    }

    /// Ends every event that is still open, lets the writer end when it has written all, and answers
    /// whoever waits.
    pub fn close(&self) {
        let open: Vec<_> = self.kept().open.drain(..).filter_map(|open| open.upgrade()).collect();
        for recording in open {
            recording.publish();
        }
        drop(self.kept().disk.take());
        self.newest.send_replace(u64::MAX);
    }

    pub(super) fn opened(&self, recording: &Arc<Recording>) {
        let mut kept = self.kept();
        kept.open.retain(|open| open.strong_count() > 0);
        kept.open.push(Arc::downgrade(recording));
    }

    pub(super) fn publish(&self, mut event: Event) {
        let mut kept = self.kept();
        kept.last += 1;
        event.seq = kept.last;
        let event = Arc::new(event);
        if kept.ring.len() >= MOST_EVENTS {
            kept.ring.pop_front();
        }
        kept.ring.push_back(Arc::clone(&event));
        let written = kept.disk.as_ref().is_none_or(|disk| disk.try_send(Arc::clone(&event)).is_ok());
        let last = kept.last;
        drop(kept);
        if !written {
            self.tally.unwritten();
        }
        self.tally.ended(&event);
        self.newest.send_modify(|newest| *newest = last.max(*newest));
    }

    /// A panic elsewhere leaves it whole: at worst an event is missing.
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("started", &self.started).field("on_disk", &self.on_disk).finish_non_exhaustive()
    }
}
