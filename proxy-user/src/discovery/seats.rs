//! The running tasks of one kind: one for each server there is to ask. Brought in line with the
//! membership; a task that died of a bug is noticed, and rests until it may be started again.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    future::Future,
    net::SocketAddr,
    sync::Arc,
};

use tokio::{
    sync::Notify,
    task::{Id, JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;

use super::dial::Peer;

#[derive(Debug)]
struct Seat {
    serial: u64,
    end: CancellationToken,
    nudge: Arc<Notify>,
}

/// `K` is what a task is there for: a server's address, or a configured name's place.
#[derive(Debug)]
pub(super) struct Seats<K> {
    seats: BTreeMap<K, Seat>,
    by_serial: HashMap<u64, K>,
    tasks: JoinSet<()>,
    running: HashMap<Id, u64>,
    /// Died, and not yet to be started again: one that dies at once must not keep the conductor busy.
    resting: BTreeSet<K>,
}

impl<K> Default for Seats<K> {
    fn default() -> Self {
        Self {
            seats: BTreeMap::new(),
            by_serial: HashMap::new(),
            tasks: JoinSet::new(),
            running: HashMap::new(),
            resting: BTreeSet::new(),
        }
    }
}

impl Seats<SocketAddr> {
    /// Those of `peers` that have no task yet and are not resting, and the addresses whose task has no peer any more.
    pub(super) fn differences(&self, peers: &[Peer]) -> (Vec<Peer>, Vec<SocketAddr>) {
        let wanted: BTreeSet<SocketAddr> = peers.iter().map(|peer| peer.addr).collect();
        let come = peers.iter().filter(|peer| !self.has(peer.addr)).cloned().collect();
        let gone = self.seats.keys().chain(&self.resting).filter(|addr| !wanted.contains(addr)).copied().collect();
        (come, gone)
    }
}

impl<K: Copy + Ord> Seats<K> {
    pub(super) fn has(&self, key: K) -> bool {
        self.seats.contains_key(&key) || self.resting.contains(&key)
    }

    /// For one whose task died: as if it still had one, until [`Seats::rouse`].
    pub(super) fn rest(&mut self, key: K) {
        self.end(key);
        self.resting.insert(key);
    }

    /// Whoever rests may be started again.
    pub(super) fn rouse(&mut self) {
        self.resting.clear();
    }

    /// Starts the task that `work` makes of its nudge. `serial` is new each time.
    pub(super) fn start<F>(&mut self, key: K, serial: u64, work: impl FnOnce(Arc<Notify>) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (end, nudge) = (CancellationToken::new(), Arc::new(Notify::new()));
        let work = work(Arc::clone(&nudge));
        let until = end.clone();
        let task = self.tasks.spawn(async move {
            let _ended = until.run_until_cancelled(work).await;
        });
        self.running.insert(task.id(), serial);
        self.by_serial.insert(serial, key);
        self.seats.insert(key, Seat { serial, end, nudge });
    }

    pub(super) fn end(&mut self, key: K) {
        self.resting.remove(&key);
        if let Some(seat) = self.seats.remove(&key) {
            self.by_serial.remove(&seat.serial);
            seat.end.cancel();
        }
    }

    /// Whose report it is; None if its task has ended or was replaced.
    pub(super) fn whose(&self, serial: u64) -> Option<K> {
        self.by_serial.get(&serial).copied()
    }

    pub(super) fn nudge_all(&self) {
        for seat in self.seats.values() {
            seat.nudge.notify_one();
        }
    }

    pub(super) fn nudge_others(&self, than: K) {
        for (_, seat) in self.seats.iter().filter(|(key, _)| **key != than) {
            seat.nudge.notify_one();
        }
    }

    pub(super) fn nudge(&self, key: K) {
        if let Some(seat) = self.seats.get(&key) {
            seat.nudge.notify_one();
        }
    }

    /// The next task to end by itself, which none ever should, and why. Pends while all run.
    pub(super) async fn died(&mut self) -> (K, JoinError) {
        loop {
            let Some(ended) = self.tasks.join_next_with_id().await else {
                return std::future::pending().await;
            };
            let id = match &ended {
                Ok((id, ())) => *id,
                Err(error) => error.id(),
            };
            let key = self.running.remove(&id).and_then(|serial| self.whose(serial));
            if let (Some(key), Err(error)) = (key, ended) {
                return (key, error);
            }
        }
    }

    /// Ends all tasks, and waits until they have ended.
    pub(super) async fn close(&mut self) {
        self.tasks.shutdown().await;
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_dead_task_is_noticed_and_an_ended_one_is_not_mourned() {
        let mut seats: Seats<usize> = Seats::default();
        seats.start(1, 10, |_| std::future::pending());
        seats.end(1);
        seats.start(2, 20, |_| async { panic!("a bug") });
        let (key, error) = seats.died().await;
        assert!(key == 2 && error.is_panic());
        assert_eq!((seats.whose(10), seats.whose(20)), (None, Some(2)));
        seats.end(2);
        assert!(!seats.has(2));
        seats.close().await;
    }

    #[tokio::test]
    async fn a_dead_task_is_not_started_again_before_it_is_roused() {
        let addr = |n| SocketAddr::from(([10, 0, 0, n], 1));
        let peers = [1, 2].map(|n| Peer { addr: addr(n), host: None });
        let mut seats: Seats<SocketAddr> = Seats::default();
        seats.start(addr(1), 1, |_| async { panic!("a bug") });
        seats.start(addr(2), 2, |_| std::future::pending());
        assert_eq!(seats.died().await.0, addr(1));
        seats.rest(addr(1));
        assert_eq!((seats.whose(1), seats.differences(&peers)), (None, (vec![], vec![])));
        assert_eq!(seats.differences(&peers[1..]), (vec![], vec![addr(1)]), "one that rests may leave");
        seats.rouse();
        assert_eq!(seats.differences(&peers), (vec![peers[0].clone()], vec![]));
        seats.close().await;
    }
}
