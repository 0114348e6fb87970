//! A failover that is announced: fenced before the roles change, so that nothing that was acknowledged
//! is lost; and when it comes to nothing, nobody has lost a connection. A role lost without a word, too.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Lab, Spec, Writer,
    client::{self, Record},
    lab::{Setup, check},
    wait,
};

use crate::{FAILOVER, FOLLOW, follows, limit, on_each_datapath};

on_each_datapath!(planned_by_majority, planned_early, aborted, promotion_behind_their_backs, demotion_is_fenced);

/// The bar for a fence, from the change of role: the fast interval and ten milliseconds.
const FENCE: Duration = Duration::from_millis(110);

fn committing(setup: Setup, commit: &str) -> Setup {
    Setup { group: setup.group.set("commit", format_args!("{commit:?}")), ..setup }
}

fn writer(lab: &Lab) -> Result<Writer> {
    let writer = Writer::start(lab.client()?, lab.writes_address()?, 1000, None);
    wait::until_true(FOLLOW, "a few hundred writes", || writer.acked() > 300)?;
    Ok(writer)
}

/// From one acknowledged write to the next, at most.
fn longest_gap(record: &Record) -> Duration {
    let gaps = record.acks.windows(2).map(|pair| pair[1].acked.duration_since(pair[0].acked));
    gaps.max().unwrap_or_default()
}

fn planned_by_majority(datapath: &str) {
    planned(datapath, "majority");
}

fn planned_early(datapath: &str) {
    planned(datapath, "early");
}

fn planned(datapath: &str, commit: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| committing(setup, commit)), |lab| {
        let writer = writer(lab)?;
        let old = lab.cluster.failover()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        writer.wait_ack_after(Instant::now(), FOLLOW)?;
        let record = writer.stop();
        let held = client::held(&mut lab.cluster.nodes[new].client()?)?;
        let lost = record.lost(&held);
        println!(
            "{datapath}, {commit}: {} acknowledged, {} lost, gap {:?}",
            record.acks.len(),
            lost.len(),
            longest_gap(&record)
        );
        ensure!(lost.is_empty(), "{} acknowledged writes are lost: {lost:?}", lost.len());
        let refused = lab.daemon.status()?.route("writes")?.refused.clone();
        ensure!(refused.is_empty(), "clients were turned away: {refused:?}");
        ensure!(record.outages.len() <= 1, "cut off more than once: {:?}", record.outages);
        Ok(())
    });
}

/// The replicas hang when one is to be promoted: the Sentinel chooses one, waits, and gives up.
fn aborted(datapath: &str) {
    let spec = Spec { failover_timeout_ms: 700, down_after_ms: 5000, ..Spec::default() };
    check(Lab::start(spec, datapath, |setup| setup), |lab| {
        let (writer, mut idle, mut subscriber) = (writer(lab)?, lab.writes()?, lab.writes()?);
        subscriber.call::<redis::Value>(redis::cmd("SUBSCRIBE").arg("news"))?;
        idle.ping()?;
        let old = lab.cluster.failover()?;
        // Between the order and the promotion lie some steps of a tenth of a second.
        for replica in &lab.cluster.nodes[1..] {
            replica.freeze()?;
        }
        lab.daemon.wait_way(lab.group_name(), "paused", FOLLOW)?;
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
