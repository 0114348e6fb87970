//! The harness itself, on real servers: what it says about a cluster is true, and it cleans up.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use switchmaster_tests::{
    Client, Cluster, HaProxy, Lab, Nat, Nginx, Spec, Style, Subscriber, Twemproxy, Writer, client, redis::Passwords,
    wait,
};

const FAILOVER: Duration = Duration::from_secs(20);

fn passwords() -> Passwords {
    Passwords {
        node: "n0de".to_owned(),
        sentinel: "s3ntinel".to_owned(),
        probe: ("probe".to_owned(), "pr0be".to_owned()),
    }
}

fn fails_over(cluster: &mut Cluster) -> Result<()> {
    let old = cluster.kill_master()?;
    let new = cluster.wait_failover(old, FAILOVER)?;
    ensure!(new != old && cluster.majority()?.1 >= 1, "{}", cluster.describe());
    Ok(())
}

#[test]
fn a_killed_master_is_replaced_and_haproxy_follows() -> Result<()> {
    let (world, mut cluster) = Lab::cluster(Spec::default())?;
    let haproxy = HaProxy::role_check(&world, &cluster, world.proxy()?.address(6379))?;
    let writer = Writer::start(world.client()?, haproxy.listen, 1000, None);
    let subscriber = Subscriber::start(world.client()?, haproxy.listen, "news")?;
    Client::connect(world.client()?, haproxy.listen)?.call::<i64>(redis::cmd("PUBLISH").arg("news").arg("hello"))?;
    subscriber.wait_message("hello", FAILOVER)?;
    wait::until_true(FAILOVER, "writes", || writer.acked() > 500)?;
    let killed = Instant::now();
    let old = cluster.kill_master()?;
    subscriber.wait_ended(FAILOVER)?;
    let new = cluster.wait_failover(old, FAILOVER)?;
    let first = writer.wait_ack_after(killed, FAILOVER)?;
    let record = writer.stop();
    ensure!(record.outages.len() == 1, "{:?}", record.outages);
    let held = client::held(&mut cluster.nodes[new].client()?)?;
    ensure!(held.contains(&first.number), "the first write after the failover is not on the new master");
    Ok(())
}

/// The checks are what people deploy; that they pass here shows that what a drill compares with works.
#[test]
fn haproxy_finds_the_master_in_all_three_styles() -> Result<()> {
    let (world, cluster) = Lab::cluster(Spec::apart())?;
    for (style, port) in [(Style::Role, 7001), (Style::Quorum, 7002), (Style::Chart, 7003)] {
        let haproxy = HaProxy::launch(&world, &cluster, world.proxy()?.address(port), style)?;
        haproxy.wait_master(&world).with_context(|| format!("{style:?}"))?;
        let writer = Writer::start(world.client()?, haproxy.listen, 1000, None);
        let publisher = Writer::publishing(world.client()?, haproxy.listen, 1000);
        wait::until_true(FAILOVER, "numbers", || writer.acked() > 100 && publisher.acked() > 100)?;
        for record in [writer.stop(), publisher.stop()] {
            let master = cluster.nodes[0].address.port();
            ensure!(record.acks.iter().all(|ack| ack.node == master && ack.link == 1), "another node acknowledged");
        }
    }
    Ok(())
}

/// What a bench compares with: each carries bytes to the server and back, and gives way when it is dropped.
#[test]
fn every_plain_forwarder_forwards() -> Result<()> {
    let (world, cluster) = Lab::cluster(Spec::bare(0))?;
    let (proxy, server) = (world.proxy()?, cluster.nodes[0].address);
    let source = proxy.addresses().iter().copied().filter(std::net::IpAddr::is_ipv4).nth(1).context("no address")?;
    let through = |name: &str, port: u16| -> Result<()> {
        let mut client = Client::connect(world.client()?, proxy.address(port))?;
        client.set("who", name)?;
        ensure!(cluster.nodes[0].client()?.get("who")?.as_deref() == Some(name), "{name} did not write");
        ensure!(client.get("who")?.as_deref() == Some(name), "{name} did not read");
        Ok(())
    };
    let haproxy = HaProxy::plain(&world, proxy.address(7001), server)?;
    through("haproxy", 7001)?;
    let spliced = HaProxy::spliced(&world, proxy.address(7002), server)?;
    through("haproxy with splice-auto", 7002)?;
    let nginx = Nginx::plain(&world, proxy.address(7003), server)?;
    through("nginx", 7003)?;
    let workers = nginx.process().family()?;
    ensure!(workers.len() == 4, "a launcher, a master and two workers: {workers:?}");
    let twemproxy = Twemproxy::plain(&world, proxy.address(7004), server)?;
    through("twemproxy", 7004)?;
    let nat = Nat::plain(&world, proxy.address(7005), server, source)?;
    through("nftables", 7005)?;
    drop((haproxy, spliced, nginx, twemproxy, nat));
    let alive = |pid: &&Pid| Path::new("/proc").join(pid.to_string()).exists();
    wait::until_true(Duration::from_secs(5), "nginx's workers to end", || workers.iter().find(alive).is_none())?;
    for port in 7001..=7005 {
        let answer = world.client()?.connect(proxy.address(port), Duration::from_secs(1));
        ensure!(answer.is_err(), "somebody still listens on {port}");
    }
    Ok(())
}

#[test]
fn a_planned_failover_and_a_silent_demotion() -> Result<()> {
    let (_world, cluster) = Lab::cluster(Spec::default())?;
    let old = cluster.failover()?;
    let new = cluster.wait_failover(old, FAILOVER)?;
    wait::until(FAILOVER, "the old master to follow", || cluster.nodes[old].linked())?;
    cluster.demote(new, old)?;
    ensure!(cluster.nodes[new].role()? == "slave", "{}", cluster.describe());
    Ok(())
}

#[test]
fn a_partition_leaves_two_masters() -> Result<()> {
    let (world, cluster) = Lab::cluster(Spec::apart())?;
    for peer in ["db1", "db2"] {
        world.ns("db0")?.cut(world.ns(peer)?)?;
    }
    let new = cluster.wait_failover(0, FAILOVER)?;
    ensure!(cluster.masters() == [0, new], "{}", cluster.describe());
    let mut client = Client::connect(world.proxy()?, cluster.nodes[0].address)?;
    ensure!(client.role()? == "master", "the proxy is not cut off");
    Ok(())
}

#[test]
fn a_frozen_master_is_replaced() -> Result<()> {
    let (_world, cluster) = Lab::cluster(Spec::default())?;
    cluster.nodes[0].freeze()?;
    let new = cluster.wait_failover(0, FAILOVER)?;
    cluster.nodes[0].thaw()?;
    wait::until(FAILOVER, "one master", || cluster.master()).map(|master| assert_eq!(master, new))
}

#[test]
fn with_passwords() -> Result<()> {
    let (world, mut cluster) = Lab::cluster(Spec { passwords: Some(passwords()), ..Spec::default() })?;
    let mut client = Client::connect(world.client()?, cluster.nodes[0].address)?;
    ensure!(client.ping().is_err(), "a password should be wanted");
    client.auth(Some("probe"), "pr0be")?;
    ensure!(client.get("x").is_err(), "the probe's user may only use @connection");
    client.auth(None, "n0de")?;
    client.set("x", "y")?;
    fails_over(&mut cluster)
}

#[test]
fn over_ipv6_with_tls() -> Result<()> {
    let (_world, mut cluster) = Lab::cluster(Spec { tls: true, ipv6: true, ..Spec::default() })?;
    fails_over(&mut cluster)
}

#[test]
fn announced_by_name() -> Result<()> {
    let (_world, mut cluster) = Lab::cluster(Spec { hostnames: true, ..Spec::default() })?;
    fails_over(&mut cluster)
}

#[test]
fn a_restarted_node_is_another_one() -> Result<()> {
    let (_world, mut cluster) = Lab::cluster(Spec::bare(1))?;
    let before = cluster.nodes[0].id()?;
    cluster.nodes[0].client()?.set("x", "y")?;
    cluster.restart_empty(0)?;
    ensure!(cluster.nodes[0].id()? != before, "the same id");
    ensure!(cluster.nodes[0].client()?.get("x")?.is_none(), "it is not empty");
    Ok(())
}

/// The rest of a world that lives in another process: see `interrupted` below.
fn remains(world: &str) -> Vec<String> {
    let mut found = Vec::new();
    for directory in ["/run/netns", "/tmp"] {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
        found.extend(names.filter(|name| name.starts_with(world)));
    }
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if command.contains(world) {
            found.push(command);
        }
    }
    found
}

/// Not a test by itself: the process that `nothing_is_left` interrupts, kills, or lets panic.
#[test]
#[ignore = "run by nothing_is_left in a process of its own"]
fn victim() -> Result<()> {
    let (world, _cluster) = Lab::cluster(Spec { replicas: 1, sentinels: 1, quorum: 1, ..Spec::default() })?;
    println!("WORLD {}", world.name());
    if std::env::var("VICTIM").is_ok_and(|way| way == "panic") {
        panic!("as asked");
    }
    wait::pause(Duration::from_secs(30));
    Ok(())
}

fn left_by_victim(way: &str, signal: Option<Signal>) -> Result<()> {
    let mut victim = Command::new(std::env::current_exe()?)
        .args(["--ignored", "--exact", "victim", "--nocapture"])
        .env("VICTIM", way)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let lines = BufReader::new(victim.stdout.take().context("stdout")?).lines();
    // The test runner writes on the same line before.
    let name = |line: String| line.split_once("WORLD ").map(|(_, name)| name.to_owned());
    let world = lines.map_while(Result::ok).find_map(name).context("the victim made no world")?;
    if let Some(signal) = signal {
        ensure!(!remains(&world).is_empty(), "nothing was there");
        kill(Pid::from_raw(victim.id().cast_signed()), signal)?;
    }
    ensure!(!victim.wait()?.success(), "it should have ended badly");
    if signal == Some(Signal::SIGKILL) {
        let servers = || remains(&world).iter().any(|left| left.contains(' '));
        wait::until_true(Duration::from_secs(2), "the kernel to kill the servers", || !servers())?;
        // Sweeping is done once a process; a fresh one does it here.
        left_by_victim("panic", None)?;
    }
    let left = remains(&world);
    ensure!(left.is_empty(), "{way} left {left:?}");
    ensure!(!Path::new("/tmp").join(&world).exists(), "its folder is there");
    Ok(())
}

#[test]
fn nothing_is_left_after_a_panic() -> Result<()> {
    left_by_victim("panic", None)
}

#[test]
fn nothing_is_left_after_an_interrupt() -> Result<()> {
    left_by_victim("interrupt", Some(Signal::SIGINT))?;
    left_by_victim("terminate", Some(Signal::SIGTERM))
}

#[test]
fn the_next_one_sweeps_what_a_kill_left() -> Result<()> {
    left_by_victim("kill", Some(Signal::SIGKILL))
}
