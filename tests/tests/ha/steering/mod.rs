//! Clients on the daemon's own host: they are at the node without a hop, and a switch holds for them as for all others.

mod calls;
mod cgroup;
mod namespaces;
mod others;
mod switches;

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Client, Daemon, Lab, Spec, daemon::Config, lab::Setup, wait};

use crate::FOLLOW;

/// What a test of steering adds to a configuration.
fn with_steering(setup: &Setup) -> Config {
    setup.config().local("steering", "\"on\"")
}

fn lab(datapath: &str) -> Result<Lab> {
    lab_with(Spec::default(), datapath, |config| config)
}

fn lab_with(spec: Spec, datapath: &str, adjust: impl FnOnce(Config) -> Config) -> Result<Lab> {
    let (world, cluster) = Lab::cluster(spec)?;
    let config = adjust(with_steering(&Lab::setup(&world, &cluster, datapath)?));
    let daemon = Daemon::start(&world, &config).with_context(|| cluster.describe())?;
    let lab = Lab { daemon, cluster, world, local: None };
    let master = lab.cluster.nodes[lab.cluster.master()?].address;
    lab.daemon.wait_master(&lab.cluster.spec.name, master, FOLLOW)?;
    // Who comes from elsewhere gets through once the listener has seen that nobody waits; until then it has everybody.
    lab.writes()?.ping()?;
    Ok(lab)
}

/// The first client that is led, some moments after a group has opened: once the listener has seen that nobody waits.
fn led(lab: &Lab) -> Result<Client> {
    wait::until(FOLLOW, "a client to be led", || {
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        Ok(client)
    })
}

/// A client in the daemon's own namespace.
fn local(lab: &Lab) -> Result<Client> {
    local_to(lab, lab.writes_address()?)
}

fn local_to(lab: &Lab, to: SocketAddr) -> Result<Client> {
    Client::connect(lab.world.proxy()?, to)
}

/// Whether the node sees the client's own socket.
fn is_direct(client: &mut Client) -> Result<bool> {
    let info: String = client.call(redis::cmd("CLIENT").arg("INFO"))?;
    let addr = info.split(' ').find_map(|field| field.strip_prefix("addr=")).context("no addr")?;
    Ok(addr.parse::<SocketAddr>()? == client.tcp()?.local_addr()?)
}

fn steered(lab: &Lab) -> Result<u64> {
    Ok(lab.daemon.status()?.route("writes")?.steered)
}

/// Waits until so many are counted: a process that is started at that moment beside the test has all descriptors for an instant,
/// and a socket is closed only when that one has let go of it too.
fn counted(lab: &Lab, count: u64) -> Result<()> {
    wait::until(FOLLOW, "who is gone to be counted no more", || {
        let steered = steered(lab)?;
        ensure!(steered == count, "{steered} are counted");
        Ok(())
    })
}

/// How often this came of a call.
fn outcome(lab: &Lab, outcome: &str) -> Result<u64> {
    let text = lab.daemon.get("/metrics")?.body;
    let label = format!("switchmaster_steering_total{{outcome=\"{outcome}\"}} ");
    let value = text.lines().find_map(|line| line.strip_prefix(&label)).with_context(|| format!("no {outcome}"))?;
    Ok(value.parse()?)
}

fn ensure_direct(client: &mut Client) -> Result<()> {
    ensure!(is_direct(client)?, "there is a hop between");
    Ok(())
}

fn ensure_hop(client: &mut Client) -> Result<()> {
    ensure!(!is_direct(client)?, "it was led to the node");
    Ok(())
}
