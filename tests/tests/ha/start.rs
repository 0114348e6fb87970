//! The first instant: clients that are there before the daemon never reach anything but the master.

use std::{
    net::SocketAddr,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use switchmaster_tests::{Client, Daemon, Lab, LocalWay, Namespace, Spec, World, daemon::Config, lab::WRITES, wait};

use crate::on_each_way;

const CONNECTIONS: usize = 400;
const ROUNDS: usize = 20;
const THREADS: usize = 8;

on_each_way!(four_hundred_connections_from_the_first_instant);

/// Dials without a pause until it is let in; counts who answered.
fn besiege(namespace: &Namespace, to: SocketAddr, served: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
    for _ in 0..CONNECTIONS / THREADS {
        let mut client = loop {
            if stop.load(Ordering::Relaxed) {
                return Ok(());
            }
            match Client::connect(namespace, to) {
                Ok(client) => break client,
                Err(_) => wait::pause(Duration::from_millis(1)),
            }
        };
        match client.role() {
            Ok(role) if role == "master" => served.fetch_add(1, Ordering::Relaxed),
            Ok(role) => bail!("a {role} answered"),
            // Refused before there was a master: harmless.
            Err(_) => 0,
        };
    }
    Ok(())
}

fn siege(world: &World, clients: &Namespace, config: &Config) -> Result<()> {
    let to = world.proxy()?.address(WRITES);
    let (served, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let mut daemon = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(|| besiege(clients, to, &served, &stop))).collect();
        let daemon = Daemon::start(world, config);
        if daemon.is_err() {
            stop.store(true, Ordering::Relaxed);
        }
        threads.into_iter().try_for_each(|thread| thread.join().ok().context("a client panicked")?)?;
        daemon
    })?;
    let served = served.load(Ordering::Relaxed);
    ensure!(served >= CONNECTIONS / 2, "only {served} were served: {}", daemon.log());
    let status = daemon.stop(Duration::from_secs(5))?;
    ensure!(status.success(), "the daemon ended with {status}");
    Ok(())
}

fn sieges(datapath: &str) -> Result<()> {
    let local = LocalWay::of(datapath);
    let (world, cluster) = Lab::cluster(LocalWay::place(local, Spec::default()))?;
    let config = Lab::setup(&world, &cluster, datapath)?.config();
    let clients = if local.is_some() { world.proxy()? } else { world.client()? };
    (0..ROUNDS).try_for_each(|round| siege(&world, clients, &config).with_context(|| format!("round {round}")))
}

fn four_hundred_connections_from_the_first_instant(datapath: &str) {
    if let Err(error) = sieges(datapath) {
        panic!("{error:?}");
    }
}
