//! The master is cut off from the Sentinels and its replicas, but not from us: two masters, of which
//! only one has the majority.

use std::time::Duration;

use anyhow::{Result, ensure};
use switchmaster_tests::{Cluster, Lab, Spec, World, lab::check, tests_of, wait};

use crate::{FAILOVER, FOLLOW, follows};

// Nothing can be cut between nodes on one host, so none of them is the daemon's.
tests_of!(the_majoritys_master_wins: copy sockmap tc xdp steered);

fn around(world: &World, cluster: &Cluster, act: impl Fn(&World, &str, &str) -> Result<()>) -> Result<()> {
    let (alone, others) = (cluster.nodes[0].namespace().name(), &cluster.nodes[1..]);
    others.iter().try_for_each(|node| act(world, alone, node.namespace().name()))
}

fn the_majoritys_master_wins(datapath: &str) {
    check(Lab::start(Spec::apart(), datapath, |setup| setup), |lab| {
        let mut old = lab.writes()?;
        old.set("before", "1")?;
        around(&lab.world, &lab.cluster, |world, a, b| world.ns(a)?.cut(world.ns(b)?))?;
        let new = lab.cluster.wait_failover(0, FAILOVER)?;
        ensure!(lab.cluster.nodes[0].role()? == "master", "the old master should still think it is one");
        follows(lab, new)?;
        ensure!(old.wait_end(FOLLOW)?, "a connection to the old master ended by FIN, not by RST");
        wait::throughout(Duration::from_secs(2), "the new master", || follows(lab, new))?;
        let mut kept = lab.writes()?;
        kept.set("after", "1")?;
        around(&lab.world, &lab.cluster, |world, a, b| world.ns(a)?.heal(world.ns(b)?))?;
        wait::until(FAILOVER, "the old master to follow", || lab.cluster.nodes[0].linked())?;
        follows(lab, new)?;
        kept.ping()
    });
}
