//! A failover that is announced: fenced before the roles change, so that nothing that was acknowledged
//! is lost; and when it comes to nothing, nobody has lost a connection. A role lost without a word, too.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Lab, Spec, Writer,
    client::{self, Record},
    lab::{Setup, check},
    redis::{MajorityWatch, Node, RoleWatch},
    wait,
};

use crate::{FAILOVER, FOLLOW, follows, limit, on_each_way, pause::hang_a_failover};

on_each_way!(planned_by_majority, planned_early, aborted, promotion_behind_their_backs, demotion_is_fenced);

/// The bar for a fence, from the change of role: the fast interval and ten milliseconds.
const FENCE: Duration = Duration::from_millis(110);
/// The bar for a release: half the rounds within it, all within three times as long.
const RELEASE: Duration = Duration::from_millis(10);

/// `ROUNDS`, for figures worth holding to their bars.
fn rounds() -> usize {
    std::env::var("ROUNDS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(1)
}

fn committing(setup: Setup, commit: &str) -> Setup {
    Setup { group: setup.group.set("commit", format_args!("{commit:?}")), ..setup }
}

fn writer(lab: &Lab) -> Result<Writer> {
    let writer = Writer::start(lab.client()?, lab.writes_address()?, 1000, None);
    wait::until_true(FOLLOW, "a few hundred writes", || writer.acked() > 300)?;
    Ok(writer)
}

/// The longest time from one acknowledged write to the next.
fn longest_gap(record: &Record) -> Duration {
    record.acks.windows(2).map(|pair| pair[1].acked - pair[0].acked).max().unwrap_or_default()
}

/// When a node acknowledged its last write, and another its first.
fn handover(record: &Record, old: &Node, new: &Node) -> Option<(Instant, Instant)> {
    let by = |node: &Node| {
        let port = node.address.port();
        record.acks.iter().filter(move |ack| ack.node == port).map(|ack| ack.acked)
    };
    by(old).next_back().zip(by(new).next())
}

fn planned_by_majority(datapath: &str) {
    planned(datapath, "majority", Duration::from_millis(1500));
}

fn planned_early(datapath: &str) {
    planned(datapath, "early", Duration::from_millis(300));
}

/// One failover on order, with a writer and a publisher.
#[derive(Debug, Clone, Copy)]
struct Round {
    /// Between two acknowledged writes.
    gap: Duration,
    /// From what releases by the rule (the role, or the majority) to the next acknowledged write.
    release: Duration,
}

fn round(lab: &Lab, commit: &str) -> Result<Round> {
    let writer = writer(lab)?;
    let old = lab.cluster.master()?;
    let (roles, votes) = (RoleWatch::start(&lab.cluster, old), MajorityWatch::start(&lab.cluster, old)?);
    lab.cluster.failover()?;
    let (turned, new) = roles.wait(FAILOVER)?;
    let (named, _) = votes.wait(FAILOVER)?;
    follows(lab, new)?;
    writer.wait_ack_after(Instant::now(), FOLLOW)?;
    let record = writer.stop();
    let held = client::held(&mut lab.cluster.nodes[new].client()?)?;
    let lost = record.lost(&held);
    ensure!(lost.is_empty(), "{} of {} acknowledged writes are lost: {lost:?}", lost.len(), record.acks.len());
    let refused = lab.daemon.status()?.route("writes")?.refused.clone();
    ensure!(refused.is_empty(), "clients were turned away: {refused:?}");
    ensure!(record.outages.len() <= 1, "cut off more than once: {:?}", record.outages);
    let [before, after] = [old, new].map(|node| &lab.cluster.nodes[node]);
    let (from, until) = handover(&record, before, after).context("nothing was written")?;
    ensure!(from < turned, "the old master acknowledged after its successor had turned master");
    let decided = if commit == "early" { turned } else { named };
    Ok(Round { gap: until.duration_since(from), release: until.saturating_duration_since(decided) })
}

fn planned(datapath: &str, commit: &str, bar: Duration) {
    check(Lab::start(Spec::default(), datapath, |setup| committing(setup, commit)), |lab| {
        let mut drilled = Vec::new();
        for number in 0..rounds() {
            let round = round(lab, commit).with_context(|| format!("round {number}"))?;
            println!("{datapath}, {commit}: gap {:?}, release {:?}", round.gap, round.release);
            drilled.push(round);
            recover(lab)?;
        }
        let median = |of: fn(&Round) -> Duration| {
            let mut values: Vec<Duration> = drilled.iter().map(of).collect();
            values.sort_unstable();
            (values[(values.len() - 1) / 2], values[values.len() - 1])
        };
        let ((gap, longest), (release, slowest)) = (median(|round| round.gap), median(|round| round.release));
        println!("{datapath}, {commit}: gap {gap:?}, at most {longest:?}; release {release:?}, at most {slowest:?}");
        ensure!(gap <= limit(bar), "the gap is {gap:?}");
        ensure!(release <= limit(RELEASE) && slowest <= limit(3 * RELEASE), "released after {release:?}, {slowest:?}");
        Ok(())
    });
}

/// Until the Sentinels are done and the old master is a linked replica.
fn recover(lab: &Lab) -> Result<()> {
    wait::until(FAILOVER, "one master", || lab.cluster.master())?;
    lab.cluster.settle()?;
    let new = lab.cluster.master()?;
    for replica in (0..lab.cluster.nodes.len()).filter(|index| *index != new) {
        wait::until(FAILOVER, "a replica to be linked", || lab.cluster.nodes[replica].linked())?;
    }
    Ok(())
}

/// The Sentinel chooses a replica, waits for it, and gives up.
fn aborted(datapath: &str) {
    let spec = Spec { failover_timeout_ms: 700, down_after_ms: 5000, ..Spec::default() };
    check(Lab::start(spec, datapath, |setup| setup), |lab| {
        let (writer, mut idle, mut subscriber) = (writer(lab)?, lab.writes()?, lab.writes()?);
        subscriber.call::<redis::Value>(redis::cmd("SUBSCRIBE").arg("news"))?;
        idle.ping()?;
        let old = hang_a_failover(lab)?;
        lab.daemon.wait_way(lab.group_name(), "open", FOLLOW)?;
        writer.wait_ack_after(Instant::now(), FOLLOW)?;
        idle.ping()?;
        idle.call::<i64>(redis::cmd("PUBLISH").arg("news").arg("after"))?;
        subscriber.receive().context("what was published after the pause")?;
        let record = writer.stop();
        ensure!(record.outages.is_empty(), "a connection was lost: {:?}", record.outages);
        let gap = longest_gap(&record);
        println!("{datapath}: paused for {gap:?}");
        ensure!(gap > Duration::from_millis(300), "no write waited: {gap:?}");
        ensure!(gap < limit(Duration::from_millis(1100)), "paused for {gap:?}");
        let lost = record.lost(&client::held(&mut lab.cluster.nodes[old].client()?)?);
        ensure!(lost.is_empty(), "{} acknowledged writes are lost", lost.len());
        Ok(())
    });
}

/// A replica turns master and no Sentinel had announced it: no reason to stop anybody.
fn promotion_behind_their_backs(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        let writer = writer(lab)?;
        lab.cluster.nodes[1].replicate(None)?;
        wait::pause(Duration::from_secs(2));
        let record = writer.stop();
        ensure!(record.outages.is_empty(), "a connection was lost: {:?}", record.outages);
        let gap = longest_gap(&record);
        ensure!(gap < limit(Duration::from_millis(50)), "nothing passed for {gap:?}");
        Ok(())
    });
}

/// `REPLICAOF` behind everybody's back, on an idle connection: PUBLISH would still be answered there.
fn demotion_is_fenced(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        let mut idle = lab.writes()?;
        idle.ping()?;
        let master = lab.cluster.master()?;
        lab.cluster.demote(master, (master + 1) % lab.cluster.nodes.len())?;
        let demoted = Instant::now();
        ensure!(idle.wait_end(FOLLOW)?, "it ended by FIN, not by RST");
        let fenced = demoted.elapsed();
        println!("{datapath}: fenced after {fenced:?}");
        ensure!(fenced <= limit(FENCE), "fenced after {fenced:?}");
        Ok(())
    });
}
