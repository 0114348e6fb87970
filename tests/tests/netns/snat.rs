//! A route's nodes see its packets from the addresses that it lists, as far as this host has them.

use std::{
    collections::BTreeSet,
    io::{Read as _, Write as _},
    net::{IpAddr, TcpStream},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use switchmaster_tests::{
    Daemon,
    daemon::{Config, Group, Route},
    wait,
};

use crate::{
    order::{echo, or_reset},
    stage::{self, Stage},
};

const LISTED: [&str; 2] = ["10.77.2.201", "10.77.2.202"];
const CONNECTIONS: usize = 16;

type Seen = Arc<Mutex<BTreeSet<IpAddr>>>;

fn listing(route: Route) -> Route {
    // The third is never there.
    route.set("snat", format_args!("{:?}", [LISTED[0], LISTED[1], "10.77.2.203"]))
}

fn noting(seen: &Seen) -> impl Fn(TcpStream) -> Result<()> + Send + Sync + 'static {
    let seen = Arc::clone(seen);
    move |stream| {
        let from = stream.peer_addr().context("who it is")?.ip();
        seen.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
        or_reset(echo(stream))
    }
}

/// From where the node sees new connections.
fn sources(stage: &Stage, seen: &Seen) -> Result<BTreeSet<IpAddr>> {
    seen.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let mut all = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut client = stage.connect()?;
        client.write_all(b"ping").context("ping")?;
        client.read_exact(&mut [0; 4]).context("pong")?;
        all.push(client);
    }
    Ok(seen.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

#[test]
fn nodes_see_the_listed_addresses_that_are_there() {
    let seen = Seen::default();
    stage::check(Stage::with("tc", noting(&seen), listing), |stage| {
        let proxy = stage.world.proxy()?;
        let listed: BTreeSet<IpAddr> = LISTED.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        let change = |verb: &str| -> Result<()> {
            LISTED.iter().try_for_each(|address| {
                proxy.run("ip", &["address", verb, &format!("{address}/24"), "dev", "link2"]).map(drop)
            })
        };
        // With none of them there the listener serves, from the address that the kernel takes.
        ensure!(sources(stage, &seen)?.is_disjoint(&listed), "seen from an address that nobody has");
        change("add")?;
        wait::until(Duration::from_secs(10), "connections from both addresses", || {
            let seen = sources(stage, &seen)?;
            ensure!(seen == listed, "seen from {seen:?}");
            Ok(())
        })?;
        change("del")?;
        wait::until(Duration::from_secs(10), "the listener to serve again", || {
            let seen = sources(stage, &seen)?;
            ensure!(seen.is_disjoint(&listed), "seen from {seen:?}");
            Ok(())
        })
    });
}

/// Two daemons would give out the same source ports, and each take the other's flows for its own: the second translates nothing.
#[test]
fn a_second_daemon_has_no_source_ports() {
    stage::check(Stage::new("tc", |stream| or_reset(echo(stream))), |stage| {
        let node = stage.node.ipv4();
        let second = |datapath: &str| -> Result<Config> {
            let listen = stage.world.proxy()?.address(7300);
            let group = Group::new("second").set("nodes", format!("[\"{node}\"]"));
            Ok(Config::named("second", 9181)
                .local("steering", "\"off\"")
                .group(group)
                .route(Route::new("other", "second", "master", datapath, &[listen]))
                .argument("--pin-dir")
                .argument("/sys/fs/bpf/second"))
        };
        let refused = Daemon::start(&stage.world, &second("tc")?).err().context("it has started")?;
        ensure!(format!("{refused:#}").contains("by the same source ports"), "{refused:#}");
        let daemon = Daemon::start(&stage.world, &second("auto")?)?;
        daemon.wait_master("second", node, stage::LIMIT)?;
        let route = daemon.status()?.route("other")?.clone();
        let why = route.datapath_reason.unwrap_or_default();
        ensure!(route.datapath == "sockmap" && why.contains("another daemon"), "{}: {why}", route.datapath);
        stage.wait_translated(0)?;
        drop(daemon);
        // What it leaves goes on translating.
        stage.daemon.process().signal(Signal::SIGKILL)?;
        wait::pause(Duration::from_millis(500));
        let refused =
            Daemon::start(&stage.world, &second("tc")?).err().context("it has started beside a dead one's program")?;
        ensure!(format!("{refused:#}").contains("another daemon's program translates packets at link"), "{refused:#}");
        Ok(())
    });
}
