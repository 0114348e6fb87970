//! What each drill demands of our side. A round that failed misses everything.

use super::{
    figures::{Figure, Figures, show},
    name::{Commit, Drill},
};
use crate::{
    bar::{Bar, Limit},
    series::Series,
};

/// The daemon's defaults, which the drills leave alone.
const FAST_INTERVAL_MS: f64 = 100.0;
const POLL_INTERVAL_MS: f64 = 1000.0;
/// What an allocator keeps, and no more.
const MEMORY_KIB: f64 = 4096.0;

/// Of all rounds.
#[derive(Debug, Clone, Copy)]
enum Of {
    Median,
    Worst,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    figure: Figure,
    of: Of,
    most: f64,
}

const fn worst(figure: Figure, most: f64) -> Rule {
    Rule { figure, of: Of::Worst, most }
}

const fn median(figure: Figure, most: f64) -> Rule {
    Rule { figure, of: Of::Median, most }
}

fn rules(drill: Drill, commit: Commit) -> Vec<Rule> {
    let early = commit == Commit::Early;
    let none = |figures: &[Figure]| figures.iter().map(|figure| worst(*figure, 0.0)).collect::<Vec<_>>();
    match drill {
        Drill::Planned => {
            let mut rules = none(&[Figure::AckedThenLost, Figure::PublishedThenLost, Figure::Refused]);
            let (gap, release) = if early { (300.0, Figure::RoleToGood) } else { (1500.0, Figure::MajorityToGood) };
            rules.extend([median(Figure::Gap, gap), median(release, 10.0), worst(release, 30.0)]);
            rules
        }
        Drill::Crowd => {
            let mut rules =
                none(&[Figure::AckedThenLost, Figure::PublishedThenLost, Figure::Refused, Figure::NeverSevered]);
            rules.push(worst(Figure::SeverP99, 20.0));
            rules
        }
        Drill::Kill | Drill::Freeze => {
            let mut rules = none(&[Figure::OldAcks]);
            rules.extend(early.then_some(median(Figure::RoleToGood, 10.0)));
            rules
        }
        Drill::Demote | Drill::Partition => {
            let mut rules = none(&[Figure::AcksAfterFence]);
            rules.push(worst(Figure::FenceAfterRole, FAST_INTERVAL_MS + 10.0));
            rules
        }
        Drill::NoMajority => none(&[Figure::Bytes, Figure::Landed, Figure::Wrong]),
        Drill::Start => none(&[Figure::Wrong]),
        Drill::SentinelLoss => {
            let mut rules = none(&[Figure::Wrong]);
            rules.push(worst(Figure::MajorityToGood, POLL_INTERVAL_MS + 50.0));
            rules
        }
        Drill::Flap => {
            let mut rules = none(&[Figure::AckedThenLost, Figure::PublishedThenLost, Figure::OldAcks]);
            rules.extend(none(&[Figure::OldPublishes, Figure::Wrong, Figure::Refused, Figure::NeverSevered]));
            rules.extend(none(&[Figure::Files, Figure::Threads, Figure::Tasks]));
            rules.push(worst(Figure::Memory, MEMORY_KIB));
            rules
        }
    }
}

/// One for each demand; `rounds` are ours in this commit mode.
pub(super) fn bars(drill: Drill, commit: Commit, rounds: &[&Figures], failed: usize) -> Vec<Bar> {
    let name = format!("{}, {}", drill.word(), commit.word());
    let mut bars: Vec<Bar> = rules(drill, commit).into_iter().map(|rule| bar(&name, rule, rounds)).collect();
    if failed > 0 {
        bars.push(Bar {
            what: format!("{name}: rounds that could not be played"),
            bar: "<= 0".to_owned(),
            measured: failed.to_string(),
            met: false,
        });
    }
    bars
}

fn bar(name: &str, rule: Rule, rounds: &[&Figures]) -> Bar {
    // A figure that one round lacks has not been shown to be good: it counts as never.
    let series: Series = rounds.iter().map(|figures| figures.get(rule.figure).unwrap_or(f64::INFINITY)).collect();
    let (word, value) = match rule.of {
        Of::Median => ("median", series.median()),
        Of::Worst => ("worst", series.most()),
    };
    let limit = Limit::AtMost(rule.most);
    let unit = if rule.figure.unit().is_empty() { String::new() } else { format!(" {}", rule.figure.unit()) };
    Bar {
        what: format!("{name}: {}, {word}", rule.figure.says()),
        bar: limit.text(&unit),
        measured: value.map_or_else(|| "nothing".to_owned(), |value| show(rule.figure, value)),
        met: value.is_some_and(|value| limit.holds(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(pairs: &[(Figure, f64)]) -> Figures {
        let mut figures = Figures::default();
        pairs.iter().for_each(|(figure, value)| figures.set(*figure, *value));
        figures
    }

    #[test]
    fn one_lost_write_in_one_round_misses_the_bar() {
        let (good, bad) = (figures(&[(Figure::OldAcks, 0.0)]), figures(&[(Figure::OldAcks, 1.0)]));
        assert!(bars(Drill::Kill, Commit::Majority, &[&good, &good], 0).iter().all(|bar| bar.met));
        assert!(!bars(Drill::Kill, Commit::Majority, &[&good, &bad, &good], 0)[0].met);
    }

    #[test]
    fn what_was_not_measured_is_not_met() {
        let nothing = Figures::default();
        assert!(bars(Drill::Planned, Commit::Early, &[&nothing], 0).iter().all(|bar| !bar.met));
        assert!(bars(Drill::Start, Commit::Majority, &[], 0).iter().all(|bar| !bar.met));
        let good = figures(&[(Figure::Wrong, 0.0)]);
        assert!(!bars(Drill::Start, Commit::Majority, &[&good], 1).iter().all(|bar| bar.met));
    }

    #[test]
    fn the_commit_mode_decides_what_is_timed() {
        let slow = figures(&[(Figure::RoleToGood, 5.0), (Figure::MajorityToGood, 900.0)]);
        let timed = |commit| bars(Drill::Planned, commit, &[&slow], 0).iter().filter(|bar| bar.met).count();
        assert_eq!((timed(Commit::Early), timed(Commit::Majority)), (2, 0));
    }
}
