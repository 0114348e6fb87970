//! What only the bypass can get wrong: which connections it takes, what a reader that stops costs, and a socket that is another
//! connection's afterwards. That it moves bytes as every other way does the rest of the suite asks.

mod waiting;

use std::{
    env,
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    ops::Range,
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use socket2::{Domain, Protocol, Socket, Type};
use switchmaster_tests::{
    Daemon, HaProxy, Patient, World,
    daemon::{Config, Group, Route},
    memory::{self, MIB},
    node::Door,
    wait,
};

use crate::{
    order,
    pattern::{LONGEST, Pattern, Random},
    stage::{self, LIMIT, PORT, Stage},
};

/// Of the metric `switchmaster_bypass_total`.
fn outcome(stage: &Stage, outcome: &str) -> Result<f64> {
    stage.metric("switchmaster_bypass_total{", &format!("outcome=\"{outcome}\""))
}

fn bytes(stage: &Stage) -> Result<f64> {
    stage.metric("switchmaster_bypass_bytes_total", "")
}

fn messages(stage: &Stage) -> Result<f64> {
    stage.metric("switchmaster_bypass_messages_total", "")
}

fn echo() -> Result<Stage> {
    Stage::new("bypassed", |stream| order::or_reset(order::echo(stream)))
}

fn exchange(stream: &TcpStream, message: &[u8]) -> Result<()> {
    let mut stream = Patient::new(stream).context("nonblocking")?;
    stream.write_all(message).context("send")?;
    let mut back = vec![0; message.len()];
    stream.read_exact(&mut back).context("hear")?;
    ensure!(back == message, "{back:?} came back");
    Ok(())
}

/// Without waiting inside of the call.
fn connect(socket: &Socket, to: SocketAddr) -> Result<()> {
    socket.set_nonblocking(true).context("nonblocking")?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(libc::EINPROGRESS) => Err(error).context("connect"),
        _ => Ok(()),
    }
}

/// Random sizes, stalls on both sides, and never more on its way than a reader may be behind. SWITCHMASTER_TRAFFIC_MIB as for
/// `integrity`; with 954 it is 10^9 bytes.
#[test]
fn every_byte_arrives_once_and_in_order_without_tcp() {
    // In bytes: small messages cost far more than theirs, and of these there are a few in it at a time.
    const AHEAD: u64 = 256 << 10;
    stage::check(echo(), |stage| {
        let mebibytes = env::var("SWITCHMASTER_TRAFFIC_MIB").unwrap_or_else(|_| "256".to_owned());
        let total = mebibytes.parse::<u64>().context("SWITCHMASTER_TRAFFIC_MIB")? << 20;
        let before = bytes(stage)?;
        let client = stage.connect()?;
        let back = AtomicU64::new(0);
        let sent = thread::scope(|scope| {
            let sender = scope.spawn(|| -> Result<()> {
                let (mut random, mut pattern) = (Random::new(1), Pattern::new(3));
                while pattern.at < total {
                    let size = random.within(&Range { start: 1, end: LONGEST as u64 });
                    let size = if random.one_in(2) { size.min(200) } else { size };
                    let piece = pattern.peek(size.min(total - pattern.at) as usize);
                    let limit = Instant::now() + LIMIT;
                    while pattern.at + piece.len() as u64 > back.load(Ordering::Relaxed) + AHEAD {
                        ensure!(Instant::now() < limit, "nothing comes back");
                        thread::yield_now();
                    }
                    Patient::new(&client)?.write_all(piece).context("send")?;
                    pattern.check(piece)?;
                    if random.one_in(2000) {
                        wait::pause(Duration::from_millis(5));
                    }
                }
                Ok(())
            });
            let (mut random, mut pattern) = (Random::new(2), Pattern::new(3));
            let mut buffer = vec![0; LONGEST];
            let received = (|| -> Result<()> {
                while pattern.at < total {
                    let most = random.within(&Range { start: 1, end: LONGEST as u64 }) as usize;
                    let got = Patient::new(&client)?.read(&mut buffer[..most]).context("hear")?;
                    ensure!(got > 0, "the end after {} bytes", pattern.at);
                    pattern.check(&buffer[..got])?;
                    back.store(pattern.at, Ordering::Relaxed);
                    if random.one_in(2000) {
                        wait::pause(Duration::from_millis(5));
                    }
                }
                Ok(())
            })();
            let sent = sender.join().ok().context("the sender panicked")?;
            received.and(sent)
        });
        sent?;
        let bypassed = bytes(stage)? - before;
        ensure!(bypassed == 2.0 * total as f64, "{bypassed} of {} bytes were bypassed", 2 * total);
        Ok(())
    });
}

/// One of many subscribers reads nothing: how much memory it had taken when it was given to TCP, in bytes. Every byte is there
/// when it reads again, of before and after.
fn one_stops(stage: &Stage) -> Result<f64> {
    const OTHERS: usize = 100;
    const MOST_ROUNDS: usize = 10_000;
    /// Between two looks, and by TCP in the end.
    const ROUNDS: usize = 100;
    let clients = (0..=OTHERS).map(|_| stage.connect()).collect::<Result<Vec<_>>>()?;
    wait::until(LIMIT, "all to be accepted", || {
        ensure!(stage.node.kept().len() > OTHERS, "{} are", stage.node.kept().len());
        Ok(())
    })?;
    let nodes = std::mem::take(&mut *stage.node.kept());
    for client in &clients {
        Patient::new(client)?.write_all(b"S").context("subscribe")?;
    }
    for node in &nodes {
        Patient::new(node)?.read_exact(&mut [0]).context("subscription")?;
    }
    let message = |number: usize| (number as u64).to_le_bytes().repeat(8);
    let publish = |rounds: Range<usize>| {
        for round in rounds {
            for mut node in &nodes {
                node.write_all(&message(round)).context("publish")?;
            }
            for client in &clients[1..] {
                let mut heard = [0; 64];
                Patient::new(client)?.read_exact(&mut heard).context("a message")?;
                ensure!(heard[..] == message(round), "other bytes in round {round}");
            }
        }
        Ok(())
    };
    let (behind, before) = (outcome(stage, "behind")?, memory::available()?);
    let mut round = 0;
    while outcome(stage, "behind")? == behind {
        ensure!(round < MOST_ROUNDS, "{round} messages wait, and it is not behind");
        publish(round..round + ROUNDS)?;
        round += ROUNDS;
    }
    let taken = memory::taken_since(before)?;
    ensure!(outcome(stage, "behind")? == behind + 1.0, "others are behind too");
    publish(round..round + ROUNDS)?;
    for number in 0..round + ROUNDS {
        let mut heard = [0; 64];
        Patient::new(&clients[0])?.read_exact(&mut heard).context("what waits")?;
        ensure!(heard[..] == message(number), "other bytes in message {number}");
    }
    Ok(taken)
}

/// The kernel puts what one thread sends to all of them into the same pieces of memory, and a message of 64 bytes that nobody
/// reads holds all of its piece.
#[test]
fn a_subscriber_that_stops_costs_little_and_the_others_nothing() {
    const MOST: f64 = 8.0 * MIB;
    stage::check(Stage::alone("bypassed", |_| Ok(())), |stage| {
        stage.node.set_door(Door::Keep);
        let mut tolls = Vec::new();
        // The machine's memory is not ours alone: what is wrong is so every time.
        for _ in 0..3 {
            let toll = one_stops(stage)?;
            eprintln!("one of a hundred stalled: memory {:+.1} MiB", toll / MIB);
            if toll <= MOST {
                return Ok(());
            }
            tolls.push(toll);
        }
        anyhow::bail!("it costs too much every time: {tolls:?} bytes")
    });
}

#[test]
fn over_ipv6_too() {
    let stage = World::new()
        .and_then(|world| Stage::over(world, true, "bypassed", |stream| order::or_reset(order::echo(stream))));
    stage::check(stage, |stage| {
        let client = stage.connect_as(1)?;
        let before = messages(stage)?;
        exchange(&client, b"hello")?;
        ensure!(messages(stage)? == before + 2.0, "{} messages", messages(stage)? - before);
        Ok(())
    });
}

/// Who dials the node itself is bypassed as well, and nobody who dials another server; a v4-mapped address is the same node.
#[test]
fn a_node_s_address_is_taken_whoever_dials_it_and_no_other() {
    stage::check(echo(), |stage| {
        let home = stage.world.proxy()?;
        let node = stage.node.ipv4();
        let before = messages(stage)?;
        let direct = stage::dial(home, node)?;
        exchange(&direct, b"hello")?;
        ensure!(messages(stage)? == before + 2.0, "who dials the node: {}", messages(stage)? - before);
        let count = || stage.metric("switchmaster_bypass_direct_connections", "");
        ensure!(count()? == 1.0, "{} clients are counted", count()?);
        let std::net::IpAddr::V4(ip) = node.ip() else { anyhow::bail!("the node is at {node}") };
        let mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), node.port());
        let mapped = stage::dial(home, mapped)?;
        exchange(&mapped, b"hello")?;
        ensure!(messages(stage)? == before + 4.0, "by IPv6's name: {}", messages(stage)? - before);
        drop((direct, mapped));
        wait::until(LIMIT, "both to be counted no more", || {
            ensure!(count()? == 0.0, "{} are", count()?);
            Ok(())
        })?;

        let before = messages(stage)?;
        let other = home.enter(|| TcpListener::bind(home.address(7999)))?.context("listen")?;
        let client = stage::dial(home, home.address(7999))?;
        let (server, _) = other.accept()?;
        (&client).write_all(b"hello")?;
        (&server).read_exact(&mut [0; 5])?;
        ensure!(messages(stage)? == before, "another server's");
        Ok(())
    });
}

/// Relays that look past a socket's queue: HAProxy, whose splice(2) would find nothing, and a daemon of ours whose splice in the
/// kernel would see nothing. Programs of their names are left alone.
#[test]
fn relays_in_front_of_a_node_go_by_tcp() {
    stage::check(echo(), |stage| {
        let home = stage.world.proxy()?;
        let (by_haproxy, by_a_second) = (home.address(7101), home.address(7102));
        let _haproxy = HaProxy::spliced(&stage.world, by_haproxy, stage.node.ipv4())?;
        let group = Group::new("second").set("nodes", format!("[\"{}\"]", stage.node.ipv4()));
        let route = Route::new("writes", "second", "master", "sockmap", &[by_a_second]);
        let config = Config::named("second", 9181)
            .local("steering", "\"off\"")
            .group(group)
            .route(route)
            .argument("--pin-dir")
            .argument("/sys/fs/bpf/second");
        let _second = Daemon::start(&stage.world, &config)?;
        let before = messages(stage)?;
        for (who, to) in [("HAProxy", by_haproxy), ("a second daemon", by_a_second)] {
            let client = stage::dial(home, to)?;
            client.set_read_timeout(Some(Duration::from_secs(5))).context("read time-out")?;
            for size in [5, 1, 20_000, 200_000] {
                exchange(&client, &vec![b'x'; size]).with_context(|| format!("{size} bytes through {who}"))?;
            }
        }
        ensure!(messages(stage)? == before, "a relay was bypassed");
        ensure!(outcome(stage, "excepted")? >= 2.0, "for another reason");
        Ok(())
    });
}

/// What the listener accepts goes on through the daemon, whose own connections to the node are left alone.
#[test]
fn the_daemon_s_own_connections_go_by_tcp() {
    stage::check(echo(), |stage| {
        let before = messages(stage)?;
        let client = stage::dial(stage.world.client()?, stage.world.proxy()?.address(PORT))?;
        exchange(&client, b"hello")?;
        ensure!(stage.accepted()? >= 1.0, "the listener has not had it");
        wait::pause(Duration::from_millis(1500));
        ensure!(messages(stage)? == before, "{} messages of the daemon's", messages(stage)? - before);
        Ok(())
    });
}

/// A socket that dials again has nothing of its old connection, read or not.
#[test]
fn a_socket_that_dials_again_reads_nothing_of_before() {
    stage::check(Stage::new("bypassed", |_| Ok(())), |stage| {
        stage.node.set_door(Door::Keep);
        let home = stage.world.proxy()?;
        let to = stage.node.ipv4();
        let socket = home.enter(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))?.context("socket")?;
        let accepted =
            || wait::until(LIMIT, "the node to be dialled", || stage.node.kept().pop().context("nobody came"));
        connect(&socket, to)?;
        let (first, ours) = (accepted()?, TcpStream::from(socket));
        let (mut first, mut patient) = (Patient::new(&first)?, Patient::new(&ours)?);
        patient.write_all(b"1").context("send")?;
        first.read_exact(&mut [0]).context("hear")?;
        let before = messages(stage)?;
        first.write_all(b"old old old").context("send")?;
        ensure!(messages(stage)? == before + 1.0, "it was not bypassed");
        leave(&ours)?;
        connect(&socket2::SockRef::from(&ours), to)?;
        let second = accepted()?;
        let mut second = Patient::new(&second)?;
        patient.write_all(b"2").context("send")?;
        let mut heard = [0];
        second.read_exact(&mut heard).context("hear")?;
        second.write_all(b"new").context("send")?;
        let mut back = [0; 3];
        patient.read_exact(&mut back).context("hear")?;
        ensure!(&heard == b"2" && &back == b"new", "{heard:?} went there, {back:?} came back");
        // And who was left hears of it.
        let end = first.read(&mut [0]);
        ensure!(matches!(&end, Ok(0)) || end.is_err(), "the first connection lives: {end:?}");
        Ok(())
    });
}

/// The node's end of a client's connection: the daemon's probes are kept too.
fn accepted(stage: &Stage, client: SocketAddr) -> Result<TcpStream> {
    wait::until(LIMIT, "the node to be dialled", || {
        let mut kept = stage.node.kept();
        let at = kept.iter().position(|stream| stream.peer_addr().is_ok_and(|peer| peer == client));
        Ok(kept.swap_remove(at.context("nobody came")?))
    })
}

/// Both ends of a bypassed connection that has carried a byte each way.
fn pair(stage: &Stage) -> Result<(TcpStream, TcpStream)> {
    stage.node.set_door(Door::Keep);
    let client = stage.connect()?;
    let node = accepted(stage, client.local_addr()?)?;
    let before = messages(stage)?;
    for (from, to) in [(&client, &node), (&node, &client)] {
        Patient::new(from)?.write_all(b"x").context("a byte")?;
        Patient::new(to)?.read_exact(&mut [0]).context("a byte")?;
    }
    ensure!(messages(stage)? == before + 2.0, "it is not bypassed");
    Ok((client, node))
}

/// What was sent before the end arrives before it, whichever end it is, and who sends to one that is gone hears of it.
#[test]
fn an_end_means_what_it_means_to_tcp() {
    stage::check(Stage::new("bypassed", |_| Ok(())), |stage| {
        for client_ends in [true, false] {
            let ends = || -> Result<(TcpStream, TcpStream)> {
                let (client, node) = pair(stage)?;
                Ok(if client_ends { (client, node) } else { (node, client) })
            };
            // Half of it.
            let (ours, theirs) = ends()?;
            Patient::new(&ours)?.write_all(b"last words").context("send")?;
            ours.shutdown(Shutdown::Write).context("finish")?;
            let mut heard = Vec::new();
            Patient::new(&theirs)?.read_to_end(&mut heard).context("to the end")?;
            ensure!(heard == b"last words", "{heard:?}");
            Patient::new(&theirs)?.write_all(b"reply").context("the other way")?;
            Patient::new(&ours)?.read_exact(&mut [0; 5]).context("the other way")?;
            let late = (&ours).write(b"more");
            ensure!(late.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe), "it sends after its end");
            // All of it: what is sent there afterwards is answered by RST.
            let (ours, theirs) = ends()?;
            drop(ours);
            ensure!(Patient::new(&theirs)?.read(&mut [0]).context("the end")? == 0, "more comes");
            let end = wait::until(LIMIT, "the sender to hear of it", || {
                (&theirs).write(b"anybody").err().context("it is taken")
            })?;
            ensure!(matches!(end.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{end}");
            // By RST.
            let (ours, theirs) = ends()?;
            reset(&ours)?;
            drop(ours);
            let end = Patient::new(&theirs)?.read(&mut [0]);
            ensure!(end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{end:?}");
        }
        Ok(())
    });
}

/// From an address and port of the daemon's namespace, which another socket may have had before.
fn dial_from(stage: &Stage, from: SocketAddr) -> Result<(TcpStream, TcpStream)> {
    let home = stage.world.proxy()?;
    let socket = home.enter(|| Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)))?.context("socket")?;
    socket.set_reuse_address(true).context("reuse")?;
    socket.bind(&from.into()).context("bind")?;
    connect(&socket, stage.node.ipv4())?;
    Ok((socket.into(), accepted(stage, from)?))
}

fn reset(stream: &TcpStream) -> Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).context("linger")
}

fn send(from: &TcpStream, message: &[u8]) -> Result<()> {
    Patient::new(from)?.write_all(message).context("send")
}

fn expect(on: &TcpStream, message: &[u8]) -> Result<()> {
    let mut heard = vec![0; message.len()];
    Patient::new(on)?.read_exact(&mut heard).context("hear")?;
    ensure!(heard == message, "{:?} came", heard.escape_ascii().to_string());
    Ok(())
}

/// Addresses and ports are another connection's as soon as they are free; what waits is the one's that it was sent to.
#[test]
fn what_waits_is_kept_when_its_place_is_used_again() {
    stage::check(Stage::new("bypassed", |_| Ok(())), |stage| {
        stage.node.set_door(Door::Keep);
        let home = stage.world.proxy()?;

        // The daemon is late in taking out a socket that went to TCP.
        let from = home.address(40001);
        let daemon = stage.daemon.process();
        daemon.signal(Signal::SIGSTOP)?;
        let (before, node) = dial_from(stage, from)?;
        before.set_nonblocking(false).context("blocking")?;
        (&before).write_all(b"by TCP").context("send")?;
        expect(&node, b"by TCP")?;
        reset(&before)?;
        drop((before, node));
        let (client, node) = dial_from(stage, from)?;
        send(&client, b"a request")?;
        send(&node, b"a reply")?;
        daemon.signal(Signal::SIGCONT)?;
        wait::pause(Duration::from_millis(300));
        send(&client, b", and more")?;
        send(&node, b", and more")?;
        expect(&node, b"a request, and more")?;
        expect(&client, b"a reply, and more")?;

        // One that was reset has not read everything when the next one comes.
        let from = home.address(40002);
        let (old, node) = dial_from(stage, from)?;
        send(&old, b"hello")?;
        expect(&node, b"hello")?;
        send(&node, b"unread")?;
        reset(&node)?;
        drop(node);
        let (next, node) = dial_from(stage, from)?;
        send(&next, b"hello")?;
        expect(&node, b"hello")?;
        expect(&old, b"unread").context("the one that was reset")?;
        let end = Patient::new(&old)?.read(&mut [0]);
        ensure!(end.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionReset), "{end:?}");

        // One that has left dials again while another is in its place.
        let from = home.address(40003);
        let (wanderer, node) = dial_from(stage, from)?;
        send(&wanderer, b"hello")?;
        expect(&node, b"hello")?;
        leave(&wanderer)?;
        drop(node);
        let (next, node) = dial_from(stage, from)?;
        send(&next, b"hello")?;
        send(&node, b"unread")?;
        let _is_refused = socket2::SockRef::from(&wanderer).connect(&home.address(1).into());
        expect(&node, b"hello")?;
        expect(&next, b"unread").context("the one in its place")
    });
}

/// AF_UNSPEC ends the connection and leaves the socket.
fn leave(stream: &TcpStream) -> Result<()> {
    let nowhere = [0u8; 16];
    // SAFETY: an address of 16 zero bytes, whose family is AF_UNSPEC.
    let left = unsafe { libc::connect(stream.as_raw_fd(), nowhere.as_ptr().cast(), nowhere.len() as libc::socklen_t) };
    ensure!(left == 0, "{}", std::io::Error::last_os_error());
    Ok(())
}
