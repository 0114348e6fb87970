//! Tables for the denominator and for who is remembered.

use super::*;

fn addr(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

fn a(n: u8) -> SocketAddr {
    addr(&format!("10.0.0.{n}:26379"))
}

fn peer(at: SocketAddr) -> Peer {
    Peer { addr: at, host: None }
}

fn listing(peers: &[u8]) -> Option<Listing> {
    let peers = peers.iter().map(|n| (format!("id{n}"), peer(a(*n)))).collect();
    Some(Listing { peers, nodes: vec![] })
}

fn id(n: u8) -> Option<String> {
    Some(format!("id{n}"))
}

/// `hosts` configured, each resolved to its own 10.0.0.N, or unresolved for None.
fn configured(places: &[Option<u8>], now: Instant) -> Membership {
    let hosts: Vec<HostPort> =
        (0..places.len()).map(|n| HostPort { host: format!("sentinel-{n}"), port: 26379 }).collect();
    let mut members = Membership::new(&hosts);
    for (place, n) in places.iter().enumerate() {
        members.resolved(place, n.iter().map(|n| a(*n)).collect());
    }
    members.refresh(now);
    members
}

fn stand_in_count(members: &Membership) -> usize {
    members.counted().into_iter().filter(|addr| is_stand_in(*addr)).count()
}

#[test]
fn configured_sentinels_count_before_they_answer() {
    let members = configured(&[Some(1), Some(2), Some(3)], Instant::now());
    assert_eq!(members.counted(), [a(1), a(2), a(3)]);
}

#[test]
fn an_unresolved_name_counts_until_its_sentinel_is_known_by_another_address() {
    let now = Instant::now();
    let mut members = configured(&[Some(1), Some(2), None], now);
    assert_eq!((members.counted().len(), stand_in_count(&members)), (3, 1));
    members.answered(a(1), id(1), 3, listing(&[2, 3]));
    members.refresh(now);
    assert_eq!(members.counted(), [a(1), a(2), a(3)]);
}

#[test]
fn one_of_three_configured_does_not_make_a_majority_of_one() {
    let now = Instant::now();
    let mut members = configured(&[Some(1)], now);
    members.answered(a(1), id(1), 3, listing(&[2, 3]));
    members.refresh(now);
    assert_eq!(members.counted(), [a(1), a(2), a(3)]);
}

#[test]
fn a_sentinel_that_may_not_list_the_others_still_tells_their_number() {
    let now = Instant::now();
    let mut members = configured(&[Some(1)], now);
    members.answered(a(1), id(1), 3, None);
    members.refresh(now);
    assert_eq!((members.counted().len(), stand_in_count(&members)), (3, 2));
}

#[test]
fn a_sentinel_dialled_by_one_address_and_announced_by_another_is_one() {
    let now = Instant::now();
    let mut members = configured(&[Some(101), Some(102)], now);
    members.answered(a(101), id(1), 2, listing(&[2]));
    members.refresh(now);
    members.answered(a(102), id(2), 2, listing(&[1]));
    members.refresh(now);
    assert_eq!(members.counted(), [a(101), a(102)]);
    assert_eq!(members.sentinels().len(), 2, "the announced addresses are not dialled too");
    // The configured way breaks: the announced one is tried, and takes its place when it answers.
    members.lost(a(101));
    members.refresh(now);
    members.answered(a(1), id(1), 2, listing(&[2]));
    members.refresh(now);
    assert_eq!(members.counted(), [a(1), a(102)]);
}

#[test]
fn a_silent_alias_does_not_enlarge_the_denominator() {
    let now = Instant::now();
    let mut members = configured(&[Some(1), Some(2), Some(103)], now);
    members.answered(a(1), id(1), 3, listing(&[2, 3]));
    members.answered(a(2), id(2), 3, listing(&[1, 3]));
    members.refresh(now);
    assert_eq!(members.counted(), [a(1), a(2), a(3)], "103 is dead and may well be 3 by another address");
}

#[test]
fn two_names_of_one_sentinel_count_once() {
    let now = Instant::now();
    let mut members = configured(&[Some(1), Some(101)], now);
    members.answered(a(1), id(1), 1, listing(&[]));
    members.answered(a(101), id(1), 1, listing(&[]));
    members.refresh(now);
    assert_eq!(members.counted().len(), 1);
}

#[test]
fn a_dead_sentinel_stays_in_the_denominator_as_long_as_one_lists_it() {
    let start = Instant::now();
    let mut members = configured(&[Some(1)], start);
    members.answered(a(1), id(1), 3, listing(&[2, 3]));
    members.refresh(start);
    let later = start + Duration::from_secs(3600);
    members.refresh(later);
    assert_eq!(members.counted().len(), 3);
    // SENTINEL RESET: nobody lists them any more. They linger, then leave.
    members.answered(a(1), id(1), 1, listing(&[]));
    members.refresh(later + LINGER / 2);
    assert_eq!(members.counted().len(), 3);
    members.refresh(later + LINGER * 2);
    assert_eq!(members.counted(), [a(1)]);
}

#[test]
fn nothing_is_forgotten_while_no_sentinel_answers() {
    let start = Instant::now();
    let mut members = configured(&[Some(1)], start);
    let nodes = vec![peer(addr("10.0.1.1:6379"))];
    let listing = Listing { peers: vec![("id2".into(), peer(a(2)))], nodes };
    members.answered(a(1), id(1), 2, Some(listing));
    members.refresh(start);
    members.lost(a(1));
    members.refresh(start + LINGER * 100);
    assert_eq!(members.counted(), [a(1), a(2)]);
    assert_eq!(members.nodes().len(), 1);
}

#[test]
fn a_restarted_sentinel_with_a_new_id_replaces_itself() {
    let now = Instant::now();
    let mut members = configured(&[Some(1), Some(2)], now);
    members.answered(a(1), id(1), 2, listing(&[2]));
    members.answered(a(2), id(2), 2, listing(&[1]));
    members.refresh(now);
    members.lost(a(2));
    members.refresh(now);
    members.answered(a(2), id(9), 2, listing(&[1]));
    members.refresh(now);
    assert_eq!(members.counted(), [a(1), a(2)]);
}

#[test]
fn each_unresolved_place_has_a_stand_in_of_its_own_that_does_not_move() {
    let mut members = configured(&[None, Some(1), None], Instant::now());
    let first = members.stand_in_of(0).expect("unresolved");
    let third = members.stand_in_of(2).expect("unresolved");
    assert!(is_stand_in(first) && is_stand_in(third) && first != third);
    assert_eq!((members.stand_in_of(1), members.stand_in_of(3)), (None, None));
    members.resolved(0, vec![a(2)]);
    assert_eq!((members.stand_in_of(0), members.stand_in_of(2)), (None, Some(third)));
}

#[test]
fn crowds_are_cut_at_the_bound() {
    let now = Instant::now();
    let mut members = configured(&[Some(1)], now);
    let peers =
        (0..500u16).map(|n| (format!("x{n}"), peer(addr(&format!("10.9.{}.{}:1", n / 200, n % 200))))).collect();
    let nodes = (0..500u16).map(|n| peer(addr(&format!("10.8.{}.{}:1", n / 200, n % 200)))).collect();
    members.answered(a(1), id(1), 501, Some(Listing { peers, nodes }));
    members.refresh(now);
    assert!(members.crowded());
    assert_eq!(members.counted().len(), MOST_SENTINELS);
    assert_eq!(members.nodes().len(), MOST_NODES);
}
