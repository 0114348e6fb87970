//! Which replicas are sound, and which keep their connections.

use super::script::{play, replicas, rules, with_sentinels};
use crate::election::Rules;

#[test]
fn soundness_by_rise_fall_and_link() {
    let eager = Rules { rise: 2, fall: 2, ..rules(true) };
    for (script, expected) in [
        ("B=replica", "B keep"),
        ("B=replica B=replica", "B sound"),
        ("B=replica B=- B=replica", "B keep"),
        ("B=replica B=replica B=-", "B sound"),
        ("B=replica B=replica B=- B=replica", "B sound"),
        ("B=replica B=replica B=- B=-", "B keep"),
        ("B=replica B=replica B=- B=- B=replica", "B keep"),
        ("B=replica B=replica B=- B=- B=replica B=replica", "B sound"),
        ("B=replica B=replica B=down-link", "B keep"),
        ("B=replica B=replica B=down-link B=replica", "B keep"),
        ("B=replica B=replica B=loading", "B drop"),
        ("B=replica B=replica B=loading B=- B=-", "B drop"),
        ("B=replica B=replica B=master", "B drop"),
        ("B=-", ""),
        ("B=master", ""),
        ("C=replica", ""),
        ("B=replica nodes=A", ""),
        ("B=replica nodes=A nodes=A,B", ""),
    ] {
        let election = play(eager.clone(), &format!("0 sentinels=1 nodes=A,B {script}"));
        assert_eq!(replicas(&election), expected, "{script}");
    }
}

#[test]
fn who_replicates_from_another_group_takes_nobody_and_keeps_nobody_for_long() {
    let eager = Rules { rise: 2, fall: 2, ..rules(true) };
    for (script, expected) in [
        ("B=stray B=stray B=stray", "B drop"),
        ("B=replica B=replica B=stray", "B keep"),
        ("B=replica B=replica B=stray B=stray", "B drop"),
        ("B=replica B=replica B=stray B=- B=stray", "B drop"),
        ("B=replica B=replica B=stray B=stray B=replica", "B keep"),
        ("B=replica B=replica B=stray B=replica B=replica", "B sound"),
    ] {
        let election = play(eager.clone(), &format!("0 sentinels=1 nodes=A,B {script}"));
        assert_eq!(replicas(&election), expected, "{script}");
    }
}

#[test]
fn a_stranger_is_dropped_once_and_then_proven_anew() {
    for (script, expected) in [
        ("B=replica#x B=replica", "B sound"),
        ("B=replica#x B=replica#y", "B drop"),
        ("B=replica#x B=replica#y B=replica", "B sound"),
        ("B=replica B=replica#x", "B sound"),
        ("B=replica#x B=- B=- B=- B=replica#y", "B drop"),
    ] {
        assert_eq!(replicas(&with_sentinels(&format!("1 {script}"))), expected, "{script}");
    }
}

#[test]
fn the_master_in_force_is_no_replica_and_the_old_one_becomes_one() {
    let mut script = "1 A=master B=replica C=replica 1:A@6 2:A@6 => open A@6 proven".to_owned();
    assert_eq!(replicas(&with_sentinels(&script)), "B sound, C sound");
    script.push_str("\n 2 B=master 1:B@7 2:B@7 => open B@7 proven");
    assert_eq!(replicas(&with_sentinels(&script)), "C sound");
    script.push_str("\n 3 A=replica");
    assert_eq!(replicas(&with_sentinels(&script)), "A sound, C sound");
    script.push_str("\n 4 B=replica");
    assert_eq!(replicas(&with_sentinels(&script)), "A sound, B sound, C sound");
}
