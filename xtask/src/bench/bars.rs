//! What the project demands of the packet datapaths, of steering and of the bypass: ratios to a peer in the same run, and how much longer a
//! call may take.

use super::{peer::Peer, report::Measured};
use crate::{
    bar::{
        Bar,
        Limit::{self, AtLeast, AtMost},
    },
    sample::Figure::{self, Machine, P50, P99, Rate},
};

struct Rule {
    workload: &'static str,
    figure: Figure,
    to: Peer,
    limit: Limit,
}

const fn rule(workload: &'static str, figure: Figure, to: Peer, limit: Limit) -> Rule {
    Rule { workload, figure, to, limit }
}

const BOUND: [Peer; 2] = [Peer::Tc, Peer::Xdp];
const RULES: [Rule; 12] = [
    rule("get-50", Rate, Peer::Direct, AtLeast(1.0)),
    rule("get-50", Rate, Peer::Nftables, AtLeast(1.0)),
    rule("get-50", Rate, Peer::Haproxy, AtLeast(1.4)),
    rule("get-50", P99, Peer::Direct, AtMost(1.05)),
    rule("get-50", P99, Peer::Haproxy, AtMost(0.45)),
    rule("get-50", Machine, Peer::Direct, AtMost(1.05)),
    rule("pipeline-16", Rate, Peer::Direct, AtLeast(1.0)),
    rule("pipeline-16", Rate, Peer::Haproxy, AtLeast(1.6)),
    rule("pubsub-100", P99, Peer::Direct, AtMost(1.1)),
    rule("pubsub-1000", P99, Peer::Direct, AtMost(1.1)),
    rule("connect", Rate, Peer::Haproxy, AtLeast(1.5)),
    rule("connect", Rate, Peer::Nftables, AtLeast(1.0)),
];

const STEERED: [Rule; 2] =
    [rule("local-steered", Rate, Peer::Direct, AtLeast(0.98)), rule("local-steered", P99, Peer::Direct, AtMost(1.05))];
const BYPASSED: [Rule; 4] = [
    rule("local-bypass", Rate, Peer::Direct, AtLeast(1.15)),
    rule("local-bypass-16", Rate, Peer::Direct, AtLeast(1.15)),
    rule("local-bypass-1", P50, Peer::Direct, AtMost(0.92)),
    rule("local-bypass-pubsub", P99, Peer::Direct, AtMost(0.9)),
];
/// How much longer than a plain connect(2) one that is led may take, in milliseconds.
const LONGER: (&str, f64) = ("local-connect", 0.003);

/// The verdict on each demand of which both sides were measured.
pub(super) fn bars(measured: &Measured) -> Vec<Bar> {
    let each = RULES.iter().flat_map(|rule| BOUND.map(|peer| (rule, peer)));
    let each = each.chain(STEERED.iter().map(|rule| (rule, Peer::Steered)));
    let each = each.chain(BYPASSED.iter().map(|rule| (rule, Peer::Bypassed)));
    each.filter_map(|(rule, peer)| {
        let ratio = measured.ratio(rule.workload, peer, rule.to, rule.figure)?;
        Some(Bar {
            what: format!("{peer}, {}: {}", rule.workload, rule.figure.says()),
            bar: rule.limit.text(&format!(" x {}'s", rule.to)),
            measured: format!("{ratio:.3} x"),
            met: rule.limit.holds(ratio),
        })
    })
    .chain(longer(measured))
    .collect()
}

fn longer(measured: &Measured) -> Option<Bar> {
    let (workload, most) = LONGER;
    let median = |peer| measured.median(workload, peer, P50);
    let more = median(Peer::Steered)? - median(Peer::Direct)?;
    Some(Bar {
        what: format!("{}, {workload}: {} over {}'s", Peer::Steered, P50.says(), Peer::Direct),
        bar: format!("<= {:.0} us", most * 1000.0),
        measured: format!("{:.2} us", more * 1000.0),
        met: more <= most,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::workload;

    #[test]
    fn every_bar_is_about_a_workload_that_there_is() {
        let known = |rule: &Rule| workload::ALL.iter().any(|one| one.name == rule.workload);
        assert!(RULES.iter().chain(&STEERED).chain(&BYPASSED).all(known));
        assert!(workload::ALL.iter().any(|one| one.name == LONGER.0));
    }
}
