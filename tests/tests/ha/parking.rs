//! Clients that come while there is no master, on the packet path: their SYNs wait, and nobody ends up on the slower
//! path for it. Order, rate, time and number are those of the configuration, and whoever gives up makes room.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::socket::{
    AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, setsockopt, socket, sockopt::ReuseAddr,
};
use switchmaster_tests::{Client, Lab, Namespace, Spec, lab::check, wait};

use crate::{FAILOVER, FOLLOW};

const RESIDENTS: usize = 200;
const NEWCOMERS: usize = 20;

/// A number on the page of metrics.
fn metric(lab: &Lab, name: &str) -> Result<u64> {
    let page = lab.daemon.get("/metrics")?.body;
    let line = page.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in {page}"))?;
    Ok(line.rsplit(' ').next().context("no value")?.parse()?)
}

fn fate(lab: &Lab, fate: &str) -> Result<u64> {
    metric(lab, &format!("switchmaster_packets_total{{fate=\"{fate}\"}}"))
}

/// Connections that the listener accepted: each of them is on the slower path.
fn accepted(lab: &Lab) -> Result<u64> {
    metric(lab, "switchmaster_connections_total{route=\"writes\"}")
}

fn outcome(lab: &Lab, outcome: &str) -> Result<u64> {
    let page = lab.daemon.get("/metrics")?.body;
    let label = format!("outcome=\"{outcome}\"");
    let ours = |line: &&str| {
        line.starts_with("switchmaster_parked_total{") && line.contains(&label) && line.contains("route=\"writes\"")
    };
    let line = page.lines().find(ours).with_context(|| format!("no {label} in {page}"))?;
    Ok(line.rsplit(' ').next().context("no value")?.parse()?)
}

fn parked(lab: &Lab, count: u64) -> Result<()> {
    wait::until(FOLLOW, format_args!("{count} to be parked"), || {
        let parked = lab.daemon.status()?.route("writes")?.parked;
        ensure!(parked == count, "{parked} are parked");
        Ok(())
    })
}

/// The one node answers nobody: nobody new may go there.
fn silence(lab: &Lab) -> Result<()> {
    lab.cluster.nodes[0].freeze()?;
    wait::until(FOLLOW, "the group to let nobody in", || {
        let way = lab.daemon.status()?.group(lab.group_name())?.way.clone();
        ensure!(way != "open", "it is {way}");
        Ok(())
    })
}

/// What a client hears that dials now, and when it is connected.
fn dial(lab: &Lab, limit: Duration) -> Result<JoinHandle<Result<(Instant, String)>>> {
    let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
    Ok(thread::spawn(move || {
        let mut stream = namespace.connect(to, limit)?;
        let connected = Instant::now();
        stream.set_read_timeout(Some(limit))?;
        stream.write_all(b"PING\r\n")?;
        let (mut reply, mut heard) = ([0; 256], 0);
        while !reply[..heard].ends_with(b"\n") {
            match stream.read(&mut reply[heard..])? {
                0 => break,
                read => heard += read,
            }
        }
        Ok((connected, String::from_utf8_lossy(&reply[..heard]).trim_end().to_owned()))
    }))
}

fn heard(client: JoinHandle<Result<(Instant, String)>>) -> Result<(Instant, String)> {
    client.join().ok().context("a client panicked")?
}

/// A client that lives long: whenever its connection ends it dials again, at once. Counts each that was answered.
fn live(namespace: &Namespace, to: SocketAddr, answered: &AtomicUsize, stop: &AtomicBool) -> Result<()> {
    while !stop.load(Ordering::Relaxed) {
        let Ok(stream) = namespace.connect(to, FAILOVER) else {
            // Where the master has just died its host refuses, until the daemon knows.
            wait::pause(Duration::from_millis(5));
            continue;
        };
        if let Ok(reply) = ask_role(&stream) {
            ensure!(reply.starts_with("*3\r\n$6\r\nmaster"), "answered by {reply:?}");
            answered.fetch_add(1, Ordering::Relaxed);
            until_it_ends(&stream, stop)?;
        }
    }
    Ok(())
}

fn ask_role(mut stream: &TcpStream) -> Result<String> {
    stream.set_read_timeout(Some(FAILOVER))?;
    stream.write_all(b"ROLE\r\n")?;
    let mut reply = [0; 512];
    let read = stream.read(&mut reply)?;
    ensure!(read > 0, "it was closed");
    Ok(String::from_utf8_lossy(&reply[..read]).into_owned())
}

fn until_it_ends(mut stream: &TcpStream, stop: &AtomicBool) -> Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    while !stop.load(Ordering::Relaxed) {
        match stream.read(&mut [0; 512]) {
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            // The rest of a reply that came in two.
            Ok(1..) => {}
            _ => break,
        }
    }
    Ok(())
}

/// Residents, a switch with newcomers in it, and where all of them are afterwards.
fn all_are_packets(lab: &mut Lab, way: &str, switch: impl FnOnce(&mut Lab) -> Result<usize>) -> Result<()> {
    let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
    let (answered, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let residents: Vec<_> =
            (0..RESIDENTS).map(|_| scope.spawn(|| live(&namespace, to, &answered, &stop))).collect();
        let work = || -> Result<()> {
            let all = |count: usize| answered.load(Ordering::Relaxed) >= count;
            wait::until_true(FAILOVER, "all residents", || all(RESIDENTS))?;
            let (before, taken) = (accepted(lab)?, fate(lab, "parked")?);
            let old = switch(lab)?;
            lab.daemon.wait_way(lab.group_name(), way, FAILOVER)?;
            let newcomers = (0..NEWCOMERS).map(|_| dial(lab, FAILOVER)).collect::<Result<Vec<_>>>()?;
            let new = lab.cluster.wait_failover(old, FAILOVER)?;
            lab.daemon.wait_master(lab.group_name(), lab.cluster.nodes[new].address, FOLLOW)?;
            for newcomer in newcomers {
                let (_, reply) = heard(newcomer)?;
                ensure!(reply == "+PONG", "a newcomer heard {reply}");
            }
            wait::until_true(FAILOVER, "all residents to be back", || all(2 * RESIDENTS))?;
            let (listener, taken) = (accepted(lab)? - before, fate(lab, "parked")? - taken);
            println!("{RESIDENTS} came back, {NEWCOMERS} came anew: {taken} SYNs parked, {listener} with the listener");
            ensure!(listener == 0, "{listener} are on the slower path");
            ensure!(taken >= NEWCOMERS as u64, "{taken} SYNs were parked");
            ensure!(fate(lab, "turned")? == 0, "a SYN was turned away");
            let connections = lab.daemon.status()?.route("writes")?.connections;
            ensure!(connections >= RESIDENTS as u64, "{connections} connections");
            Ok(())
        };
        let worked = work();
        stop.store(true, Ordering::Relaxed);
        for resident in residents {
            resident.join().ok().context("a resident panicked")??;
        }
        worked
    })
}

#[test]
fn after_an_ordered_failover_all_are_on_the_packet_path() {
    check(Lab::start(Spec::default(), "tc", |setup| setup), |lab| {
        all_are_packets(lab, "paused", |lab| lab.cluster.failover())
    });
}

#[test]
fn after_the_masters_death_all_are_on_the_packet_path() {
    let spec = Spec { down_after_ms: 1000, ..Spec::default() };
    check(Lab::start(spec, "tc", |setup| setup), |lab| {
        all_are_packets(lab, "established", |lab| lab.cluster.kill_master())
    });
}

#[test]
fn parked_clients_go_on_in_order_and_at_the_rate() {
    const RATE: u32 = 50;
    const CLIENTS: u32 = 40;
    let lab = Lab::start(Spec::bare(1), "tc", |mut setup| {
        setup.writes = setup.writes.set("reconnect_rate", RATE);
        setup
    });
    check(lab, |lab| {
        silence(lab)?;
        let before = accepted(lab)?;
        let mut clients = Vec::new();
        for number in 1..=CLIENTS {
            clients.push(dial(lab, FAILOVER)?);
            parked(lab, u64::from(number))?;
        }
        lab.cluster.nodes[0].thaw()?;
        let heard = clients.into_iter().map(heard).collect::<Result<Vec<_>>>()?;
        ensure!(heard.iter().all(|(_, reply)| reply == "+PONG"), "{heard:?}");
        let times: Vec<Instant> = heard.iter().map(|(at, _)| *at).collect();
        // One turn is 20 ms; threads of a busy machine wake a little late.
        let slack = Duration::from_millis(30);
        for pair in times.windows(2) {
            ensure!(pair[0] < pair[1] + slack, "one overtook another by {:?}", pair[0] - pair[1]);
        }
        let rate = f64::from(CLIENTS - 1) / (times[times.len() - 1] - times[0]).as_secs_f64();
        println!("reconnect_rate {RATE}: measured {rate:.1}/s");
        ensure!((rate / f64::from(RATE) - 1.0).abs() < 0.15, "{rate}/s");
        ensure!(accepted(lab)? == before, "some are with the listener");
        Ok(())
    });
}

/// One place short of them all is the listener's: see `the_park_has_one_limit` in the daemon's tests.
#[test]
fn number_and_time_are_bounded_and_a_syn_that_comes_again_is_the_same_client() {
    const TIMEOUT: Duration = Duration::from_millis(4500);
    let lab = Lab::start(Spec::bare(1), "tc", |mut setup| {
        setup.writes = setup.writes.park(4, TIMEOUT);
        setup
    });
    check(lab, |lab| {
        silence(lab)?;
        let (before, start) = (accepted(lab)?, Instant::now());
        let mut clients = Vec::new();
        for number in 1..=3 {
            clients.push(dial(lab, FAILOVER)?);
            parked(lab, number)?;
        }
        ensure!(accepted(lab)? == before, "the listener has one of the SYNs");
        clients.push(dial(lab, FAILOVER)?);
        parked(lab, 4)?;
        ensure!(accepted(lab)? == before + 1, "the last place is for a client that shook hands");
        let (_, full) = heard(dial(lab, FAILOVER)?)?;
        ensure!(full.starts_with("-MASTERDOWN") && full.contains("too many"), "{full}");
        ensure!(start.elapsed() < Duration::from_secs(2), "that took {:?}", start.elapsed());
        // By now each has sent its SYN three times.
        wait::pause(Duration::from_millis(3500).saturating_sub(start.elapsed()));
        parked(lab, 4)?;
        ensure!(fate(lab, "parked")? >= 3 * 3 - 1, "no SYN came again");
        for client in clients {
            let (connected, reply) = heard(client)?;
            ensure!(reply.starts_with("-MASTERDOWN"), "{reply}");
            println!("connected after {:?}, told after {:?}", connected - start, start.elapsed());
        }
        let waited = start.elapsed();
        ensure!((TIMEOUT..TIMEOUT + Duration::from_secs(1)).contains(&waited), "they waited for {waited:?}");
        parked(lab, 0)?;
        // The three, and the two for whom there was no room.
        ensure!((fate(lab, "turned")?, outcome(lab, "timed-out")?) == (3 + 2, 4), "not all were counted");
        Ok(())
    });
}

/// Dials from this port and gives up after `patience`: what it does not send is how anybody notices.
fn dial_in_vain(namespace: &Namespace, port: u16, to: SocketAddr, patience: Duration) -> Result<()> {
    let SocketAddr::V4(to) = to else { bail!("not IPv4") };
    namespace.enter(|| -> Result<()> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None)?;
        setsockopt(&fd, ReuseAddr, &true)?;
        bind(fd.as_raw_fd(), &SockaddrIn::new(0, 0, 0, 0, port))?;
        let _in_progress = connect(fd.as_raw_fd(), &SockaddrIn::from(to));
        wait::pause(patience);
        Ok(())
    })?
}

#[test]
fn a_client_that_gives_up_frees_its_place() {
    check(Lab::start(Spec::bare(1), "tc", |setup| setup), |lab| {
        let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
        silence(lab)?;
        let patience = Duration::from_millis(200);
        for attempt in 0..3 {
            dial_in_vain(&namespace, 33_333, to, patience)?;
            parked(lab, 1)?;
            // The one before is there until the next one's SYN has been heard.
            wait::until(Duration::from_secs(2), format_args!("attempt {attempt} to replace the one before"), || {
                let left = outcome(lab, "left")?;
                ensure!(left == attempt, "{left} have left");
                Ok(())
            })?;
        }
        let start = Instant::now();
        wait::until(Duration::from_secs(6), "the last one to be missed", || {
            let parked = lab.daemon.status()?.route("writes")?.parked;
            ensure!(parked == 0, "{parked} are parked");
            Ok(())
        })?;
        ensure!(start.elapsed() > Duration::from_secs(2), "it was given up after {:?}", start.elapsed());
        ensure!(fate(lab, "turned")? == 0, "it was sent to the listener");
        Ok(())
    });
}

/// Those of a family that the node has not are the listener's, in their turn.
#[test]
fn a_client_of_another_family_is_served_by_the_listener() {
    check(Lab::start(Spec::bare(1), "tc", |setup| setup), |lab| {
        silence(lab)?;
        let (namespace, to) = (lab.client()?.clone(), lab.world.proxy()?.address6(switchmaster_tests::lab::WRITES));
        let before = accepted(lab)?;
        let client = thread::spawn(move || -> Result<()> {
            let mut client = Client::connect_within(&namespace, to, FAILOVER)?;
            client.ping()
        });
        parked(lab, 1)?;
        ensure!(accepted(lab)? == before, "it did not wait as a SYN");
        lab.cluster.nodes[0].thaw()?;
        client.join().ok().context("the client panicked")??;
        ensure!(accepted(lab)? == before + 1, "somebody else has served it");
        Ok(())
    });
}
