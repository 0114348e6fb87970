//! Rule 5: what a sign may cause, how long, and how a pause ends. Sentinels 1 to 3, A in force at epoch 6.

use std::time::Duration;

use super::script::{play, rules, with_sentinels};
use crate::{
    config::Commit,
    election::{
        Election, Rules,
        arming::{AFTER_ROLE, ARMED, BEFORE_ROLE, DISTRUST, LONGEST_ARMED},
    },
};

const HEALTHY: &str = "1 A=master B=replica C=replica 1:A@6 2:A@6 3:A@6 => open A@6 proven wake none\n";

fn healthy(script: &str) -> Election {
    with_sentinels(&format!("{HEALTHY}{script}"))
}

fn early(script: &str) -> Election {
    let rules = Rules { commit: Commit::Early, ..rules(true) };
    play(rules, &format!("0 sentinels=1,2,3 nodes=A,B,C\n{HEALTHY}{script}"))
}

#[test]
fn the_tables_below_know_the_limits() {
    let limits = [ARMED, LONGEST_ARMED, BEFORE_ROLE, AFTER_ROLE, DISTRUST].map(|limit| limit.as_secs());
    assert_eq!(limits, [5, 30, 1, 5, 30]);
}

#[test]
fn a_planned_failover_is_fenced_before_the_flip_and_released_by_the_majority() {
    healthy(
        "100 1~stirring@7        => open A@6 proven wake 5100
         150 1~chosen:B@7        => paused A@6 failover wake 1150
         151 1~chosen:B@7        => paused A@6 failover wake 1150
         220 B=master            => paused A@6 failover wake 5151
         230 1:A@6! 2:A@6        => paused A@6 failover
         1300 1~promoted:B@7 2:B@7 => closed two-masters
         1301 1:B@7              => open B@7 proven wake none
         1302 1~promoted:B@7 A=master => open B@7 proven wake none",
    );
}

#[test]
fn early_releases_with_the_role() {
    early(
        "100 1~stirring@7        => open A@6 proven
         150 1~chosen:B@7        => paused A@6 failover
         220 B=master            => open B@7 early wake 5220
         230 A=master 1:A@6! 2:A@6 3:A@6 => open B@7 early
         1200 1:B@7              => open B@7 early
         1300 2:B@7              => open B@7 proven wake none
         60000                   => open B@7 proven",
    );
}

#[test]
fn early_believes_only_who_was_named_and_who_turned() {
    // Another node than the named one; a node that was master before the sign; no epoch; an old epoch.
    early("150 1~chosen:B@7 => paused A@6 failover\n 220 C=master => paused A@6 failover wake 5150");
    early("100 B=- C=master => open A@6 proven\n 150 1~chosen:B@7 => paused A@6 failover wake 5150");
    early("150 1~chosen:B@? => open A@6 proven\n 220 B=master => paused A@6 failover");
    early("150 1~chosen:B@6 => open A@6 proven\n 220 B=master => paused A@6 failover");
    // An unknown Sentinel, and a sign about another master.
    early("150 9~chosen:B@7 => open A@6 proven wake none\n 220 B=master => open A@6 proven");
    early("150 1~chosen:B@7/C => open A@6 proven wake none\n 220 B=master => open A@6 proven");
    // A failover that was given up is no failover.
    early("150 1~chosen:B@7 1~aborted@7 => open A@6 proven\n 220 B=master => paused A@6 failover");
    // Nor if it was given up while nobody was in force.
    early(
        "150 1~chosen:B@7 2:B@7 3:B@7 => closed unconfirmed
         200 1~aborted@7 2:- => closed disagreement
         220 B=master => closed two-masters",
    );
    // A majority that has decided otherwise at a newer epoch outranks a sign.
    early("150 1~chosen:B@7 2:C@7 3:C@7 => closed unconfirmed\n 220 B=master => closed unconfirmed");
}

#[test]
fn early_falls_back_when_the_majority_never_comes() {
    // The leader dies before it tells anybody; eight seconds later the others turn B into a replica again.
    early(
        "150 1~chosen:B@7 1:-    => paused A@6 failover
         220 B=master A=master   => open B@7 early wake 5220
         5219                    => open B@7 early
         5220                    => closed two-masters wake none
         8300 A=master           => closed two-masters
         8301 B=replica          => open A@6 proven wake none",
    );
    // B says so earlier.
    early(
        "150 1~chosen:B@7 => paused A@6 failover\n 220 B=master => open B@7 early\n 900 B=replica => open A@6 proven",
    );
    // B dies: nobody is followed on credit for ever.
    early(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master            => open B@7 early
         300 B=- B=- B=-         => established B@7 probe-lost wake 5220
         5220                    => open A@6 proven",
    );
    // It comes late.
    early(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master A=master   => open B@7 early
         5220                    => closed two-masters
         6000 1:B@7 2:B@7        => open B@7 proven",
    );
}

/// A Sentinel that invents an epoch, beside a real failover: no wrong target, and it binds nobody.
#[test]
fn early_a_false_epoch_does_not_outlive_the_majoritys() {
    early(
        "150 1~chosen:B@7 3~chosen:B@999 => paused A@6 failover
         220 B=master            => open B@999 early
         1300 1:B@7 2:B@7        => open B@999 proven
         9000 A=replica 1:A@8 2:A@8 => closed unconfirmed
         9001 A=master           => open A@8 proven",
    );
}

#[test]
fn a_role_change_fences_only_once_armed() {
    healthy("100 B=master => open A@6 proven wake none\n 200 2~stirring@? => paused A@6 failover wake 5200");
    // The events are lost; the poll shows the failover.
    healthy("100 B=master => open A@6 proven\n 200 1:A@6! => paused A@6 failover wake 5200");
    healthy("100 9~stirring@7 9:A@6! => open A@6 proven wake none\n 200 B=master => open A@6 proven");
}

#[test]
fn an_abort_ends_the_pause() {
    healthy(
        "150 1~chosen:B@7 => paused A@6 failover\n 200 1~aborted@7 => open A@6 proven wake 5150\n 5150 => open A@6 proven wake none",
    );
    healthy("150 1~chosen:B@7 => paused A@6 failover\n 200 2~aborted@7 => paused A@6 failover");
}

#[test]
fn the_old_master_reported_again_ends_the_pause() {
    // One calm answer may have been on its way; two were asked for after the sign.
    healthy("150 1~chosen:B@7 1:A@6 => paused A@6 failover\n 160 1:A@6 => open A@6 proven");
    healthy("150 1~chosen:B@7 1:A@6! 1:A@6! => paused A@6 failover");
    healthy("150 1~chosen:B@7 2:A@6 2:A@6 3:A@6 3:A@6 => paused A@6 failover");
}

#[test]
fn a_promised_role_that_never_comes_ends_the_pause_by_time() {
    healthy(
        "150 1~chosen:B@7 => paused A@6 failover wake 1150\n 1149 => paused A@6 failover\n 1150 => open A@6 proven",
    );
    // It comes after all: the group is still armed.
    healthy(
        "150 1~chosen:B@7 => paused A@6 failover\n 1150 => open A@6 proven wake 5150\n 2000 B=master => paused A@6 failover wake 5150",
    );
}

#[test]
fn a_replica_that_takes_long_is_waited_for_while_its_sentinel_says_so() {
    let late = "150 1~chosen:B@7 1:A@6! => paused A@6 failover\n 1150 => open A@6 proven wake 5150\n";
    // Armed for as long as it is asked and says so, and no longer than armed can be.
    healthy(&format!("{late} 5000 1:A@6! => open A@6 proven wake 10000\n 9000 B=master => paused A@6 failover"));
    healthy(&format!("{late} 5000 1:A@6 => open A@6 proven wake 5150\n 9000 B=master => open A@6 proven"));
    healthy(&format!("{late} 5150 => open A@6 proven wake none\n 40000 B=master => paused A@6 failover wake 45000"));
    healthy(&format!("{late} 5150 1:- => open A@6 proven wake none\n 40000 B=master => open A@6 proven"));
}

#[test]
fn a_role_change_that_nobody_confirms_ends_by_time_and_does_not_come_again() {
    healthy(
        "150 1~chosen:B@7        => paused A@6 failover
         200 B=master            => paused A@6 failover
         5199                    => paused A@6 failover
         5200                    => open A@6 proven wake none
         5300 2~stirring@? B=master => open A@6 proven",
    );
    healthy("150 1~stirring@7 B=master => paused A@6 failover\n 900 B=replica => open A@6 proven");
}

#[test]
fn a_sentinel_that_lies_pauses_for_a_second_in_thirty() {
    healthy(
        "100 1~chosen:B@7        => paused A@6 failover
         1100                    => open A@6 proven
         1101 1~chosen:B@8       => open A@6 proven
         31099 1~chosen:B@99     => open A@6 proven
         31101 1~chosen:B@99     => paused A@6 failover
         32101                   => open A@6 proven
         90000 1~chosen:B@99     => open A@6 proven
         90001 2~chosen:B@7      => paused A@6 failover",
    );
    // An abort of its own making is no way around.
    healthy("100 1~chosen:B@7 1~aborted@7 => open A@6 proven\n 200 1~chosen:B@8 => open A@6 proven");
}

#[test]
fn what_comes_late_twice_or_out_of_order_is_bounded_all_the_same() {
    // The abort is heard before what it aborts; then the same again.
    healthy("100 1~aborted@7 1~chosen:B@7 1~chosen:B@7 => paused A@6 failover\n 1100 1~chosen:B@7 => open A@6 proven");
    // A Sentinel that was restored from an old disk, and one that speaks of an epoch that is over.
    healthy("100 1~chosen:B@5 2~promoted:B@6 => open A@6 proven\n 110 1:A@3 1:A@3 => open A@6 proven");
    // Two that each promote another replica.
    healthy("100 1~chosen:B@7 2~chosen:C@8 => paused A@6 failover wake 1100\n 1100 => open A@6 proven");
}

#[test]
fn a_clock_that_jumps_ends_a_pause_sooner_and_never_later() {
    healthy(
        "1000 1~chosen:B@7 => paused A@6 failover wake 2000
         400 2:A@6 => paused A@6 failover wake 2000
         2000 => open A@6 proven",
    );
    healthy("1000 1~chosen:B@7 => paused A@6 failover\n 999000 => open A@6 proven wake none");
}

#[test]
fn a_node_that_flips_its_role_pauses_while_it_says_so() {
    healthy(
        "150 1~chosen:B@7 B=master => paused A@6 failover wake 5150
         160 B=replica => open A@6 proven
         170 B=master => paused A@6 failover
         180 B=loading => open A@6 proven
         190 B=- B=- B=- => open A@6 proven",
    );
}

#[test]
fn arming_has_an_end_whatever_is_heard() {
    let mut election = healthy("");
    let mut armed = Duration::ZERO;
    let start = std::time::Instant::now();
    let stir = |from: u8| {
        let from = ([192, 0, 2, from], 26379).into();
        let sign = crate::election::Sign {
            kind: crate::election::SignKind::Stirring,
            epoch: None,
            master: super::script::node("A"),
            replica: None,
            channel: "+odown",
        };
        crate::election::Observation::Sign(from, sign)
    };
    for second in 0..600 {
        let now = start + Duration::from_secs(second);
        election.observe(stir(1), now);
        armed += Duration::from_secs(u64::from(election.hurry_until().is_some_and(|until| until > now)));
    }
    assert!((250..=350).contains(&armed.as_secs()), "armed for {armed:?} of ten minutes");
}

#[test]
fn a_pause_never_raises_a_way() {
    healthy("150 A=- A=- A=- 1~chosen:B@7 => paused A@6 failover\n 1150 => established A@6 probe-lost");
    healthy(
        "150 1~chosen:B@7 => paused A@6 failover\n 160 A=replica => closed role-lost\n 161 A=master => open A@6 proven",
    );
    healthy(
        "150 1~chosen:B@7 => paused A@6 failover\n 160 A=master#x => paused A@6 failover\n 161 A=master#y => open A@6#y proven",
    );
    with_sentinels("100 1~chosen:B@7 => closed starting\n 200 A=master 1:A@6 2:A@6 => open A@6 proven");
}

#[test]
fn what_was_said_of_the_old_master_does_not_concern_the_new_one() {
    healthy(
        "100 1:B@7 2:B@7 B=master 3~chosen:B@7 => open B@7 proven wake none
         200 3~chosen:B@8        => open B@7 proven wake none
         300 3~chosen:C@7/B      => open B@7 proven
         301 A=replica A=master  => paused B@7 failover",
    );
}

/// Found by reading: each of these opened the group to the old master while its successor stood ready.
#[test]
fn a_fence_outlasts_the_silence_of_who_turned() {
    // B turns and stops answering us; only its own word ends the pause before its time.
    healthy(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master            => paused A@6 failover wake 5150
         300 B=- B=- B=- B=-     => paused A@6 failover
         1300 1:B@7              => paused A@6 failover
         1400 2:B@7              => closed unconfirmed",
    );
    healthy("150 1~chosen:B@7 B=master B=- B=- B=- => paused A@6 failover\n 300 B=replica => open A@6 proven");
    // The role comes in the moment in which the word runs out.
    healthy("150 1~chosen:B@7 => paused A@6 failover wake 1150\n 1150 B=master => paused A@6 failover wake 5150");
}

#[test]
fn a_role_that_only_its_sentinel_can_see_fences_too() {
    healthy(
        "100 B=- B=- B=-         => open A@6 proven
         150 1~chosen:B@7        => paused A@6 failover wake 1150
         1100 1~promoted:B@7     => paused A@6 failover wake 1150
         1150                    => paused A@6 failover
         6099                    => paused A@6 failover
         6100 1~promoted:B@7     => open A@6 proven",
    );
    // After the word has run out, too; and never against the node's own word.
    healthy(
        "100 B=- B=- B=- 1~chosen:B@7 => paused A@6 failover
         1100                    => open A@6 proven
         1200 1~promoted:B@7     => paused A@6 failover
         1300 B=replica          => open A@6 proven",
    );
    healthy(
        "150 1~chosen:B@7 => paused A@6 failover\n 1150 => open A@6 proven\n 1200 1~promoted:B@7 => open A@6 proven",
    );
}

#[test]
fn one_sentinels_abort_does_not_end_anothers_pause() {
    healthy(
        "150 3~chosen:C@99 1~chosen:B@7 => paused A@6 failover
         160 3~aborted@99 3:A@6 3:A@6 => paused A@6 failover wake 1150
         220 B=master            => paused A@6 failover",
    );
}

#[test]
fn a_vote_that_is_missing_does_not_bring_the_deposed_back() {
    // The leader's view closes the group, and then it does not answer for a moment.
    healthy(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master            => paused A@6 failover
         1230 1:B@7              => closed two-masters
         1240 1:-                => closed two-masters wake 5150
         1300 1:B@7 2:B@7        => open B@7 proven",
    );
    // It never comes back: the others' word counts again in time.
    healthy(
        "150 1~chosen:B@7 B=master => paused A@6 failover
         1230 1:B@7              => closed two-masters
         1240 1:-                => closed two-masters
         6229                    => closed two-masters
         6230                    => open A@6 proven",
    );
    // B takes it back.
    healthy(
        "150 1~chosen:B@7 B=master 1:B@7 => closed two-masters\n 160 1:- => closed two-masters\n 170 B=replica => open A@6 proven",
    );
}

#[test]
fn early_follows_no_role_that_is_older_than_the_word() {
    early(
        "100 B=master            => open A@6 proven wake none
         60000 1~chosen:B@7      => paused A@6 failover wake 61000
         61000                   => open A@6 proven",
    );
    // Nor does such a role fence.
    healthy("100 B=master => open A@6 proven\n 60000 2~stirring@? 1:A@6! => open A@6 proven wake 65000");
}

#[test]
fn early_a_majority_ends_the_credit_at_whatever_epoch() {
    // The Sentinels were set up anew after the failover, and count from 0.
    early(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master            => open B@7 early
         300 A=- A=- A=- 1:- 2:- 3:- => open B@7 early
         5220                    => open B@7 no-majority
         9000 2:B@0 3:B@0        => open B@7 proven wake none
         60000                   => open B@7 proven",
    );
    // Nobody else says master: that the majority still names a dead one makes no second.
    early(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master A=- A=- A=- => open B@7 early
         5220                    => open B@7 unconfirmed",
    );
}

#[test]
fn early_a_majority_that_upholds_has_decided_also_when_the_credit_is_long_over() {
    early(
        "150 1~chosen:B@7 => paused A@6 failover
         220 B=master     => open B@7 early wake 5220
         230 A=replica B=- B=- B=- 2:- 3:- => established B@7 probe-lost
         5220             => established B@7 probe-lost
         5300 1:B@7 2:B@7 B=master => open B@7 proven
         6000 1:A@6 2:A@6 A=master B=replica => closed stale-epoch",
    );
}

#[test]
fn early_a_word_that_counts_no_more_is_no_promise() {
    early(
        "100 1~chosen:B@7   => paused A@6 failover
         1100               => open A@6 proven
         5100               => open A@6 proven wake none
         6000 1~chosen:B@7  => open A@6 proven wake none
         60000 B=master     => open A@6 proven",
    );
}

#[test]
fn a_false_epoch_does_not_hide_the_next_failover() {
    early(
        "150 1~chosen:B@7 3~chosen:B@999 B=master => open B@999 early
         1300 1:B@7 2:B@7 3:B@7  => open B@999 proven
         5000 A=replica          => open B@999 proven
         9000 1~chosen:A@8/B     => paused B@999 failover
         9100 A=master           => open A@8 early",
    );
}
