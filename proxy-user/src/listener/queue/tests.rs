//! The queue, step by step, with time as an argument.

use super::*;

const PAUSE: Duration = Duration::from_millis(50);

struct Hall {
    queue: Queue,
    now: Instant,
    turns: BTreeMap<u64, oneshot::Receiver<()>>,
}

impl Hall {
    fn of(numbers: impl IntoIterator<Item = u64>, rate: u32) -> Self {
        let (mut queue, now) = (Queue::new(Pace::new(rate)), Instant::now());
        let turns = numbers.into_iter().map(|n| (n, queue.join(By::Socket, n, now))).collect();
        Self { queue, now, turns }
    }

    fn release(&mut self) -> (Vec<u64>, Option<Instant>) {
        let again = self.queue.release(self.now, PAUSE);
        let gone: Vec<u64> =
            self.turns.iter_mut().filter_map(|(&n, turn)| turn.try_recv().is_ok().then_some(n)).collect();
        self.turns.retain(|n, _| !gone.contains(n));
        (gone, again)
    }

    fn turn(&self) -> Turn {
        self.queue.turn(self.now)
    }
}

#[test]
fn nobody_goes_while_there_is_no_node() {
    let mut line = Hall::of(0..3, 0);
    assert_eq!(line.release(), (vec![], None));
    assert!(!line.queue.pass(line.now));
    line.queue.follow(true, true, line.now);
    assert!(!line.queue.pass(line.now), "nobody overtakes");
    assert_eq!(line.release(), (vec![0, 1, 2], None));
    assert!(line.queue.pass(line.now));
}

#[test]
fn order_is_that_of_arrival_not_of_joining() {
    let mut line = Hall::of([5, 9, 2], 1);
    line.queue.follow(true, true, line.now);
    assert_eq!(line.release().0, [2]);
    line.now += Duration::from_secs(1);
    assert_eq!(line.release().0, [5]);
}

#[test]
fn a_window_of_the_queue_goes_at_a_time() {
    let mut line = Hall::of(0..300, 0);
    line.queue.follow(true, true, line.now);
    assert_eq!(line.release().0.len(), WINDOW);
    assert_eq!(line.release().0.len(), 0);
    line.queue.back(By::Socket);
    assert_eq!(line.release().0, [256]);
}

#[test]
fn after_a_failure_few_try_until_one_succeeds() {
    let mut line = Hall::of(0..300, 0);
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
    let mut line = Hall::of(0..1, 0);
    line.queue.failed(line.now);
    assert_eq!(line.release(), (vec![], None));
    line.queue.follow(true, true, line.now);
    line.queue.failed(line.now + PAUSE);
    line.queue.follow(true, true, line.now);
    assert_eq!(line.release().0, [0], "a new node is not to blame");
}

#[test]
fn arrivals_after_a_paced_herd_are_not_held_back_for_ever() {
    let mut line = Hall::of(0..10, 10);
    line.queue.follow(true, true, line.now);
    let switched = line.now;
    let late = switched + Duration::from_secs(6);
    line.turns.extend((10..50).map(|n| (n, line.queue.join(By::Socket, n, late))));
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
    let mut line = Hall::of(0..2, 0);
    line.queue.end();
    assert!(line.turns.get_mut(&0).unwrap().try_recv().is_err());
    line.queue.follow(true, true, line.now);
    assert!(line.queue.ended() && !line.queue.pass(line.now));
    assert!(line.queue.join(By::Socket, 3, line.now).try_recv().is_err());
}

#[test]
fn sockets_and_syns_go_in_one_order_and_at_one_rate() {
    let mut line = Hall::of([0, 2, 4], 10);
    line.turns.extend([1, 3, 5].map(|n| (n, line.queue.join(By::Syn, n, line.now))));
    line.queue.follow(true, true, line.now);
    let start = line.now;
    for turn in 0..6 {
        line.now = start + Duration::from_millis(100) * turn;
        assert_eq!(line.release().0, [u64::from(turn)]);
        assert_eq!(line.release().0, Vec::<u64>::new(), "none but at the rate");
    }
}

#[test]
fn each_kind_has_a_window_of_its_own() {
    let mut line = Hall::of(0..300, 0);
    line.turns.extend((300..600).map(|n| (n, line.queue.join(By::Syn, n, line.now))));
    line.queue.follow(true, true, line.now);
    let gone = line.release().0;
    assert_eq!((gone.len(), gone[WINDOW]), (2 * WINDOW, 300), "those who are slow hold up their own kind only");
    line.queue.back(By::Syn);
    assert_eq!(line.release().0, [300 + WINDOW as u64]);
}

#[test]
fn doubt_holds_up_whoever_can_end_it_and_nobody_else() {
    let mut line = Hall::of([0], 0);
    line.turns.insert(1, line.queue.join(By::Syn, 1, line.now));
    line.queue.follow(true, true, line.now);
    line.queue.failed(line.now + PAUSE);
    assert_eq!(line.turn(), Turn::Held);
    assert_eq!(line.release(), (vec![1], Some(line.now + PAUSE)));
    assert_eq!(line.turn(), Turn::Free, "new SYNs do not wait for a socket's luck");
    assert!(!line.queue.pass(line.now), "new sockets do");
}

#[test]
fn syns_are_free_when_nobody_is_before_them() {
    let mut line = Hall::of([], 0);
    assert_eq!(line.turn(), Turn::Held, "nowhere to go");
    line.turns.insert(7, line.queue.join(By::Syn, 7, line.now));
    line.queue.follow(true, true, line.now);
    assert_eq!(line.turn(), Turn::Held, "one waits");
    assert_eq!(line.release().0, [7]);
    assert_eq!(line.turn(), Turn::Free);
    line.queue.follow(false, false, line.now);
    assert_eq!(line.turn(), Turn::Held);
    line.queue.end();
    assert_eq!(line.turn(), Turn::Listener);
}

#[test]
fn a_rate_holds_syns_as_long_as_it_lasts() {
    let mut line = Hall::of([], 10);
    assert_eq!(line.turn(), Turn::Paced, "whoever is led now would not keep it");
    line.queue.follow(true, true, line.now);
    assert_eq!(line.turn(), Turn::Paced);
    line.now += Duration::from_secs(6);
    assert_eq!(line.turn(), Turn::Free);
}
