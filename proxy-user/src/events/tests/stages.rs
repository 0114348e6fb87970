//! What becomes an event, which stages it has, and when.

use super::*;

#[test]
fn the_start_is_an_event_that_ends_with_the_first_master() {
    let scene = Scene::new();
    let event = scene.newest(1);
    assert_eq!((event.cause.as_str(), event.outcome, event.seq), ("start", Outcome::Opened, 1));
    assert_eq!((event.from, event.to), (None, Some(Master::from(&target(1, 7)))));
    let named: Vec<Stage> = event.stages.iter().map(|mark| mark.stage).collect();
    assert_eq!(named, [Stage::Started, Stage::Majority, Stage::Flip]);
}

/// A failover by the book; marks come in the order in which they happen.
#[test]
fn a_planned_failover_has_every_stage_in_order() {
    let mut scene = Scene::new();
    scene.saw(100, sign(2, "+try-failover"));
    scene.timeline.armed(true, scene.at(101));
    scene.saw(162, sign(2, "+selected-slave"));
    drop(scene.follow(163, paused()));
    scene.saw(240, says(2, Role::Master));
    scene.saw(1200, view(2, 2, 8, false));
    scene.saw(1300, view(3, 2, 8, false));
    let aftermath = scene.follow(1301, open(2, 8)).unwrap();
    scene.timeline.armed(false, scene.at(1301));
    assert_eq!(scene.events().len(), 1, "resets are under way");
    aftermath.severed("writes", 3, scene.at(1303), scene.at(1304));
    let other = aftermath.clone();
    drop(aftermath);
    other.severed("more", 2, scene.at(1302), scene.at(1309));
    other.connected("writes", scene.at(1305));
    drop(other);
    let event = scene.newest(2);
    assert_eq!((event.cause.as_str(), event.outcome, event.severed), ("failover", Outcome::Switched, 5));
    assert_eq!(event.from, Some(Master::from(&target(1, 7))));
    assert_eq!(event.to, Some(Master::from(&target(2, 8))));
    let expected = [
        (Stage::FirstSign, 0),
        (Stage::Armed, 1),
        (Stage::Fenced, 63),
        (Stage::RoleChange, 140),
        (Stage::Majority, 1200),
        (Stage::Flip, 1201),
        (Stage::FirstSevered, 1202),
        (Stage::FirstConnection, 1205),
        (Stage::LastSevered, 1209),
    ];
    assert_eq!(stages(&event), expected);
    let who = |stage| event.stages.iter().find(|mark| mark.stage == stage).and_then(|mark| mark.who.clone()).unwrap();
    assert_eq!(who(Stage::FirstSign), "10.0.0.2:26379");
    assert_eq!(who(Stage::Fenced), "10.0.0.2:26379");
    assert_eq!(who(Stage::RoleChange), "10.0.0.2:6379");
    assert_eq!(who(Stage::Majority), "10.0.0.3:26379");
    assert_eq!(who(Stage::Flip), "10.0.0.3:26379", "it was decided on this answer");
    assert_eq!(who(Stage::LastSevered), "more");
    let said: Vec<_> = event.stages.iter().filter(|mark| mark.stage == Stage::Said).collect();
    assert_eq!(said.len(), 3, "an announcement and two votes; the first sign is not said twice");
    assert_eq!(said[0].what.as_deref(), Some("+selected-slave 10.0.0.2:6379 epoch 8"));
}

#[test]
fn a_kill_without_signs_begins_with_the_lost_probes() {
    let mut scene = Scene::new();
    scene.saw(100, Observation::NodeLost(node(1), crate::election::Failure::Unreachable));
    drop(scene.follow(100, verdict(Way::Established, Some(target(1, 7)), Reason::ProbeLost)));
    scene.saw(600, view(1, 1, 7, true));
    scene.saw(1700, view(1, 2, 8, false));
    scene.saw(1710, view(2, 2, 8, false));
    drop(scene.follow(1711, open(2, 8)));
    let event = scene.newest(2);
    assert_eq!((event.cause.as_str(), event.outcome, event.severed), ("probe-lost", Outcome::Switched, 0));
    let expected = [(Stage::Held, 0), (Stage::FirstSign, 500), (Stage::Majority, 1610), (Stage::Flip, 1611)];
    assert_eq!(stages(&event), expected);
    assert_eq!(event.stages[0].who.as_deref(), Some("10.0.0.1:6379"));
}

#[test]
fn an_early_flip_still_learns_of_its_majority_in_its_aftermath() {
    let mut scene = Scene::new();
    scene.saw(100, says(2, Role::Master));
    drop(scene.follow(101, Verdict { reason: Reason::Early, ..open(2, 8) }));
    scene.saw(900, view(1, 2, 8, false));
    assert_eq!(scene.events().len(), 1, "its master is not confirmed yet");
    scene.saw(950, view(2, 2, 8, false));
    drop(scene.follow(950, open(2, 8)));
    let event = scene.newest(2);
    assert_eq!(stages(&event), [(Stage::RoleChange, 0), (Stage::Flip, 1), (Stage::Majority, 850)]);
    scene.saw(990, view(3, 2, 8, false));
    assert!(scene.log.page(None, 9).open.is_empty(), "a late vote is no new event");
}

#[test]
fn an_aborted_failover_is_an_event_in_which_nothing_was_cut() {
    let mut scene = Scene::new();
    scene.sign(10, "+try-failover");
    scene.timeline.armed(true, scene.at(10));
    scene.sign(20, "+selected-slave");
    drop(scene.follow(20, paused()));
    scene.sign(500, "-failover-abort-slave-timeout");
    drop(scene.follow(500, open(1, 7)));
    let event = scene.newest(2);
    assert_eq!((event.cause.as_str(), event.outcome, event.severed), ("failover", Outcome::Aborted, 0));
    let expected = [(Stage::FirstSign, 0), (Stage::Armed, 0), (Stage::Fenced, 10), (Stage::Resumed, 490)];
    assert_eq!(stages(&event), expected);
    let resumed = event.stages.iter().find(|mark| mark.stage == Stage::Resumed).unwrap();
    assert_eq!(resumed.what.as_deref(), Some("-failover-abort-slave-timeout epoch 8"));
    assert_eq!(event.from, event.to);
    scene.sign(600, "-failover-abort-slave-timeout");
    scene.timeline.armed(false, scene.at(5500));
    assert_eq!(scene.events().len(), 2, "there is nothing more to abort");
}

#[test]
fn a_sign_after_which_nothing_comes_ends_with_its_watch() {
    let scene = Scene::new();
    scene.sign(10, "+odown");
    scene.timeline.armed(true, scene.at(10));
    scene.saw(60_000, says(1, Role::Master));
    assert_eq!(scene.events().len(), 1, "it is still armed");
    scene.timeline.armed(false, scene.at(61_000));
    let event = scene.newest(2);
    assert_eq!((event.outcome, stages(&event).len()), (Outcome::Aborted, 2));
}

#[test]
fn a_sign_in_a_stretch_that_was_armed_before_says_so() {
    let mut scene = Scene::new();
    scene.timeline.armed(true, scene.at(5));
    scene.sign(10, "+odown");
    drop(scene.follow(20, open(2, 8)));
    let stages = stages(&scene.newest(2));
    assert_eq!(stages, [(Stage::FirstSign, 0), (Stage::Armed, 0), (Stage::Flip, 10)]);
}

/// The probes are lost while nothing passes anyway.
#[test]
fn a_pause_that_ends_for_the_established_alone_is_held() {
    let mut scene = Scene::new();
    scene.sign(10, "+selected-slave");
    drop(scene.follow(10, paused()));
    drop(scene.follow(300, verdict(Way::Established, Some(target(1, 7)), Reason::ProbeLost)));
    drop(scene.follow(400, open(1, 7)));
    let event = scene.newest(2);
    assert_eq!(event.outcome, Outcome::Aborted);
    let expected = [(Stage::FirstSign, 0), (Stage::Fenced, 0), (Stage::Held, 290), (Stage::Resumed, 390)];
    assert_eq!(stages(&event), expected);
}

#[test]
fn role_loss_a_stranger_and_a_lost_majority_each_tell_their_cause() {
    for (reason, way, outcome) in [
        (Reason::RoleLost, Way::Closed, Outcome::Switched),
        (Reason::Stranger, Way::Closed, Outcome::Switched),
        (Reason::NoMajority, Way::Established, Outcome::Reopened),
        (Reason::NoMajority, Way::Closed, Outcome::Reopened),
    ] {
        let mut scene = Scene::new();
        let master = (way == Way::Established).then(|| target(1, 7));
        let aftermath = scene.follow(50, verdict(way, master, reason)).unwrap();
        aftermath.severed("writes", 4, scene.at(51), scene.at(52));
        drop(aftermath);
        assert_eq!(scene.log.page(None, 9).open.len(), 1, "it goes on until the group is open");
        let next = if outcome == Outcome::Switched { open(2, 8) } else { open(1, 7) };
        drop(scene.follow(500, next));
        let event = scene.newest(2);
        assert_eq!((event.cause.as_str(), event.outcome, event.severed), (reason.word(), outcome, 4));
    }
}

#[test]
fn a_closing_that_time_alone_brought_is_nobodys_word() {
    let mut scene = Scene::new();
    scene.saw(10, says(1, Role::Master));
    scene.timeline.time_passed();
    drop(scene.follow(20, verdict(Way::Closed, None, Reason::NoMajority)));
    assert_eq!(scene.log.page(None, 9).open[0].stages[0].who, None);
}

#[test]
fn what_does_not_concern_the_master_is_no_event() {
    let mut scene = Scene::new();
    scene.saw(10, says(2, replica()));
    scene.saw(20, view(3, 1, 7, false));
    scene.saw(30, view(3, 2, 6, false));
    let lag = Verdict { replicas: Vec::new(), ..open(1, 7) };
    assert!(scene.follow(40, lag).is_none());
    assert!(scene.log.page(None, 9).open.is_empty());
    assert_eq!(scene.events().len(), 1);
}

#[test]
fn signs_that_nothing_follows_are_given_up_but_a_closed_group_is_not() {
    let mut scene = Scene::new();
    scene.saw(10, view(3, 1, 7, true));
    scene.saw(29_000, says(1, Role::Master));
    assert_eq!(scene.events().len(), 1);
    scene.saw(31_000, says(1, Role::Master));
    assert_eq!(scene.newest(2).outcome, Outcome::Aborted);
    drop(scene.follow(32_000, verdict(Way::Closed, None, Reason::NoMajority)));
    scene.saw(90_000, says(1, Role::Master));
    assert_eq!(scene.events().len(), 2, "it is not over");
}

#[test]
fn two_switches_in_a_row_are_two_events_even_while_resets_are_under_way() {
    let mut scene = Scene::new();
    let first = scene.follow(100, open(2, 8)).unwrap();
    let second = scene.follow(200, open(1, 9)).unwrap();
    second.severed("writes", 1, scene.at(201), scene.at(201));
    drop(second);
    first.severed("writes", 2, scene.at(202), scene.at(203));
    drop(first);
    let told: Vec<_> = scene.events().into_iter().map(|event| (event.seq, event.severed)).collect();
    assert_eq!(told, [(1, 0), (2, 1), (3, 2)]);
}

#[test]
fn the_wall_clock_is_that_of_the_first_mark_whenever_it_is_told() {
    let mut scene = Scene::new();
    let now = humantime::parse_rfc3339(&scene.events()[0].at).unwrap();
    drop(scene.follow(60_000, paused()));
    scene.sign(50_000, "+odown");
    drop(scene.follow(70_000, open(1, 7)));
    let event = scene.newest(2);
    let ahead = humantime::parse_rfc3339(&event.at).unwrap().duration_since(now).unwrap();
    assert!(ahead > Duration::from_secs(49) && ahead < Duration::from_secs(51), "{ahead:?}");
    assert_eq!(stages(&event)[1], (Stage::Fenced, 10_000));
}

fn published() -> Sign {
    let Observation::Sign(_, sign) = sign(1, "+odown") else { unreachable!() };
    sign
}

#[test]
fn a_storm_of_words_is_bounded_and_leaves_room_for_stages() {
    let mut scene = Scene::new();
    let long: &str = Box::leak("x".repeat(10_000).into_boxed_str());
    for number in 0..1000 {
        scene.sign(number, "+odown");
        scene.saw(number, Observation::Sign(sentinel(1), Sign { channel: long, ..published() }));
    }
    drop(scene.follow(2000, open(2, 8)));
    let event = scene.newest(2);
    assert!(event.stages.len() <= 64, "{}", event.stages.len());
    assert!(event.offset(Stage::Flip).is_some());
    assert!(serde_json::to_vec(&event).unwrap().len() < 20_000);
}
