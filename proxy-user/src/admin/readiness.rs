//! Ready once everything that the start waits for has happened. Each such thing holds a latch and
//! drops it when it is done; taking a latch again makes the daemon unready again.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Cheap to clone. Ready while no latch is held.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Held>>);

/// By name, how many hold it: two listeners of one route may share a name.
type Held = BTreeMap<Arc<str>, usize>;

impl Readiness {
    /// Not ready until the latch is dropped. `name` is shown to the operator: say what is missing.
    #[must_use = "a latch that is dropped at once holds nothing"]
    pub fn latch(&self, name: impl Into<Arc<str>>) -> Latch {
        let name = name.into();
        *self.held().entry(Arc::clone(&name)).or_default() += 1;
        Latch { readiness: self.clone(), name }
    }

    /// Unready for good: for a task that failed and is not started again.
    pub fn fail(&self, what: impl Into<Arc<str>>) {
        *self.held().entry(what.into()).or_default() += 1;
    }

    pub fn is_ready(&self) -> bool {
        self.held().is_empty()
    }

    /// What is missing, in alphabetical order.
    pub fn waiting_for(&self) -> Vec<String> {
        self.held().keys().map(ToString::to_string).collect()
    }

    /// A panic elsewhere leaves the map whole: every change to it is one step.
    fn held(&self) -> MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
pub struct Latch {
    readiness: Readiness,
    name: Arc<str>,
}

impl Drop for Latch {
    fn drop(&mut self) {
        let mut held = self.readiness.held();
        match held.get_mut(&self.name) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_the_last_latch_is_dropped() {
        let readiness = Readiness::default();
        assert!(readiness.is_ready());
        let (master, listener) = (readiness.latch("group a: master"), readiness.latch("route w: listener"));
        assert_eq!(readiness.waiting_for(), ["group a: master", "route w: listener"]);
        drop(master);
        assert!(!readiness.is_ready());
        drop(listener);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_name_held_twice_needs_two_drops() {
        let readiness = Readiness::default();
        let (one, two) = (readiness.latch("x"), readiness.latch("x"));
        drop(one);
        assert!(!readiness.is_ready());
        drop(two);
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_failed_task_reopens_it_for_good() {
        let readiness = Readiness::default();
        drop(readiness.latch("task listener failed"));
        readiness.fail("task listener failed");
        drop(readiness.latch("task listener failed"));
        assert_eq!(readiness.waiting_for(), ["task listener failed"]);
    }
}
