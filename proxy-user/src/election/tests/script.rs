//! The language of the tables. A line is `MS EVENT... => WAY [MASTER@EPOCH] REASON [wake MS]`; the expectation may be
//! left out. Events: `1:A@6` Sentinel 1 names A at epoch 6 (`1:A@6!` and thinks it down), `1:-` is lost; `sentinels=1,2,3`;
//! `1~KIND:B@7/A` Sentinel 1 publishes (stirring, chosen, promoted, aborted) that B replaces A at epoch 7, `@?` unknown; `A=master`, `A=replica`, `A=down-link`, `A=loading` (with `#id`, `+backlog` or `-backlog`), `A=-` a failed probe; `nodes=A,B`.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::{
    config::Commit,
    election::{
        Election, Failure, Inherited, NodeReport, Observation, ReplicaLink, Role, Rules, SentinelView, Sign, SignKind,
        Target, Verdict, Way,
    },
};

pub(super) const GRACE_MS: u64 = 10_000;

pub(crate) fn rules(sentinels: bool) -> Rules {
    Rules {
        sentinels,
        commit: Commit::Majority,
        quorum_grace: Duration::from_millis(GRACE_MS),
        rise: 1,
        fall: 3,
        require_backlog: false,
    }
}

/// Three Sentinels and nodes A, B and C, nothing said yet.
pub(super) fn with_sentinels(script: &str) -> Election {
    play(rules(true), &format!("0 sentinels=1,2,3 nodes=A,B,C => closed starting\n{script}"))
}

/// Nodes A and B, nothing said yet.
pub(super) fn without_sentinels(script: &str) -> Election {
    play(rules(false), &format!("0 nodes=A,B => closed starting\n{script}"))
}

pub(super) fn play(rules: Rules, script: &str) -> Election {
    play_on(Election::new(rules), Instant::now(), script)
}

/// What another daemon proved, and how it stood when that was killed; open for 3 s more.
pub(super) fn take_over(sentinels: bool, master: &str, epoch: u64, found: Way, script: &str) -> Election {
    let start = Instant::now();
    let master = Target { addr: node(master), epoch, id: None };
    let inherited = Inherited { master, found, open_until: start + Duration::from_secs(3), since: start };
    play_on(Election::resume(rules(sentinels), inherited, start), start, script)
}

fn play_on(mut election: Election, start: Instant, script: &str) -> Election {
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (events, expected) = match line.split_once("=>") {
            Some((events, expected)) => (events, Some(expected.trim())),
            None => (line, None),
        };
        let mut words = events.split_whitespace();
        let ms: u64 = words.next().and_then(|word| word.parse().ok()).expect("a line starts with its time");
        let now = start + Duration::from_millis(ms);
        let mut before = election.verdict().clone();
        let mut check = |election: &Election, changed: bool| {
            assert_eq!(changed, before != *election.verdict(), "the answer of observe() or tick() at: {line}");
            before = election.verdict().clone();
        };
        let changed = election.tick(now);
        check(&election, changed);
        for word in words {
            let changed = election.observe(event(word), now);
            check(&election, changed);
        }
        if let Some(expected) = expected {
            let mut said = say(election.verdict());
            if expected.contains(" wake ") {
                let wake = election.deadline().map(|at| at.saturating_duration_since(start).as_millis());
                said.push_str(&wake.map_or(" wake none".into(), |ms| format!(" wake {ms}")));
            }
            assert_eq!(said, expected, "at: {line}");
        }
    }
    election
}

fn event(word: &str) -> Observation {
    if let Some(list) = word.strip_prefix("sentinels=") {
        return Observation::Sentinels(list.split(',').filter(|name| !name.is_empty()).map(sentinel).collect());
    }
    if let Some(list) = word.strip_prefix("nodes=") {
        return Observation::Nodes(list.split(',').filter(|name| !name.is_empty()).map(node).collect());
    }
    if let Some((from, sign)) = word.split_once('~') {
        return Observation::Sign(sentinel(from), self::sign(sign));
    }
    if let Some((from, view)) = word.split_once(':') {
        let from = sentinel(from);
        let Some((master, epoch)) = view.split_once('@') else {
            return Observation::SentinelLost(from, Failure::TimedOut);
        };
        let master_down = epoch.ends_with('!');
        let epoch = epoch.trim_end_matches('!').parse().expect("an epoch");
        return Observation::View(from, SentinelView { master: node(master), epoch, master_down });
    }
    let (from, words) = word.split_once('=').expect("an event");
    if words == "-" {
        return Observation::NodeLost(node(from), Failure::TimedOut);
    }
    Observation::Node(node(from), report(words))
}

/// `KIND[:REPLICA]@EPOCH[/MASTER]`; the master is A if nothing else is said.
fn sign(words: &str) -> Sign {
    let (words, master) = words.split_once('/').unwrap_or((words, "A"));
    let (words, epoch) = words.split_once('@').expect("an epoch, or ?");
    let (kind, replica) = words.split_once(':').map_or((words, None), |(kind, replica)| (kind, Some(node(replica))));
    let kind = match kind {
        "stirring" => SignKind::Stirring,
        "chosen" => SignKind::Chosen,
        "promoted" => SignKind::Promoted,
        "aborted" => SignKind::Aborted,
        other => panic!("no such sign: {other}"),
    };
    Sign { kind, epoch: epoch.parse().ok(), master: node(master), replica, channel: "" }
}

fn report(words: &str) -> NodeReport {
    let (words, id) = words.split_once('#').map_or((words, None), |(words, id)| (words, Some(id.to_owned())));
    let (role, backlog_active) = match words.strip_suffix("+backlog") {
        Some(role) => (role, Some(true)),
        None => words.strip_suffix("-backlog").map_or((words, None), |role| (role, Some(false))),
    };
    let link = |up| ReplicaLink { master: None, stray: false, up, lag_seconds: Some(0), lag_bytes: None };
    let replica = |up| Role::Replica(link(up));
    let role = match role {
        "master" => Role::Master,
        "replica" => replica(true),
        "down-link" => replica(false),
        "stray" => Role::Replica(ReplicaLink { stray: true, ..link(true) }),
        "loading" => Role::Loading,
        other => panic!("no such role: {other}"),
    };
    NodeReport { role, id, backlog_active }
}

fn sentinel(name: &str) -> SocketAddr {
    format!("192.0.2.{name}:26379").parse().expect("a Sentinel's number")
}

/// A is 10.0.0.1 and L is 10.0.0.12, whose text begins with A's; `m` before a letter is the same address mapped into IPv6.
pub(crate) fn node(name: &str) -> SocketAddr {
    if let Some(name) = name.strip_prefix('m') {
        let plain = node(name);
        return format!("[::ffff:{}]:{}", plain.ip(), plain.port()).parse().expect("a mapped address");
    }
    let number = name.bytes().next().expect("a node's letter") - b'A' + 1;
    format!("10.0.0.{number}:6379").parse().expect("an address")
}

fn name(addr: SocketAddr) -> char {
    match addr {
        SocketAddr::V4(v4) => char::from(b'A' + v4.ip().octets()[3] - 1),
        SocketAddr::V6(v6) => panic!("{v6} should have been canonical"),
    }
}

fn say(verdict: &Verdict) -> String {
    let way = match verdict.way {
        Way::Open => "open",
        Way::Established => "established",
        Way::Paused => "paused",
        Way::Closed => "closed",
    };
    let master = verdict.master.as_ref().map_or(String::new(), |master| {
        let id = master.id.as_ref().map_or(String::new(), |id| format!("#{id}"));
        format!(" {}@{}{id}", name(master.addr), master.epoch)
    });
    format!("{way}{master} {}", verdict.reason.word())
}

/// `A sound`, `B keep`, `C drop`: the replicas of the verdict, the lot.
pub(super) fn replicas(election: &Election) -> String {
    let replicas = election.verdict().replicas.iter().map(|replica| {
        let state = match (replica.sound, replica.keep) {
            (true, true) => "sound",
            (false, true) => "keep",
            (false, false) => "drop",
            (true, false) => "impossible",
        };
        format!("{} {state}", name(replica.addr))
    });
    replicas.collect::<Vec<_>>().join(", ")
}
