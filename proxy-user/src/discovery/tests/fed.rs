//! A discovery that asks nobody: a test says what Sentinels and nodes answer, and the conductor takes it as it takes
//! its tasks' reports. Three Sentinels, three nodes; everything else is the real thing.

use super::*;
use crate::discovery::{
    dial::Peer,
    events::Event,
    fault::Fault,
    membership::Listing,
    probe_round::Probe,
    report::{Poll, Report, What},
};

/// Above whatever the conductor itself gives out.
const SERIALS: u64 = 1 << 32;

/// The tasks' side of a conductor.
#[derive(Debug)]
pub(crate) struct Feed {
    to: mpsc::Sender<Report>,
    serials: Vec<(SocketAddr, u64)>,
    sentinels: usize,
}

pub(crate) fn start(
    group: &Group,
    nodes: &[SocketAddr],
    out: mpsc::Sender<Seen>,
    stop: CancellationToken,
) -> (Discovery, Feed) {
    let board = Arc::new(Mutex::new(Board::new(&group.name)));
    let tally = Box::new(Arc::new(Counted::default()));
    let mut conductor = Conductor::new(Arc::new(Ground::new(group)), &group.source, Arc::clone(&board), out, tally);
    conductor.seat_names();
    conductor.members.refresh(clock::now());
    let sentinels = conductor.members.sentinels();
    let nodes: Vec<Peer> = nodes.iter().map(|addr| Peer { addr: *addr, host: None }).collect();
    let mut serials = Vec::new();
    let tasks = sentinels.iter().map(|peer| (peer, true)).chain(nodes.iter().map(|peer| (peer, false)));
    for ((peer, is_sentinel), serial) in tasks.zip(SERIALS..) {
        if is_sentinel {
            let listing = Listing { peers: Vec::new(), nodes: nodes.clone() };
            conductor.members.answered(peer.addr, Some(peer.addr.to_string()), sentinels.len(), Some(listing));
            conductor.board().add_sentinel(peer);
            conductor.sentinels.start(peer.addr, serial, |_| std::future::pending());
        } else {
            conductor.board().add_node(peer);
            conductor.nodes.start(peer.addr, serial, |_| std::future::pending());
        }
        serials.push((peer.addr, serial));
    }
    let feed = Feed { to: conductor.reports.0.clone(), serials, sentinels: sentinels.len() };
    let (hurry, hurried) = watch::channel(None);
    (Discovery { board, hurry, conductor: tokio::spawn(conductor.run(hurried, stop)) }, feed)
}

impl Feed {
    /// Reports what the conductor will make this observation of.
    pub(crate) async fn say(&self, observation: Observation) {
        let failed = |failure| Fault::new(failure, "as the test has it");
        let (from, what) = match observation {
            Observation::View(from, view) => {
                (from, What::Polled(Ok(Poll { view, id: None, counts: self.sentinels, listing: None })))
            }
            Observation::SentinelLost(from, failure) => (from, What::Polled(Err(failed(failure)))),
            Observation::Sign(from, sign) => (from, What::Event(Event::Failover, Some(sign))),
            Observation::Node(from, report) => (from, probed(Ok(report))),
            Observation::NodeLost(from, failure) => (from, probed(Err(failed(failure)))),
            Observation::Sentinels(_) | Observation::Nodes(_) => panic!("the conductor says this of itself"),
        };
        let serial = self.serials.iter().find(|(addr, _)| *addr == from).expect("one that is seated").1;
        self.to.send(Report { serial, at: clock::now(), what }).await.expect("the conductor lives");
    }
}

fn probed(result: Result<NodeReport, Fault>) -> What {
    let result =
        result.map(|report| Probe { report, master_offset: None, replica_offset: None, histories: Vec::new() });
    What::Probed { latency: Duration::from_millis(1), result }
}
