//! One round: steady traffic, the blow, the switch; and then the account, taken from the clients'
//! records, the Sentinels' events, the daemon's log and the data of the new master.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    client::{self, Ack, Outage},
    sweep, wait,
};

use super::{Blow, pulse::Pulse, screen::Screen, stage::Stage, witness::Majority};
use crate::journal::Journal;

const FRAME: Duration = Duration::from_millis(100);
const LIMIT: Duration = Duration::from_secs(30);
/// Shown after the switch.
const AFTERWARDS: Duration = Duration::from_secs(3);

/// What was measured.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) old: SocketAddr,
    pub(super) blow: Blow,
    pub(super) at: Instant,
    /// Moments of the switch with their names, in order.
    pub(super) marks: Vec<(Instant, String)>,
    /// From the last good write before the cut to the first one after it.
    pub(super) gap: Duration,
    /// From the majority to the first good write, in milliseconds; negative if the daemon was first.
    pub(super) after_majority_ms: f64,
    pub(super) acked: usize,
    pub(super) lost: usize,
    pub(super) resets: u64,
    /// Times the writer lost its connection or was refused one.
    pub(super) outages: usize,
    pub(super) cpu: Duration,
    pub(super) lasted: Duration,
}

pub(super) fn play(
    stage: &mut Stage,
    screen: &mut Screen,
    blow: Blow,
    heading: &str,
    steady: Duration,
) -> Result<Round> {
    let mut pulse = Pulse::new(heading, stage);
    let (began, cpu) = (Instant::now(), stage.cpu()?);
    run_for(steady, stage, screen, &mut pulse)?;
    let old = stage.lab.cluster.master()?;
    let majority = Majority::watch(&stage.lab.cluster, stage.address(old))?;
    let at = Instant::now();
    match blow {
        Blow::Kill => stage.lab.cluster.nodes[old].kill(),
        Blow::Planned => drop(stage.lab.cluster.failover()?),
    }
    let done = match blow {
        Blow::Kill => "was killed",
        Blow::Planned => "is to hand over",
    };
    screen.say(format!("{heading}: {} {done}", stage.address(old)));
    let switch = loop {
        ensure!(!sweep::interrupted(), "interrupted");
        screen.show(&pulse.frame(stage)?);
        if let Some(switch) = Switch::seen(stage, &majority, at) {
            break switch;
        }
        ensure!(at.elapsed() < LIMIT, "no switch within {LIMIT:?}\n{}", stage.lab.cluster.describe());
        wait::pause(FRAME);
    };
    run_for(AFTERWARDS, stage, screen, &mut pulse)?;
    let (cpu, lasted) = (stage.cpu()?.saturating_sub(cpu), began.elapsed());
    account(stage, &pulse, stage.address(old), blow, at, &switch, (cpu, lasted))
}

fn run_for(time: Duration, stage: &Stage, screen: &mut Screen, pulse: &mut Pulse) -> Result<()> {
    let end = Instant::now() + time;
    while Instant::now() < end {
        ensure!(!sweep::interrupted(), "interrupted");
        screen.show(&pulse.frame(stage)?);
        wait::pause(FRAME);
    }
    Ok(())
}

/// The moments without which a switch is not over.
#[derive(Debug)]
struct Switch {
    majority: Instant,
    new: SocketAddr,
    opened: Instant,
    subscriber: (Instant, Instant),
    first_good: Instant,
}

impl Switch {
    fn seen(stage: &Stage, majority: &Majority, at: Instant) -> Option<Self> {
        let (majority, new) = majority.found()?;
        let opened = Journal::since(at, &stage.lab.daemon.log(), stage.clock).opened(new)?;
        let (Some(cut), Some(back)) = stage.audience.cut_since(at) else { return None };
        let first_good = outages_since(stage, at).last()?.until?;
        Some(Self { majority, new, opened, subscriber: (cut, back), first_good })
    }
}

/// Those that ended after `at`, or have not ended. A write may have been under way at that moment.
fn outages_since(stage: &Stage, at: Instant) -> Vec<Outage> {
    let mut outages = stage.writer.outages();
    outages.retain(|outage| outage.until.is_none_or(|until| until >= at));
    outages
}

fn account(
    stage: &Stage,
    pulse: &Pulse,
    old: SocketAddr,
    blow: Blow,
    at: Instant,
    switch: &Switch,
    (cpu, lasted): (Duration, Duration),
) -> Result<Round> {
    // The record first, the data second: what is in the one must be in the other.
    let acks = stage.writer.acks_from(pulse.first());
    let outages = outages_since(stage, at);
    let node = stage.lab.cluster.nodes.iter().find(|node| node.address == switch.new);
    let node = node.with_context(|| format!("{} is none of our nodes", switch.new))?;
    let held = client::held(&mut node.client()?)?;
    let lost: Vec<&Ack> = acks.iter().filter(|ack| !held.contains(&ack.number)).collect();
    let cut = outages.first().context("the writer was never cut off")?.from;
    let last_good = acks.iter().rev().find(|ack| ack.acked <= cut).context("no write before the switch")?.acked;
    let journal = Journal::since(at, &stage.lab.daemon.log(), stage.clock);
    let resets = journal.resets();
    let signed = |from: Instant, to: Instant| match to.checked_duration_since(from) {
        Some(after) => after.as_secs_f64(),
        None => -from.duration_since(to).as_secs_f64(),
    };
    let mut round = Round {
        old,
        blow,
        at,
        marks: Vec::new(),
        gap: switch.first_good.saturating_duration_since(last_good),
        after_majority_ms: signed(switch.majority, switch.first_good) * 1000.0,
        acked: acks.len(),
        lost: lost.len(),
        resets: resets.map_or(0, |(_, connections, _)| connections),
        outages: outages.len(),
        cpu,
        lasted,
    };
    round.mark(last_good, "last good write before the cut");
    let (gone, back) = switch.subscriber;
    round.mark(gone, "the subscriber is cut off");
    round.mark(back, "the subscriber hears messages again");
    for channel in ["+sdown", "+odown", "+try-failover", "+elected-leader", "+promoted-slave", "+switch-master"] {
        if let Some(sign) = stage.signs.first(at, channel) {
            round.mark(sign.at, format!("first {channel} ({})", sign.sentinel));
        }
    }
    round.mark(switch.majority, format!("the majority of the Sentinels names {}", switch.new));
    if let Some((shut, way)) = journal.shut().filter(|(shut, _)| *shut < switch.opened) {
        round.mark(shut, format!("the daemon: {way}, new connections are parked"));
    }
    round.mark(switch.opened, "the daemon opens the new generation");
    if let Some((reset, connections, took)) = resets {
        round.mark(reset, format!("{connections} connections were reset, the last after {took} us"));
    }
    round.mark(switch.first_good, format!("first good write on {}", switch.new));
    if let (Some(first), Some(last)) = (lost.first(), lost.last()) {
        round.mark(first.acked, "first acknowledged write that the new master lacks");
        round.mark(last.acked, "last acknowledged write that the new master lacks");
    }
    round.marks.sort_by_key(|(at, _)| *at);
    Ok(round)
}

impl Round {
    fn mark(&mut self, at: Instant, what: impl Into<String>) {
        self.marks.push((at, what.into()));
    }
}
