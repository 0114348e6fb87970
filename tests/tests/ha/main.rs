//! High availability on real servers: every test has a cluster, a daemon in front and namespaces of
//! its own, and runs once for each datapath, most of them also for clients of the
//! daemon's own host. What is asked is only what clients can see, and the data.

mod access;
mod arming;
mod balance;
mod bypass;
mod clients;
mod failover;
mod gap;
mod input;
mod life;
mod lifecycle;
mod parking;
mod partition;
mod pause;
mod pins;
mod privileges;
mod replicas;
mod sentinels;
mod sever;
mod start;
mod steering;
mod timeline;

use std::time::Duration;

use anyhow::{Result, ensure};
use switchmaster_tests::{Client, Lab, on_each_datapath, on_each_way, wait};

/// Until Sentinels have elected, with room for a vote that was split.
const FAILOVER: Duration = Duration::from_secs(20);
/// Until the daemon has followed what the Sentinels decided.
const FOLLOW: Duration = Duration::from_secs(3);

/// What a figure is held against. Beside other tests on a busy machine only a gross miss is an error;
/// `STRICT_BARS=1`, on a quiet machine with `--test-threads 1`, holds it to the bar itself.
fn limit(bar: Duration) -> Duration {
    if std::env::var_os("STRICT_BARS").is_some() { bar } else { bar * 10 }
}

/// The daemon follows to `new`: new connections end there, and nowhere else.
fn follows(lab: &Lab, new: usize) -> Result<()> {
    lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[new].address, FOLLOW)?;
    let mut client = lab.writes()?;
    ensure!(client.role()? == "master", "connected to a node that is no master");
    let node = lab.node_behind(&mut client)?;
    ensure!(node == new, "connected to node{node}, not to node{new}");
    Ok(())
}

/// For all of `time`, no new connection is answered by a node that is not a master.
fn only_masters_answer(lab: &Lab, time: Duration) -> Result<()> {
    wait::throughout(time, "only masters answering", || {
        let Ok(mut client) = Client::connect_within(lab.client()?, lab.writes_address()?, Duration::from_millis(300))
        else {
            return Ok(());
        };
        // Nobody answering is allowed: that is what a pause looks like.
        let role = client.role().unwrap_or_else(|_| "nobody".to_owned());
        ensure!(role != "slave", "a replica answered");
        Ok(())
    })
}
