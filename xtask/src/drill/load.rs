//! The clients of a round, all through the proxy: a writer and a publisher at 1 kHz each, a subscriber,
//! clients that come anew, and a crowd that is idle. Beside them those who watch and are no clients of it.

use anyhow::{Context as _, Result};
use switchmaster_tests::{
    Client, Writer,
    client::{Crowd, CrowdWatch, KEY},
    redis::Node,
};

use super::{dialers::Dialers, ears::Ears, stage::Stage, stalls::Stalls, watch::Watch};
use crate::signs::Signs;

pub(super) const PER_SECOND: u32 = 1000;

#[derive(Debug)]
pub(super) struct Load {
    pub(super) writer: Writer,
    pub(super) publisher: Writer,
    pub(super) subscriber: Ears,
    /// One at each node, on its unix socket.
    pub(super) witnesses: Vec<Ears>,
    pub(super) dialers: Dialers,
    pub(super) crowd: CrowdWatch,
    pub(super) watch: Watch,
    pub(super) stalls: Stalls,
    pub(super) signs: Signs,
}

impl Load {
    pub(super) fn start(stage: &Stage, idle: (usize, usize)) -> Result<Self> {
        let (namespace, to) = (stage.client()?, stage.address()?);
        let crowd = gather(stage, idle)?;
        let from = namespace.clone();
        let witness = |node: &Node| {
            let door = node.door().clone();
            Ears::start(move || door.client())
        };
        Ok(Self {
            watch: Watch::start(&stage.cluster),
            stalls: Stalls::watch()?,
            signs: Signs::listen(&stage.cluster).context("the Sentinels")?,
            witnesses: stage.cluster.nodes.iter().map(witness).collect::<Result<_>>().context("a witness")?,
            subscriber: Ears::start(move || Client::connect(&from, to)).context("the subscriber")?,
            dialers: Dialers::start(namespace, to),
            crowd: crowd.watch()?,
            writer: Writer::start(namespace, to, PER_SECOND, None),
            publisher: Writer::publishing(namespace, to, PER_SECOND),
        })
    }
}

/// Idle ones: subscribers to a channel where nothing is said, and publishers that said something once.
pub(super) fn gather(stage: &Stage, (subscribers, publishers): (usize, usize)) -> Result<Crowd> {
    let (namespace, to) = (stage.client()?, stage.address()?);
    let confirmed = "*3\r\n$9\r\nsubscribe\r\n$4\r\nidle\r\n:1\r\n".len();
    let crowd = Crowd::gather(namespace, to, subscribers, "SUBSCRIBE idle\r\n", confirmed)?;
    let request = format!("PUBLISH {KEY}:idle 0\r\n");
    Ok(crowd.join(Crowd::gather(namespace, to, publishers, &request, ":0\r\n".len())?))
}
