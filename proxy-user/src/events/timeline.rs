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
    witness::{Testimony, Witness, source},
};
use crate::{
    config::Name,
    discovery::Seen,
    election::{Reason, Target, Verdict, Way},
};

/// Signs that nothing followed, and that armed nothing, are given up after this long.
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
    /// The same, while its new master is followed without a majority (`commit = "early"`).
    unconfirmed: Option<Arc<Recording>>,
    witness: Witness,
    /// Who was last followed, also while closed.
    master: Option<Target>,
    /// What came last: it is what a decision was made on.
    heard: Option<(SocketAddr, String)>,
    last_mark: Option<Instant>,
    armed: bool,
}

/// A verdict that is about to be carried out, and the one before it.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    pub before: &'a Verdict,
    pub after: &'a Verdict,
    /// When its writing began.
    pub at: Instant,
}

/// Something for the event that is open, or that begins with it.
struct Mark {
    cause: &'static str,
    stage: Stage,
    at: Instant,
    who: Option<String>,
    what: Option<String>,
}

impl Timeline {
    /// The first event begins here: the start of the daemon, until a master is followed.
    pub(super) fn new(group: Name, log: Arc<Log>) -> Self {
        let timeline = Self { group, log, state: Mutex::default() };
        let mark = Mark { cause: "start", stage: Stage::Started, at: Instant::now(), who: None, what: None };
        timeline.note(&mut timeline.state(), mark);
        timeline
    }

    /// Another daemon had proven this master: to go on with it is no switch.
    pub fn took_over(&self, master: &Target) {
        self.state().master = Some(master.clone());
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
        let quiet = state.last_mark.is_some_and(|last| seen.at.saturating_duration_since(last) > QUIET);
        if quiet && !state.armed {
            give_up(state);
        }
    }

    /// No observation, but time alone may change the verdict now.
    pub fn time_passed(&self) {
        self.state().heard = None;
    }

    /// Every node is asked each few milliseconds, from now on or no longer.
    pub fn armed(&self, armed: bool, at: Instant) {
        let mut state = self.state();
        state.armed = armed;
        match &state.open {
            Some(open) if armed => open.mark(Stage::Armed, at, None, None),
            Some(_) => give_up(&mut state),
            None => {}
        }
    }

    /// A verdict was carried out. What it gives is a place for what follows from it in the event.
    pub fn followed(&self, change: Change<'_>) -> Option<Aftermath> {
        let Change { before, after, at } = change;
        let mut state = self.state();
        let state = &mut *state;
        if after.reason != Reason::Early {
            state.unconfirmed = None;
        }
        let another = match (&after.master, &state.master) {
            (Some(master), Some(last)) => after.way == Way::Open && !last.is_same(master),
            (master, None) => after.way == Way::Open && master.is_some(),
            (None, _) => false,
        };
        let stage = match (another, after.way) {
            (true, _) => Stage::Flip,
            (_, now) if now == before.way => {
                if let Some(master) = after.master.as_ref().filter(|_| now == Way::Open) {
                    // Its id may have been learnt.
                    state.master = Some(master.clone());
                }
                return None;
            }
            (_, Way::Open) => Stage::Resumed,
            (_, Way::Closed) => Stage::Closed,
            (_, Way::Paused) => Stage::Fenced,
            (_, Way::Established) => Stage::Held,
        };
        let cause = if another { "failover" } else { after.reason.word() };
        let (who, what) = grounds(state, stage, after);
        self.note(state, Mark { cause, stage, at, who, what });
        match &after.master {
            Some(master) if after.way == Way::Open => decide(state, master, another, after.reason),
            _ => state.open.clone().map(Aftermath),
        }
    }

    fn testify(&self, state: &mut State, at: Instant, testimony: Testimony) {
        let Testimony { stage, who, what, cause, late } = testimony;
        if late {
            let decided = state.decided.upgrade();
            if let Some(decided) = decided.filter(|it| state.master.as_ref().is_some_and(|to| it.leads_to(to))) {
                decided.mark(stage, at, words(who), Some(what));
            }
        } else if state.open.is_some() || cause.is_some() {
            let cause = cause.unwrap_or("failover");
            self.note(state, Mark { cause, stage, at, who: words(who), what: Some(what) });
        }
    }

    fn note(&self, state: &mut State, mark: Mark) {
        let Mark { cause, stage, at, who, what } = mark;
        let armed = state.armed;
        let open = state.open.get_or_insert_with(|| {
            let recording =
                Recording::new(Arc::clone(&self.group), Arc::clone(&self.log), cause, state.master.as_ref());
            if armed {
                recording.mark(Stage::Armed, at, None, words("since an earlier sign"));
            }
            let recording = Arc::new(recording);
            self.log.opened(&recording);
            recording
        });
        open.mark(stage, at, who, what);
        state.last_mark = state.last_mark.max(Some(at));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On whose word a verdict came about, and why.
fn grounds(state: &State, stage: Stage, after: &Verdict) -> (Option<String>, Option<String>) {
    let (who, heard) = match &state.heard {
        Some((who, what)) => (words(who), what.as_str()),
        None => (None, "time was up"),
    };
    let what = match (stage, &after.master) {
        (Stage::Flip, Some(master)) => words(format_args!("to {}: {heard}", master.addr)),
        (Stage::Fenced | Stage::Resumed, _) => words(heard),
        _ => words(format_args!("{}: {heard}", after.reason.word())),
    };
    (who, what)
}

/// The event is over but for its aftermath.
fn decide(state: &mut State, master: &Target, another: bool, reason: Reason) -> Option<Aftermath> {
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
    if reason == Reason::Early {
        state.unconfirmed = Some(Arc::clone(&open));
    }
    Some(Aftermath(open))
}

/// Ends an event of nothing but signs, while the group stayed as it was.
fn give_up(state: &mut State) {
    let weighty = [Stage::Started, Stage::Fenced, Stage::Held, Stage::Closed];
    if let Some(open) = state.open.take_if(|open| !weighty.into_iter().any(|stage| open.has(stage))) {
        open.conclude(Outcome::Aborted, state.master.as_ref());
    }
}
