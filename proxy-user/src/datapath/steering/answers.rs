//! When what clients receive is looked at. The kernel's calling a program for each packet that a socket below the cgroup
//! receives is not free, whatever the program does: it is there from the first sign of a switch until half a minute after the
//! last one, and for as long as a gate is shut. It has a thread of its own, since milliseconds count then, and the kernel's
//! lock for cgroups may be another's for a while: nobody else waits for it longer than it likes.

use std::{
    path::Path,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::Ebpf;

use super::{Error, Setup, attached};

/// Between two tries where the kernel refuses.
const AGAIN: Duration = Duration::from_millis(100);

pub(super) struct Answers {
    wish: Mutex<Wish>,
    /// A wish is another one, or fulfilled.
    changed: Condvar,
    place: Mutex<Place>,
}

#[derive(Debug)]
struct Wish {
    until: Instant,
    attached: bool,
    over: bool,
}

/// The programs, and where they are.
struct Place {
    object: Ebpf,
    setup: Arc<Setup>,
    /// The last fault that was told.
    told: Option<String>,
}

impl Answers {
    /// The program is attached, as all are, and to stay there until then.
    pub(super) fn new(object: Ebpf, setup: Arc<Setup>, until: Instant) -> Self {
        let wish = Wish { until, attached: true, over: false };
        let place = Place { object, setup, told: None };
        Self { wish: Mutex::new(wish), changed: Condvar::new(), place: Mutex::new(place) }
    }

    pub(super) fn start(self: &Arc<Self>) -> Result<JoinHandle<()>, Error> {
        let answers = Arc::clone(self);
        Ok(thread::Builder::new().name("answers".to_owned()).spawn(move || answers.run())?)
    }

    pub(super) fn stop(&self) {
        self.wish().over = true;
        self.changed.notify_all();
    }

    /// They are looked at from soon on, until then at the least.
    pub(super) fn expect(&self, until: Instant) {
        let mut wish = self.wish();
        wish.until = wish.until.max(until);
        self.changed.notify_all();
    }

    /// Waits until they are looked at as it was wished; false: they are not yet.
    pub(super) fn are_seen(&self, within: Duration) -> bool {
        let is_due = |wish: &mut Wish| !wish.attached && Instant::now() < wish.until;
        let waited = self.changed.wait_timeout_while(self.wish(), within, is_due);
        let (wish, _) = waited.unwrap_or_else(PoisonError::into_inner);
        wish.attached
    }

    /// Whether nobody wishes for it any more.
    pub(super) fn are_free(&self, now: Instant) -> bool {
        let wish = self.wish();
        wish.attached && wish.until <= now
    }

    /// Nothing is held back any more: they pass unseen, unless somebody has wished for it meanwhile.
    pub(super) fn let_pass(&self, now: Instant) {
        let place = self.place();
        {
            let mut wish = self.wish();
            if wish.until > now {
                return;
            }
            wish.attached = false;
        }
        if let Err(error) = attached::let_answers_pass(&place.setup.links) {
            tracing::warn!(%error, "packets to clients on this host are looked at without need");
            self.wish().attached = true;
        }
    }

    /// Somebody may have made the cgroup anew, under another number: then all programs go there.
    pub(super) fn follow(&self) -> Result<(), Error> {
        let mut place = self.place();
        let Place { object, setup, .. } = &mut *place;
        if !attached::is_left(&setup.links, Some(&setup.cgroup))? {
            return Ok(());
        }
        attached::attach_all(object, &setup.cgroup, &setup.links)?;
        self.wish().attached = true;
        self.changed.notify_all();
        tracing::info!(cgroup = %setup.cgroup.display(), "the cgroup is another one; clients there are led from now on");
        Ok(())
    }

    fn run(&self) {
        loop {
            let wish = self.wish();
            let nothing_to_do = |wish: &mut Wish| !wish.over && (wish.attached || wish.until <= Instant::now());
            let wish = self.changed.wait_while(wish, nothing_to_do).unwrap_or_else(PoisonError::into_inner);
            if wish.over {
                return;
            }
            drop(wish);
            if !self.place().attach() {
                let wish = self.wish();
                let _again = self.changed.wait_timeout_while(wish, AGAIN, |wish| !wish.over);
                continue;
            }
            self.wish().attached = true;
            self.changed.notify_all();
        }
    }

    fn wish(&self) -> MutexGuard<'_, Wish> {
        self.wish.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn place(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    fn attach(&mut self) -> bool {
        let cgroup: &Path = &self.setup.cgroup;
        let fault = attached::hold_answers(&mut self.object, cgroup, &self.setup.links).err().map(|it| it.to_string());
        if let Some(error) = fault.as_ref().filter(|_| fault != self.told) {
            tracing::error!(error, "what an old master answers after the fence may reach clients on this host");
        }
        self.told = fault;
        self.told.is_none()
    }
}
