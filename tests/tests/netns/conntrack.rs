//! Beside tc the host's connection tracking sees nothing of a route's packets, whole flows as little as halves of them: its
//! table stays empty, and rules that drop what is invalid drop none of them.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Namespace, World, wait};

use crate::{
    order::{self, Manner, Order},
    stage::{self, PORT, Stage, crowd},
};

const CONNECTIONS: usize = 32;
const BYTES: u64 = 256 << 10;

/// What many hosts have. With `loose` off, no packet in the middle of a connection begins one.
const RULES: &str = "table inet host {
 counter invalid { }
 chain input { type filter hook input priority 0; policy accept; ct state invalid counter name invalid drop; }
 chain forward { type filter hook forward priority 0; policy accept; ct state invalid counter name invalid drop; }
}";

/// From before the daemon starts: what was there already would be in the middle of nothing.
fn tracking() -> Result<Stage> {
    let world = World::new()?;
    let proxy = world.proxy()?;
    proxy.run("nft", &[RULES])?;
    proxy.run("sh", &["-c", "echo 0 > /proc/sys/net/netfilter/nf_conntrack_tcp_loose"])?;
    Stage::over(world, false, "tc", |stream| order::or_reset(order::serve_or_echo(stream)))
}

/// How often something was invalid.
fn invalid(at: &Namespace) -> Result<u64> {
    let counter = at.run("nft", &["list", "counter", "inet", "host", "invalid"])?;
    let mut words = counter.split_whitespace().skip_while(|word| *word != "packets").skip(1);
    words.next().with_context(|| format!("no counter: {counter}"))?.parse().context("a count")
}

/// Tracked connections of clients.
fn tracked(at: &Namespace) -> Result<Vec<String>> {
    let table = at.run("cat", &["/proc/net/nf_conntrack"])?;
    let port = format!("dport={PORT} ");
    Ok(table.lines().filter(|line| line.contains(&port)).map(str::to_owned).collect())
}

#[test]
fn the_hosts_own_rules_see_no_flow() {
    stage::check(tracking(), |stage| {
        stage.wait_translated(0)?;
        let proxy = stage.world.proxy()?;
        // The first clients may have been the listener's.
        let (accepted, others) = (stage.accepted()?, tracked(proxy)?.len());
        let mut idle = stage.connect()?;
        let mut trip = || -> Result<()> {
            idle.write_all(b"ping").context("ping")?;
            idle.read_exact(&mut [0; 4]).context("pong")
        };
        trip()?;
        crowd(CONNECTIONS, CONNECTIONS, |number| {
            let order = Order { seed: number as u64, up: BYTES, down: BYTES, node: Manner::default() };
            order::fulfil(stage.connect()?, &order, Manner::default())
        })?;
        trip()?;
        ensure!(stage.accepted()? == accepted, "some were served by the listener");
        let seen = tracked(proxy)?;
        ensure!(seen.len() <= others, "connections of clients are tracked: {seen:?}");
        let dropped = invalid(proxy)?;
        ensure!(dropped == 0, "{dropped} packets were invalid");
        // The probes of the daemon are the host's own: the table does work.
        let table = proxy.run("cat", &["/proc/net/nf_conntrack"])?;
        ensure!(table.contains("dport=7000 "), "nothing is tracked at all: {table}");
        ends_and_begins_anew(stage, &mut idle)
    });
}

/// A switch is told through the host's rules, and who was parked passes them too.
fn ends_and_begins_anew(stage: &Stage, idle: &mut std::net::TcpStream) -> Result<()> {
    stage.node.say_master(false);
    let end = idle.read(&mut [0]).err().map(|error| error.kind());
    ensure!(end == Some(std::io::ErrorKind::ConnectionReset), "the idle client's connection: {end:?}");
    std::thread::scope(|scope| -> Result<()> {
        // Its SYN waits, and it does.
        let parked = scope.spawn(|| -> Result<()> {
            let mut parked = stage.connect()?;
            parked.write_all(b"wait").context("send")?;
            parked.read_exact(&mut [0; 4]).context("the parked client's answer")
        });
        wait::pause(Duration::from_millis(100));
        stage.node.say_master(true);
        parked.join().ok().context("the parked client panicked")?
    })?;
    wait::until(Duration::from_secs(5), "a flow again", || {
        let mut stream = stage.connect()?;
        stream.write_all(b"ping").context("ping")?;
        stream.read_exact(&mut [0; 4]).context("pong")
    })
}
