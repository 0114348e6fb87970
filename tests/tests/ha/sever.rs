//! Thousands of idle connections at a switch: all are reset at once, as their clients see it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    os::fd::AsFd as _,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout},
    resource::{Resource, getrlimit, setrlimit},
};
use switchmaster_tests::{
    Lab, Namespace, Patient, Spec, client,
    lab::{Setup, check},
    wait,
};

use crate::{FAILOVER, FOLLOW, limit, on_each_way};

/// The tests of one run are one process, and its limit of open files has no room for all crowds at once.
static ONE_CROWD: Mutex<()> = Mutex::new(());

on_each_way!(five_thousand_idle_connections);

fn five_thousand_idle_connections(datapath: &str) {
    idle_connections(datapath, 5000, Duration::from_millis(200));
}

#[test]
fn ten_thousand_idle_flows() {
    idle_connections("tc", 10_000, Duration::from_millis(150));
}

fn raise_open_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("the limit of open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("the limit of open files")
}

/// Dials them all from one thread: entering the namespace each time would take longer than dialling.
fn crowd(namespace: &Namespace, to: std::net::SocketAddr, size: usize) -> Result<Vec<TcpStream>> {
    namespace.enter(|| (0..size).map(|_| TcpStream::connect_timeout(&to, FAILOVER).context("connect")).collect())?
}

/// Hears from the master through each. Until then one may still be on its way there, and waits for the next.
fn through(crowd: &[TcpStream]) -> Result<()> {
    for stream in crowd {
        Patient::new(stream)?.write_all(b"PING\r\n").context("PING")?;
    }
    for stream in crowd {
        let mut reply = [0; b"+PONG\r\n".len()];
        stream.set_read_timeout(Some(FAILOVER)).context("time-out")?;
        Patient::new(stream)?.read_exact(&mut reply).context("an answer through each connection")?;
        ensure!(&reply == b"+PONG\r\n", "the answer to PING is {reply:?}");
    }
    Ok(())
}

/// When the first and the last were reset. A connection that ends in order is a failure.
fn watch(crowd: &[TcpStream]) -> Result<(Instant, Instant)> {
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
    for (index, stream) in crowd.iter().enumerate() {
        let interest = EpollFlags::EPOLLIN | EpollFlags::EPOLLRDHUP;
        epoll.add(stream.as_fd(), EpollEvent::new(interest, index as u64)).context("epoll")?;
    }
    let (mut first, mut ended) = (None, 0);
    let mut events = vec![EpollEvent::empty(); 512];
    let mut last = Instant::now();
    while ended < crowd.len() {
        let limit = EpollTimeout::try_from(FAILOVER).context("epoll")?;
        let ready = epoll.wait(&mut events, limit).context("epoll")?;
        ensure!(ready > 0, "only {ended} of {} were cut off", crowd.len());
        last = Instant::now();
        first.get_or_insert(last);
        for event in &events[..ready] {
            let mut stream = &crowd[event.data() as usize];
            match stream.read(&mut [0]) {
                Err(error) if client::is_reset(error.kind()) => {}
                other => bail!("an idle connection read {other:?}"),
            }
            epoll.delete(stream.as_fd()).context("epoll")?;
            ended += 1;
        }
    }
    Ok((first.unwrap_or(last), last))
}

/// The largest `took_us` of the daemon's log.
pub(crate) fn took(log: &str) -> Result<Duration> {
    let plain: String = log.split('\u{1b}').collect();
    let values = plain.match_indices("took_us").filter_map(|(at, word)| {
        let rest = plain[at + word.len()..].trim_start_matches(|c: char| !c.is_ascii_digit());
        rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
    });
    values.max().map(Duration::from_micros).context("the daemon's log has no took_us")
}

/// The limit of open files is shared by the routes in proportion to what they ask for.
fn roomy(mut setup: Setup, connections: usize) -> Setup {
    setup.writes = setup.writes.set("max_connections", connections + 500);
    setup.reads = setup.reads.set("max_connections", 500);
    setup
}

fn idle_connections(datapath: &str, connections: usize, bar: Duration) {
    // So many dials keep the master busy; a Sentinel that thinks it down finds no replica good enough.
    let node_lines = vec![format!("maxclients {}", connections + 500)];
    let spec = Spec { down_after_ms: 5000, node_lines, ..Spec::default() };
    let _alone = ONE_CROWD.lock().unwrap_or_else(PoisonError::into_inner);
    let roomy = |setup| roomy(setup, connections);
    check(raise_open_files().and_then(|()| Lab::start(spec, datapath, roomy)), |lab| {
        let crowd = crowd(lab.client()?, lab.writes_address()?, connections)?;
        through(&crowd)?;
        lab.led(connections as u64)?;
        let severed = lab.daemon.status()?.route("writes")?.severed;
        lab.cluster.settle()?;
        let old = lab.cluster.failover()?;
        let (first, last) = watch(&crowd)?;
        let seen = last.duration_since(first);
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        crate::follows(lab, new)?;
        wait::until(FOLLOW, "all to be counted", || {
            let severed = lab.daemon.status()?.route("writes")?.severed - severed;
            ensure!(severed as usize == connections, "{severed} are counted as severed");
            Ok(())
        })?;
        let took = took(&lab.daemon.log())?;
        println!(
            "{datapath}: {connections} idle connections: last RST {took:?} after the decision; clients saw the last {seen:?} after the first"
        );
        ensure!(
            took <= limit(bar) && seen <= limit(bar),
            "the last RST came {took:?} after the decision, {seen:?} after the first"
        );
        Ok(())
    });
}
