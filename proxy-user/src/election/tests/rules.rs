//! Rules 1 to 4, 7 and 8 with Sentinels, each by its name. Rule 6 is in `nodes`.

use super::script::{play, rules, with_sentinels};

#[test]
fn starts_closed_and_opens_on_a_proven_majority() {
    with_sentinels(
        "1 1:A@6                 => closed no-majority wake none
         2 A=master              => closed no-majority
         3 2:A@6                 => open A@6 proven wake none",
    );
}

#[test]
fn rule_1_silent_sentinels_weigh_against() {
    play(
        rules(true),
        "0 sentinels=1,2,3,4,5 nodes=A A=master 1:A@6 2:A@6 => closed no-majority
         1 3:- 4:- 5:-            => closed no-majority
         2 3:A@6                  => open A@6 proven",
    );
    play(rules(true), "0 sentinels=1,2 nodes=A A=master 1:A@6 => closed no-majority\n 1 2:A@6 => open A@6 proven");
    play(rules(true), "0 sentinels=1 nodes=A A=master 1:A@6 => open A@6 proven");
    play(rules(true), "0 sentinels= nodes=A A=master 1:A@6 => closed starting");
}

#[test]
fn rule_1_one_vote_each_and_strangers_have_none() {
    with_sentinels(
        "1 A=master 1:A@6 1:A@6 1:A@6 8:A@6 9:A@6 => closed no-majority
         2 sentinels=1,1,1,2,3   => closed no-majority
         3 sentinels=1,2,2,3,3 2:A@6 => open A@6 proven",
    );
}

#[test]
fn rule_1_a_removed_sentinel_has_no_vote_any_more() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6  => open A@6 proven
         2 sentinels=1,3,4       => open A@6 no-majority wake 10002
         3 sentinels=1,2,3       => open A@6 no-majority wake 10002
         4 2:A@6                 => open A@6 proven wake none
         5 sentinels=7,8,9       => open A@6 no-majority wake 10005",
    );
}

#[test]
fn rule_1_the_majority_must_name_one_address() {
    with_sentinels(
        "1 A=master B=master 1:A@6 2:B@6  => closed two-masters
         2 B=replica                      => closed disagreement
         3 3:C@6                          => closed disagreement
         4 3:A@6                          => open A@6 proven",
    );
}

#[test]
fn rule_1_mapped_addresses_are_one() {
    with_sentinels("1 mA=master 1:A@6 2:mA@6 => open A@6 proven\n 2 A=- A=- mA=- => established A@6 probe-lost");
}

#[test]
fn rule_1_a_sentinel_ahead_does_not_move_the_epoch_alone() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 3:A@6 => open A@6 proven
         2 1:A@7                      => open A@6 proven
         3 2:A@7                      => open A@7 proven
         4 3:A@2                      => open A@7 proven",
    );
}

/// A Sentinel that fails the master over is about to name another.
#[test]
fn rule_1_a_doubted_raise_is_no_decision() {
    play(
        rules(true),
        "0 sentinels=1 nodes=A,B A=master 1:A@6 => open A@6 proven
         1 B=master 1:A@7!                      => open A@6 proven
         2 1:B@7                                => open B@7 proven",
    );
}

/// From the promotion on the leader sends clients to the new master, and still flags the old one as down.
#[test]
fn rule_1_the_leaders_word_and_one_more_are_a_majority() {
    play(
        rules(true),
        "0 sentinels=1,2,3 nodes=A,B A=master 1:A@6! 2:A@6! 3:A@6! => open A@6 proven
         1 A=- A=- A=-                                         => established A@6 probe-lost
         2 1:B@7!                                              => established A@6 probe-lost
         3 B=master                                            => closed two-masters
         4 2:B@7                                               => open B@7 proven
         5 1:B@7 3:B@7                                         => open B@7 proven",
    );
}

#[test]
fn rule_1_a_minority_at_a_higher_epoch_holds_up_new_decisions_for_the_grace() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 => open A@6 proven
         2 A=replica            => closed role-lost
         3 3:B@7                => closed disagreement wake 10003
         4 A=master             => closed disagreement wake 10003
         5000 3:C@8             => closed disagreement wake 10003
         10002                  => closed disagreement wake 10003
         10003                  => open A@6 proven wake none",
    );
}

#[test]
fn rule_1_a_bogus_high_epoch_does_not_disturb_an_open_way() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 3:A@6 => open A@6 proven wake none
         2 3:B@999                    => open A@6 proven wake none
         60000                        => open A@6 proven wake none
         60001 A=replica              => closed role-lost
         60002 A=master               => open A@6 proven",
    );
}

/// Epoch 7 exists: its node says so itself. Nothing more for the old one, and the new one once a majority knows.
#[test]
fn rule_1_a_higher_epoch_whose_node_says_master_closes_at_once() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 3:A@6 => open A@6 proven
         2 B=master                   => open A@6 proven
         3 3:B@7                      => closed two-masters wake none
         60000                        => closed two-masters
         60001 2:B@7                  => open B@7 proven",
    );
}

#[test]
fn rule_2_the_candidate_must_say_master_itself() {
    for other in
        ["A=replica", "A=loading", "A=-", "B=master", "A=master A=replica", "A=master A=loading", "A=master A=-"]
    {
        with_sentinels(&format!(
            "1 {other} 1:A@6 2:A@6 3:A@6 => closed unconfirmed wake none
             2 A=master                  => open A@6 proven"
        ));
    }
}

#[test]
fn rule_2_a_node_nobody_lists_is_not_believed() {
    with_sentinels(
        "1 1:D@6 2:D@6 D=master => closed unconfirmed
         2 nodes=A,B,C,D        => closed unconfirmed
         3 D=master             => open D@6 proven
         4 nodes=A,B,C          => established D@6 probe-lost
         5 nodes=A,B,C,D        => established D@6 probe-lost
         6 D=master             => open D@6 proven",
    );
}

#[test]
fn rule_3_never_backwards() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 => open A@6 proven
         2 B=master 1:B@7 2:B@7 => open B@7 proven
         3 A=replica            => open B@7 proven
         4 1:A@6 2:A@6          => open B@7 stale-epoch wake 10004
         5 B=replica A=master   => closed stale-epoch
         6 1:A@6                => closed stale-epoch
         99999                  => closed stale-epoch
         100000 1:A@7 2:A@7     => open A@7 proven",
    );
}

#[test]
fn rule_3_wiped_sentinels_that_still_name_the_master_uphold_it() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 => open A@6 proven
         2 1:A@0 2:A@0 3:A@0    => open A@6 proven wake none
         3 B=master 1:B@5 2:B@5 => closed stale-epoch",
    );
}

#[test]
fn rule_4_no_majority_closes_for_new_ones_after_the_grace() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6  => open A@6 proven
         100 1:-                 => open A@6 no-majority wake 10100
         5000 3:B@6              => open A@6 disagreement wake 10100
         10099                   => open A@6 disagreement wake 10100
         10100                   => established A@6 disagreement wake none
         10101 3:-               => established A@6 no-majority
         90000                   => established A@6 no-majority
         90001 1:A@6             => open A@6 proven
         90002 1:-               => open A@6 no-majority wake 100002",
    );
}

#[test]
fn rule_4_sooner_if_the_master_stops_saying_master() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6  => open A@6 proven
         2 1:-                   => open A@6 no-majority
         3 A=replica             => closed no-majority
         4 A=master              => closed no-majority",
    );
}

#[test]
fn rule_4_sooner_if_a_second_node_says_master() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6  => open A@6 proven
         2 1:-                   => open A@6 no-majority
         3 B=master              => closed two-masters wake none
         4 B=replica             => closed no-majority
         5 1:A@6                 => open A@6 proven",
    );
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 => open A@6 proven
         2 1:- A=- A=- A=-      => established A@6 probe-lost
         3 B=master             => closed no-majority",
    );
}

/// The master and its Sentinel are gone, then the other Sentinels elect. Established connections wait.
#[test]
fn rule_4_a_silent_master_without_majority_keeps_its_connections() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 => open A@6 proven
         2 1:- A=- A=- A=-      => established A@6 probe-lost wake none
         3 A=master             => open A@6 no-majority wake 10002
         10002                  => established A@6 no-majority",
    );
}

#[test]
fn the_majority_deposes_before_its_choice_is_confirmed() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 => open A@6 proven
         2 1:B@7                => open A@6 disagreement
         3 2:B@7                => closed unconfirmed
         4 B=master             => open B@7 proven",
    );
}

/// Both say master for 11 seconds in a planned failover; the majority's higher epoch decides.
#[test]
fn the_old_masters_word_does_not_outweigh_the_majority() {
    with_sentinels(
        "1 A=master B=replica 1:A@6 2:A@6 3:A@6 => open A@6 proven
         200 B=master                           => open A@6 proven
         1100 1:B@7                             => closed two-masters
         1110 2:B@7                             => open B@7 proven
         1120 A=master                          => open B@7 proven
         11000 A=replica 3:B@7                  => open B@7 proven",
    );
}

#[test]
fn rule_7_probe_loss_alone_never_severs() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6 => open A@6 proven
         2 A=-                  => open A@6 proven
         3 A=- A=master A=- A=- => open A@6 proven
         4 A=-                  => established A@6 probe-lost wake none
         90000 A=-              => established A@6 probe-lost
         90001 A=master         => open A@6 proven",
    );
}

#[test]
fn rule_7_role_loss_severs_at_once() {
    for role in ["replica", "loading", "down-link"] {
        with_sentinels(&format!(
            "1 A=master 1:A@6 2:A@6 => open A@6 proven
             2 A={role}             => closed role-lost wake none
             3 A=-                  => closed role-lost
             4 1:B@7 2:B@7          => closed unconfirmed
             5 B=master             => open B@7 proven"
        ));
    }
}

#[test]
fn rule_8_another_server_at_the_address_is_another_generation() {
    with_sentinels(
        "1 A=master#x 1:A@6 2:A@6 => open A@6#x proven
         2 A=master               => open A@6#x proven
         3 A=master#y             => open A@6#y proven
         4 A=replica#z            => closed stranger
         5 A=master#z             => open A@6#z proven",
    );
    with_sentinels(
        "1 A=master#x 1:A@6 2:A@6 => open A@6#x proven
         2 1:-                    => open A@6#x no-majority
         3 A=master#y             => closed no-majority",
    );
}

#[test]
fn rule_8_an_id_seen_later_is_no_stranger_but_the_next_is() {
    with_sentinels(
        "1 A=master 1:A@6 2:A@6   => open A@6 proven
         2 A=master#x A=master    => open A@6 proven
         3 A=- A=- A=- A=-        => established A@6 probe-lost
         4 nodes=B nodes=A,B      => established A@6 probe-lost
         5 1:- A=master#y         => closed no-majority",
    );
}

#[test]
fn a_clock_that_steps_back_neither_stretches_nor_undoes_a_grace() {
    with_sentinels(
        "5000 A=master 1:A@6 2:A@6 => open A@6 proven
         6000 1:-                  => open A@6 no-majority wake 16000
         100                       => open A@6 no-majority wake 16000
         16000                     => established A@6 no-majority wake none
         100                       => established A@6 no-majority wake none",
    );
}
