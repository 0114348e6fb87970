//! The page docs/metrics.md and the registry must say the same; series must come and go.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use super::*;
use crate::{
    election::{Reason, Target, Way},
    events::{Event, Mark, Outcome, Stage},
};

const PAGE: &str = include_str!("../../../docs/metrics.md");

/// What the daemon may fill in: discovery's words for failures, the listener's for clients.
const POLLS: [&str; 2] = ["answered", "failed"];
const PROBES: [&str; 8] =
    ["answered", "unreachable", "timed-out", "denied", "protocol", "unknown-group", "unresolved", "tls"];
const REFUSED: [&str; 7] =
    ["not-allowed", "max-connections", "park-full", "park-timeout", "connect-failed", "connect-timeout", "draining"];
const UNPARKED: [&str; 5] = ["served", "timed-out", "left", "full", "drained"];
const ACCEPT_ERRORS: [&str; 4] = ["connection", "files", "memory", "other"];

fn counts<const N: usize>(words: [&'static str; N]) -> Vec<(&'static str, u64)> {
    words.map(|it| (it, 3)).to_vec()
}

struct Fixed(Mutex<Snapshot>);

impl Source for Fixed {
    fn snapshot(&self) -> Snapshot {
        self.0.lock().unwrap().clone()
    }
}

fn node(port: u16) -> NodeSample {
    NodeSample {
        addr: ([10, 0, 0, 1], port).into(),
        role: NodeRole::Master,
        probes: counts(PROBES),
        lag_seconds: Some(1),
        lag_bytes: Some(64),
    }
}

fn snapshot() -> Snapshot {
    let sentinel = SentinelSample {
        addr: "[fd00::1]:26379".parse().unwrap(),
        up: true,
        epoch: Some(7),
        master: Some(([10, 0, 0, 1], 6379).into()),
        polls: counts(POLLS),
        events: 5,
    };
    let group = GroupSample {
        name: Arc::from("mymaster"),
        way: Way::Open,
        reason: Reason::Proven,
        master: Some(Target { addr: ([10, 0, 0, 1], 6379).into(), epoch: 7, id: None }),
        epoch: 7,
        sentinels: vec![sentinel.clone(), sentinel],
        nodes: vec![node(6379), node(6380)],
    };
    let route = RouteSample {
        name: Arc::from("writes"),
        datapath: "copy",
        connections: 4,
        steered: 2,
        bypassed: 1,
        targets: BTreeMap::from([(([10, 0, 0, 1], 6379).into(), 4)]),
        parked: 1,
        to_node: 100,
        to_client: 200,
        accepted: 9,
        refused: counts(REFUSED),
        unparked: counts(UNPARKED),
        accept_errors: counts(ACCEPT_ERRORS),
    };
    Snapshot {
        groups: vec![group],
        routes: vec![route],
        sockmap: Some([9; proxy_ebpf::counter::COUNT as usize]),
        packets: Some([7; proxy_ebpf::nat::packet::COUNT as usize]),
        xdp: Some([5; proxy_ebpf::xdp::fate::COUNT as usize]),
        steering: Some([6; proxy_ebpf::steering::count::COUNT as usize]),
        bypass: Some(BypassSample { counts: [4; proxy_ebpf::bypass::count::COUNT as usize], direct: 2, waiting: 9 }),
    }
}

/// An event with every stage, each a millisecond after the one before it.
fn event(outcome: Outcome) -> Event {
    let mark = |(stage, at): (Stage, u64)| Mark { stage, offset_us: at * 1000, who: None, what: None };
    Event {
        seq: 1,
        group: "mymaster".into(),
        cause: "failover".into(),
        outcome,
        at: String::new(),
        from: None,
        to: None,
        severed: 0,
        // By the book, but that the role changes before the fence: so every step is there.
        stages: [&[(Stage::RoleChange, 0)][..], &Stage::ALL.map(|stage| (stage, stage as u64 + 1))]
            .concat()
            .into_iter()
            .map(mark)
            .collect(),
    }
}

/// Metrics with every series that there can be.
fn full() -> (Metrics, Arc<Fixed>) {
    let metrics = Metrics::new();
    let source = Arc::new(Fixed(Mutex::new(snapshot())));
    let read_from: Arc<dyn Source> = Arc::<Fixed>::clone(&source);
    metrics.read_from(&read_from);
    metrics.route(&Arc::from("writes"));
    metrics.severed(&Arc::from("writes"), 3, Duration::from_millis(2));
    metrics.group(&Arc::from("mymaster"));
    metrics.switched(&Arc::from("mymaster"));
    metrics.task_failed("listener");
    metrics.event(&event(Outcome::Switched));
    for port in [6379, 6380] {
        metrics.node_probed(&Arc::from("mymaster"), ([10, 0, 0, 1], port).into(), Duration::from_micros(300));
    }
    (metrics, source)
}

/// Family name -> (type, label -> values), from the exposition text.
type Families = BTreeMap<String, (String, BTreeMap<String, BTreeSet<String>>)>;

fn parse(text: &str) -> Families {
    let mut families = Families::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            let suffix = match kind {
                "counter" => "_total",
                "info" => "_info",
                _ => "",
            };
            let old = families.insert(format!("{name}{suffix}"), (kind.to_owned(), BTreeMap::new()));
            assert!(old.is_none(), "{name} twice");
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let histogram = ["_bucket", "_sum", "_count"].iter().find_map(|it| name.strip_suffix(it));
            let family = families.get_mut(histogram.unwrap_or(name));
            let (_, seen) = family.unwrap_or_else(|| panic!("{line} has no TYPE"));
            for label in labels.trim_end_matches('}').split("\",").filter(|it| !it.is_empty()) {
                let (key, value) = label.split_once("=\"").unwrap();
                if key != "le" {
                    seen.entry(key.to_owned()).or_default().insert(value.trim_end_matches('"').to_owned());
                }
            }
        }
    }
    families
}

/// The cells of every table row of the page whose first cell is code, without backticks.
fn rows(columns: usize) -> impl Iterator<Item = Vec<String>> {
    PAGE.lines().filter(|it| it.starts_with("| `")).filter_map(move |line| {
        let cells: Vec<_> = line.trim_matches('|').split('|').map(|it| it.trim().replace('`', "")).collect();
        (cells.len() == columns).then_some(cells)
    })
}

/// In a runtime, for its tasks are counted.
#[tokio::test]
async fn the_page_lists_every_metric_with_its_type_and_labels() {
    let (metrics, _source) = full();
    let exposed: BTreeSet<_> = parse(&metrics.encode().unwrap())
        .into_iter()
        .map(|(name, (kind, labels))| (name, kind, labels.into_keys().collect::<Vec<_>>().join(", ")))
        .collect();
    let written: BTreeSet<_> = rows(4)
        .map(|row| {
            let mut labels: Vec<_> = row[2].split(", ").filter(|it| !it.is_empty()).collect();
            labels.sort_unstable();
            (row[0].clone(), row[1].clone(), labels.join(", "))
        })
        .collect();
    assert_eq!(exposed, written);
}

#[test]
fn the_page_lists_every_value_of_the_bounded_labels() {
    let (metrics, _source) = full();
    let families = parse(&metrics.encode().unwrap());
    let mut checked = 0;
    for row in rows(3) {
        let (key, name) = (&row[0], &row[1]);
        let written: BTreeSet<_> = row[2].split(", ").map(str::to_owned).collect();
        let (_, labels) = families.get(name).unwrap_or_else(|| panic!("no metric {name}"));
        assert_eq!(labels[key], written, "{key} of {name}");
        checked += 1;
    }
    assert_eq!(checked, 16, "the table of label values is incomplete");
}

#[test]
fn names_follow_the_conventions() {
    let (metrics, _source) = full();
    let text = metrics.encode().unwrap();
    assert!(text.ends_with("# EOF\n"));
    for (name, (kind, _)) in parse(&text) {
        assert!(name.starts_with("switchmaster_") || name.starts_with("process_"), "{name}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
    }
}

#[test]
fn no_series_is_written_twice() {
    let (metrics, _source) = full();
    let text = metrics.encode().unwrap();
    let series: Vec<_> =
        text.lines().filter(|it| !it.starts_with('#')).map(|it| it.rsplit_once(' ').unwrap().0).collect();
    assert_eq!(series.len(), series.iter().collect::<BTreeSet<_>>().len());
    assert!(text.contains("switchmaster_group_way{group=\"mymaster\"} 2\n"));
    assert!(text.contains("switchmaster_sentinel_view_up{group=\"mymaster\",sentinel=\"[fd00::1]:26379\"} 1\n"));
    assert!(text.contains("switchmaster_accept_errors_total{route=\"writes\",error=\"files\"} 3\n"));
}

#[test]
fn a_node_that_left_leaves_no_series() {
    let (metrics, source) = full();
    assert!(metrics.encode().unwrap().contains("10.0.0.1:6380"));
    source.0.lock().unwrap().groups[0].nodes.pop();
    let text = metrics.encode().unwrap();
    assert!(!text.contains("10.0.0.1:6380"));
    assert!(text.contains("switchmaster_node_probe_seconds_count{group=\"mymaster\",node=\"10.0.0.1:6379\"} 1\n"));
}

#[test]
fn a_route_and_a_group_that_left_leave_no_series() {
    let (metrics, source) = full();
    *source.0.lock().unwrap() = Snapshot::default();
    metrics.forget_route(&Arc::from("writes"));
    metrics.forget_group(&Arc::from("mymaster"));
    let text = metrics.encode().unwrap();
    assert!(!text.contains("writes") && !text.contains("mymaster"), "{text}");
}

#[test]
fn probes_are_bounded_without_a_scraper() {
    let metrics = Metrics::new();
    for port in 0..5000u16 {
        metrics.node_probed(&Arc::from("g"), ([10, 0, 0, 1], port).into(), Duration::ZERO);
    }
    assert_eq!(metrics.0.shared.probed().len(), MAX_PROBED);
}

#[test]
fn the_status_can_read_what_was_counted() {
    let (metrics, _source) = full();
    metrics.severed(&Arc::from("writes"), 5, Duration::ZERO);
    assert_eq!(metrics.severed_total(&Arc::from("writes")), 8);
    assert_eq!(metrics.switches_total(&Arc::from("mymaster")), 1);
    assert_eq!((metrics.severed_total(&Arc::from("x")), metrics.switches_total(&Arc::from("x"))), (0, 0));
}

#[test]
fn only_a_switch_is_a_sample_of_its_stages() {
    let metrics = Metrics::new();
    metrics.group(&Arc::from("mymaster"));
    metrics.event(&event(Outcome::Aborted));
    let text = metrics.encode().unwrap();
    assert!(text.contains("switchmaster_events_total{group=\"mymaster\",outcome=\"aborted\"} 1\n"), "{text}");
    assert!(text.contains("switchmaster_events_total{group=\"mymaster\",outcome=\"switched\"} 0\n"), "{text}");
    assert!(!text.contains("stage="), "{text}");
    let held_up = "switchmaster_switch_step_seconds_count{group=\"mymaster\",step=\"fence-to-resumed\"} 1";
    assert!(text.lines().any(|it| it == held_up), "{text}");
    metrics.event(&event(Outcome::Reopened));
    assert!(metrics.encode().unwrap().lines().any(|it| it == held_up), "{text}");
    metrics.event(&event(Outcome::Switched));
    // The majority came a millisecond before the flip, twice.
    let text = metrics.encode().unwrap();
    for line in [
        "switchmaster_switch_step_seconds_sum{group=\"mymaster\",step=\"majority-to-flip\"} 0.002",
        "switchmaster_switch_step_seconds_count{group=\"mymaster\",step=\"majority-to-flip\"} 2",
        "switchmaster_switch_stage_seconds_sum{group=\"mymaster\",stage=\"flip\"} 0.007",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is missing in\n{text}");
    }
}

#[test]
fn roles_are_known_by_discoverys_words() {
    for role in NodeRole::ALL {
        assert_eq!(NodeRole::from_word(Some(role.word())), role);
    }
    assert_eq!(NodeRole::from_word(None), NodeRole::Unknown);
}

#[test]
fn names_with_quotes_are_escaped() {
    let metrics = Metrics::new();
    metrics.group(&Arc::from("a\"b\\c\nd"));
    assert!(metrics.encode().unwrap().contains(r#"switchmaster_switches_total{group="a\"b\\c\nd"} 0"#));
}
