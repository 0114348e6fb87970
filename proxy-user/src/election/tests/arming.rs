//! Rule 5: what a sign may cause, how long, and how a pause ends. Sentinels 1 to 3, A in force at epoch 6.

use std::time::Duration;

use super::{early::early, script::with_sentinels};
use crate::election::{
    Election,
    arming::{AFTER_ROLE, ARMED, BEFORE_ROLE, DISTRUST, LONGEST_ARMED},
};

pub(super) const HEALTHY: &str = "1 A=master B=replica C=replica 1:A@6 2:A@6 3:A@6 => open A@6 proven wake none\n";

pub(super) fn healthy(script: &str) -> Election {
    with_sentinels(&format!("{HEALTHY}{script}"))
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
         1300 1~promoted:B@7 2:B@7 => paused A@6 failover wake 5220
         1301 1:B@7              => open B@7 proven wake none
         1302 1~promoted:B@7 A=master => open B@7 proven wake none",
    );
}

/// A Sentinel that invents an epoch, beside a real failover: no wrong target, and it binds nobody.
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
    // Heard before the role, its word for the new one closes the group.
    healthy(&format!("{late} 5150 => open A@6 proven wake none\n 40000 1:B@7 B=master => closed two-masters"));
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
         1400 2:B@7              => paused A@6 failover
         5220                    => closed unconfirmed",
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
    // The leader's view deposes it, and then it does not answer for a moment.
    healthy(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master            => paused A@6 failover
         1230 1:B@7              => paused A@6 failover
         1240 1:-                => paused A@6 failover wake 5150
         1300 1:B@7 2:B@7        => open B@7 proven",
    );
    // It never comes back: the others' word counts again in time.
    healthy(
        "150 1~chosen:B@7 B=master => paused A@6 failover
         1230 1:B@7              => paused A@6 failover
         1240 1:-                => paused A@6 failover
         5149                    => paused A@6 failover
         5150                    => closed two-masters
         6229                    => closed two-masters
         6230                    => open A@6 proven",
    );
    // B takes it back.
    healthy(
        "150 1~chosen:B@7 B=master 1:B@7 => paused A@6 failover\n 160 1:- => paused A@6 failover\n 170 B=replica => open A@6 proven",
    );
}

/// It was to be followed no more: that those who named its successor cannot be heard any more, nor the successor, is no word
/// for it.
#[test]
fn who_is_held_is_not_brought_back_by_silence() {
    healthy(
        "150 1~chosen:B@7        => paused A@6 failover
         220 B=master            => paused A@6 failover
         300 B=- B=- B=-         => paused A@6 failover
         1300 1:B@7 2:B@7        => paused A@6 failover
         2000 1:- 2:-            => paused A@6 failover
         5219                    => paused A@6 failover
         5220                    => closed no-majority
         12100                   => closed no-majority",
    );
    healthy(
        "150 1~chosen:B@7 B=master => paused A@6 failover
         300 3:- 1:B@7           => paused A@6 failover
         400 B=- B=- B=-         => paused A@6 failover
         5150                    => closed disagreement",
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
