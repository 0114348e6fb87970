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

/// A Sentinel whose answer changed while it gave it is asked again; twice is a failover that moves on.
const MOST_ROUNDS: usize = 4;

/// An open command connection to a Sentinel, with what was learnt of it.
#[derive(Debug)]
pub(super) struct Asker {
    session: Session,
    id: Option<String>,
    /// Asking for the id was tried: servers before 6.2 have no `SENTINEL MYID`, an ACL may forbid it.
    id_asked: bool,
    /// `REPLICAS`, or `SLAVES` for servers before 5.0.
    replicas: &'static str,
    last: Option<(Written, MasterReply)>,
}

impl Asker {
    pub(super) async fn open(ground: &Ground, peer: &Peer) -> Result<Self, Fault> {
        let session = ground.sentinels.session(peer).await?;
        Ok(Self { session, id: None, id_asked: false, replicas: "REPLICAS", last: None })
    }

    /// `deep`: ask for the other Sentinels and the replicas too. A change of master always does.
    pub(super) async fn poll(&mut self, ground: &Ground, mut deep: bool) -> Result<Poll, Fault> {
        for _ in 0..MOST_ROUNDS {
            self.session.refill();
            let round = self.round(&ground.group, deep).await?;
            match round.named {
                Some(named) if deep || self.last.as_ref() == Some(&(named.clone(), round.master.clone())) => {
                    return self.conclude(ground, named, round.master, round.lists).await;
                }
                // Something has changed: now everything is of interest.
                _ => deep = true,
            }
        }
        Err(Fault::protocol("it names another master each time it is asked"))
    }

    async fn conclude(
        &mut self,
        ground: &Ground,
        named: Written,
        reply: MasterReply,
        lists: Option<(Vec<PeerReply>, Vec<Written>)>,
    ) -> Result<Poll, Fault> {
        let master = ground.resolver.one(&named.0, named.1).await?;
        let view = SentinelView { master, epoch: reply.epoch, master_down: reply.down };
        let listing = match lists {
            Some((peers, mut nodes)) => {
                nodes.extend([named.clone(), reply.watched.clone()]);
                Some(resolve(ground, peers, nodes).await)
            }
            None => None,
        };
        let counts = reply.sentinels;
        self.last = Some((named, reply));
        Ok(Poll { view, id: self.id.clone(), counts, listing })
    }

    async fn round(&mut self, group: &str, deep: bool) -> Result<Round, Fault> {
        let session = &self.session;
        let ask_id = self.id.is_none() && !self.id_asked;
        let [address, master, sentinels, replicas] =
            ["GET-MASTER-ADDR-BY-NAME", "MASTER", "SENTINELS", self.replicas].map(|what| ["SENTINEL", what, group]);
        // Sent together, answered in this order: what is asked last is never older than the master. Biased, since a
        // join that begins elsewhere when it is polled again could send the second address before the master.
        let (before, master, after, id, sentinels, nodes) = tokio::join!(
            biased;
            session.ask(&address),
            session.ask(&master),
            session.ask(&address),
            OptionFuture::from(ask_id.then(|| session.ask(&["SENTINEL", "MYID"]))),
            OptionFuture::from(deep.then(|| session.ask(&sentinels))),
            OptionFuture::from(deep.then(|| session.ask(&replicas))),
        );
        let (before, master, after) = (before?, master?, after?);
        let master = reply::master(value_of(&master)?)?;
        let named = reply::steady(reply::address(value_of(&before)?)?, reply::address(value_of(&after)?)?.as_ref());
        if let Some(id) = id.transpose()? {
            self.id_asked = true;
            self.id = id_of(&id);
        }
        let lists = match (sentinels.transpose()?, nodes.transpose()?) {
            (Some(sentinels), Some(nodes)) => Some((peers_of(&sentinels)?, self.nodes_of(&nodes, group).await?)),
            _ => None,
        };
        Ok(Round { named, master, lists })
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
    /// Where clients are sent; None if that changed while it was asked.
    named: Option<Written>,
    master: MasterReply,
    lists: Option<(Vec<PeerReply>, Vec<Written>)>,
}

fn value_of(reply: &Reply) -> Result<&Value, Fault> {
    match reply {
        Reply::Value(value) => Ok(value),
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
