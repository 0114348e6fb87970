//! One event while it is being written. It goes to the log when the last who still has something to
//! add lets go of it, so that nobody has to know who that will be.

use std::{
    fmt::Display,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    log::Log,
    record::{Event, Mark, Master, Outcome, Stage},
};
use crate::{config::Name, election::Target};

/// More than any failover has; the rest of a storm is not written down.
const MOST_MARKS: usize = 64;
/// One Sentinel or node cannot make an event large.
const LONGEST: usize = 120;

#[derive(Debug)]
pub(super) struct Recording {
    group: Name,
    log: Arc<Log>,
    /// The same moment on both clocks.
    clocks: (Instant, SystemTime),
    draft: Mutex<Draft>,
}

#[derive(Debug)]
struct Draft {
    cause: &'static str,
    outcome: Outcome,
    from: Option<Master>,
    to: Option<Master>,
    severed: u64,
    marks: Vec<Noted>,
    published: bool,
}

#[derive(Debug)]
struct Noted {
    stage: Stage,
    at: Instant,
    who: Option<String>,
    what: Option<String>,
}

impl Recording {
    pub(super) fn new(group: Name, log: Arc<Log>, cause: &'static str, from: Option<&Target>) -> Self {
        let draft = Draft {
            cause,
            outcome: Outcome::Ongoing,
            from: from.map(Master::from),
            to: None,
            severed: 0,
            marks: Vec::new(),
            published: false,
        };
        Self { group, log, clocks: (Instant::now(), SystemTime::now()), draft: Mutex::new(draft) }
    }

    /// The first time a stage comes is the one that counts, in whatever order marks arrive; of the
    /// resets also the last.
    pub(super) fn mark(&self, stage: Stage, at: Instant, who: Option<String>, what: Option<String>) {
        let mut draft = self.draft();
        let noted = Noted { stage, at, who: who.map(bounded), what: what.map(bounded) };
        // Stages always find room: there are few.
        let room = stage != Stage::Said || draft.marks.len() < MOST_MARKS - Stage::ALL.len();
        let place = draft.marks.iter().position(|mark| mark.stage == stage && stage != Stage::Said);
        match place.map(|place| &mut draft.marks[place]) {
            Some(old) if stage == Stage::LastSevered && old.at < at => *old = noted,
            Some(old) if stage != Stage::LastSevered && old.at > at => *old = noted,
            Some(_) => {}
            None if room => draft.marks.push(noted),
            None => {}
        }
    }

    pub(super) fn conclude(&self, outcome: Outcome, to: Option<&Target>) {
        let mut draft = self.draft();
        draft.outcome = outcome;
        draft.to = to.map(Master::from);
    }

    pub(super) fn leads_to(&self, target: &Target) -> bool {
        self.draft().to.as_ref().is_some_and(|to| to.addr == target.addr && to.epoch == target.epoch)
    }

    pub(super) fn has(&self, stage: Stage) -> bool {
        self.draft().marks.iter().any(|mark| mark.stage == stage)
    }

    /// The event as far as it is known.
    pub(super) fn event(&self) -> Event {
        self.write(&self.draft())
    }

    fn write(&self, draft: &Draft) -> Event {
        let (now, wall) = self.clocks;
        let first = draft.marks.iter().map(|mark| mark.at).min().unwrap_or(now);
        let began = match first.checked_duration_since(now) {
            Some(later) => wall + later,
            None => wall.checked_sub(now.duration_since(first)).unwrap_or(wall),
        };
        let offset_us = |at: Instant| micros(at.duration_since(first));
        // The first sign is also something said: once is enough.
        let sign = draft.marks.iter().find(|mark| mark.stage == Stage::FirstSign);
        let is_sign =
            |it: &&Noted| sign.is_some_and(|sign| (it.at, &it.who, &it.what) == (sign.at, &sign.who, &sign.what));
        let mut stages: Vec<Mark> = (draft.marks.iter())
            .filter(|it| it.stage != Stage::Said || !is_sign(it))
            .map(|it| Mark { stage: it.stage, offset_us: offset_us(it.at), who: it.who.clone(), what: it.what.clone() })
            .collect();
        stages.sort_by_key(|mark| (mark.offset_us, mark.stage));
        Event {
            seq: 0,
            group: self.group.to_string(),
            cause: draft.cause.to_owned(),
            outcome: draft.outcome,
            at: humantime::format_rfc3339_micros(began).to_string(),
            from: draft.from.clone(),
            to: draft.to.clone(),
            severed: draft.severed,
            stages,
        }
    }

    /// Hands the event over, once.
    pub(super) fn publish(&self) {
        let event = {
            let mut draft = self.draft();
            if std::mem::replace(&mut draft.published, true) {
                return;
            }
            if draft.outcome == Outcome::Ongoing {
                draft.outcome = Outcome::Interrupted;
            }
            self.write(&draft)
        };
        self.log.publish(event);
    }

    fn draft(&self) -> MutexGuard<'_, Draft> {
        self.draft.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        self.publish();
    }
}

/// A place in an event for what is still to come of it: hold it as long as something may.
#[derive(Debug, Clone)]
pub struct Aftermath(pub(super) Arc<Recording>);

impl Aftermath {
    /// Connections of a route were reset: the first at this moment or before, the last at that.
    pub fn severed(&self, route: &str, connections: u64, first: Instant, last: Instant) {
        self.0.draft().severed += connections;
        self.0.mark(Stage::FirstSevered, first, Some(route.to_owned()), None);
        self.0.mark(Stage::LastSevered, last, Some(route.to_owned()), None);
    }

    /// The first client of a route is connected to the new master.
    pub fn connected(&self, route: &str, at: Instant) {
        self.0.mark(Stage::FirstConnection, at, Some(route.to_owned()), None);
    }
}

fn bounded(text: String) -> String {
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => text[..end].to_owned(),
        None => text,
    }
}

pub(super) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(super) fn words(text: impl Display) -> Option<String> {
    Some(text.to_string())
}
