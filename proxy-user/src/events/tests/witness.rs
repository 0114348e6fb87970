//! What observations are worth a mark, as a table.

use super::super::witness::Witness;
use super::*;

/// What is heard of each observation, after a group that follows node 1 in epoch 7 was seen.
fn heard(observations: &[Observation]) -> Vec<(Stage, String, Option<&'static str>, bool)> {
    let master = target(1, 7);
    let mut witness = Witness::default();
    witness.saw(&Observation::Sentinels([1, 2, 3].map(sentinel).into()), Some(&master));
    for from in [1, 2, 3] {
        witness.saw(&view(from, 1, 7, false), Some(&master));
    }
    witness.saw(&says(1, Role::Master), Some(&master));
    witness.saw(&says(2, replica()), Some(&master));
    let heard = observations.iter().flat_map(|it| witness.saw(it, Some(&master)));
    heard.map(|it| (it.stage, it.what, it.cause, it.late)).collect()
}

#[test]
fn a_majority_is_more_than_half_of_the_known_for_one_address_in_one_epoch() {
    let majorities = |observations: &[Observation]| {
        let heard = heard(observations);
        heard.into_iter().filter(|(stage, ..)| *stage == Stage::Majority).map(|(_, what, ..)| what).collect::<Vec<_>>()
    };
    assert_eq!(majorities(&[view(1, 2, 8, false)]), [""; 0]);
    assert_eq!(majorities(&[view(1, 2, 8, false), view(2, 3, 8, false)]), [""; 0], "two addresses");
    assert_eq!(majorities(&[view(1, 2, 8, false), view(2, 2, 9, false)]), [""; 0], "two epochs");
    assert_eq!(majorities(&[view(1, 2, 8, false), view(1, 2, 8, false)]), [""; 0], "one twice");
    let two = [view(1, 2, 8, false), view(2, 2, 8, false), view(3, 2, 8, false)];
    assert_eq!(majorities(&two), ["2 of 3 name 10.0.0.2:6379 in epoch 8"], "once");
    let of_five = Observation::Sentinels([1, 2, 3, 4, 5].map(sentinel).into());
    assert_eq!(majorities(&[of_five, view(1, 2, 8, false), view(2, 2, 8, false)]), [""; 0], "two of five");
    assert_eq!(majorities(&[view(1, 2, 6, false), view(2, 2, 6, false)]), [""; 0], "an older epoch");
}

#[test]
fn signs_are_heard_once_and_only_of_our_master() {
    let sign = |what: &str| (Stage::FirstSign, what.to_owned(), Some("failover"), false);
    assert_eq!(heard(&[view(1, 1, 7, true), view(1, 1, 7, true)]), [sign("thinks the master down")]);
    let named = "names 10.0.0.2:6379 in epoch 8";
    let said = (Stage::Said, named.to_owned(), None, false);
    assert_eq!(heard(&[view(1, 2, 8, false), view(1, 2, 8, true)]), [sign(named), said]);
    assert_eq!(heard(&[view(1, 2, 7, true)]), [], "no newer epoch: it lies or lags");
}

#[test]
fn what_is_published_is_heard_of_our_master_and_from_our_sentinels() {
    let what = "+try-failover epoch 8";
    let both = |what: &str| {
        vec![
            (Stage::FirstSign, what.to_owned(), Some("failover"), false),
            (Stage::Said, what.to_owned(), Some("failover"), false),
        ]
    };
    assert_eq!(heard(&[sign(1, "+try-failover")]), both(what));
    let given_up = "-failover-abort-slave-timeout";
    let said = (Stage::Said, format!("{given_up} epoch 8"), None, false);
    assert_eq!(heard(&[sign(1, given_up)]), [said], "by itself it begins nothing");
    assert_eq!(heard(&[sign(9, "+try-failover")]), [], "no Sentinel of this group");
    assert_eq!(heard(&[view(9, 2, 9, false)]), [], "neither");
    let Observation::Sign(from, of_ours) = sign(1, "+odown") else { unreachable!() };
    assert_eq!(heard(&[Observation::Sign(from, Sign { master: node(3), ..of_ours.clone() })]), [], "another master");
    let mapped = |addr: SocketAddr| match addr.ip() {
        std::net::IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), addr.port()),
        std::net::IpAddr::V6(_) => addr,
    };
    let written_otherwise = Observation::Sign(mapped(from), Sign { master: mapped(of_ours.master), ..of_ours });
    assert_eq!(heard(&[written_otherwise]), both("+odown epoch 8"), "addresses are values");
}

#[test]
fn roles_that_change_are_heard_and_roles_that_are_new_are_not() {
    let change = |what: &str, cause| vec![(Stage::RoleChange, what.to_owned(), Some(cause), false)];
    assert_eq!(heard(&[says(2, Role::Master)]), change("says master, said replica", "failover"));
    assert_eq!(heard(&[says(1, replica())]), change("says replica, said master", "role-lost"));
    assert_eq!(heard(&[says(1, Role::Loading)]), change("says loading, said master", "role-lost"));
    assert_eq!(heard(&[says(3, Role::Master)]), [], "it was never seen before");
    assert_eq!(heard(&[says(2, Role::Loading), says(2, replica())]), [], "a replica that restarts");
    let forgotten = [Observation::Nodes(vec![node(1)]), says(2, Role::Master)];
    assert_eq!(heard(&forgotten), []);
}
