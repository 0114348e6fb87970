//! A daemon goes on where another was killed: the master's connections live on, new ones for a time only.

use super::script::take_over;
use crate::election::Way;

const NOBODY_KNOWN: &str = "0 sentinels=1,2,3 nodes=A,B,C";

fn with_sentinels(found: Way, script: &str) {
    take_over(true, "A", 6, found, &format!("{NOBODY_KNOWN}\n{script}"));
}

#[test]
fn the_same_master_is_proven_and_nothing_changes() {
    with_sentinels(
        Way::Open,
        "1                    => open A@6 taken-over wake 3000
         2 A=master 1:A@6     => open A@6 taken-over
         3 2:A@6              => open A@6 proven wake none
         9000 3:A@6           => open A@6 proven",
    );
}

#[test]
fn without_a_proof_new_connections_end_with_the_time_they_had() {
    with_sentinels(
        Way::Open,
        "2999                 => open A@6 taken-over
         3000                 => established A@6 taken-over wake none
         60000 A=master       => established A@6 taken-over
         60001 A=- A=- A=-    => established A@6 taken-over
         60002 A=master 1:A@6 => established A@6 taken-over
         60003 2:A@6          => open A@6 proven",
    );
}

#[test]
fn what_was_held_is_not_opened_without_a_proof() {
    with_sentinels(Way::Established, "1 A=master => established A@6 taken-over\n 2 1:A@6 2:A@6 => open A@6 proven");
}

#[test]
fn another_master_is_an_ordinary_switch() {
    with_sentinels(Way::Open, "1 1:B@7 2:B@7 => closed unconfirmed\n 2 B=master => open B@7 proven");
    with_sentinels(
        Way::Open,
        "1 1:B@7 => open A@6 taken-over\n 2 B=master => closed no-majority\n 3 2:B@7 => open B@7 proven wake none",
    );
}

/// The same server in another term of office: it may have been a replica in between.
#[test]
fn another_epoch_is_another_master() {
    with_sentinels(Way::Open, "1 A=master 1:A@8 2:A@8 => open A@8 proven");
}

#[test]
fn an_older_epoch_is_refused() {
    with_sentinels(Way::Open, "1 B=master 1:B@5 2:B@5 => closed stale-epoch");
}

#[test]
fn who_denies_it_is_closed_at_once() {
    with_sentinels(Way::Open, "1 A=replica => closed starting");
    with_sentinels(Way::Open, "1 A=loading => closed starting");
}

#[test]
fn a_second_master_closes_it_where_no_majority_speaks() {
    with_sentinels(Way::Open, "1 A=master B=master => closed starting");
}

/// What the other daemon waited for may be on its way to us.
#[test]
fn a_pause_goes_on_as_long_as_it_could_have() {
    with_sentinels(
        Way::Paused,
        "1 A=master 1:A@6 2:A@6 => paused A@6 taken-over wake 1000
         1000                   => open A@6 proven wake none",
    );
    with_sentinels(
        Way::Paused,
        "1 A=master 1:A@6 2:A@6 B=master => paused A@6 taken-over
         1000                            => paused A@6 taken-over wake 5000
         1100 1:B@7 2:B@7                => open B@7 proven",
    );
}

#[test]
fn a_pause_that_nobody_can_end_ends_the_connections() {
    with_sentinels(
        Way::Paused,
        "1 A=master => paused A@6 taken-over\n 4999 => paused A@6 taken-over\n 5000 => closed no-majority",
    );
}

#[test]
fn a_failover_that_begins_now_pauses_it() {
    with_sentinels(Way::Open, "1 1~chosen:B@7 => paused A@6 failover\n 1200 => open A@6 taken-over");
}

#[test]
fn without_sentinels_every_node_is_asked_first() {
    let script =
        "0 nodes=A,B => open A@0 taken-over\n 1 A=master => open A@0 taken-over\n 2 B=replica => open A@0 proven";
    take_over(false, "A", 0, Way::Open, script);
    take_over(false, "A", 0, Way::Open, "0 nodes=A,B A=master B=master => open A@0 two-masters");
    take_over(false, "A", 0, Way::Open, "0 nodes=A,B A=replica => closed starting\n 1 B=master => open B@0 proven");
}
