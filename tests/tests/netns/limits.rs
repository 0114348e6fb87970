//! The limits a route sets, as clients of the running daemon meet them.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    daemon::{Route, quoted},
    wait,
};

use crate::{
    on_each_datapath, on_each_proxy,
    order::{echo, or_reset},
    stage::{self, PORT, Stage},
};

on_each_proxy!(keepalive_is_on_at_both_ends);

on_each_datapath!(
    an_idle_time_limit_ends_the_idle_alone,
    without_a_limit_silence_is_kept,
    no_more_than_max_connections,
    only_the_allowed,
    the_parked_are_told_when_their_time_is_up,
);

fn trip(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"ping").context("ping")?;
    stream.read_exact(&mut [0; 4]).context("pong")
}

/// Who is idle too long is reset: an orderly end would say that everything was delivered.
fn echo_until_reset(stream: TcpStream) -> Result<()> {
    or_reset(echo(stream))
}

fn an_idle_time_limit_ends_the_idle_alone(datapath: &str) {
    let limit = |route: Route| route.set("idle_timeout", quoted("1s"));
    stage::check(Stage::with(datapath, echo_until_reset, limit), |stage| {
        let (mut idle, mut busy) = (stage.connect()?, stage.connect()?);
        trip(&mut idle)?;
        let start = Instant::now();
        idle.set_read_timeout(Some(Duration::from_millis(200))).context("read time-out")?;
        let ended = loop {
            trip(&mut busy).context("the busy one was cut")?;
            match idle.read(&mut [0]) {
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => break start.elapsed(),
                Ok(_) => anyhow::bail!("bytes from nowhere"),
            }
            ensure!(start.elapsed() < Duration::from_secs(5), "it is still there");
        };
        ensure!(ended >= Duration::from_millis(900), "it was cut after {ended:?}");
        trip(&mut busy).context("the busy one was cut")
    });
}

fn without_a_limit_silence_is_kept(datapath: &str) {
    stage::check(Stage::new(datapath, echo), |stage| {
        let mut silent: Vec<TcpStream> = (0..4).map(|number| stage.connect_as(number)).collect::<Result<_>>()?;
        silent.iter_mut().take(2).try_for_each(trip)?;
        wait::pause(Duration::from_secs(5));
        silent.iter_mut().try_for_each(trip)
    });
}

fn keepalive_is_on_at_both_ends(datapath: &str) {
    stage::check(Stage::new(datapath, echo), |stage| {
        let mut stream = stage.connect()?;
        trip(&mut stream)?;
        let own = stream.local_addr().context("own address")?;
        let (client, node) = (format!("dport = :{}", own.port()), format!("dst {}", stage.node.ipv4()));
        // The data that went is acknowledged a moment later; until then ss shows the timer for that.
        wait::until(Duration::from_secs(5), "keepalive timers", || {
            for filter in [&client, &node] {
                let sockets = stage.world.proxy()?.run("ss", &["-tnoHi", "state", "established", filter])?;
                let heads: Vec<&str> = sockets.lines().filter(|line| !line.starts_with(char::is_whitespace)).collect();
                ensure!(!heads.is_empty(), "no socket with {filter}");
                ensure!(heads.iter().all(|line| line.contains("timer:(keepalive,")), "{filter}: {sockets}");
            }
            Ok(())
        })
    });
}

fn no_more_than_max_connections(datapath: &str) {
    stage::check(Stage::with(datapath, echo, |route| route.set("max_connections", 2)), |stage| {
        let mut two = [stage.connect()?, stage.connect()?];
        two.iter_mut().try_for_each(trip)?;
        let mut third = stage.connect()?;
        let mut answer = String::new();
        third.read_to_string(&mut answer).context("the third")?;
        ensure!(answer.starts_with("-ERR max"), "the third is told {answer:?}");
        two.iter_mut().try_for_each(trip).context("the first two suffer")?;
        let [first, _second] = two;
        drop(first);
        wait::until(Duration::from_secs(2), "the free place", || trip(&mut stage.connect()?))
    });
}

#[test]
fn a_million_connections_may_be_asked_for() {
    let million = |route: Route| route.set("max_connections", 1_000_000);
    stage::check(Stage::with("tc", echo, million), |stage| {
        stage.wait_translated(0)?;
        let mut crowd: Vec<TcpStream> = (0..100).map(|_| stage.connect()).collect::<Result<_>>()?;
        crowd.iter_mut().try_for_each(trip)
    });
}

fn only_the_allowed(datapath: &str) {
    stage::check(Stage::with(datapath, echo, |route| route.set("allow", "[\"10.77.1.0/24\"]")), |stage| {
        trip(&mut stage.connect()?).context("an allowed client")?;
        let to = stage.world.proxy()?.ipv6();
        let stranger = stage.world.client()?.connect((to, PORT).into(), Duration::from_secs(2));
        // Whether the handshake is finished or not: no byte is served.
        if let Ok(mut stranger) = stranger {
            stranger.set_read_timeout(Some(Duration::from_secs(2))).context("read time-out")?;
            ensure!(trip(&mut stranger).is_err(), "a stranger is served");
        }
        Ok(())
    });
}

fn the_parked_are_told_when_their_time_is_up(datapath: &str) {
    let park = |route: Route| route.park(10, Duration::from_millis(500));
    stage::check(Stage::with(datapath, echo, park), |stage| {
        stage.node.say_master(false);
        stage.daemon.wait_way("fake", "closed", Duration::from_secs(5))?;
        let start = Instant::now();
        let mut stream = stage.connect()?;
        stream.write_all(b"GET key\r\n").context("send")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).context("the answer")?;
        ensure!(answer.starts_with("-MASTERDOWN "), "it is told {answer:?}");
        let took = start.elapsed();
        ensure!((400..2000).contains(&took.as_millis()), "it was told after {took:?}");
        stage.node.say_master(true);
        wait::until(Duration::from_secs(5), "service again", || trip(&mut stage.connect()?))
    });
}
