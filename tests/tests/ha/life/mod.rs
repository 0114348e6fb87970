//! Life without the daemon: what it carries on the packet datapath goes on when it is killed, the next one takes it over,
//! and neither a stop nor a purge leaves anything in the kernel.

mod load;
mod traces;

use std::{
    fs,
    os::unix,
    process::{Command, Output},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use proxy_ebpf::nat;
use switchmaster_tests::{
    Client, Cluster, Daemon, Lab, Spec, Subscriber, World,
    daemon::{self, Config},
    lab::{Setup, check},
    wait,
};

pub(crate) use self::traces::Traces;
use crate::{FAILOVER, FOLLOW, follows};

const GRACE: Duration = Duration::from_secs(2);
/// The grace is counted from the last one, which on a busy machine is a little late.
const BEAT: Duration = Duration::from_millis(250);

fn with_grace(setup: &Setup) -> Config {
    setup.config().set("orphan_grace", daemon::quoted(format_args!("{}s", GRACE.as_secs())))
}

fn lab() -> Result<Lab> {
    let (world, cluster) = Lab::cluster(Spec::default())?;
    let daemon = Daemon::start(&world, &with_grace(&Lab::setup(&world, &cluster, "tc")?))?;
    Ok(Lab { daemon, cluster, world, local: None })
}

/// SIGKILL: returns when the process is gone.
fn kill(lab: &mut Lab) -> Result<Instant> {
    lab.daemon.process().signal(Signal::SIGKILL)?;
    lab.daemon.wait(FOLLOW)?;
    Ok(Instant::now())
}

/// Another daemon in its place.
fn restart(lab: &mut Lab) -> Result<()> {
    let config = with_grace(&Lab::setup(&lab.world, &lab.cluster, "tc")?);
    lab.daemon = Daemon::start(&lab.world, &config)?;
    Ok(())
}

fn command(lab: &Lab, arguments: &[&str]) -> Result<Command> {
    let mut command = lab.world.proxy()?.command(daemon::binary()?);
    command.args(arguments);
    Ok(command)
}

fn run(lab: &Lab, arguments: &[&str]) -> Result<Output> {
    command(lab, arguments)?.output().with_context(|| format!("{arguments:?}"))
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Whether a new connection is served, and not only made.
fn dial(lab: &Lab) -> Result<()> {
    Client::connect_within(lab.client()?, lab.writes_address()?, Duration::from_millis(500))?.ping()
}

#[test]
fn new_connections_are_refused_when_the_grace_is_over_and_established_ones_go_on() {
    check(lab(), |lab| {
        let mut old = lab.writes()?;
        old.ping()?;
        let killed = kill(lab)?;
        wait::throughout(GRACE / 2, "new connections", || dial(lab))?;
        wait::until(GRACE, "new connections to be refused", || {
            let refused = dial(lab).err().context("it is served")?;
            ensure!(format!("{refused:#}").contains("refused"), "it ended otherwise: {refused:#}");
            Ok(())
        })?;
        let after = killed.elapsed();
        ensure!(after >= GRACE - BEAT * 2, "refused after {after:?} already");
        old.ping().context("the established connection")?;
        restart(lab)?;
        dial(lab)?;
        old.ping().context("the established connection, with the new daemon")
    });
}

/// A daemon that beats must not vouch for a master that it has not proven.
#[test]
fn a_daemon_that_proves_nobody_does_not_prolong_the_grace() {
    check(lab(), |lab| {
        let mut old = lab.writes()?;
        old.ping()?;
        kill(lab)?;
        for sentinel in &lab.cluster.sentinels {
            sentinel.freeze()?;
        }
        let config = with_grace(&Lab::setup(&lab.world, &lab.cluster, "tc")?);
        lab.daemon = Daemon::launch(&lab.world, &config)?;
        lab.daemon.wait_way(lab.group_name(), "established", GRACE * 2)?;
        let status = lab.daemon.status()?;
        ensure!(status.group(lab.group_name())?.reason == "taken-over", "{status:?}");
        let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
        let parked = thread::spawn(move || Client::connect_within(&namespace, to, FAILOVER)?.ping());
        wait::until(FOLLOW, "a parked connection", || {
            ensure!(lab.daemon.status()?.route("writes")?.parked == 1, "none");
            Ok(())
        })?;
        old.ping().context("the established connection")?;
        for sentinel in &lab.cluster.sentinels {
            sentinel.thaw()?;
        }
        lab.daemon.wait_way(lab.group_name(), "open", FAILOVER)?;
        parked.join().ok().context("the client panicked")?.context("the parked client")?;
        old.ping().context("the established connection, after the proof")
    });
}

#[test]
fn a_master_that_was_elected_meanwhile_is_an_ordinary_switch() {
    check(lab(), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        let subscriber = Subscriber::start(lab.client()?, lab.writes_address()?, "news")?;
        kill(lab)?;
        // Frozen, so that nobody but the new daemon ends the connections.
        let old = lab.cluster.master()?;
        lab.cluster.nodes[old].freeze()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        restart(lab)?;
        ensure!(client.wait_end(FOLLOW)?, "the old connection ended by FIN, not by RST");
        subscriber.ensure_torn_down(FOLLOW)?;
        follows(lab, new)?;
        let generation = lab.daemon.status()?.route("writes")?.generation;
        ensure!(generation > 1, "the generation is {generation} again");
        Ok(())
    });
}

/// As the systemd unit has it: four capabilities, and a folder of its own.
#[test]
fn a_daemon_without_root_takes_over_what_it_left() {
    const LAUNCHER: &[&str] = &[
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
        "--inh-caps=-all,+bpf,+net_admin,+perfmon,+net_raw",
        "--ambient-caps=-all,+bpf,+net_admin,+perfmon,+net_raw",
        "--bounding-set=-all,+bpf,+net_admin,+perfmon,+net_raw",
    ];
    let start = |world: &World, cluster: &Cluster| {
        let setup = Setup { launcher: LAUNCHER.to_vec(), ..Lab::setup(world, cluster, "tc")? };
        Daemon::start(world, &with_grace(&setup))
    };
    let lab = || -> Result<Lab> {
        let (world, cluster) = Lab::cluster(Spec::default())?;
        let folder = world.bpffs().join("switchmaster");
        fs::create_dir(&folder).context("the folder of the pins")?;
        unix::fs::chown(&folder, Some(65534), Some(65534)).context("its owner")?;
        Ok(Lab { daemon: start(&world, &cluster)?, cluster, world, local: None })
    };
    check(lab(), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        kill(lab)?;
        dial(lab)?;
        lab.daemon = start(&lab.world, &lab.cluster)?;
        client.ping().context("the established connection")?;
        let pins = lab.daemon.get("/api/v1/status")?.body;
        ensure!(pins.contains("\"taken_over\":true"), "{pins}");
        dial(lab)?;
        let traces = Traces::read(lab)?;
        lab.daemon.stop(FOLLOW * 5)?;
        wait::until(FOLLOW, "links, programs and maps to be gone", || {
            let left = traces.left()?;
            ensure!(left == 0, "{left} are left");
            Ok(())
        })
    });
}

/// The address stays, what it leads to is another route: nobody of the old one is carried over.
#[test]
fn a_route_that_is_gone_takes_its_connections_along() {
    check(lab(), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        kill(lab)?;
        let setup = Lab::setup(&lab.world, &lab.cluster, "tc")?;
        let listen = [lab.writes_address()?];
        let renamed = daemon::Route::new("primary", lab.group_name(), "master", "tc", &listen);
        lab.daemon = Daemon::start(&lab.world, &Config::default().group(setup.group).route(renamed))?;
        ensure!(client.wait_end(FOLLOW)?, "it ended by FIN, not by RST");
        dial(lab)
    });
}

#[test]
fn another_layout_is_refused_with_the_remedy() {
    check(lab(), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        kill(lab)?;
        let pin = "/sys/fs/bpf/switchmaster/nat/life";
        let value = ["99", "0", "0", "0"].into_iter().chain(std::iter::repeat_n("0", size_of::<nat::Life>() - 4));
        let update = ["map", "update", "pinned", pin, "key", "0", "0", "0", "0", "value"].into_iter().chain(value);
        lab.world.proxy()?.run("bpftool", &update.collect::<Vec<_>>())?;
        let config = with_grace(&Lab::setup(&lab.world, &lab.cluster, "tc")?);
        let mut refused = Daemon::launch(&lab.world, &config)?;
        let status = refused.wait(FOLLOW)?;
        ensure!(status.code() == Some(1), "it ended with {status}");
        let log = refused.log();
        ensure!(log.contains("number 99") && log.contains("switchmaster purge --pin-dir"), "{log}");
        client.ping().context("the connection of the refused layout")?;
        let purged = run(lab, &["purge"])?;
        ensure!(purged.status.success(), "{}", said(&purged));
        restart(lab)?;
        dial(lab)
    });
}

#[test]
fn a_purge_after_a_kill_leaves_nothing_and_resets_everybody() {
    check(lab(), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        let traces = Traces::read(lab)?;
        kill(lab)?;
        let doctor = said(&run(lab, &["doctor"])?);
        ensure!(doctor.contains("left by a daemon that was killed"), "{doctor}");
        ensure!(traces.left()? == traces.count(), "the kill removed some of it");
        let purged = run(lab, &["purge"])?;
        let told = said(&purged);
        ensure!(purged.status.success() && told.contains("1 connections were reset"), "{told}");
        ensure!(client.wait_end(FOLLOW)?, "it ended by FIN, not by RST");
        traces.gone(lab)?;
        let again = run(lab, &["purge"])?;
        ensure!(again.status.success() && said(&again).contains("nothing was pinned"), "{}", said(&again));
        Ok(())
    });
}

#[test]
fn a_stop_leaves_nothing() {
    check(lab(), |lab| {
        dial(lab)?;
        let traces = Traces::read(lab)?;
        ensure!(traces.left()? == traces.count() && traces.count() > 10, "{traces:?}");
        let status = lab.daemon.stop(FOLLOW)?;
        ensure!(status.success(), "{status}");
        traces.gone(lab)
    });
}

#[test]
fn a_purge_from_under_a_daemon_has_to_be_asked_for() {
    check(lab(), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        let refused = run(lab, &["purge"])?;
        ensure!(refused.status.code() == Some(1) && said(&refused).contains("--force"), "{}", said(&refused));
        client.ping().context("after the refused purge")?;
        let forced = run(lab, &["purge", "--force"])?;
        ensure!(forced.status.success(), "{}", said(&forced));
        ensure!(client.wait_end(FOLLOW)?, "it ended by FIN, not by RST");
        // The listener goes on, and what is beneath it.
        wait::until(FOLLOW, "a connection", || dial(lab))
    });
}
