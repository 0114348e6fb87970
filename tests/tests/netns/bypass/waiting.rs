//! How a process waits for what comes: inside of its calls, or for the edge of epoll. Either must work as on any socket.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::Shutdown,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::{
    epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags},
    signal::Signal,
};
use switchmaster_tests::{Daemon, LocalWay, Patient, node::Door, wait};

use super::{messages, outcome, pair};
use crate::stage::{self, LIMIT, Stage};

/// Who waits inside of recv(2) has his socket as it was: on one that is bypassed the kernel would let that end for nothing.
#[test]
fn who_waits_inside_of_calls_goes_by_tcp() {
    stage::check(Stage::new("bypassed", |_| Ok(())), |stage| {
        stage.node.set_door(Door::Keep);
        let before = messages(stage)?;
        // As the library does with a time limit: it connects without waiting, and waits from then on.
        let mut client = stage.connect()?;
        let mut node = wait::until(LIMIT, "the node to be dialled", || stage.node.kept().pop().context("nobody came"))?;
        node.set_nonblocking(false).context("blocking")?;
        client.write_all(b"x").context("send")?;
        node.read_exact(&mut [0]).context("hear")?;
        node.write_all(b"x").context("send")?;
        client.read_exact(&mut [0]).context("hear")?;
        ensure!(messages(stage)? == before, "it is bypassed");
        ensure!(outcome(stage, "blocking")? >= 1.0, "for another reason");
        client.shutdown(Shutdown::Write).context("finish")?;
        let (mut waiting, answer) = (
            client.try_clone().context("clone")?,
            thread::spawn(move || {
                wait::pause(Duration::from_millis(200));
                node.write_all(b"late")
            }),
        );
        // Its own end is acknowledged meanwhile, which wakes it.
        waiting.read_exact(&mut [0; 4]).context("waiting")?;
        answer.join().ok().context("the node's thread")?.context("answer")
    });
}

/// Who connects without waiting and waits from then on, as hiredis does, is out of the bypass in the call in which it sends for the
/// first time: with the daemon standing still, the end that a switch makes of it is the one that TCP knows.
#[test]
fn who_begins_to_wait_is_out_with_its_first_word() {
    stage::check(Stage::new("bypassed", |_| Ok(())), |stage| {
        stage.node.set_door(Door::Keep);
        stage.daemon.process().signal(Signal::SIGSTOP)?;
        // More than a queue of what is to be done would hold.
        let mut held = Vec::new();
        for _ in 0..600 {
            let mut client = stage.connect()?;
            client.write_all(b"x").context("send")?;
            held.push(client);
        }
        let mut client = held.pop().context("nobody")?;
        let port = client.local_addr().context("the client's address")?.port();
        let waiting = thread::spawn(move || client.read(&mut [0]));
        wait::pause(Duration::from_millis(200));
        let filter = format!("sport = :{port}");
        stage.world.proxy()?.run("ss", &["--kill", "--tcp", "state", "established", &filter])?;
        let end = waiting.join().ok().context("the client's thread")?;
        let kind = end.map_err(|error| error.kind());
        stage.daemon.process().signal(Signal::SIGCONT)?;
        ensure!(kind == Err(ErrorKind::ConnectionAborted), "it ended with {kind:?}");
        Ok(())
    });
}

/// A reader that waits for the edge of epoll after a read that was shorter than its buffer, as tokio does, was behind: what came by
/// bypass ends in such a read, and what came by TCP lies behind it. It hears of that all the same, if nothing more is sent.
#[test]
fn who_waits_for_the_edge_hears_of_what_tcp_has() {
    waits_for_the_edge(|_| Ok(None));
}

/// The same, of a connection that is older than the daemon.
#[test]
fn who_waits_for_the_edge_hears_of_it_after_a_take_over() {
    waits_for_the_edge(|stage| {
        stage.daemon.process().signal(Signal::SIGKILL)?;
        wait::pause(Duration::from_millis(200));
        // The next one's probes are to be answered.
        stage.node.set_door(Door::Ask);
        let config = stage::config(&stage.world, stage.node.ipv4(), "copy", |route| route)?;
        Daemon::start(&stage.world, &LocalWay::Bypassed.configure(config)).map(Some)
    });
}

/// `meanwhile` comes between the connection and what is sent on it, and gives who runs from then on.
fn waits_for_the_edge(meanwhile: impl FnOnce(&Stage) -> Result<Option<Daemon>>) {
    const SIZE: usize = 1000;
    stage::check(Stage::new("bypassed", |_| Ok(())), |stage| {
        let (client, node) = pair(stage)?;
        let _daemon = meanwhile(stage)?;
        let filter = format!("sport = :{}", client.local_addr().context("the client's address")?.port());
        // Of bytes that were bypassed TCP knows nothing.
        let by_tcp = || -> Result<bool> {
            let sockets = stage.world.proxy()?.run("ss", &["--no-header", "--tcp", "--info", &filter])?;
            Ok(sockets.contains("bytes_received:"))
        };
        client.set_nonblocking(true).context("nonblocking")?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC).context("epoll")?;
        let edge = EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, 0);
        epoll.add(&client, edge).context("epoll")?;
        let (mut writer, mut sent) = (Patient::new(&node)?, 0);
        // Of more than one TCP would have to send the rest again, which is an edge of its own.
        while sent < 1000 * SIZE || !by_tcp()? {
            writer.write_all(&[b'x'; SIZE]).context("send")?;
            sent += SIZE;
            ensure!(sent < 64 << 20, "nothing went by TCP");
        }
        let (mut received, mut buffer, mut events) = (0, vec![0; 64 << 10], [EpollEvent::empty()]);
        while received < sent {
            let ready = epoll.wait(&mut events, 5000_u16).context("epoll")?;
            ensure!(ready == 1, "no edge after {received} of {sent} bytes");
            loop {
                match (&client).read(&mut buffer) {
                    Ok(0) => anyhow::bail!("the end after {received} bytes"),
                    Ok(count) => {
                        received += count;
                        if count < buffer.len() {
                            break;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error).context("read"),
                }
            }
        }
        Ok(())
    });
}
