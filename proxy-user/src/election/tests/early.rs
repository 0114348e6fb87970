//! Rule 5 with `commit = "early"`: whom a Sentinel's word is enough to follow, for how long, and what it binds. Sentinels
//! 1 to 3, A in force at epoch 6.

use super::{
    arming::{HEALTHY, healthy},
    script::{play, rules},
};
use crate::{
    config::Commit,
    election::{Election, Rules},
};

pub(super) fn early(script: &str) -> Election {
    let rules = Rules { commit: Commit::Early, ..rules(true) };
    play(rules, &format!("0 sentinels=1,2,3 nodes=A,B,C\n{HEALTHY}{script}"))
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
