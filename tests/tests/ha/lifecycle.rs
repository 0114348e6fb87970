//! The daemon's own life: draining on SIGTERM, a second instance, connections that wait in vain.

use std::{
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use redis::Value;
use switchmaster_tests::{
    Client, Daemon, Lab, Spec, Subscriber,
    daemon::{Config, Group, Route},
    lab::{Setup, check},
    wait,
};

use crate::{FOLLOW, on_each_way};

const DRAIN: Duration = Duration::from_secs(2);
const PARK: Duration = Duration::from_secs(1);

on_each_way!(
    drain_ends_with_the_last_connection,
    drain_severs_who_stays,
    a_subscriber_is_given_ten_seconds,
    a_switch_during_the_drain,
    a_full_park_refuses,
    park_times_out,
);

fn draining(mut setup: Setup) -> Setup {
    setup.arguments = vec!["--drain".to_owned(), format!("{}s", DRAIN.as_secs())];
    setup
}

/// After SIGTERM nobody new is let in.
fn closed_for_new(lab: &Lab) -> Result<()> {
    wait::until(FOLLOW, "the listener to be closed", || {
        let limit = Duration::from_millis(200);
        let answer = Client::connect_within(lab.client()?, lab.writes_address()?, limit).and_then(|mut one| one.ping());
        ensure!(answer.is_err(), "a new connection was served");
        Ok(())
    })
}

fn drain_ends_with_the_last_connection(way: &str) {
    check(Lab::start(Spec::bare(1), way, draining), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        lab.daemon.terminate()?;
        closed_for_new(lab)?;
        client.set("x", "during the drain")?;
        let closed = Instant::now();
        drop(client);
        let status = lab.daemon.wait(DRAIN)?;
        ensure!(status.success(), "{status}");
        ensure!(closed.elapsed() < DRAIN, "it waited for nobody");
        Ok(())
    });
}

fn drain_severs_who_stays(way: &str) {
    check(Lab::start(Spec::bare(1), way, draining), |lab| {
        let mut client = lab.writes()?;
        client.ping()?;
        let start = Instant::now();
        lab.daemon.terminate()?;
        ensure!(client.wait_end(DRAIN * 2)?, "it ended by FIN, not by RST");
        let after = start.elapsed();
        ensure!(after >= DRAIN - Duration::from_millis(200), "it was severed after {after:?}");
        let status = lab.daemon.wait(DRAIN)?;
        ensure!(status.success(), "{status}");
        Ok(())
    });
}

fn with_a_small_park(mut setup: Setup) -> Setup {
    setup.writes = setup.writes.park(1, PARK);
    setup
}

fn masterdown(client: &mut Client) -> Result<()> {
    let answer = client.receive()?;
    let is = matches!(&answer, Value::ServerError(error) if error.code().eq_ignore_ascii_case("MASTERDOWN"));
    ensure!(is, "it was answered {answer:?}");
    client.wait_end(FOLLOW).map(|_| ())
}

/// A client that waits wherever it is kept waiting: in its connect, or after it.
fn dial(lab: &Lab) -> Result<JoinHandle<Result<Client>>> {
    let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
    Ok(thread::spawn(move || Client::connect(&namespace, to)))
}

fn park_times_out(way: &str) {
    check(Lab::start(Spec::bare(1), way, with_a_small_park), |lab| {
        lab.cluster.kill_master()?;
        wait::until(FOLLOW * 2, "the master to be given up", || {
            let status = lab.daemon.status()?;
            ensure!(status.group(lab.group_name())?.way != "open", "it is open");
            Ok(())
        })?;
        let start = Instant::now();
        let mut client = lab.writes()?;
        client.send(&redis::cmd("PING"))?;
        masterdown(&mut client)?;
        let waited = start.elapsed();
        ensure!(waited >= PARK - Duration::from_millis(50) && waited < PARK * 2, "it waited {waited:?}");
        Ok(())
    });
}

fn a_full_park_refuses(way: &str) {
    check(Lab::start(Spec::bare(1), way, with_a_small_park), |lab| {
        lab.cluster.kill_master()?;
        wait::until(FOLLOW * 2, "the master to be given up", || {
            let status = lab.daemon.status()?;
            ensure!(status.group(lab.group_name())?.way != "open", "it is open");
            Ok(())
        })?;
        let first = dial(lab)?;
        wait::until_true(FOLLOW, "a parked connection", || {
            lab.daemon.status().is_ok_and(|status| status.route("writes").is_ok_and(|route| route.parked == 1))
        })?;
        let start = Instant::now();
        masterdown(&mut lab.writes()?)?;
        ensure!(start.elapsed() < PARK / 2, "it was refused only after {:?}", start.elapsed());
        first.join().ok().context("the first client panicked")?.map(|_| ())
    });
}

/// A subscriber keeps the daemon for all of the default drain, and is then reset.
fn a_subscriber_is_given_ten_seconds(way: &str) {
    check(Lab::start(Spec::bare(1), way, |setup| setup), |lab| {
        let subscriber = Subscriber::start(lab.client()?, lab.writes_address()?, "news")?;
        let start = Instant::now();
        lab.daemon.terminate()?;
        closed_for_new(lab)?;
        let mut node = lab.cluster.nodes[0].client()?;
        node.call::<i64>(redis::cmd("PUBLISH").arg("news").arg("in the drain"))?;
        subscriber.wait_message("in the drain", FOLLOW)?;
        let after = subscriber.ensure_torn_down(Duration::from_secs(12))?.duration_since(start);
        ensure!(
            after > Duration::from_millis(9800) && after < Duration::from_millis(10_800),
            "it ended after {after:?}"
        );
        let status = lab.daemon.wait(FOLLOW)?;
        ensure!(status.success(), "{status}");
        Ok(())
    });
}

/// A daemon that drains still follows the Sentinels: who is left is not left with a deposed master.
fn a_switch_during_the_drain(way: &str) {
    check(Lab::start(Spec::default(), way, |setup| setup), |lab| {
        let subscriber = Subscriber::start(lab.client()?, lab.writes_address()?, "news")?;
        let old = lab.cluster.master()?;
        lab.cluster.nodes[old].freeze()?;
        let mut parked = wait::until(Duration::from_secs(5), "a parked connection", || {
            // Where it is the SYN that waits, it waits on for a while without its client.
            let client = Client::connect_within(lab.client()?, lab.writes_address()?, Duration::from_millis(200)).ok();
            let status = lab.daemon.status()?;
            ensure!(status.route("writes")?.parked > 0, "none; the group is {}", status.group(lab.group_name())?.way);
            Ok(client)
        })?;
        let start = Instant::now();
        lab.daemon.terminate()?;
        if let Some(parked) = &mut parked {
            parked.wait_end(Duration::from_secs(2))?;
        }
        subscriber.ensure_torn_down(Duration::from_secs(9))?;
        // Of its own socket only the client itself can let go.
        drop(subscriber);
        let status = lab.daemon.wait(FOLLOW)?;
        ensure!(status.success(), "{status}");
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(9), "the drain lasted {took:?}, though nobody was left");
        Ok(())
    });
}

/// Two daemons that write the same maps would fight over every switch.
#[test]
fn a_second_instance_with_the_same_pins_is_refused() {
    check(Lab::start(Spec::bare(1), "sockmap", |setup| setup), |lab| {
        let listen = [lab.world.proxy()?.address(7379)];
        let route = Route::new("writes", lab.group_name(), "master", "sockmap", &listen);
        let config = Config::named("second", 9181).group(Group::of(&lab.cluster)).route(route);
        let mut second = Daemon::launch(&lab.world, &config)?;
        let status = second.wait(FOLLOW)?;
        ensure!(status.code() == Some(1), "it ended with {status}");
        let log = second.log();
        ensure!(log.contains("/sys/fs/bpf"), "it does not say which pins are taken: {log}");
        lab.writes()?.ping()
    });
}
