//! Discovery against servers: small fakes that misbehave, and real Redis and Sentinel on loopback.

mod dead;
mod fake;
pub(crate) mod fed;
mod late;
mod leader;
mod real;
mod servers;

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use super::*;
use crate::{
    config::{Access, Commit, HostPort, Secret, Source},
    election::{Failure, NodeReport, Role, SentinelView},
};

pub(crate) fn group(source: Source) -> Group {
    Group {
        name: "mymaster".into(),
        source,
        commit: Commit::Majority,
        quorum_grace: Duration::from_secs(10),
        check: Check { timeout: Duration::from_millis(300), ..Check::default() },
        require_backlog: false,
        node_access: Access::default(),
        sentinel_access: Access::default(),
    }
}

fn local(port: u16) -> HostPort {
    HostPort { host: "127.0.0.1".into(), port }
}

fn addr(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn access(username: Option<&str>, password: &str) -> Access {
    Access {
        username: username.map(str::to_owned),
        password: Some(Secret::new(password.to_owned())),
        ..Access::default()
    }
}

#[derive(Debug, Default)]
struct Counted {
    probes: Mutex<Vec<(SocketAddr, Duration)>>,
    failed: AtomicU32,
}

impl Tally for Arc<Counted> {
    fn probed(&self, node: SocketAddr, took: Duration) {
        self.probes.lock().expect("no panic").push((node, took));
    }

    fn task_failed(&self) {
        self.failed.fetch_add(1, Ordering::Relaxed);
    }
}

/// A discovery under test, with everything it has said so far.
struct Run {
    discovery: Discovery,
    seen: mpsc::Receiver<Seen>,
    stop: CancellationToken,
    counted: Arc<Counted>,
    so_far: Vec<Observation>,
    started: Instant,
}

impl Run {
    fn new(group: &Group) -> Self {
        Self::on(Arc::new(Ground::new(group)), group)
    }

    fn on(ground: Arc<Ground>, group: &Group) -> Self {
        let (out, seen) = mpsc::channel(64);
        let (stop, counted) = (CancellationToken::new(), Arc::new(Counted::default()));
        let discovery = start_on(ground, group, out, Box::new(Arc::clone(&counted)), stop.clone());
        Self { discovery, seen, stop, counted, so_far: Vec::new(), started: Instant::now() }
    }

    /// The first observation that `pick` takes something from, and when it was seen.
    async fn wait<T>(&mut self, what: &str, pick: impl Fn(&Observation) -> Option<T>) -> (T, Instant) {
        let limit = Duration::from_secs(20);
        let found = tokio::time::timeout(limit, async {
            loop {
                let seen = self.seen.recv().await.expect("discovery goes on");
                let picked = pick(&seen.observation);
                self.so_far.push(seen.observation);
                if let Some(picked) = picked {
                    return (picked, seen.at);
                }
            }
        });
        match found.await {
            Ok(found) => found,
            Err(_) => panic!("no {what}; status: {:#?}", self.discovery.status()),
        }
    }

    async fn sentinel_lost(&mut self) -> Failure {
        let pick = |seen: &Observation| match seen {
            Observation::SentinelLost(_, failure) => Some(*failure),
            _ => None,
        };
        self.wait("lost Sentinel", pick).await.0
    }

    async fn node_lost(&mut self) -> Failure {
        let pick = |seen: &Observation| match seen {
            Observation::NodeLost(_, failure) => Some(*failure),
            _ => None,
        };
        self.wait("lost node", pick).await.0
    }

    async fn node(&mut self, at: SocketAddr) -> NodeReport {
        let pick = |seen: &Observation| match seen {
            Observation::Node(addr, report) if *addr == at => Some(report.clone()),
            _ => None,
        };
        self.wait("node's answer", pick).await.0
    }

    async fn view(&mut self, of: SocketAddr, pick: impl Fn(&SentinelView) -> bool) -> Instant {
        let pick = |seen: &Observation| match seen {
            Observation::View(addr, view) if *addr == of && pick(view) => Some(()),
            _ => None,
        };
        self.wait("view", pick).await.1
    }

    /// Ends within a moment, with every task.
    async fn end(self) {
        self.stop.cancel();
        let joined = tokio::time::timeout(Duration::from_secs(2), self.discovery.join()).await;
        joined.expect("ends on stop").expect("without a panic");
        assert_eq!(self.counted.failed.load(Ordering::Relaxed), 0, "a task died");
    }
}
