//! The daemon's own life: draining on SIGTERM, a second instance, connections that wait in vain.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use redis::Value;
use switchmaster_tests::{
    Client, Daemon, Lab, Spec,
    daemon::{Config, Group, Route},
    lab::{Setup, check},
    wait,
};

use crate::{FOLLOW, on_each_datapath};

const DRAIN: Duration = Duration::from_secs(2);
const PARK: Duration = Duration::from_secs(1);

on_each_datapath!(drain_ends_with_the_last_connection, drain_severs_who_stays, a_full_park_refuses, park_times_out);

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

fn drain_ends_with_the_last_connection(datapath: &str) {
    check(Lab::start(Spec::bare(1), datapath, draining), |lab| {
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

fn drain_severs_who_stays(datapath: &str) {
    check(Lab::start(Spec::bare(1), datapath, draining), |lab| {
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

fn park_times_out(datapath: &str) {
    check(Lab::start(Spec::bare(1), datapath, with_a_small_park), |lab| {
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

fn a_full_park_refuses(datapath: &str) {
    check(Lab::start(Spec::bare(1), datapath, with_a_small_park), |lab| {
        lab.cluster.kill_master()?;
        wait::until(FOLLOW * 2, "the master to be given up", || {
            let status = lab.daemon.status()?;
            ensure!(status.group(lab.group_name())?.way != "open", "it is open");
            Ok(())
        })?;
        let _first = lab.writes()?;
        wait::until_true(FOLLOW, "a parked connection", || {
            lab.daemon.status().is_ok_and(|status| status.route("writes").is_ok_and(|route| route.parked == 1))
        })?;
        let start = Instant::now();
        masterdown(&mut lab.writes()?)?;
        ensure!(start.elapsed() < PARK / 2, "it was refused only after {:?}", start.elapsed());
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
