//! One poll of a Sentinel over its command connection, and what it brought in resolved addresses.

use futures_util::future::{OptionFuture, join_all};
use redis::Value;

use super::{
    Ground,
    dial::{Peer, Reply, Session},
    fault::Fault,
    membership::{Listing, MOST_NODES, MOST_SENTINELS},
    reply::{self, MasterReply, PeerReply, Written},
    report::Poll,
    resolve::literal,
};
use crate::election::{Failure, SentinelView};

/// An open command connection to a Sentinel, with what was learnt of it.
#[derive(Debug)]
pub(super) struct Asker {
    session: Session,
    id: Option<String>,
    /// Asking for the id was tried: servers before 6.2 have no `SENTINEL MYID`, an ACL may forbid it.
    id_asked: bool,
    /// `REPLICAS`, or `SLAVES` for servers before 5.0.
    replicas: &'static str,
    last: Option<MasterReply>,
}

impl Asker {
    pub(super) async fn open(ground: &Ground, peer: &Peer) -> Result<Self, Fault> {
        let session = ground.sentinels.session(peer).await?;
        Ok(Self { session, id: None, id_asked: false, replicas: "REPLICAS", last: None })
    }

    /// `deep`: ask for the other Sentinels and the replicas too. A change of master always does.
    pub(super) async fn poll(&mut self, ground: &Ground, deep: bool) -> Result<Poll, Fault> {
        self.session.refill();
        let mut round = self.round(&ground.group, deep).await?;
        if !deep && self.last.as_ref() != Some(&round.master) {
            self.session.refill();
            round = self.round(&ground.group, true).await?;
        }
        let (host, port) = &round.master.master;
        let master = ground.resolver.one(host, *port).await?;
        let view = SentinelView { master, epoch: round.master.epoch, master_down: round.master.down };
        let listing = match round.lists {
            Some((peers, mut nodes)) => {
                nodes.push(round.master.master.clone());
                Some(resolve(ground, peers, nodes).await)
            }
            None => None,
        };
        let counts = round.master.sentinels;
        self.last = Some(round.master);
        Ok(Poll { view, id: self.id.clone(), counts, listing })
    }

    async fn round(&mut self, group: &str, deep: bool) -> Result<Round, Fault> {
        let session = &self.session;
        let ask_id = self.id.is_none() && !self.id_asked;
        let [ask_master, ask_sentinels, ask_replicas] =
            ["MASTER", "SENTINELS", self.replicas].map(|what| ["SENTINEL", what, group]);
        // Sent together, answered in this order: what is asked last is never older than the master.
        let (master, id, sentinels, nodes) = tokio::join!(
            session.ask(&ask_master),
            OptionFuture::from(ask_id.then(|| session.ask(&["SENTINEL", "MYID"]))),
            OptionFuture::from(deep.then(|| session.ask(&ask_sentinels))),
            OptionFuture::from(deep.then(|| session.ask(&ask_replicas))),
        );
        let master = master_of(&master?)?;
        if let Some(id) = id.transpose()? {
            self.id_asked = true;
            self.id = id_of(&id);
        }
        let lists = match (sentinels.transpose()?, nodes.transpose()?) {
            (Some(sentinels), Some(nodes)) => Some((peers_of(&sentinels)?, self.nodes_of(&nodes, group).await?)),
            _ => None,
        };
        Ok(Round { master, lists })
    }

    async fn nodes_of(&mut self, reply: &Reply, group: &str) -> Result<Vec<Written>, Fault> {
        match reply {
            Reply::Value(value) => reply::replicas(value, MOST_NODES),
            Reply::Refused { code, .. } if code == "ERR" && self.replicas == "REPLICAS" => {
                self.replicas = "SLAVES";
                match self.session.ask(&["SENTINEL", "SLAVES", group]).await? {
                    Reply::Value(value) => reply::replicas(&value, MOST_NODES),
                    Reply::Refused { .. } => Ok(Vec::new()),
                }
            }
            // Not for this user. The master is known, and the other Sentinels may tell more.
            Reply::Refused { .. } => Ok(Vec::new()),
        }
    }
}

struct Round {
    master: MasterReply,
    lists: Option<(Vec<PeerReply>, Vec<Written>)>,
}

fn master_of(reply: &Reply) -> Result<MasterReply, Fault> {
    match reply {
        Reply::Value(value) => reply::master(value),
        Reply::Refused { code, text } => Err(match code.as_str() {
            "NOPERM" | "NOAUTH" | "WRONGPASS" | "DENIED" => Fault::new(Failure::Denied, text),
            "ERR" if text.contains("No such master") => {
                Fault::new(Failure::UnknownGroup, "this Sentinel knows no master of the group's name")
            }
            "ERR" if text.contains("unknown command") => {
                Fault::protocol("this is no Sentinel: it knows no SENTINEL command")
            }
            _ => Fault::protocol(text),
        }),
    }
}

fn id_of(reply: &Reply) -> Option<String> {
    match reply {
        Reply::Value(Value::Array(_) | Value::Nil) | Reply::Refused { .. } => None,
        Reply::Value(value) => reply::text(value).filter(|id| !id.is_empty()).map(str::to_owned),
    }
}

fn peers_of(reply: &Reply) -> Result<Vec<PeerReply>, Fault> {
    match reply {
        Reply::Value(value) => reply::sentinels(value, MOST_SENTINELS),
        // Not for this user: their number, which comes with the master, keeps the majority honest.
        Reply::Refused { .. } => Ok(Vec::new()),
    }
}

/// The lists with addresses for names. A name that does not resolve is left out: of Sentinels, their
/// number still counts.
async fn resolve(ground: &Ground, peers: Vec<PeerReply>, nodes: Vec<Written>) -> Listing {
    let peers = peers.into_iter().map(|peer| async move { Some((peer.id, locate(ground, peer.at).await?)) });
    let nodes = nodes.into_iter().map(|at| locate(ground, at));
    let (peers, nodes) = tokio::join!(join_all(peers), join_all(nodes));
    Listing { peers: peers.into_iter().flatten().collect(), nodes: nodes.into_iter().flatten().collect() }
}

async fn locate(ground: &Ground, (host, port): Written) -> Option<Peer> {
    if let Some(addr) = literal(&host, port) {
        return Some(Peer { addr, host: None });
    }
    let addr = ground.resolver.one(&host, port).await.ok()?;
    Some(Peer { addr, host: Some(host.into()) })
}
