//! The `events` command: what happened, and, if asked to follow, what happens from now on. A daemon that
//! restarts is waited for, and nothing that it still knows is told twice or missed.

use std::{
    io::{self, Write},
    time::Duration,
};

use thiserror::Error;
use tokio::time::{Instant, sleep_until};

use super::{
    client::{Endpoint, FetchError, PATIENCE, fetch},
    timeline,
};
use crate::events::{Event, Page};

/// How long one question may wait for the next event, in seconds.
const WAIT: u64 = 5;
/// The least time between two questions that brought nothing.
const PAUSE: Duration = Duration::from_millis(500);

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub struct Events {
    /// So many of the newest to begin with.
    pub limit: usize,
    pub follow: bool,
    pub json: bool,
}

#[derive(Debug, Error)]
pub enum EventsError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("cannot write: {0}")]
    Write(#[from] io::Error),
}

/// Writes events to `out`; following, it ends only when nobody reads any more. `notes` is told when the
/// daemon does not answer, and when it does again.
pub async fn events(
    endpoint: &Endpoint,
    asked: Events,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<(), EventsError> {
    let mut page = ask(endpoint, &format!("limit={}", asked.limit), 0).await?;
    tell(&page.events, asked.json, out)?;
    if !asked.follow {
        if !asked.json {
            out.write_all(timeline::open(&page).as_bytes())?;
        }
        return Ok(out.flush()?);
    }
    let mut lost = false;
    loop {
        out.flush()?;
        let again = Instant::now() + PAUSE;
        // Whoever answers after a silence may be another daemon: that is to be known at once.
        let wait = if lost { 0 } else { WAIT };
        match ask(endpoint, &format!("since={}&wait={wait}", seen(&page)), wait).await {
            Ok(next) if next.started != page.started => {
                // Another daemon: where its numbers begin anew, all it knows is new.
                let since = if next.on_disk && next.last >= page.last { page.last } else { 0 };
                page = Page { last: since, events: Vec::new(), ..next };
                continue;
            }
            Ok(next) => {
                if std::mem::take(&mut lost) {
                    writeln!(notes, "switchmaster answers again")?;
                }
                tell(&next.events, asked.json, out)?;
                if !next.events.is_empty() {
                    page = next;
                    continue;
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut lost, true) {
                    writeln!(notes, "switchmaster: {error}; trying on")?;
                }
            }
        }
        sleep_until(again).await;
    }
}

/// The number of the last event that was told.
fn seen(page: &Page) -> u64 {
    page.events.last().map_or(page.last, |event| event.seq)
}

async fn ask(endpoint: &Endpoint, query: &str, wait: u64) -> Result<Page, FetchError> {
    let body = fetch(endpoint, &format!("/api/v1/events?{query}"), PATIENCE + Duration::from_secs(wait)).await?;
    serde_json::from_slice(&body).map_err(|error| FetchError::Unreadable(endpoint.clone(), error.to_string()))
}

fn tell(events: &[Event], json: bool, out: &mut impl Write) -> io::Result<()> {
    for event in events {
        if json {
            serde_json::to_writer(&mut *out, event)?;
            out.write_all(b"\n")?;
        } else {
            out.write_all(timeline::event(event).as_bytes())?;
        }
    }
    Ok(())
}
