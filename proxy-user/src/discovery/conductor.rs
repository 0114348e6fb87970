//! Runs the tasks of one group, keeps its membership, sets the pace, and hands on observations in order.
//! The only one that speaks to the election; the tasks speak to it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{mpsc, watch},
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{
    Ground, Seen, Tally,
    board::Board,
    fault::Fault,
    health::Change,
    membership::{MOST_NODES, MOST_SENTINELS, Membership, is_stand_in},
    pace::{Pace, pace},
    probe_round::Probe,
    report::{Poll, Report, What},
    seats::Seats,
    status::role_word,
};
use crate::{
    clock,
    config::Source,
    election::{Failure, Observation},
};

/// Reports that wait for the conductor. Tasks wait when it is full: nothing is lost, nothing piles up.
const REPORTS: usize = 256;
/// How often time alone is looked at: an aftermath that ends, a server that lingered long enough.
const TICK: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Conductor {
    pub(super) ground: Arc<Ground>,
    pub(super) by_sentinels: bool,
    pub(super) members: Membership,
    pub(super) board: Arc<Mutex<Board>>,
    pub(super) sentinels: Seats<SocketAddr>,
    pub(super) nodes: Seats<SocketAddr>,
    pub(super) names: Seats<usize>,
    pub(super) serials: u64,
    pub(super) counted: Vec<SocketAddr>,
    pub(super) probed: Vec<SocketAddr>,
    pub(super) last_event: Option<Instant>,
    pub(super) told_crowded: bool,
    pub(super) pace: watch::Sender<Pace>,
    pub(super) reports: (mpsc::Sender<Report>, mpsc::Receiver<Report>),
    pub(super) out: mpsc::Sender<Seen>,
    pub(super) tally: Box<dyn Tally>,
}

impl Conductor {
    pub(super) fn new(
        ground: Arc<Ground>,
        source: &Source,
        board: Arc<Mutex<Board>>,
        out: mpsc::Sender<Seen>,
        tally: Box<dyn Tally>,
    ) -> Self {
        let (by_sentinels, configured) = match source {
            Source::Sentinels(configured) => (true, configured),
            Source::Nodes(configured) => (false, configured),
        };
        Self {
            ground,
            by_sentinels,
            members: Membership::new(configured),
            board,
            sentinels: Seats::default(),
            nodes: Seats::default(),
            names: Seats::default(),
            serials: 0,
            counted: Vec::new(),
            probed: Vec::new(),
            last_event: None,
            told_crowded: false,
            pace: watch::Sender::new(Pace::Fast),
            reports: mpsc::channel(REPORTS),
            out,
            tally,
        }
    }

    /// Runs until `stop`, or until nobody wants the observations any more.
    pub(super) async fn run(mut self, mut hurry: watch::Receiver<Option<Instant>>, stop: CancellationToken) {
        let _stopped = stop.run_until_cancelled(self.work(&mut hurry)).await;
        tokio::join!(self.sentinels.close(), self.nodes.close(), self.names.close());
    }

    async fn work(&mut self, hurry: &mut watch::Receiver<Option<Instant>>) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.seat_names();
        loop {
            tokio::select! {
                Some(report) = self.reports.1.recv() => self.take(report).await,
                (addr, error) = self.sentinels.died() => self.sentinel_task_died(addr, &error).await,
                (addr, error) = self.nodes.died() => self.node_task_died(addr, &error).await,
                (place, error) = self.names.died() => self.name_task_died(place, &error).await,
                // A closed sender only means that nobody will call for hurry again.
                () = changed(hurry) => {}
                _ = tick.tick() => {
                    self.sentinels.rouse();
                    self.nodes.rouse();
                    self.names.rouse();
                    self.seat_names();
                    self.bring_up_to_date(clock::now()).await;
                }
                () = self.out.closed() => return,
            }
            self.set_pace(*hurry.borrow());
        }
    }

    async fn take(&mut self, Report { serial, at, what }: Report) {
        match what {
            What::Resolved { place, answer } => self.resolved(place, at, answer).await,
            What::Polled(Ok(poll)) => {
                if let Some(addr) = self.sentinels.whose(serial) {
                    self.polled(addr, at, poll).await;
                }
            }
            What::Polled(Err(fault)) => {
                if let Some(addr) = self.sentinels.whose(serial) {
                    self.poll_failed(addr, at, &fault).await;
                }
            }
            What::Event(event, sign) => {
                if let Some(addr) = self.sentinels.whose(serial) {
                    // First, before anybody is asked: milliseconds count.
                    if let Some(sign) = sign.filter(|_| self.counted.contains(&addr)) {
                        self.say(at, Observation::Sign(addr, sign)).await;
                    }
                    tracing::debug!(group = %self.ground.group, sentinel = %addr, ?event, "asking everyone at once");
                    self.board().heard(addr);
                    self.last_event = Some(at);
                    self.sentinels.nudge_all();
                    self.nodes.nudge_all();
                }
            }
            What::Subscription(result) => {
                if let Some(addr) = self.sentinels.whose(serial) {
                    self.subscription(addr, at, result);
                }
            }
            What::Probed { latency, result } => {
                if let Some(addr) = self.nodes.whose(serial) {
                    match result {
                        Ok(probe) => self.probed(addr, at, latency, probe).await,
                        Err(fault) => self.probe_failed(addr, at, &fault).await,
                    }
                }
            }
        }
    }

    pub(super) async fn resolved(&mut self, place: usize, at: Instant, answer: Result<Vec<SocketAddr>, Fault>) {
        let worth = self.board().resolved(place, at, &answer);
        match answer {
            Ok(addrs) => self.members.resolved(place, addrs),
            Err(fault) if worth => {
                let remedy = fault.remedy(self.by_sentinels);
                tracing::warn!(group = %self.ground.group, error = %fault, remedy, "a configured name does not resolve");
            }
            Err(_) => {}
        }
        self.bring_up_to_date(at).await;
        // Only now: the place was looked up, in vain, and the group need not wait for it any longer.
        if let (false, Some(stand_in)) = (self.by_sentinels, self.members.stand_in_of(place)) {
            self.say(at, Observation::NodeLost(stand_in, Failure::Unresolved)).await;
        }
    }

    async fn polled(&mut self, addr: SocketAddr, at: Instant, poll: Poll) {
        let (change, news) = self.board().polled(addr, at, &poll);
        if change == Change::CameUp {
            let (group, view) = (&self.ground.group, &poll.view);
            tracing::info!(%group, sentinel = %addr, master = %view.master, epoch = view.epoch, "Sentinel answers");
        }
        if self.members.answered(addr, poll.id, poll.counts, poll.listing) {
            self.bring_up_to_date(at).await;
        }
        if self.counted.contains(&addr) {
            self.say(at, Observation::View(addr, poll.view)).await;
        }
        if news {
            self.sentinels.nudge_others(addr);
            self.nodes.nudge_all();
        }
    }

    pub(super) async fn poll_failed(&mut self, addr: SocketAddr, at: Instant, fault: &Fault) {
        if self.board().poll_failed(addr, at, fault) == Change::WentDown {
            let (group, remedy) = (&self.ground.group, fault.remedy(true));
            tracing::warn!(%group, sentinel = %addr, error = %fault, remedy, "Sentinel cannot be asked");
        }
        self.doubt_names(addr);
        self.members.lost(addr);
        self.bring_up_to_date(at).await;
        if self.counted.contains(&addr) {
            self.say(at, Observation::SentinelLost(addr, fault.failure)).await;
        }
    }

    fn subscription(&self, addr: SocketAddr, at: Instant, result: Result<(), Fault>) {
        let worth = self.board().subscription(addr, at, result.is_ok());
        if let (true, Err(fault)) = (worth, result) {
            let (group, remedy) = (&self.ground.group, fault.remedy(true));
            tracing::warn!(%group, sentinel = %addr, error = %fault, remedy, "no events from this Sentinel, polling it instead");
        }
    }

    async fn probed(&mut self, addr: SocketAddr, at: Instant, latency: Duration, mut probe: Probe) {
        self.tally.probed(addr, latency);
        if self.board().probed(addr, at, latency, &mut probe) == Change::CameUp {
            let (group, role) = (&self.ground.group, role_word(&probe.report.role));
            tracing::info!(%group, node = %addr, role, "node answers");
        }
        self.say(at, Observation::Node(addr, probe.report)).await;
    }

    pub(super) async fn probe_failed(&mut self, addr: SocketAddr, at: Instant, fault: &Fault) {
        if self.board().probe_failed(addr, at, fault) == Change::WentDown {
            let (group, remedy) = (&self.ground.group, fault.remedy(false));
            tracing::warn!(%group, node = %addr, error = %fault, remedy, "node cannot be asked");
        }
        self.doubt_names(addr);
        self.say(at, Observation::NodeLost(addr, fault.failure)).await;
    }

    /// Starts and ends tasks as the membership wants it, and tells of the sets that changed.
    async fn bring_up_to_date(&mut self, now: Instant) {
        if self.by_sentinels {
            self.members.refresh(now);
            self.tell_if_crowded();
            self.seat_sentinels();
            let counted = self.members.counted();
            if counted != self.counted {
                self.board().count(&counted);
                self.counted.clone_from(&counted);
                self.say(now, Observation::Sentinels(counted.clone())).await;
                for stand_in in counted.into_iter().filter(|addr| is_stand_in(*addr)) {
                    self.say(now, Observation::SentinelLost(stand_in, Failure::Unresolved)).await;
                }
            }
        }
        let nodes = if self.by_sentinels { self.members.nodes() } else { self.members.configured_nodes() };
        self.seat_nodes(&nodes);
        let mut probed: Vec<SocketAddr> = nodes.into_iter().map(|peer| peer.addr).collect();
        if !self.by_sentinels {
            // A node whose address is not known yet may be a second master: nobody is the only one before it was asked.
            probed.extend((0..self.members.places().len()).filter_map(|place| self.members.stand_in_of(place)));
        }
        if probed != self.probed {
            self.probed.clone_from(&probed);
            self.say(now, Observation::Nodes(probed)).await;
        }
    }

    fn tell_if_crowded(&mut self) {
        if self.members.crowded() && !self.told_crowded {
            self.told_crowded = true;
            let group = &self.ground.group;
            tracing::warn!(%group, sentinels = MOST_SENTINELS, nodes = MOST_NODES, "more servers than these bounds; the excess is ignored");
        }
    }

    async fn say(&self, at: Instant, observation: Observation) {
        // Whoever listened is gone: `work` sees it, and ends.
        let _gone = self.out.send(Seen { at, observation }).await;
    }

    fn set_pace(&self, hurry_until: Option<Instant>) {
        let mut board = self.board();
        let pace = pace(&board.signs(self.last_event, hurry_until), clock::now());
        board.pace = pace;
        self.pace.send_if_modified(|old| std::mem::replace(old, pace) != pace);
    }

    pub(super) fn board(&self) -> MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn changed(hurry: &mut watch::Receiver<Option<Instant>>) {
    if hurry.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}
