//! Rule 6, and rules 7 and 8 without Sentinels.

use super::script::{play, rules, without_sentinels};
use crate::election::Rules;

#[test]
fn rule_6_exactly_one_master_once_all_were_asked() {
    without_sentinels("1 A=master => closed starting\n 2 B=replica => open A@0 proven wake none");
    without_sentinels("1 A=master => closed starting\n 2 B=- => open A@0 proven");
    without_sentinels("1 A=replica B=replica => closed no-master\n 2 B=master => open B@0 proven");
    without_sentinels("1 A=- B=- => closed no-master");
    without_sentinels("1 A=loading B=replica => closed no-master");
}

#[test]
fn rule_6_a_node_without_an_address_is_waited_for() {
    // Z stands in for a name that is not looked up yet.
    play(rules(false), "0 nodes=A,Z A=master => closed starting\n 1 nodes=A,B B=master => closed two-masters");
    play(
        rules(false),
        "0 nodes=A,Z A=master => closed starting\n 1 nodes=A,B => closed starting\n 2 B=replica => open A@0 proven",
    );
    play(
        rules(false),
        "0 nodes=A,Z A=master => closed starting\n 1 Z=- => open A@0 proven\n 2 nodes=A,B B=master => open A@0 two-masters",
    );
}

#[test]
fn rule_6_two_masters_at_start_stay_closed() {
    without_sentinels(
        "1 A=master B=master => closed two-masters
         2 B=- B=-           => closed two-masters
         3 B=-               => open A@0 proven",
    );
}

#[test]
fn rule_6_two_masters_stay_with_the_current_one() {
    without_sentinels(
        "1 A=master B=replica => open A@0 proven
         2 B=master           => open A@0 two-masters
         3 A=- A=-            => open A@0 two-masters
         4 A=-                => open B@0 proven
         5 A=master           => open B@0 two-masters
         6 B=replica          => open A@0 proven",
    );
}

#[test]
fn rule_6_two_others_are_no_choice() {
    play(
        rules(false),
        "0 nodes=A,B,C A=master B=replica C=replica => open A@0 proven
         1 B=master C=master                        => open A@0 two-masters
         2 A=- A=- A=-                              => closed two-masters
         3 A=master                                 => closed two-masters
         4 C=replica A=replica                      => open B@0 proven",
    );
}

#[test]
fn rule_6_rise_and_fall() {
    play(
        Rules { rise: 3, fall: 2, ..rules(false) },
        "0 nodes=A,B B=replica
         1 A=master A=master     => closed unconfirmed
         2 A=-                   => closed unconfirmed
         3 A=master A=master     => closed unconfirmed
         4 A=master              => open A@0 proven
         5 A=-                   => open A@0 proven
         6 A=-                   => established A@0 probe-lost
         7 A=master A=master     => established A@0 probe-lost
         8 A=master              => open A@0 proven
         9 A=- A=- B=master      => established A@0 probe-lost
         10 B=master             => established A@0 probe-lost
         11 B=master             => open B@0 proven",
    );
}

#[test]
fn rule_6_a_returning_incumbent_makes_two() {
    play(
        Rules { rise: 2, ..rules(false) },
        "0 nodes=A,B A=master A=master B=replica => open A@0 proven
         1 A=- A=- A=- B=master                  => established A@0 probe-lost
         2 A=master B=master                     => established A@0 probe-lost
         3 A=master                              => open A@0 two-masters",
    );
}

#[test]
fn rule_6_require_backlog() {
    play(
        Rules { require_backlog: true, ..rules(false) },
        "0 nodes=A,B A=master B=master   => closed no-master
         1 A=master-backlog              => closed no-master
         2 A=master+backlog              => open A@0 proven
         3 A=master B=master             => open A@0 proven
         4 A=master-backlog              => open A@0 proven
         5 B=master+backlog              => open A@0 two-masters
         6 A=replica                     => open B@0 proven
         7 B=replica A=master            => closed role-lost",
    );
}

#[test]
fn rule_7_without_sentinels() {
    without_sentinels(
        "1 A=master B=replica => open A@0 proven
         2 A=- A=- A=-        => established A@0 probe-lost wake none
         3 A=master           => open A@0 proven
         4 A=replica          => closed role-lost
         5 A=-                => closed role-lost
         6 B=master           => open B@0 proven
         7 B=loading          => closed role-lost",
    );
}

#[test]
fn rule_8_a_stranger_rises_anew() {
    without_sentinels(
        "1 A=master#x B=replica => open A@0#x proven
         2 A=master#y           => closed stranger
         3 A=master#y           => open A@0#y proven",
    );
    play(
        Rules { rise: 2, ..rules(false) },
        "0 nodes=A,B B=replica A=master#x A=master => open A@0#x proven
         1 A=master#y                              => closed stranger
         2 A=master#y                              => closed stranger
         3 A=master                                => open A@0#y proven",
    );
    play(
        Rules { require_backlog: true, ..rules(false) },
        "0 nodes=A,B B=replica A=master+backlog#x => open A@0#x proven
         1 A=master#y A=master#y                  => closed stranger
         2 A=master+backlog#y                     => open A@0#y proven",
    );
}

#[test]
fn a_node_that_left_the_list_is_forgotten() {
    without_sentinels(
        "1 A=master B=master        => closed two-masters
         2 nodes=A                  => open A@0 proven
         3 nodes=A,B                => open A@0 proven
         4 B=master                 => open A@0 two-masters
         4 nodes=A,B,B,A            => open A@0 two-masters
         5 nodes=B                  => open B@0 proven",
    );
}

#[test]
fn sentinels_have_no_say_without_sentinels() {
    without_sentinels("1 sentinels=1 1:B@9 A=master B=replica => open A@0 proven\n 2 1:- => open A@0 proven");
}
