//! A round of a drill that switches: steady traffic, the blow, all that follows until every server is in
//! its place again, and then the account.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use switchmaster_tests::{
    client::{self, CrowdWatch},
    sweep, wait,
};

use super::{
    Run,
    account::{self, Round},
    evidence::Evidence,
    figures::Figure,
    load::Load,
    name::{Drill, Side},
    residents::Residents,
    stage::{Counters, Stage},
};

/// Writer, publisher, subscriber.
const STEADY_CLIENTS: usize = 3;
const STEADY: Duration = Duration::from_secs(1);
const TAIL: Duration = Duration::from_secs(1);
/// How long the master stays frozen, or cut off, at the least.
const AWAY: Duration = Duration::from_secs(8);
const ELECTION: Duration = Duration::from_secs(40);
const WHOLE: Duration = Duration::from_secs(60);
const SERVED: Duration = Duration::from_secs(30);
/// A demoted master is believed to be down after twice this and `down-after`; Sentinel's own ten
/// seconds would only make the round longer.
const DEMOTE_INFO_MS: u32 = 1000;
/// As often is a failover ordered until it counts as failed.
const ORDERS: usize = 3;
const FLAPS: u32 = 5;
const FLAP_EVERY: Duration = Duration::from_secs(12);

pub(super) fn play(stage: &mut Stage, run: &Run, drill: Drill, side: Side) -> Result<Round> {
    let old = stage.prepare(run, side)?;
    let residents = match drill {
        Drill::Flap => Some(Residents::after_use(stage)?),
        _ => None,
    };
    let load = Load::start(stage, drill.crowd())?;
    pass(STEADY)?;
    stage.led(STEADY_CLIENTS + load.crowd.size())?;
    let before = stage.front()?.counters()?;
    let at = Instant::now();
    let new = blow(stage, &load, drill, old, at).with_context(|| stage.cluster.describe())?;
    served(&load, stage.cluster.nodes[new].address.port())?;
    pass(TAIL)?;
    let (mut round, crowd) = conclude(stage, load, drill, at, (old, new), before)?;
    drop(crowd);
    if let Some(residents) = residents {
        residents.compare(stage, &mut round.figures)?;
    }
    Ok(round)
}

/// Lets it happen and waits until all servers are well again; returns the master then.
fn blow(stage: &mut Stage, load: &Load, drill: Drill, old: usize, at: Instant) -> Result<usize> {
    match drill {
        Drill::Planned | Drill::Crowd => order(stage)?,
        Drill::Kill => stage.cluster.nodes[old].kill(),
        Drill::SentinelLoss => {
            stage.cluster.sentinels[0].kill();
            stage.cluster.nodes[old].kill();
        }
        Drill::Demote => {
            stage.cluster.ask_every(DEMOTE_INFO_MS);
            stage.cluster.demote(old, (old + 1) % stage.cluster.nodes.len())?;
        }
        Drill::Freeze => {
            stage.cluster.nodes[old].freeze()?;
            elected(load, old, at)?;
            pass(AWAY.saturating_sub(at.elapsed()))?;
            stage.cluster.nodes[old].thaw()?;
        }
        Drill::Partition => {
            stage.cut(old, true)?;
            elected(load, old, at)?;
            pass(AWAY.saturating_sub(at.elapsed()))?;
            stage.cut(old, false)?;
        }
        Drill::Flap => return flap(stage, load, at),
        Drill::NoMajority | Drill::Start => bail!("this is not a switch"),
    }
    elected(load, old, at)?;
    whole(stage)
}

/// At the first Sentinel that takes the order. The Sentinels keep their own pace.
fn order(stage: &Stage) -> Result<()> {
    wait::until(Duration::from_secs(10), "a Sentinel to take the order", || {
        stage.cluster.sentinels.first().context("no Sentinel")?.failover()
    })
}

fn flap(stage: &Stage, load: &Load, at: Instant) -> Result<usize> {
    for number in 0..FLAPS {
        pass((FLAP_EVERY * number).saturating_sub(at.elapsed()))?;
        let (since, old) = (Instant::now(), stage.cluster.majority()?.0);
        carried_through(stage, load, old, since)?;
    }
    whole(stage)
}

/// Orders a failover until one is carried through: a Sentinel gives up when no replica has answered it lately, which
/// happens on a busy machine, and is no matter of the proxy's.
fn carried_through(stage: &Stage, load: &Load, old: usize, since: Instant) -> Result<()> {
    for _ in 1..ORDERS {
        order(stage)?;
        if elected(load, old, since).is_ok() {
            return Ok(());
        }
    }
    order(stage)?;
    elected(load, old, since)
}

/// Waits until a majority of all Sentinels names another node than `old`.
fn elected(load: &Load, old: usize, since: Instant) -> Result<()> {
    bounded(ELECTION, "the Sentinels to elect", || {
        ensure!(load.watch.seen().majority(old, since).is_some(), "no majority for another node");
        Ok(())
    })
}

/// Waits until the majority's node is master and all others that run are its replicas, in good order.
fn whole(stage: &Stage) -> Result<usize> {
    let cluster = &stage.cluster;
    bounded(WHOLE, "all servers to be in their places", || {
        let (master, _) = cluster.majority()?;
        for (index, node) in cluster.nodes.iter().enumerate().filter(|(_, node)| node.running()) {
            if index == master {
                ensure!(node.role()? == "master", "{} is named and no master", node.name());
            } else {
                node.linked()?;
            }
        }
        Ok(master)
    })
}

/// Waits until the writer is served by the node with this port.
fn served(load: &Load, port: u16) -> Result<()> {
    let since = Instant::now();
    bounded(SERVED, "the writer to be served by the new master", || {
        let ack = load.writer.wait_ack_after(since, Duration::ZERO)?;
        let last = load.writer.acks_from(load.writer.acked().saturating_sub(1));
        let node = last.last().map_or(ack.node, |ack| ack.node);
        ensure!(node == port, "it is served by port {node}");
        Ok(())
    })
}

/// Reads everything that the round left behind. The writer is stopped first: what it was promised must be there.
fn conclude(
    stage: &Stage,
    load: Load,
    drill: Drill,
    at: Instant,
    (old, new): (usize, usize),
    before: Option<Counters>,
) -> Result<(Round, CrowdWatch)> {
    let unled = stage.unled()?;
    let Load { writer, publisher, subscriber, witnesses, dialers, crowd, watch, stalls, signs } = load;
    let counted = stage.front()?.counters()?.zip(before).map(|(now, before)| Counters {
        parked: now.parked - before.parked,
        refused: now.refused - before.refused,
        ..now
    });
    let dials = dialers.dials();
    let (writes, publishes) = (writer.stop(), publisher.stop());
    // What was published last is still on its way to the witness.
    wait::pause(Duration::from_millis(100));
    let nodes = &stage.cluster.nodes;
    let addresses: Vec<_> = nodes.iter().map(|node| node.address).collect();
    let evidence = Evidence {
        drill,
        at,
        old,
        new,
        ports: addresses.iter().map(std::net::SocketAddr::port).collect(),
        writes,
        publishes,
        held: client::held(&mut nodes[new].client()?)?,
        witness: witnesses[new].heard(),
        subscriber: subscriber.heard(),
        dials,
        crowd: crowd.size(),
        ends: crowd.ends()?,
        sightings: watch.seen(),
        stalls: stalls.seen(),
        journal: stage.front()?.journal(at),
    };
    let mut round = account::settle(&evidence, &addresses, &signs, counted);
    round.figures.note(Figure::Unled, unled.map(|count| count as f64));
    if drill == Drill::Flap {
        // Of one switch they would say something.
        for figure in [Figure::RoleChange, Figure::Majority, Figure::MajorityToGood, Figure::FenceAfterRole] {
            round.figures.remove(figure);
        }
        round.figures.remove(Figure::AcksAfterFence);
    }
    Ok((round, crowd))
}

pub(super) fn pass(time: Duration) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        ensure!(!sweep::interrupted(), "interrupted");
        wait::pause(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
    }
    Ok(())
}

/// A wait that an interruption ends.
fn bounded<T>(limit: Duration, what: &str, ready: impl Fn() -> Result<T>) -> Result<T> {
    let start = Instant::now();
    loop {
        ensure!(!sweep::interrupted(), "interrupted");
        match ready() {
            Ok(value) => return Ok(value),
            Err(error) if start.elapsed() > limit => return Err(error.context(format!("gave up waiting for {what}"))),
            Err(_) => wait::pause(Duration::from_millis(20)),
        }
    }
}
