//! A switch, a pause and the daemon's end, as clients see them that have no hop.

use std::{
    io::ErrorKind,
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use switchmaster_tests::{Client, Daemon, Lab, Spec, daemon, lab::check, wait};

use super::{
    counted, ensure_direct, ensure_hop, is_direct, lab, lab_with, led, local, outcome, steered, with_steering,
};
use crate::{FAILOVER, FOLLOW, limit, on_each_datapath, pause::hang_a_failover};

on_each_datapath!(a_switch_ends_all_of_them);

fn a_switch_ends_all_of_them(datapath: &str) {
    check(lab(datapath), |lab| {
        let mut idle = (0..20).map(|_| local(lab)).collect::<Result<Vec<_>>>()?;
        idle.iter_mut().try_for_each(ensure_direct)?;
        // Not one of ours: it dialled the node itself.
        let mut foreign = Client::connect(lab.world.proxy()?, lab.cluster.nodes[lab.cluster.master()?].address)?;
        foreign.ping()?;
        let old = lab.cluster.failover()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        idle.iter().try_for_each(|client| client.ensure_torn_down(FOLLOW))?;
        lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[new].address, FOLLOW)?;
        let mut client = led(lab)?;
        ensure!(client.role()? == "master" && lab.node_behind(&mut client)? == new, "it is not at the new master");
        foreign.ping().context("a connection that steering has not made")?;
        drop(idle);
        counted(lab, 1)?;
        wait::until(FOLLOW, "all to be counted", || {
            let severed = lab.daemon.status()?.route("writes")?.severed;
            ensure!(severed == 20, "{severed} are counted as severed");
            Ok(())
        })
    });
}

/// Whoever waits with the listener keeps nobody there but himself, at no moment of a switch.
#[test]
fn who_comes_back_while_another_waits_is_led() {
    const BACK: usize = 40;
    check(lab("copy"), |lab| {
        let (proxy, to) = (lab.world.proxy()?, lab.writes_address()?);
        let idle = (0..BACK).map(|_| local(lab)).collect::<Result<Vec<_>>>()?;
        lab.cluster.failover()?;
        lab.daemon.wait_way(lab.group_name(), "paused", FAILOVER)?;
        let late = |wait_for: Option<Client>| {
            if let Some(client) = wait_for {
                client.ensure_torn_down(FAILOVER)?;
            }
            let mut client = Client::connect_within(proxy, to, FAILOVER)?;
            client.ping()?;
            is_direct(&mut client)
        };
        std::thread::scope(|scope| {
            let waits = scope.spawn(|| late(None));
            wait::until(FOLLOW, "one to be parked", || {
                ensure!(lab.daemon.status()?.route("writes")?.parked == 1, "it is not");
                Ok(())
            })?;
            let back: Vec<_> = idle.into_iter().map(|client| scope.spawn(|| late(Some(client)))).collect();
            let back = back.into_iter().map(|one| one.join().ok().context("a client panicked")?);
            let direct = back.collect::<Result<Vec<_>>>()?.into_iter().filter(|direct| *direct).count();
            ensure!(direct == BACK, "{} of {BACK} have the listener between", BACK - direct);
            ensure!(!waits.join().ok().context("a client panicked")??, "what was accepted cannot be led any more");
            Ok(())
        })
    });
}

#[test]
fn a_thousand_idle_ones_end_within_fifty_milliseconds() {
    check(lab("copy"), |lab| {
        let proxy = lab.world.proxy()?;
        let to = lab.writes_address()?;
        let crowd: Vec<TcpStream> =
            proxy.enter(|| (0..1000).map(|_| TcpStream::connect(to).context("connect")).collect::<Result<_>>())??;
        ensure!(steered(lab)? == 1000, "{} of a thousand were led", steered(lab)?);
        let old = lab.cluster.failover()?;
        lab.cluster.wait_failover(old, FAILOVER)?;
        wait::until(FOLLOW, "all to be counted", || {
            let severed = lab.daemon.status()?.route("writes")?.severed;
            ensure!(severed == 1000, "{severed} are counted as severed");
            Ok(())
        })?;
        for mut stream in &crowd {
            stream.set_nonblocking(true)?;
            let read = std::io::Read::read(&mut stream, &mut [0]);
            ensure!(read.is_err_and(|error| error.kind() != ErrorKind::WouldBlock), "one lives");
        }
        let took = crate::sever::took(&lab.daemon.log())?;
        println!("1000 idle steered connections: the last ended {took:?} after the decision");
        ensure!(took <= limit(Duration::from_millis(50)), "the last ended {took:?} after the decision");
        Ok(())
    });
}

#[test]
fn in_a_pause_the_old_master_gets_no_byte_and_afterwards_they_go_on() {
    // The Sentinel gives up after a moment.
    let spec = Spec { failover_timeout_ms: 2000, ..Spec::default() };
    check(lab_with(spec, "copy", |config| config), |lab| {
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        let old = hang_a_failover(lab)?;
        let executed = || lab.cluster.nodes[old].info("commandstats", "cmdstat_echo");
        client.send(redis::cmd("ECHO").arg("held"))?;
        wait::pause(Duration::from_millis(300));
        ensure!(executed().is_err(), "the old master has had it: {:?}", executed());
        ensure!(outcome(lab, "held")? > 0, "no packet was held back");
        // Newcomers wait with the listener.
        let (namespace, to) = (lab.world.proxy()?.clone(), lab.writes_address()?);
        let newcomer = std::thread::spawn(move || -> Result<Client> {
            let mut client = Client::connect_within(&namespace, to, FAILOVER)?;
            client.ping()?;
            Ok(client)
        });
        wait::until(FOLLOW, "the newcomer to be parked", || {
            ensure!(lab.daemon.status()?.route("writes")?.parked == 1, "it is not");
            Ok(())
        })?;
        lab.daemon.wait_way(lab.group_name(), "open", FAILOVER)?;
        client.set_limit(Some(FAILOVER))?;
        let back: String = redis::FromRedisValue::from_redis_value(client.receive()?)?;
        ensure!(back == "held", "{back}");
        let mut newcomer = newcomer.join().ok().context("the newcomer")??;
        ensure_hop(&mut newcomer)
    });
}

/// Whether what clients receive is looked at.
fn answers_are_looked_at(lab: &Lab) -> bool {
    lab.world.bpffs().join("switchmaster/links/steer_ingress").exists()
}

/// The old master has heard the command before the fence, and answers it after. Answers are looked at from the first sign of the
/// failover on, and not before it.
#[test]
fn in_a_pause_no_answer_of_the_old_master_arrives() {
    let spec = Spec { failover_timeout_ms: 2000, ..Spec::default() };
    check(lab_with(spec, "copy", |config| config), |lab| {
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        client.send(redis::cmd("BLPOP").arg("list").arg(0))?;
        wait::until_true(FOLLOW, "answers to be looked at no more", || !answers_are_looked_at(lab))?;
        wait::pause(Duration::from_millis(100));
        let old = hang_a_failover(lab)?;
        lab.cluster.nodes[old].client()?.call::<i64>(redis::cmd("RPUSH").arg("list").arg("late"))?;
        client.set_limit(Some(Duration::from_millis(300)))?;
        let answer = client.receive();
        ensure!(answer.is_err(), "it was acknowledged by a master that was fenced: {answer:?}");
        ensure!(answers_are_looked_at(lab), "but not by the program for that");
        lab.daemon.wait_way(lab.group_name(), "open", FAILOVER)?;
        client.set_limit(Some(FAILOVER))?;
        client.receive().context("after the pause").map(drop)
    });
}

/// And the next one goes on looking at them: what else was left behind it does not know yet.
#[test]
fn a_daemon_that_is_killed_in_a_pause_leaves_answers_held_back() {
    let spec = Spec { failover_timeout_ms: 20_000, ..Spec::default() };
    check(lab_with(spec, "copy", |config| config), |lab| {
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        client.send(redis::cmd("BLPOP").arg("list").arg(0))?;
        let old = hang_a_failover(lab)?;
        lab.daemon.process().signal(Signal::SIGKILL)?;
        lab.daemon.wait(FOLLOW)?;
        lab.cluster.nodes[old].client()?.call::<i64>(redis::cmd("RPUSH").arg("list").arg("late"))?;
        client.set_limit(Some(Duration::from_millis(1500)))?;
        let answer = client.receive();
        ensure!(answer.is_err(), "it was acknowledged by a master that was fenced: {answer:?}");
        lab.daemon = Daemon::start(&lab.world, &with_steering(&Lab::setup(&lab.world, &lab.cluster, "copy")?))?;
        lab.daemon.wait_way(lab.group_name(), "open", FAILOVER)?;
        client.set_limit(Some(FOLLOW))?;
        client.receive().context("when the next one has opened")?;
        ensure!(answers_are_looked_at(lab), "the next one looks at no answers");
        Ok(())
    });
}

/// What waits behind the fence does not go out when the programs go.
#[test]
fn a_purge_in_a_pause_sends_nothing_to_the_old_master() {
    let spec = Spec { failover_timeout_ms: 20_000, ..Spec::default() };
    check(lab_with(spec, "copy", |config| config), |lab| {
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        let old = hang_a_failover(lab)?;
        for _ in 0..100 {
            client.send(redis::cmd("INCR").arg("held"))?;
        }
        lab.daemon.process().signal(Signal::SIGKILL)?;
        lab.daemon.wait(FOLLOW)?;
        let purged = lab.world.proxy()?.command(daemon::binary()?).arg("purge").output().context("purge")?;
        let said = String::from_utf8_lossy(&purged.stdout).into_owned();
        ensure!(purged.status.success() && said.contains("1 connections were reset"), "{said}");
        client.ensure_torn_down(FOLLOW).context("at the purge")?;
        let held = lab.cluster.nodes[old].client()?.get("held")?;
        ensure!(held.is_none(), "the old master has had {held:?} of them");
        Ok(())
    });
}

const GRACE: Duration = Duration::from_secs(2);

fn with_grace(lab: daemon::Config) -> daemon::Config {
    lab.set("orphan_grace", "\"2s\"")
}

on_each_datapath!(without_the_daemon_they_go_on_and_new_ones_until_the_grace_is_over);

fn without_the_daemon_they_go_on_and_new_ones_until_the_grace_is_over(datapath: &str) {
    let start = lab_with(Spec::default(), datapath, with_grace);
    check(start, |lab| {
        let mut old = local(lab)?;
        ensure_direct(&mut old)?;
        lab.daemon.process().signal(Signal::SIGKILL)?;
        lab.daemon.wait(FOLLOW)?;
        let killed = Instant::now();
        let mut orphan = local(lab).context("a new one within the grace")?;
        ensure_direct(&mut orphan)?;
        wait::until(GRACE * 2, "new ones to be refused", || {
            let refused = local(lab).err().context("it is served")?;
            ensure!(format!("{refused:#}").contains("refused"), "it ended otherwise: {refused:#}");
            Ok(())
        })?;
        ensure!(killed.elapsed() >= GRACE - Duration::from_millis(500), "refused after {:?}", killed.elapsed());
        old.ping().context("the established one")?;
        let config = with_grace(with_steering(&Lab::setup(&lab.world, &lab.cluster, datapath)?));
        lab.daemon = Daemon::start(&lab.world, &config)?;
        old.ping().context("the established one, with the new daemon")?;
        ensure!(steered(lab)? == 2, "the new daemon counts {}", steered(lab)?);
        led(lab).context("a new one")?;
        let before = lab.cluster.failover()?;
        lab.cluster.wait_failover(before, FAILOVER)?;
        old.ensure_torn_down(FOLLOW).context("at the new daemon's switch")?;
        orphan.ensure_torn_down(FOLLOW).context("at the new daemon's switch")?;
        drop((old, orphan));
        counted(lab, 0)?;
        Ok(())
    });
}

#[test]
fn neither_a_stop_nor_a_purge_leaves_anything() {
    // Whom the daemon leads keeps it from ending at once.
    let short = |config: daemon::Config| config.argument("--drain").argument("100ms");
    check(lab_with(Spec::default(), "copy", short), |lab| {
        let traces = crate::life::Traces::read(lab)?;
        let client = local(lab)?;
        let status = lab.daemon.stop(FOLLOW)?;
        ensure!(status.success(), "{status}");
        client.ensure_torn_down(FOLLOW).context("at the stop")?;
        traces.gone(lab)?;

        lab.daemon = Daemon::start(&lab.world, &with_steering(&Lab::setup(&lab.world, &lab.cluster, "copy")?))?;
        let traces = crate::life::Traces::read(lab)?;
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        lab.daemon.process().signal(Signal::SIGKILL)?;
        lab.daemon.wait(FOLLOW)?;
        let mut purge = lab.world.proxy()?.command(daemon::binary()?);
        let purged = purge.arg("purge").output().context("purge")?;
        ensure!(purged.status.success(), "{}", String::from_utf8_lossy(&purged.stderr));
        let said = String::from_utf8_lossy(&purged.stdout).into_owned();
        client.ensure_torn_down(FOLLOW).with_context(|| format!("at the purge, which said {said}"))?;
        traces.gone(lab)
    });
}

/// What a killed daemon led, and the next one does not look after, is ended; and the kernel has none of its programs left.
#[test]
fn what_the_next_daemon_does_not_go_on_with_is_ended() {
    check(lab("tc"), |lab| {
        let kill = |lab: &mut Lab| -> Result<()> {
            lab.daemon.process().signal(Signal::SIGKILL)?;
            lab.daemon.wait(FOLLOW).map(drop)
        };
        let mut network = lab.writes()?;
        network.ping()?;
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        kill(lab)?;
        // Without steering, and with the flows of tc.
        lab.daemon = Daemon::start(&lab.world, &Lab::setup(&lab.world, &lab.cluster, "tc")?.config())?;
        client.ensure_torn_down(FOLLOW).context("without steering")?;
        network.ping().context("a flow")?;
        let links = || -> Result<usize> {
            let folder = lab.world.bpffs().join("switchmaster/links");
            Ok(std::fs::read_dir(folder)?
                .flatten()
                .filter(|it| it.file_name().to_string_lossy().starts_with("steer"))
                .count())
        };
        ensure!(links()? == 0, "{} programs are attached", links()?);
        let route = lab.daemon.status()?.route("writes")?.clone();
        ensure!(route.connections == 1 && route.steered == 0, "{route:?}");
        ensure_hop(&mut local(lab)?)?;
        // And with it again, while the client has not closed what was ended.
        kill(lab)?;
        lab.daemon = Daemon::start(&lab.world, &with_steering(&Lab::setup(&lab.world, &lab.cluster, "tc")?))?;
        drop(client);
        led(lab).context("again")?;
        counted(lab, 0)?;
        Ok(())
    });
}
