//! Replica routes: shared out, left when a replica dies or lags, the master only when that is wished.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Lab, Spec,
    lab::{Setup, check},
    process::Process,
    tests_of, wait,
};

use crate::{FOLLOW, on_each_way};

/// Short, or the test is long.
const GRACE: Duration = Duration::from_millis(1500);
/// Of a server that is none of the group's.
const FOREIGN: u16 = 7999;

on_each_way!(round_robin, a_dead_replica_leaves, fallback_to_the_master);
tests_of!(one_of_another_group_leaves: copy sockmap tc steered);
tests_of!(without_a_majority_they_take_nobody_new: copy tc steered);
// A node on the daemon's host cannot be cut off by itself.
tests_of!(a_lagging_replica_leaves: copy sockmap tc xdp steered);

/// Where `count` new connections end, by node.
fn spread(lab: &Lab, count: usize) -> Result<Vec<usize>> {
    let mut hits = vec![0; lab.cluster.nodes.len()];
    for _ in 0..count {
        let mut client = lab.reads()?;
        hits[lab.node_behind(&mut client)?] += 1;
    }
    Ok(hits)
}

/// Waits until new connections are shared out like this.
fn shared_out(lab: &Lab, wanted: &[usize], limit: Duration) -> Result<()> {
    wait::until(limit, format_args!("connections to be shared out {wanted:?}"), || {
        let hits = spread(lab, wanted.iter().sum())?;
        ensure!(hits == wanted, "they are {hits:?}");
        Ok(())
    })
}

fn round_robin(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        shared_out(lab, &[0, 2, 2], FOLLOW)?;
        wait::throughout(Duration::from_secs(1), "an even share", || {
            let hits = spread(lab, 4)?;
            ensure!(hits == [0, 2, 2], "it is {hits:?}");
            Ok(())
        })
    });
}

fn a_dead_replica_leaves(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        shared_out(lab, &[0, 2, 2], FOLLOW)?;
        let mut clients = [lab.reads()?, lab.reads()?];
        let behind = [lab.node_behind(&mut clients[0])?, lab.node_behind(&mut clients[1])?];
        ensure!(behind[0] != behind[1], "both are on node{}", behind[0]);
        let [mut lost, mut kept] = clients;
        lab.cluster.nodes[behind[0]].kill();
        lost.wait_end(FOLLOW)?;
        let mut wanted = [0, 4, 4];
        wanted[behind[0]] = 0;
        shared_out(lab, &wanted, FOLLOW)?;
        kept.ping()
    });
}

fn a_lagging_replica_leaves(datapath: &str) {
    let adjust = |mut setup: Setup| {
        setup.reads = setup.reads.set("max_lag", "\"2s\"");
        setup
    };
    check(Lab::start(Spec::apart(), datapath, adjust), |lab| {
        shared_out(lab, &[0, 2, 2], FOLLOW)?;
        lab.world.ns("db0")?.cut(lab.world.ns("db1")?)?;
        shared_out(lab, &[0, 0, 4], Duration::from_secs(8))?;
        lab.world.ns("db0")?.heal(lab.world.ns("db1")?)?;
        shared_out(lab, &[0, 2, 2], Duration::from_secs(15))
    });
}

fn fallback_to_the_master(datapath: &str) {
    let adjust = |mut setup: Setup| {
        setup.reads = setup.reads.set("fallback", "\"master\"");
        setup
    };
    check(Lab::start(Spec::default(), datapath, adjust), |lab| {
        shared_out(lab, &[0, 1, 1], FOLLOW)?;
        lab.cluster.nodes[1].kill();
        lab.cluster.nodes[2].kill();
        shared_out(lab, &[2, 0, 0], FOLLOW)?;
        let master = lab.cluster.nodes[0].host.clone();
        lab.cluster.nodes[1].start(Some((&master, lab.cluster.spec.first_node_port)))?;
        shared_out(lab, &[0, 2, 0], Duration::from_secs(10))
    });
}

/// A replica that somebody has turned to another group's master holds that one's data.
fn one_of_another_group_leaves(datapath: &str) {
    check(Lab::start(Spec::default(), datapath, |setup| setup), |lab| {
        shared_out(lab, &[0, 2, 2], FOLLOW)?;
        let (node, namespace) = (&lab.cluster.nodes[1], lab.cluster.nodes[1].namespace());
        let mut command = namespace.command("redis-server");
        command.args(["--port", &FOREIGN.to_string(), "--bind", &node.address.ip().to_string()]);
        command.args(["--save", "", "--protected-mode", "no", "--repl-diskless-sync-delay", "0"]);
        let _foreign = Process::start("a server of another group", command, lab.world.directory().join("foreign"))?;
        let mut clients = [lab.reads()?, lab.reads()?];
        let behind = [lab.node_behind(&mut clients[0])?, lab.node_behind(&mut clients[1])?];
        let at = behind.iter().position(|node| *node == 1).context("nobody is behind node1")?;
        let [mut first, mut second] = clients;
        let (turned, other) = if at == 0 { (&mut first, &mut second) } else { (&mut second, &mut first) };
        let host = node.address.ip().to_string();
        wait::until(FOLLOW, "the replica to be turned", || node.replicate(Some((&host, FOREIGN))))?;
        wait::until(FOLLOW, "its link to be up", || node.linked())?;
        shared_out(lab, &[0, 0, 4], FOLLOW)?;
        ensure!(turned.wait_end(FOLLOW)?, "a client still reads another group's data");
        other.ping()?;
        let master = lab.cluster.nodes[0].host.clone();
        node.replicate(Some((&master, lab.cluster.spec.first_node_port)))?;
        shared_out(lab, &[0, 2, 2], Duration::from_secs(15))
    });
}

/// Rule 4 holds for them as well: nobody says any more whose replicas they are.
fn without_a_majority_they_take_nobody_new(datapath: &str) {
    let adjust = |mut setup: Setup| {
        setup.group = setup.group.quorum_grace(GRACE);
        setup.reads = setup.reads.park(10, Duration::from_millis(200));
        setup
    };
    check(Lab::start(Spec::default(), datapath, adjust), |lab| {
        shared_out(lab, &[0, 2, 2], FOLLOW)?;
        let mut before = lab.reads()?;
        before.ping()?;
        for sentinel in &mut lab.cluster.sentinels {
            sentinel.kill();
        }
        wait::until(GRACE * 3, "new clients to be turned away", || {
            let role = lab.reads().and_then(|mut client| client.role());
            ensure!(role.is_err(), "one was answered: {role:?}");
            Ok(())
        })?;
        before.ping()
    });
}
