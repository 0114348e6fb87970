//! Every state of a failover ends by the loop's own timers, to the millisecond, when nobody says anything more.

use super::*;
use crate::election::{
    Reason,
    tests::orders::{ABORTED, B, CHOSEN, MASTER, OWN_ID, TURNED},
};

const LOST: [Step; 2] = [Step::SentinelLost(0), Step::SentinelLost(1)];

#[test]
fn a_word_that_nothing_follows_ends_after_a_second() {
    virtually(async {
        let bench = Bench::healthy(Commit::Majority).await;
        let client = bench.connect().expect("open");
        let before = bench.ordered();
        bench.say(&CHOSEN).await;
        assert_eq!((client.passage(), bench.way(), bench.in_a_hurry()), (Passage::Paused, Way::Paused, true));
        assert!(bench.connect().is_none(), "new ones are parked");
        bench.wait(998).await;
        assert_eq!(client.passage(), Passage::Paused, "at 999 ms");
        bench.wait(2).await;
        assert_eq!((client.passage(), bench.way()), (Passage::Free, Way::Open), "at 1,001 ms");
        assert_eq!(bench.ordered(), (before.0, before.1 + 1), "it goes on, and nobody was severed");
        assert_eq!(bench.connect().expect("open").node, node("A"));
        assert!(bench.in_a_hurry(), "armed for longer than it is fenced");
        // One more tick of the conductor.
        bench.wait(4_000 + 250).await;
        assert!(!bench.in_a_hurry(), "5 s after the last sign");
        bench.end().await;
    });
}

#[test]
fn an_abort_ends_the_fence_at_once_and_severs_nobody() {
    virtually(async {
        let bench = Bench::healthy(Commit::Majority).await;
        let client = bench.connect().expect("open");
        let before = bench.ordered();
        bench.say(&CHOSEN).await;
        bench.wait(200).await;
        assert_eq!(client.passage(), Passage::Paused);
        bench.say(&ABORTED).await;
        assert_eq!((client.passage(), bench.way()), (Passage::Free, Way::Open));
        assert_eq!(bench.ordered(), (before.0, before.1 + 1));
        bench.end().await;
    });
}

#[test]
fn a_change_of_role_that_no_majority_follows_ends_after_five_seconds() {
    virtually(async {
        let bench = Bench::healthy(Commit::Majority).await;
        let client = bench.connect().expect("open");
        bench.say_all(&[CHOSEN, TURNED]).await;
        bench.wait(4_998).await;
        assert_eq!(client.passage(), Passage::Paused, "4,999 ms after the role");
        bench.wait(2).await;
        assert_eq!((client.passage(), bench.way()), (Passage::Free, Way::Open), "the majority still names A");
        bench.end().await;
    });
}

#[test]
fn a_credit_that_no_majority_redeems_ends_after_five_seconds() {
    virtually(async {
        let bench = Bench::healthy(Commit::Early).await;
        let old = bench.connect().expect("open");
        bench.say(&CHOSEN).await;
        assert_eq!(old.passage(), Passage::Paused);
        bench.say(&TURNED).await;
        let new = bench.connect().expect("open");
        assert_eq!((old.passage(), new.node, new.passage()), (Passage::Shut, node("B"), Passage::Free));
        assert_eq!(bench.verdict().reason, Reason::Early);
        bench.wait(4_998).await;
        assert_eq!(new.passage(), Passage::Free, "4,999 ms after it was followed");
        bench.wait(2).await;
        assert_eq!((new.passage(), bench.verdict().reason), (Passage::Shut, Reason::TwoMasters));
        bench.end().await;
    });
}

#[test]
fn a_majority_that_is_lost_keeps_new_clients_for_the_grace_and_the_established_for_good() {
    virtually(async {
        let bench = Bench::healthy(Commit::Majority).await;
        let client = bench.connect().expect("open");
        bench.say_all(&LOST).await;
        // The grace runs from the second loss on.
        bench.wait(9_998).await;
        assert_eq!(bench.way(), Way::Open, "at 9,999 ms");
        bench.wait(2).await;
        assert_eq!((bench.way(), bench.connect().is_none()), (Way::Established, true), "at 10,001 ms");
        bench.wait(3_600_000).await;
        assert_eq!((bench.way(), client.passage()), (Way::Established, Passage::Free));
        bench.say(&Step::View(1, A, EPOCH - 1, false)).await;
        assert_eq!((bench.way(), bench.connect().is_some(), client.passage()), (Way::Open, true, Passage::Free));
        bench.end().await;
    });
}

#[test]
fn a_fence_whose_majority_is_lost_ends_too() {
    virtually(async {
        let bench = Bench::healthy(Commit::Majority).await;
        let client = bench.connect().expect("open");
        bench.say(&CHOSEN).await;
        bench.say_all(&LOST).await;
        assert_eq!(client.passage(), Passage::Paused);
        bench.wait(1_000).await;
        assert_eq!((client.passage(), bench.way()), (Passage::Free, Way::Open), "the grace goes on");
        bench.wait(9_000).await;
        assert_eq!((client.passage(), bench.way()), (Passage::Free, Way::Established));
        bench.end().await;
    });
}

#[test]
fn a_contest_at_the_start_ends_with_the_grace() {
    virtually(async {
        let bench = Bench::new(Commit::Majority);
        bench.settle().await;
        bench.say(&Step::View(2, B, EPOCH, false)).await;
        let mut rest = healthy(A, EPOCH - 1);
        rest.retain(|step| !matches!(step, Step::View(2, ..)));
        bench.say_all(&rest).await;
        // The contest began with the last vote, a millisecond ago.
        bench.wait(9_998).await;
        assert_eq!((bench.way(), bench.verdict().reason), (Way::Closed, Reason::Disagreement), "at 9,999 ms");
        bench.wait(2).await;
        assert_eq!((bench.way(), bench.connect().expect("open").node), (Way::Open, node("A")));
        bench.end().await;
    });
}

#[test]
fn who_was_deposed_comes_back_when_nothing_came_of_its_successor() {
    virtually(async {
        let bench = Bench::healthy(Commit::Majority).await;
        let client = bench.connect().expect("open");
        bench.say_all(&[CHOSEN, TURNED]).await;
        // Two masters and no majority: held, as long as the change of role is fresh. Then those who are left name A once more, B
        // being master.
        bench.say_all(&LOST).await;
        assert_eq!((client.passage(), bench.way()), (Passage::Paused, Way::Paused));
        bench.say_all(&[Step::View(0, A, EPOCH - 1, false), Step::View(1, A, EPOCH - 1, false)]).await;
        bench.say(&Step::Node(0, MASTER, OWN_ID)).await;
        bench.wait(4_980).await;
        assert_eq!((client.passage(), bench.way()), (Passage::Paused, Way::Paused), "within 5 s");
        bench.wait(20).await;
        assert_eq!((bench.way(), bench.connect().expect("open").node), (Way::Open, node("A")));
        assert_eq!(client.passage(), Passage::Shut, "nobody was followed for a moment");
        bench.end().await;
    });
}

#[test]
fn a_discovery_that_ends_closes_the_group() {
    virtually(async {
        let bench = Bench::healthy(Commit::Majority).await;
        let client = bench.connect().expect("open");
        bench.discovery.cancel();
        bench.settle().await;
        assert_eq!((client.passage(), bench.way(), bench.connect().is_none()), (Passage::Shut, Way::Closed, true));
        assert!(bench.running.is_finished());
    });
}
