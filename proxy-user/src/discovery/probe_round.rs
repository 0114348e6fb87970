//! One probe of a node over its connection: HELLO, else ROLE, else INFO, with PING to see it loading.
//! What the server refuses for good is not asked again on the connection, to keep its ACL log clean.

use futures_util::future::OptionFuture;

use super::{
    Ground,
    dial::{Peer, Reply, Session},
    fault::Fault,
    probe::{self, Answer, Info, RoleReply, Said},
    reply::Written,
};
use crate::election::{Failure, NodeReport, ReplicaLink, Role};

/// What a probe found.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Probe {
    /// `lag_bytes` and `stray` are still to be filled in by whoever knows the other nodes.
    pub(super) report: NodeReport,
    pub(super) master_offset: Option<u64>,
    pub(super) replica_offset: Option<u64>,
    /// As of [`Info`]; none where INFO may not be read.
    pub(super) histories: Vec<String>,
}

/// An open connection to a node. It is one process as long as it lasts, so the id is asked for once.
#[derive(Debug)]
pub(super) struct Prober {
    session: Session,
    may_hello: bool,
    may_role: bool,
    may_ping: bool,
    may_info: bool,
    /// Also false once it was told.
    may_id: bool,
    id: Option<String>,
    last: Option<Probe>,
}

/// The answers of one round.
#[derive(Debug, Default)]
struct Round {
    hello: Option<Answer<Said>>,
    role: Option<Answer<RoleReply>>,
    info: Option<Answer<Info>>,
    loading: bool,
}

impl Prober {
    pub(super) async fn open(ground: &Ground, peer: &Peer) -> Result<Self, Fault> {
        let session = ground.nodes.session(peer).await?;
        let (may_hello, may_role, may_ping, may_info, may_id) = (true, true, true, true, true);
        Ok(Self { session, may_hello, may_role, may_ping, may_info, may_id, id: None, last: None })
    }

    /// `full`: link, lag and identity too. A changed role always asks for them. A prober that failed is
    /// gone with its connection.
    pub(super) async fn probe(mut self, ground: &Ground, mut full: bool) -> Result<(Self, Probe), Fault> {
        // A further round follows a refusal, which is remembered, or a light one that found a new replica.
        for _ in 0..3 {
            let round = self.round(full).await?;
            if let Some(probe) = self.conclude(ground, &round, full).await? {
                self.last = Some(probe.clone());
                return Ok((self, probe));
            }
            full = true;
        }
        Err(Fault::new(Failure::Denied, "none of HELLO, ROLE and INFO is allowed, or known to the server"))
    }

    async fn round(&mut self, full: bool) -> Result<Round, Fault> {
        self.session.refill();
        let session = &self.session;
        // ROLE tells of the link too, where INFO may not.
        let ask_role = self.may_role && !(self.may_hello && self.may_info);
        let ask_info = self.may_info && (full || !(self.may_hello || self.may_role));
        let ask_id = ask_info && self.may_id;
        // In this order: what the later answer says of the role is newer.
        let (hello, ping, role, replication, server) = tokio::join!(
            biased;
            OptionFuture::from(self.may_hello.then(|| session.ask(&["HELLO"]))),
            OptionFuture::from(self.may_ping.then(|| session.ask(&["PING"]))),
            OptionFuture::from(ask_role.then(|| session.ask(&["ROLE"]))),
            OptionFuture::from(ask_info.then(|| session.ask(&["INFO", "replication"]))),
            OptionFuture::from(ask_id.then(|| session.ask(&["INFO", "server"]))),
        );
        let hello = hello.transpose()?.as_ref().map(probe::hello).transpose()?;
        let role = role.transpose()?.as_ref().map(probe::role).transpose()?;
        let info = replication.transpose()?.as_ref().map(probe::info).transpose()?;
        let ping = ping.transpose()?;
        self.may_hello &= hello != Some(Answer::Never);
        self.may_role &= role != Some(Answer::Never);
        self.may_info &= info != Some(Answer::Never);
        self.may_ping &= !matches!(&ping, Some(Reply::Refused { code, .. }) if code == "NOPERM");
        // Only the run id will do. `master_replid` changes while the server stays (a promotion, a full sync, a
        // master that frees an unused backlog) and is the same on a master and its replicas: it proves nothing.
        match server.transpose()?.as_ref().map(probe::info).transpose()? {
            Some(Answer::Got(server)) => (self.id, self.may_id) = (server.run_id, false),
            Some(Answer::Never) => self.may_id = false,
            Some(Answer::Loading | Answer::NotNow) | None => {}
        }
        let loading = ping.as_ref().is_some_and(|reply| probe::ping(reply) == Answer::Loading);
        Ok(Round { hello, role, info, loading })
    }

    /// None: the way of asking was refused, and another is left to try.
    async fn conclude(&self, ground: &Ground, round: &Round, full: bool) -> Result<Option<Probe>, Fault> {
        if round.loading
            || round.hello == Some(Answer::Loading)
            || round.role == Some(Answer::Loading)
            || round.info == Some(Answer::Loading)
        {
            return Ok(Some(self.found(Role::Loading, None, round)));
        }
        let by_info = info_of(round).and_then(|info| info.said);
        // The last to be answered first: where the role changed in between, it knows.
        let said = match (by_info, &round.role, &round.hello) {
            (Some(said), _, _) => said,
            (None, Some(Answer::Got(role)), _) => role.said,
            (None, _, Some(Answer::Got(said))) => *said,
            (None, Some(Answer::NotNow), _) | (None, _, Some(Answer::NotNow)) => {
                return Err(Fault::new(Failure::TimedOut, "the server is busy with a script, and tells no role"));
            }
            _ if self.may_hello || self.may_role || self.may_info => return Ok(None),
            _ => return Err(Fault::new(Failure::Denied, "the user may call neither HELLO nor ROLE nor INFO")),
        };
        if said == Said::Master {
            return Ok(Some(self.found(Role::Master, None, round)));
        }
        if !full && info_of(round).is_none() && self.may_info {
            return Ok(self.same_link(round));
        }
        if round.info == Some(Answer::Never) && round.role.is_none() && self.may_role {
            // INFO was refused just now: ROLE may tell of the link instead.
            return Ok(None);
        }
        let link = self.link(ground, round).await;
        Ok(Some(self.found(Role::Replica(link), replica_offset(round), round)))
    }

    /// A light probe of a node that was a replica before: the link is as it was when last asked for.
    fn same_link(&self, round: &Round) -> Option<Probe> {
        let last = self.last.as_ref().filter(|last| matches!(last.report.role, Role::Replica(_)))?;
        Some(self.found(last.report.role.clone(), last.replica_offset, round))
    }

    async fn link(&self, ground: &Ground, round: &Round) -> ReplicaLink {
        let (master, up, lag_seconds): (Option<&Written>, bool, Option<u64>) = match (info_of(round), &round.role) {
            (Some(info), _) => (info.master.as_ref(), info.up, info.lag_seconds),
            (None, Some(Answer::Got(role))) => (role.master.as_ref(), role.up, None),
            _ => (None, false, None),
        };
        let master = match master {
            Some((host, port)) => ground.resolver.one(host, *port).await.ok(),
            None => None,
        };
        ReplicaLink { master, stray: false, up, lag_seconds, lag_bytes: None }
    }

    fn found(&self, role: Role, replica_offset: Option<u64>, round: &Round) -> Probe {
        let master_offset = match (&role, info_of(round), &round.role) {
            (Role::Master, Some(info), _) => info.master_offset,
            (Role::Master, None, Some(Answer::Got(reply))) => reply.offset,
            _ => None,
        };
        let last = self.last.as_ref();
        let (backlog_active, histories) = match info_of(round) {
            Some(info) => (info.backlog, info.histories.clone()),
            None => last.map(|last| (last.report.backlog_active, last.histories.clone())).unwrap_or_default(),
        };
        let report = NodeReport { role, id: self.id.clone(), backlog_active };
        Probe { report, master_offset, replica_offset, histories }
    }
}

fn info_of(round: &Round) -> Option<&Info> {
    match &round.info {
        Some(Answer::Got(info)) => Some(info),
        _ => None,
    }
}

fn replica_offset(round: &Round) -> Option<u64> {
    match (info_of(round), &round.role) {
        (Some(info), _) => info.replica_offset,
        (None, Some(Answer::Got(role))) => role.offset,
        _ => None,
    }
}
