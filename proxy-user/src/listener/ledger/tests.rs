//! A client's place, from its first SYN to its last.

use super::*;

const MOST: u32 = 3;

fn syn(client: u16, sequence: u32) -> Syn {
    let ends = Ends { client: ([10, 0, 0, 1], client).into(), door: ([10, 0, 0, 2], 6379).into() };
    Syn { ends, sequence, ifindex: 2, frame: vec![0; 60] }
}

struct Desk {
    ledger: Ledger,
    now: Instant,
    number: u64,
}

impl Desk {
    fn new() -> Self {
        Self { ledger: Ledger::default(), now: Instant::now(), number: 0 }
    }

    fn arrive(&mut self, syn: Syn) -> Step {
        let ticket = Ticket { number: self.number, arrived: self.now, returns: 0 };
        self.number += 1;
        self.ledger.arrive(syn, self.now, MOST, || ticket)
    }

    fn wait(&mut self, syn: Syn) -> (Ticket, oneshot::Receiver<()>) {
        match self.arrive(syn) {
            Step::Wait(ticket, leaves) => (ticket, leaves),
            other => panic!("{other:?}"),
        }
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

const SECOND: Duration = Duration::from_secs(1);

fn has_left(leaves: &mut oneshot::Receiver<()>) -> bool {
    leaves.try_recv() == Err(oneshot::error::TryRecvError::Closed)
}

#[test]
fn a_syn_that_comes_again_keeps_its_place_and_goes_as_it_came_last() {
    let mut desk = Desk::new();
    let (ticket, mut leaves) = desk.wait(syn(1, 7));
    desk.pass(SECOND);
    let again = Syn { frame: vec![1; 60], ..syn(1, 7) };
    assert!(matches!(desk.arrive(again.clone()), Step::Merged) && !has_left(&mut leaves));
    assert_eq!(desk.ledger.take(&again.ends, ticket, Onward::Node, desk.now), Some(again));
    assert!(has_left(&mut leaves), "nobody waits for it any more");
}

#[test]
fn another_attempt_of_the_same_client_is_last_and_the_first_one_gone() {
    let mut desk = Desk::new();
    let (old, mut leaves) = desk.wait(syn(1, 7));
    desk.wait(syn(2, 7));
    let (new, mut stays) = desk.wait(syn(1, 8));
    assert!(has_left(&mut leaves) && !has_left(&mut stays) && new.number > 1);
    assert_eq!(desk.ledger.take(&syn(1, 7).ends, old, Onward::Node, desk.now), None);
    assert!(desk.ledger.take(&syn(1, 8).ends, new, Onward::Node, desk.now).is_some());
}

#[test]
fn a_reset_frees_the_place_of_the_attempt_that_it_fits() {
    for (number, fits) in [(7, true), (8, true), (6, false), (9, false), (7 + (1 << 31), false)] {
        let mut desk = Desk::new();
        let (_, mut leaves) = desk.wait(syn(1, 7));
        desk.ledger.leave(&syn(1, 7).ends, number);
        assert_eq!(has_left(&mut leaves), fits, "{number}");
    }
}

#[test]
fn one_that_comes_back_has_its_old_place() {
    let mut desk = Desk::new();
    let (ticket, _) = desk.wait(syn(1, 7));
    desk.wait(syn(2, 7));
    desk.ledger.take(&syn(1, 7).ends, ticket, Onward::Node, desk.now);
    desk.pass(SECOND);
    let again = desk.wait(syn(1, 7)).0;
    assert_eq!((again.number, again.arrived), (ticket.number, ticket.arrived), "the way had closed again");
    desk.ledger.take(&syn(1, 7).ends, again, Onward::Node, desk.now);
    desk.pass(MEMORY);
    assert_ne!(desk.wait(syn(1, 7)).0.number, ticket.number, "much later it is another one");
}

/// Else it would go round for ever where the kernel finds nobody and the switch does.
#[test]
fn one_that_comes_back_again_and_again_is_the_listeners() {
    let mut desk = Desk::new();
    for _ in 0..=MOST_RETURNS {
        let (ticket, _) = desk.wait(syn(1, 7));
        assert!(desk.ledger.take(&syn(1, 7).ends, ticket, Onward::Node, desk.now).is_some());
    }
    assert!(matches!(desk.arrive(syn(1, 7)), Step::Listener(_)));
    assert_eq!(desk.ledger.claim(&syn(1, 7).ends, desk.now).map(|ticket| ticket.number), Some(0));
}

#[test]
fn whose_time_is_up_goes_to_the_listener_and_is_known_there() {
    let mut desk = Desk::new();
    let (ticket, _) = desk.wait(syn(1, 7));
    desk.ledger.take(&syn(1, 7).ends, ticket, Onward::Listener, desk.now);
    desk.pass(SECOND);
    assert!(matches!(desk.arrive(syn(1, 7)), Step::Listener(_)), "its answer was lost: to where the first went");
    assert_eq!(desk.ledger.claim(&syn(1, 7).ends, desk.now), Some(ticket));
    assert_eq!(desk.ledger.claim(&syn(1, 7).ends, desk.now), None, "once");
    assert_eq!(desk.ledger.claim(&syn(2, 7).ends, desk.now), None);
}

#[test]
fn one_that_waits_and_comes_to_the_listener_all_the_same_takes_its_ticket_along() {
    let mut desk = Desk::new();
    let (ticket, mut leaves) = desk.wait(syn(1, 7));
    assert_eq!(desk.ledger.claim(&syn(1, 7).ends, desk.now), Some(ticket));
    assert_eq!(leaves.try_recv(), Ok(()), "it has not left");
    assert_eq!(desk.ledger.take(&syn(1, 7).ends, ticket, Onward::Node, desk.now), None, "it is not sent on as well");
}

#[test]
fn no_more_wait_than_may_and_whoever_was_here_keeps_its_ticket() {
    let mut desk = Desk::new();
    let (ticket, _) = desk.wait(syn(1, 7));
    desk.ledger.take(&syn(1, 7).ends, ticket, Onward::Node, desk.now);
    let _waiting: Vec<_> = (2..5).map(|client| desk.wait(syn(client, 7))).collect();
    assert!(matches!(desk.arrive(syn(9, 7)), Step::Listener(_)));
    assert_eq!(desk.ledger.claim(&syn(9, 7).ends, desk.now), None, "it has no ticket yet");
    assert!(matches!(desk.arrive(syn(1, 7)), Step::Listener(_)));
    assert_eq!(desk.ledger.claim(&syn(1, 7).ends, desk.now), Some(ticket));
}

#[test]
fn who_is_silent_for_too_long_has_left() {
    let mut desk = Desk::new();
    let (ticket, _) = desk.wait(syn(1, 7));
    let ends = syn(1, 7).ends;
    let silent = |desk: &Desk| desk.ledger.silent_from(&ends, ticket).unwrap() - desk.now;
    assert_eq!(silent(&desk), PATIENCE);
    for (wait, next) in [(1, 2), (2, 4), (4, 8)] {
        desk.pass(SECOND * wait);
        assert!(matches!(desk.arrive(syn(1, 7)), Step::Merged));
        assert!(silent(&desk) > SECOND * next, "its next one is due in {next} s");
    }
    assert!(desk.ledger.drop_out(&ends, ticket).is_some());
    assert_eq!(desk.ledger.silent_from(&ends, ticket), None);
}

#[test]
fn what_went_is_not_remembered_for_ever() {
    let mut desk = Desk::new();
    for client in 0..1000 {
        let (ticket, _) = desk.wait(syn(client, 7));
        desk.ledger.take(&syn(client, 7).ends, ticket, Onward::Node, desk.now);
        desk.pass(Duration::from_millis(100));
    }
    assert!(desk.ledger.gone.len() <= 20 && desk.ledger.went.len() <= 20);
}
