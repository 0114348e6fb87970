//! Who of those who wait goes next, and when. Pure but for the wake-up: time is an argument.
//! Promises: first come, first served; nobody overtakes a queue; few try a node that just failed,
//! so that a dead master costs no storm of connects; nothing is visited that is not let through.

use std::{collections::BTreeMap, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::pace::Pace;

/// How many of the queue may be connecting at a time: half of a Redis' default listen backlog
/// (511), so that a queue let through at once is not dropped at the node's door.
const WINDOW: usize = 256;
/// How many may try at a time after a connection failed.
const TRIALS: usize = 4;

/// What the road to the route's node looks like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Road {
    /// No node.
    Closed,
    Open,
    /// The last try failed; the next one may start at this time.
    Doubtful(Instant),
    /// The daemon is leaving: nobody waits any more.
    Ended,
}

#[derive(Debug)]
struct Waiter {
    arrived: Instant,
    go: oneshot::Sender<()>,
}

#[derive(Debug)]
pub(super) struct Queue {
    /// By number of arrival.
    waiting: BTreeMap<u64, Waiter>,
    road: Road,
    /// Let through, and not yet back with a result.
    trying: usize,
    pace: Pace,
}

impl Queue {
    pub(super) fn new(pace: Pace) -> Self {
        Self { waiting: BTreeMap::new(), road: Road::Closed, trying: 0, pace }
    }

    pub(super) fn ended(&self) -> bool {
        self.road == Road::Ended
    }

    /// Whether a new arrival may go at once.
    pub(super) fn pass(&mut self, now: Instant) -> bool {
        if self.road != Road::Open || !self.waiting.is_empty() {
            return false;
        }
        match self.pace.due(now, now) {
            None => true,
            Some(due) if due <= now => {
                self.pace.step(now);
                true
            }
            Some(_) => false,
        }
    }

    /// Queues up; the receiver fails when the queue has ended.
    pub(super) fn join(&mut self, number: u64, arrived: Instant) -> oneshot::Receiver<()> {
        let (go, turn) = oneshot::channel();
        if self.road != Road::Ended {
            self.waiting.insert(number, Waiter { arrived, go });
        }
        turn
    }

    /// Leaves the queue; false: it had been let through already.
    pub(super) fn leave(&mut self, number: u64) -> bool {
        self.waiting.remove(&number).is_some()
    }

    /// One who was let through is back.
    pub(super) fn back(&mut self) {
        self.trying = self.trying.saturating_sub(1);
    }

    /// The route has a node (`new`: none that it had before), or has none.
    pub(super) fn follow(&mut self, open: bool, new: bool, now: Instant) {
        if self.road == Road::Ended {
            return;
        }
        if open && (new || self.road == Road::Closed) {
            self.pace.begin(new, now);
        }
        self.road = if open { Road::Open } else { Road::Closed };
    }

    pub(super) fn failed(&mut self, retry_at: Instant) {
        if matches!(self.road, Road::Open | Road::Doubtful(_)) {
            self.road = Road::Doubtful(retry_at);
        }
    }

    pub(super) fn succeeded(&mut self) -> bool {
        let was_doubtful = matches!(self.road, Road::Doubtful(_));
        if was_doubtful {
            self.road = Road::Open;
        }
        was_doubtful
    }

    /// Lets through whoever may go now; says when to look again, if time alone can change the answer.
    pub(super) fn release(&mut self, now: Instant, pause: Duration) -> Option<Instant> {
        let window = match self.road {
            Road::Open => WINDOW,
            Road::Doubtful(retry_at) if retry_at <= now => TRIALS,
            Road::Doubtful(retry_at) => return (!self.waiting.is_empty()).then_some(retry_at),
            Road::Closed | Road::Ended => return None,
        };
        while self.trying < window {
            let first = self.waiting.first_entry()?;
            match self.pace.due(first.get().arrived, now) {
                Some(due) if due > now => return Some(due),
                Some(_) => self.pace.step(now),
                None => {}
            }
            if first.remove().go.send(()).is_ok() {
                self.trying += 1;
            }
        }
        if let Road::Doubtful(retry_at) = &mut self.road {
            *retry_at = now + pause;
            return Some(*retry_at);
        }
        None
    }

    /// Ends every wait.
    pub(super) fn end(&mut self) {
        self.road = Road::Ended;
        self.waiting.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(50);

    struct Line {
        queue: Queue,
        now: Instant,
        turns: BTreeMap<u64, oneshot::Receiver<()>>,
    }

    impl Line {
        fn of(numbers: impl IntoIterator<Item = u64>, rate: u32) -> Self {
            let (mut queue, now) = (Queue::new(Pace::new(rate)), Instant::now());
            let turns = numbers.into_iter().map(|n| (n, queue.join(n, now))).collect();
            Self { queue, now, turns }
        }

        fn release(&mut self) -> (Vec<u64>, Option<Instant>) {
            let again = self.queue.release(self.now, PAUSE);
            let gone: Vec<u64> =
                self.turns.iter_mut().filter_map(|(&n, turn)| turn.try_recv().is_ok().then_some(n)).collect();
            self.turns.retain(|n, _| !gone.contains(n));
            (gone, again)
        }
    }

    #[test]
    fn nobody_goes_while_there_is_no_node() {
        let mut line = Line::of(0..3, 0);
        assert_eq!(line.release(), (vec![], None));
        assert!(!line.queue.pass(line.now));
        line.queue.follow(true, true, line.now);
        assert!(!line.queue.pass(line.now), "nobody overtakes");
        assert_eq!(line.release(), (vec![0, 1, 2], None));
        assert!(line.queue.pass(line.now));
    }

    #[test]
    fn order_is_that_of_arrival_not_of_joining() {
        let mut line = Line::of([5, 9, 2], 1);
        line.queue.follow(true, true, line.now);
        assert_eq!(line.release().0, [2]);
        line.now += Duration::from_secs(1);
        assert_eq!(line.release().0, [5]);
    }

    #[test]
    fn a_window_of_the_queue_goes_at_a_time() {
        let mut line = Line::of(0..300, 0);
        line.queue.follow(true, true, line.now);
        assert_eq!(line.release().0.len(), WINDOW);
        assert_eq!(line.release().0.len(), 0);
        line.queue.back();
        assert_eq!(line.release().0, [256]);
    }

    #[test]
    fn after_a_failure_few_try_until_one_succeeds() {
        let mut line = Line::of(0..300, 0);
        line.queue.follow(true, true, line.now);
        line.queue.failed(line.now + PAUSE);
        assert_eq!(line.release(), (vec![], Some(line.now + PAUSE)));
        assert!(!line.queue.pass(line.now), "a new arrival does not try either");
        line.now += PAUSE;
        assert_eq!(line.release(), (vec![0, 1, 2, 3], Some(line.now + PAUSE)));
        assert!(line.queue.succeeded());
        assert_eq!(line.release().0.len(), WINDOW - TRIALS);
    }

    #[test]
    fn a_failure_does_not_open_a_closed_road() {
        let mut line = Line::of(0..1, 0);
        line.queue.failed(line.now);
        assert_eq!(line.release(), (vec![], None));
        line.queue.follow(true, true, line.now);
        line.queue.failed(line.now + PAUSE);
        line.queue.follow(true, true, line.now);
        assert_eq!(line.release().0, [0], "a new node is not to blame");
    }

    #[test]
    fn arrivals_after_a_paced_herd_are_not_held_back_for_ever() {
        let mut line = Line::of(0..10, 10);
        line.queue.follow(true, true, line.now);
        let switched = line.now;
        let late = switched + Duration::from_secs(6);
        line.turns.extend((10..50).map(|n| (n, line.queue.join(n, late))));
        assert_eq!(line.release().0, [0]);
        for n in 1..9 {
            line.now = switched + Duration::from_millis(100) * n;
            assert_eq!(line.release().0, [u64::from(n)]);
        }
        line.now = switched + Duration::from_secs(7);
        assert_eq!(line.release().0.len(), 41, "the last of the herd, and all who came later");
    }

    #[test]
    fn the_end_ends_every_wait() {
        let mut line = Line::of(0..2, 0);
        line.queue.end();
        assert!(line.turns.get_mut(&0).unwrap().try_recv().is_err());
        line.queue.follow(true, true, line.now);
        assert!(line.queue.ended() && !line.queue.pass(line.now));
        assert!(line.queue.join(3, line.now).try_recv().is_err());
    }
}
