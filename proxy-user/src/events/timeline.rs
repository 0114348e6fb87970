//! The events of one group, as its own task tells of them: what was seen, what was decided, what was
//! carried out. An event begins with whatever comes first and ends with a decision; a stage that
//! never comes is simply not in it. Never blocks: it is called between a decision and its flip.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    time::{Duration, Instant},
};

use super::{
    log::Log,
    record::{Outcome, Stage},
    recording::{Aftermath, Recording, words},
    witness::{Testimony, Witness},
};
use crate::{
    config::Name,
    discovery::{Seen, role_word, word},
    election::{Observation, Target, Verdict, Way},
};

/// Signs that nothing followed are given up after this long.
const QUIET: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Timeline {
    group: Name,
    log: Arc<Log>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    open: Option<Arc<Recording>>,
    /// The last one that was decided, while its aftermath lasts.
    decided: Weak<Recording>,
    witness: Witness,
    /// Who was last followed, also while closed.
    master: Option<Target>,
    /// What came last: it is what a decision was made on.
    heard: Option<(SocketAddr, String)>,
    last_mark: Option<Instant>,
}

/// A verdict that is about to be carried out, and the one before it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub before: &'a Verdict,
    pub after: &'a Verdict,
    /// When its writing began.
    pub at: Instant,
}

impl Timeline {
    /// The first event begins here: the start of the daemon, until a master is followed.
    pub(super) fn new(group: Name, log: Arc<Log>) -> Self {
        let timeline = Self { group, log, state: Mutex::default() };
        timeline.note(&mut timeline.state(), "start", Stage::Started, Instant::now(), None, None);
        timeline
    }

    /// Takes note of an observation. To be told of each, in order, before the election is.
    pub fn saw(&self, seen: &Seen) {
        let mut state = self.state();
        let state = &mut *state;
        if let Some(heard) = source(&seen.observation) {
            state.heard = Some(heard);
        }
        for testimony in state.witness.saw(&seen.observation, state.master.as_ref()) {
            self.testify(state, seen.at, testimony);
        }
        self.give_up_if_quiet(state, seen.at);
    }

    /// No observation, but time alone may change the verdict now.
    pub fn time_passed(&self) {
        self.state().heard = None;
    }

    /// Somebody announced a failover: the first of these is the first sign. `what` is, for example, the
    /// channel of a Sentinel's event.
    pub fn sign(&self, at: Instant, who: SocketAddr, what: &str) {
        let mut state = self.state();
        self.note(&mut state, "failover", Stage::FirstSign, at, words(who), words(what));
        self.note(&mut state, "failover", Stage::Said, at, words(who), words(what));
    }

    /// A stage was reached; `who` said so, if anybody did. Begins an event if none is open.
    pub fn mark(&self, stage: Stage, at: Instant, who: Option<SocketAddr>, what: Option<&str>) {
        let mut state = self.state();
        self.note(&mut state, "failover", stage, at, who.and_then(words), what.and_then(words));
    }

    /// The failover that was announced does not take place, and the same master goes on.
    pub fn abort(&self, at: Instant, who: Option<SocketAddr>, what: Option<&str>) {
        let mut state = self.state();
        if let Some(open) = state.open.take() {
            open.mark(Stage::Resumed, at, who.and_then(words), what.and_then(words));
            open.conclude(Outcome::Aborted, state.master.as_ref());
        }
    }

    /// A verdict was carried out. What it gives is a place for what follows from it in the event.
    pub fn followed(&self, change: Change<'_>) -> Option<Aftermath> {
        let Change { before, after, at } = change;
        let mut state = self.state();
        let state = &mut *state;
        let (who, reason) = (state.heard.as_ref().map(|(who, _)| who.to_string()), after.reason.word());
        match &after.master {
            Some(master) if after.way == Way::Open => {
                let another = state.master.as_ref().is_none_or(|last| !last.is_same(master));
                if another {
                    let heard = state.heard.as_ref().map_or("time was up", |(_, what)| what);
                    let what = words(format_args!("to {}: {heard}", master.addr));
                    self.note(state, "failover", Stage::Flip, at, who, what);
                } else if before.way != Way::Open {
                    self.note(state, reason, Stage::Resumed, at, who, words(reason));
                } else {
                    // Its id may have been learnt.
                    state.master = Some(master.clone());
                    return None;
                }
                self.decide(state, master, another)
            }
            _ if after.way < before.way => {
                let stage = if after.way == Way::Closed { Stage::Closed } else { Stage::Held };
                self.note(state, reason, stage, at, who, words(reason));
                state.open.clone().map(Aftermath)
            }
            _ => None,
        }
    }

    /// The event is over but for its aftermath.
    fn decide(&self, state: &mut State, master: &Target, another: bool) -> Option<Aftermath> {
        let open = state.open.take()?;
        let outcome = match (another, &state.master) {
            (true, None) => Outcome::Opened,
            (true, Some(_)) => Outcome::Switched,
            (false, _) if open.has(Stage::Fenced) && !open.has(Stage::Closed) => Outcome::Aborted,
            (false, _) => Outcome::Reopened,
        };
        open.conclude(outcome, Some(master));
        state.master = Some(master.clone());
        state.decided = Arc::downgrade(&open);
        Some(Aftermath(open))
    }

    fn testify(&self, state: &mut State, at: Instant, testimony: Testimony) {
        let Testimony { stage, who, what, cause, late } = testimony;
        if late {
            let decided = state.decided.upgrade();
            if let Some(decided) = decided.filter(|it| state.master.as_ref().is_some_and(|to| it.leads_to(to))) {
                decided.mark(stage, at, words(who), Some(what));
            }
        } else if state.open.is_some() || cause.is_some() {
            self.note(state, cause.unwrap_or("failover"), stage, at, words(who), Some(what));
        }
    }

    fn note(
        &self,
        state: &mut State,
        cause: &'static str,
        stage: Stage,
        at: Instant,
        who: Option<String>,
        what: Option<String>,
    ) {
        let open = state.open.get_or_insert_with(|| {
            let recording =
                Recording::new(Arc::clone(&self.group), Arc::clone(&self.log), cause, state.master.as_ref());
            let recording = Arc::new(recording);
            self.log.opened(&recording);
            recording
        });
        open.mark(stage, at, who, what);
        state.last_mark = state.last_mark.max(Some(at));
    }

    /// An event of nothing but signs, while the group stayed as it was.
    fn give_up_if_quiet(&self, state: &mut State, now: Instant) {
        let quiet = state.last_mark.is_some_and(|last| now.saturating_duration_since(last) > QUIET);
        let Some(open) = state.open.take_if(|_| quiet) else { return };
        let weighty = [Stage::Started, Stage::Fenced, Stage::Held, Stage::Closed];
        if weighty.into_iter().any(|stage| open.has(stage)) {
            state.open = Some(open);
        } else {
            open.conclude(Outcome::Aborted, state.master.as_ref());
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whose word an observation is, and which.
fn source(observation: &Observation) -> Option<(SocketAddr, String)> {
    Some(match observation {
        Observation::View(from, view) => (*from, format!("names {} in epoch {}", view.master, view.epoch)),
        Observation::Node(from, report) => (*from, format!("says {}", role_word(&report.role))),
        Observation::SentinelLost(from, failure) | Observation::NodeLost(from, failure) => {
            (*from, word(*failure).to_owned())
        }
        Observation::Sentinels(_) | Observation::Nodes(_) | Observation::Sign(..) => return None,
    })
}
