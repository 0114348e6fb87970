//! Nodes whose names resolve late or never: nobody is the only master before every place was asked.

use super::{servers::redis, *};
use crate::election::{Election, Reason, Rules, Way};

const KNOWN: u16 = 22600;
const LATE: u16 = 22601;

fn named(host: &str, port: u16) -> HostPort {
    HostPort { host: host.to_owned(), port }
}

/// Feeds the election until it says `reason`; it must not open before.
async fn decide(run: &mut Run, election: &mut Election, reason: Reason) {
    while election.verdict().reason != reason {
        let seen = tokio::time::timeout(Duration::from_secs(20), run.seen.recv()).await;
        let Seen { at, observation } = seen.expect("within 20 s").expect("discovery goes on");
        election.observe(observation.clone(), at);
        run.so_far.push(observation);
        let verdict = election.verdict();
        assert!(verdict.way == Way::Closed || verdict.reason == reason, "{verdict:?} after {:#?}", run.so_far);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_masters_do_not_open_although_one_resolves_late() {
    let servers = [redis(KNOWN, "").await, redis(LATE, "bind 127.0.0.1 ::1").await];
    let mut group = group(Source::Nodes(vec![local(KNOWN), named("localhost", LATE)]));
    group.check.timeout = Duration::from_secs(5);
    let ground = Arc::new(Ground::new(&group));
    let stalled = ground.resolver.stall().await;
    let mut run = Run::on(Arc::clone(&ground), &group);
    let mut election = Election::new(Rules::from(&group));
    let resolve = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        drop(stalled);
    };
    tokio::join!(decide(&mut run, &mut election, Reason::TwoMasters), resolve);
    assert_eq!(election.verdict().way, Way::Closed);
    let [known, late] = [KNOWN, LATE]
        .map(|port| run.so_far.iter().position(|seen| matches!(seen, Observation::Node(at, _) if at.port() == port)));
    assert!(known < late, "the known master was asked while the name was looked up: {:?}", run.so_far);
    run.end().await;
    drop(servers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_never_resolves_is_waited_for_once() {
    let server = redis(KNOWN + 2, "").await;
    let group = group(Source::Nodes(vec![local(KNOWN + 2), named("redis.invalid", 6379)]));
    let mut run = Run::new(&group);
    let mut election = Election::new(Rules::from(&group));
    decide(&mut run, &mut election, Reason::Proven).await;
    assert!(run.so_far.iter().any(|seen| matches!(seen, Observation::NodeLost(_, Failure::Unresolved))));
    let status = run.discovery.status();
    assert_eq!(status.nodes.len(), 1, "a stand-in is no node that people see: {:?}", status.nodes);
    let probes = run.counted.probes.lock().expect("no panic").clone();
    assert!(!probes.is_empty() && probes.iter().all(|(node, took)| *node == addr(KNOWN + 2) && !took.is_zero()));
    run.end().await;
    drop(server);
}
