//! The loop of one group in virtual time: the real conductor, election, switch and gates, with nobody to ask and
//! timers that fire as soon as all is quiet. The runtime has no I/O: whoever dials fails the test.

mod limits;
mod orders;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use proxy_ebpf::TargetKey;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};
use tokio_util::sync::CancellationToken;

use super::{super::house::RouteState, *};
use crate::{
    admin::Readiness,
    config::{self, Commit, Fallback, HostPort, Source, TargetRole},
    datapath::{Connection, Datapath, Sever},
    discovery::{
        self,
        tests::fed::{self, Feed},
    },
    election::tests::{
        orders::{A, EPOCH, healthy},
        script::node,
        walk::Step,
    },
    events::Log,
    switch::{Switch, tests::route},
    target::{Lease, Passage, Slots},
};

/// What the loop orders besides the gates. It has no connections, so every order is carried out at once.
#[derive(Debug, Default)]
struct Ordered {
    severs: AtomicU32,
    resumes: AtomicU32,
}

impl Datapath for Ordered {
    fn name(&self) -> &'static str {
        "ordered"
    }
    fn adopt(&self, _: Connection) {}
    fn sever(&self, _: &Sever) {
        self.severs.fetch_add(1, Ordering::Relaxed);
    }
    fn resume(&self, _: TargetKey) {
        self.resumes.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    house: Arc<House>,
    feed: Feed,
    slots: watch::Receiver<Slots>,
    ordered: Arc<Ordered>,
    discovery: CancellationToken,
    stop: CancellationToken,
    running: JoinHandle<()>,
}

impl Bench {
    /// Nothing was said yet.
    fn new(commit: Commit) -> Self {
        let group = group(commit);
        let (metrics, readiness, discovery, stop) =
            (Metrics::new(), Readiness::default(), CancellationToken::new(), CancellationToken::new());
        let (out, seen) = mpsc::channel(16);
        let (asked, feed) = fed::start(&group, &["A", "B", "C"].map(node), out, discovery.clone());
        let events = Log::in_memory(Arc::new(metrics.clone()));
        let latch = readiness.latch("a master");
        let ordered = Arc::new(Ordered::default());
        let (mut switch, config) = (Switch::new(None), route(TargetRole::Master, Fallback::None));
        let slots = switch.add(config.clone(), Arc::<Ordered>::clone(&ordered));
        let house = Arc::new(House {
            started: Instant::now(),
            groups: vec![GroupState::new(Arc::clone(&group.name), asked, events.timeline(Arc::clone(&group.name)))],
            routes: vec![route_state(config)],
            metrics,
            readiness,
            events,
            sockmap: None,
            tc: None,
            pins: None,
            xdp: None,
            steering: Err(String::new()),
            bypass: Err(String::new()),
            switch: Mutex::new(switch),
        });
        let start = Start::new(Rules::from(&group), seen, latch, None);
        let running = tokio::spawn(run(Arc::clone(&house), 0, start, stop.clone()));
        Self { house, feed, slots, ordered, discovery, stop, running }
    }

    /// A is master at the epoch before that of the failover to come.
    async fn healthy(commit: Commit) -> Self {
        let bench = Self::new(commit);
        bench.settle().await;
        assert_eq!((bench.way(), bench.slots.borrow().len()), (Way::Closed, 0), "closed until somebody is proven");
        bench.say_all(&healthy(A, EPOCH - 1)).await;
        assert!(bench.way() == Way::Open && bench.house.readiness.is_ready(), "a start");
        bench
    }

    /// One thing is said, or time passes; then until nobody has anything to do any more.
    async fn say(&self, step: &Step) {
        match step {
            Step::Wait(ms) => sleep(Duration::from_millis((*ms).into())).await,
            step => {
                self.feed.say(step.observation().expect("something that is said")).await;
                self.settle().await;
            }
        }
    }

    async fn say_all(&self, steps: &[Step]) {
        for step in steps {
            self.say(step).await;
        }
    }

    /// Paused time moves on when all tasks wait.
    async fn settle(&self) {
        sleep(Duration::from_millis(1)).await;
    }

    async fn wait(&self, ms: u64) {
        sleep(Duration::from_millis(ms)).await;
    }

    fn verdict(&self) -> Verdict {
        self.house.groups[0].standing().verdict
    }

    fn way(&self) -> Way {
        self.verdict().way
    }

    /// As the listener makes a connection: where to, and the lease that its bytes need.
    fn connect(&self) -> Option<Client> {
        self.slots.borrow().first().map(|slot| Client { node: slot.addr, lease: slot.lease() })
    }

    fn in_a_hurry(&self) -> bool {
        self.house.groups[0].discovery.status().pace == "hurry"
    }

    fn ordered(&self) -> (u32, u32) {
        (self.ordered.severs.load(Ordering::Relaxed), self.ordered.resumes.load(Ordering::Relaxed))
    }

    /// No task died: nothing was dialled.
    async fn end(self) {
        assert_eq!(self.house.groups[0].discovery.status().failed_tasks, 0);
        self.stop.cancel();
        self.discovery.cancel();
        self.running.await.expect("without a panic");
    }
}

struct Client {
    node: SocketAddr,
    lease: Lease,
}

impl Client {
    fn passage(&self) -> Passage {
        self.lease.passage()
    }
}

fn group(commit: Commit) -> config::Group {
    let sentinels = (0..3).map(|n| HostPort { host: format!("192.0.2.{n}"), port: 26379 }).collect();
    config::Group { commit, ..discovery::tests::group(Source::Sentinels(sentinels)) }
}

fn route_state(config: config::Route) -> RouteState {
    RouteState {
        config,
        datapath: "ordered",
        datapath_reason: String::new(),
        listen: Vec::new(),
        counts: Arc::default(),
        traffic: Arc::default(),
    }
}

/// Runs a test in virtual time, without I/O.
fn virtually(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.expect("a runtime").block_on(test);
}

#[test]
fn what_discovery_counts_is_in_the_metrics() {
    let metrics = Metrics::new();
    let counted = Counted { group: "mymaster".into(), metrics: metrics.clone() };
    counted.probed(([10, 0, 0, 1], 6379).into(), Duration::from_micros(300));
    counted.task_failed();
    let page = metrics.encode().expect("a page");
    for line in [
        "switchmaster_task_failures_total{task=\"discovery\"} 1",
        "switchmaster_node_probe_seconds_count{group=\"mymaster\",node=\"10.0.0.1:6379\"} 1",
    ] {
        assert!(page.lines().any(|it| it == line), "{line} is missing in\n{page}");
    }
}
