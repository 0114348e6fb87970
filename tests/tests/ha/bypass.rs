//! The bypass on real servers: clients and Redis on the daemon's host, and a switch, a pause and the daemon's end.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use switchmaster_tests::{
    Client, Daemon, Lab, Spec,
    daemon::{self, Config},
    lab::check,
    netns::HUB,
    wait,
};

use crate::{FAILOVER, FOLLOW, clients, pause::hang_a_failover};

fn spec() -> Spec {
    Spec { node_namespaces: vec![HUB.to_owned()], first_node_port: 7379, ..Spec::default() }
}

fn config(lab: (&switchmaster_tests::World, &switchmaster_tests::Cluster)) -> Result<Config> {
    let config = Lab::setup(lab.0, lab.1, "copy")?.config();
    Ok(config.local("steering", "\"on\"").local("bypass", "\"on\""))
}

fn lab(spec: Spec) -> Result<Lab> {
    lab_with(spec, |config| config)
}

fn lab_with(spec: Spec, adjust: impl FnOnce(Config) -> Config) -> Result<Lab> {
    let (world, cluster) = Lab::cluster(spec)?;
    let config = adjust(config((&world, &cluster))?);
    let daemon = Daemon::start(&world, &config).with_context(|| cluster.describe())?;
    let lab = Lab { daemon, cluster, world, local: None };
    let master = lab.cluster.nodes[lab.cluster.master()?].address;
    lab.daemon.wait_master(&lab.cluster.spec.name, master, FOLLOW)?;
    wait::until(FOLLOW, "a client to be bypassed", || is_bypassed(&lab, &mut local(&lab)?))?;
    Ok(lab)
}

fn local(lab: &Lab) -> Result<Client> {
    dial(lab, lab.writes_address()?)
}

fn dial(lab: &Lab, to: std::net::SocketAddr) -> Result<Client> {
    Client::connect(lab.world.proxy()?, to)
}

fn metric(lab: &Lab, name: &str) -> Result<u64> {
    let text = lab.daemon.get("/metrics")?.body;
    let lines = text.lines().filter(|line| line.starts_with(name) && !line.starts_with('#'));
    lines.map(|line| Ok(line.rsplit(' ').next().context("a value")?.parse::<u64>()?)).sum()
}

fn messages(lab: &Lab) -> Result<u64> {
    metric(lab, "switchmaster_bypass_messages_total")
}

/// Whether a request of it and the answer are.
fn is_bypassed(lab: &Lab, client: &mut Client) -> Result<()> {
    let before = messages(lab)?;
    client.ping()?;
    let passed = messages(lab)? - before;
    let text = lab.daemon.get("/metrics")?.body;
    let outcomes: Vec<_> =
        text.lines().filter(|it| it.starts_with("switchmaster_bypass_total") && !it.ends_with(" 0")).collect();
    ensure!(passed == 2, "{passed} messages were bypassed: {outcomes:?}");
    Ok(())
}

#[test]
fn a_switch_ends_those_that_were_led_and_no_other() {
    check(lab(spec()), |lab| {
        let mut led = (0..20).map(|_| local(lab)).collect::<Result<Vec<_>>>()?;
        led.iter_mut().try_for_each(|client| is_bypassed(lab, client))?;
        let mut direct = dial(lab, lab.cluster.nodes[lab.cluster.master()?].address)?;
        is_bypassed(lab, &mut direct)?;
        let route = lab.daemon.status()?.route("writes")?.clone();
        ensure!(route.steered == 20 && route.bypassed == 20, "{route:?}");
        let old = lab.cluster.failover()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        led.iter().try_for_each(|client| client.ensure_torn_down(FOLLOW))?;
        direct.ping().context("a connection that is nobody's of ours")?;
        lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[new].address, FOLLOW)?;
        wait::until(FOLLOW, "clients of the new master to be bypassed", || is_bypassed(lab, &mut local(lab)?))?;
        let mut client = local(lab)?;
        is_bypassed(lab, &mut client)?;
        ensure!(client.role()? == "master", "it is at another node");
        drop(led);
        wait::until(FOLLOW, "the old ones to be forgotten", || {
            let route = lab.daemon.status()?.route("writes")?.clone();
            ensure!(route.steered == 1 && route.bypassed == 1, "{route:?}");
            Ok(())
        })
    });
}

#[test]
fn in_a_pause_nothing_passes_either_way_and_afterwards_it_goes_on_by_tcp() {
    let spec = Spec { failover_timeout_ms: 2000, ..spec() };
    check(lab(spec), |lab| {
        let (mut asking, mut waiting) = (local(lab)?, local(lab)?);
        is_bypassed(lab, &mut asking)?;
        is_bypassed(lab, &mut waiting)?;
        waiting.send(redis::cmd("BLPOP").arg("list").arg(0))?;
        wait::pause(Duration::from_millis(100));
        let old = hang_a_failover(lab)?;
        let executed = || lab.cluster.nodes[old].info("commandstats", "cmdstat_echo");
        asking.send(redis::cmd("ECHO").arg("held"))?;
        lab.cluster.nodes[old].client()?.call::<i64>(redis::cmd("RPUSH").arg("list").arg("late"))?;
        waiting.set_limit(Some(Duration::from_millis(300)))?;
        let answer = waiting.receive();
        ensure!(answer.is_err(), "it was acknowledged by a master that was fenced: {answer:?}");
        ensure!(executed().is_err(), "the old master has had it: {:?}", executed());
        let held = metric(lab, "switchmaster_bypass_total{outcome=\"held\"}")?;
        ensure!(held == 2, "{held} directions were held back");
        lab.daemon.wait_way(lab.group_name(), "open", FAILOVER)?;
        asking.set_limit(Some(FAILOVER))?;
        waiting.set_limit(Some(FAILOVER))?;
        let back: String = redis::FromRedisValue::from_redis_value(asking.receive()?)?;
        ensure!(back == "held", "{back}");
        waiting.receive().context("after the pause")?;
        let before = messages(lab)?;
        asking.ping()?;
        ensure!(messages(lab)? <= before + 1, "its requests are bypassed again");
        Ok(())
    });
}

/// Kill and restart, then stop: connections go on, with the new daemon and without any.
#[test]
fn connections_go_on_whatever_becomes_of_the_daemon() {
    let short = |config: Config| config.argument("--drain").argument("100ms");
    check(lab_with(spec(), short), |lab| {
        let node = lab.cluster.nodes[lab.cluster.master()?].address;
        let (mut led, mut direct) = (local(lab)?, dial(lab, node)?);
        is_bypassed(lab, &mut led)?;
        is_bypassed(lab, &mut direct)?;
        lab.daemon.process().signal(Signal::SIGKILL)?;
        lab.daemon.wait(FOLLOW)?;
        led.ping().context("without the daemon")?;
        direct.ping().context("without the daemon")?;
        lab.daemon = Daemon::start(&lab.world, &short(config((&lab.world, &lab.cluster))?))?;
        led.ping().context("with the new one")?;
        let route = lab.daemon.status()?.route("writes")?.clone();
        ensure!(route.steered == 1 && route.bypassed == 1, "{route:?}");
        let counted = metric(lab, "switchmaster_bypass_direct_connections")?;
        ensure!(counted == 1, "{counted} clients that have dialled the node are counted");
        wait::until(FOLLOW, "a new one to be bypassed", || is_bypassed(lab, &mut local(lab)?))?;
        // Replies that nobody has read are there after the daemon has gone with all its maps.
        direct.send(redis::cmd("ECHO").arg("early"))?;
        wait::pause(Duration::from_millis(100));
        let traces = crate::life::Traces::read(lab)?;
        let status = lab.daemon.stop(FOLLOW)?;
        ensure!(status.success(), "{status}");
        led.ensure_torn_down(FOLLOW).context("at the stop")?;
        let early: String = redis::FromRedisValue::from_redis_value(direct.receive()?)?;
        ensure!(early == "early", "{early}");
        direct.set("key", &"v".repeat(100_000))?;
        ensure!(direct.get("key")?.is_some_and(|value| value.len() == 100_000), "a byte is missing");
        drop((led, direct));
        traces.gone(lab)
    });
}

#[test]
fn a_purge_switches_it_off_and_ends_nobody_s_own_connection() {
    check(lab(spec()), |lab| {
        let node = lab.cluster.nodes[lab.cluster.master()?].address;
        let mut direct = dial(lab, node)?;
        is_bypassed(lab, &mut direct)?;
        lab.daemon.process().signal(Signal::SIGKILL)?;
        lab.daemon.wait(FOLLOW)?;
        let purged = lab.world.proxy()?.command(daemon::binary()?).arg("purge").output().context("purge")?;
        ensure!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
        direct.ping().context("after the purge")?;
        ensure!(!lab.world.bpffs().join("switchmaster").exists(), "pins are left");
        Ok(())
    });
}

/// Clients as people have them, unmodified: those with an event loop are bypassed, those that wait inside of recv(2) are not.
#[test]
fn clients_as_people_have_them() {
    check(lab(spec()), |lab| {
        let before = messages(lab)?;
        clients::redis_crate(lab)?;
        clients::redis_cli(lab)?;
        clients::redis_py(lab, "")?;
        ensure!(messages(lab)? == before, "{} messages of theirs are bypassed", messages(lab)? - before);
        // With a time limit it waits in poll(2).
        clients::redis_py(lab, "socket_timeout=5")?;
        ensure!(messages(lab)? >= before + 6, "{} messages of redis-py's are", messages(lab)? - before);
        let (before, to) = (messages(lab)?, lab.writes_address()?);
        let (host, port) = (to.ip().to_string(), to.port().to_string());
        let words = ["-h", &host, "-p", &port, "-n", "1000", "-c", "5", "-t", "get", "-q"];
        lab.world.proxy()?.run("redis-benchmark", &words)?;
        ensure!(messages(lab)? >= before + 2000, "{} of redis-benchmark's are", messages(lab)? - before);
        Ok(())
    });
}
