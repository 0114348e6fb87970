//! A master goes: killed, frozen, replaced on purpose, or demoted behind everybody's back.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use switchmaster_tests::{Client, Lab, Spec, Subscriber, Writer, client, lab::check, wait};

use crate::{FAILOVER, FOLLOW, follows, on_each_way, only_masters_answer};

on_each_way!(kill, planned, freeze, silent_demotion, stranger_at_the_same_address);

/// A writer, a subscriber and a publisher that has gone quiet: all through the daemon.
struct Clients {
    writer: Writer,
    subscriber: Subscriber,
    publisher: Client,
}

impl Clients {
    fn start(lab: &Lab) -> Result<Self> {
        let writer = Writer::start(lab.client()?, lab.writes_address()?, 1000, None);
        let subscriber = Subscriber::start(lab.client()?, lab.writes_address()?, "news")?;
        let mut publisher = lab.writes()?;
        publisher.call::<i64>(redis::cmd("PUBLISH").arg("news").arg("before"))?;
        subscriber.wait_message("before", FOLLOW)?;
        wait::until_true(FOLLOW, "a few hundred writes", || writer.acked() > 300)?;
        Ok(Self { writer, subscriber, publisher })
    }

    /// All were cut off, and what was acknowledged after the switch is on the new master.
    fn came_over(mut self, lab: &Lab, new: usize) -> Result<()> {
        self.subscriber.wait_ended(FOLLOW)?;
        self.publisher.wait_end(FOLLOW)?;
        let switched = Instant::now();
        self.writer.wait_ack_after(switched, FOLLOW)?;
        let record = self.writer.stop();
        ensure!(!record.outages.is_empty(), "the writer was never cut off");
        let held = client::held(&mut lab.cluster.nodes[new].client()?)?;
        let after = record.acks.iter().filter(|ack| ack.sent > switched);
        let lost = after.filter(|ack| !held.contains(&ack.number)).count();
        ensure!(lost == 0, "{lost} writes that were acknowledged after the switch are not on the new master");
        Ok(())
    }
}

fn kill(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        let clients = Clients::start(lab)?;
        let old = lab.cluster.kill_master()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        clients.came_over(lab, new)?;
        ensure!(lab.daemon.status()?.route("writes")?.switches >= 1, "the switch is not counted");
        Ok(())
    });
}

fn planned(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        let clients = Clients::start(lab)?;
        let mut idle = lab.writes()?;
        let old = lab.cluster.failover()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        ensure!(idle.wait_end(FOLLOW)?, "a connection to the old master ended by FIN, not by RST");
        clients.came_over(lab, new)?;
        let severed = lab.daemon.status()?.route("writes")?.severed;
        // The writer may run into the shut gate before it is its turn.
        ensure!(severed >= 3, "{severed} connections are counted as severed; three were idle");
        Ok(())
    });
}

/// The old master's sockets stay open, so nothing but the daemon can tell its clients.
fn freeze(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        let mut idle = lab.writes()?;
        idle.ping()?;
        let old = lab.cluster.master()?;
        lab.cluster.nodes[old].freeze()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        ensure!(idle.wait_end(FOLLOW)?, "it ended by FIN, not by RST");
        lab.cluster.nodes[old].thaw()?;
        only_masters_answer(lab, Duration::from_secs(2))?;
        follows(lab, new)
    });
}

fn silent_demotion(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        let mut idle = lab.writes()?;
        idle.ping()?;
        let old = lab.cluster.master()?;
        let other = (old + 1) % lab.cluster.nodes.len();
        lab.cluster.nodes[other].replicate(None)?;
        lab.cluster.demote(old, other)?;
        idle.wait_end(FOLLOW)?;
        // The Sentinels have not said a word yet; when they do, whoever they name is followed.
        only_masters_answer(lab, Duration::from_secs(3))
    });
}

/// No Sentinel notices a restart that is quicker than down-after; the data is gone all the same.
fn stranger_at_the_same_address(datapath: &str) {
    check(Lab::start(Spec { down_after_ms: 30_000, ..Spec::default() }, datapath, |setup| setup), |lab| {
        let mut idle = lab.writes()?;
        idle.ping()?;
        let before = lab.daemon.status()?.route("writes")?.generation;
        let master = lab.cluster.master()?;
        lab.cluster.restart_empty(master)?;
        idle.wait_end(FOLLOW)?;
        wait::until_true(FOLLOW, "a new generation", || {
            lab.daemon.status().is_ok_and(|status| status.route("writes").is_ok_and(|route| route.generation > before))
        })?;
        follows(lab, master)
    });
}
