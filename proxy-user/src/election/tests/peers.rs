//! What other tools get wrong, by the letters and numbers of the survey: measured counterexamples (A, B, C, D, G)
//! and pain points from their users' threads (5, 7, 8, 9, 11).

use super::script::{play, rules, with_sentinels, without_sentinels};

/// Fails open: with no Sentinel in reach, connections alternate between two masters.
#[test]
fn counterexample_a_two_masters_and_no_sentinel() {
    with_sentinels(
        "1 1:- 2:- 3:- A=master B=master => closed two-masters wake none
         99999 A=master B=master         => closed two-masters",
    );
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 3:A@6    => open A@6 proven
         2 1:- 2:- 3:-                   => open A@6 no-majority wake 10002
         3 B=master                      => closed two-masters",
    );
}

/// Matches text: 10.0.0.1 is found in 10.0.0.12.
#[test]
fn counterexample_b_an_address_is_not_a_prefix() {
    play(
        rules(true),
        "0 sentinels=1,2,3 nodes=A,L A=master 1:L@6 2:L@6 3:L@6 => closed unconfirmed
         1 L=master                                             => open L@6 proven",
    );
}

/// Silent demotion: seconds of mixed traffic, and subscribers that are never closed.
#[test]
fn counterexample_c_silent_demotion() {
    with_sentinels(
        "1 A=master B=replica 1:A@6 2:A@6 3:A@6 => open A@6 proven
         2 A=replica                            => closed role-lost
         3 B=master                             => closed role-lost
         4 1:B@7 2:B@7                          => open B@7 proven",
    );
    without_sentinels(
        "1 A=master B=replica => open A@0 proven
         2 A=replica          => closed role-lost
         3 B=master           => open B@0 proven",
    );
}

/// Assumes every server up at start.
#[test]
fn counterexample_d_nothing_passes_at_start() {
    with_sentinels(
        "1 B=replica C=replica => closed starting
         2 A=master            => closed starting
         3 1:A@6 2:-           => closed no-majority
         4 2:A@6               => open A@6 proven",
    );
    without_sentinels("1 B=replica => closed starting\n 2 A=master => open A@0 proven");
}

/// Planned failover as measured: two masters for 11 s, the leader a second late with its own event.
#[test]
fn counterexample_g_planned_failover() {
    with_sentinels(
        "0 A=master#a B=replica#b 1:A@6 2:A@6 3:A@6 => open A@6#a proven
         100 1:A@6!                      => open A@6#a proven
         150 1~chosen:B@7                => paused A@6#a failover
         200 B=master#b                  => paused A@6#a failover
         1080 1:A@7!                     => paused A@6#a failover
         1100 2:B@7                      => paused A@6#a failover
         1150 3:B@7                      => open B@7#b proven
         2200 1:B@7                      => open B@7#b proven
         5000 A=master#a                 => open B@7#b proven
         11200 A=replica#a               => open B@7#b proven",
    );
}

/// The frozen master wakes up 3 s after the switch and still says master.
#[test]
fn counterexample_g3_a_thawed_master_is_not_followed() {
    with_sentinels(
        "0 A=master 1:A@6 2:A@6 3:A@6    => open A@6 proven
         1500 A=- A=- A=-                => established A@6 probe-lost
         2500 B=replica 1:A@6! 2:A@6! 3:A@6! => established A@6 probe-lost
         2740 B=master                   => paused A@6 failover
         4740 1:B@7                      => paused A@6 failover
         4750 2:B@7 3:B@7                => open B@7 proven
         8000 A=master                   => open B@7 proven
         18000 A=replica                 => open B@7 proven",
    );
}

/// One missed event, stuck until a restart. A poll of any two tells the same.
#[test]
fn pain_5_the_sentinel_that_held_the_subscription_dies_with_the_master() {
    with_sentinels(
        "0 A=master 1:A@6 2:A@6 3:A@6 => open A@6 proven
         1 1:- A=- A=- A=-            => established A@6 probe-lost
         2 B=master                   => established A@6 probe-lost
         3 2:B@7                      => closed disagreement
         4 3:B@7                      => open B@7 proven",
    );
}

/// A restarted old master says master for seconds, or for ever.
#[test]
fn pain_7_a_restarted_old_master_is_not_a_second_target() {
    with_sentinels(
        "0 B=master 1:B@7 2:B@7 3:B@7 => open B@7 proven
         1 A=master#new               => open B@7 proven
         2 1:A@6                      => open B@7 proven
         3 B=- B=- B=-                => established B@7 probe-lost
         4 A=master#new               => established B@7 probe-lost",
    );
    without_sentinels(
        "1 B=master A=-   => open B@0 proven
         2 A=master#empty => open B@0 two-masters",
    );
}

/// Sentinels go on naming a node that demoted itself.
#[test]
fn pain_8_a_named_replica_is_not_followed() {
    with_sentinels(
        "0 A=replica B=replica C=replica 1:A@6 2:A@6 3:A@6 => closed unconfirmed
         50000                                             => closed unconfirmed wake none
         50001 B=master 1:B@7 2:B@7                        => open B@7 proven",
    );
    without_sentinels("0 A=replica B=replica => closed no-master");
}

/// Sentinels answer with the new address before that node is master, or with the old one long after.
#[test]
fn pain_9_answers_that_come_too_early_or_too_late() {
    with_sentinels(
        "0 A=master B=replica 1:A@6 2:A@6 3:A@6 => open A@6 proven
         1 1:B@7 2:B@7                          => closed unconfirmed
         2 B=loading                            => closed unconfirmed
         3 B=master                             => open B@7 proven
         4 A=replica 3:A@6                      => open B@7 proven
         5 1:A@6                                => open B@7 stale-epoch wake 10005",
    );
}

/// An address is given to another Redis.
#[test]
fn pain_11_an_address_used_again_by_a_stranger() {
    with_sentinels(
        "0 A=master#a 1:A@6 2:A@6 3:A@6 => open A@6#a proven
         1 A=- A=- A=-                  => established A@6#a probe-lost
         2 A=replica#other              => closed stranger
         3 1:B@7 2:B@7 B=master         => open B@7 proven",
    );
    without_sentinels(
        "1 A=master#a B=replica   => open A@0#a proven
         2 nodes=B,C C=-          => established A@0#a probe-lost
         3 nodes=A,B              => established A@0#a probe-lost
         4 A=replica#other        => closed stranger
         5 A=master#other         => open A@0#other proven",
    );
}
