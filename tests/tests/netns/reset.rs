//! The end of one side is soon known on the other, busy or idle: a reset stays a reset, an end an end,
//! and a node that is killed leaves no client behind that waits for an answer.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, TcpStream},
    os::fd::AsRawFd as _,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use switchmaster_tests::{Lab, Patient, Spec, lab, node::Door, wait};

use crate::{
    on_each_datapath, on_each_way,
    stage::{self, Stage},
};

/// Far more than it takes, far less than any time-out.
const SOON: Duration = Duration::from_millis(500);

on_each_way!(
    of_an_idle_client,
    of_an_idle_node,
    of_a_busy_client,
    of_a_busy_node,
    of_a_client_that_does_not_read,
    the_node_ends_while_the_client_is_idle
);
on_each_datapath!(the_node_is_killed);

/// Both ends of one forwarded connection that has carried a byte each way.
fn pair(stage: &Stage) -> Result<(TcpStream, TcpStream)> {
    stage.node.set_door(Door::Keep);
    let client = stage.connect()?;
    let node = wait::until(Duration::from_secs(5), "the node to be dialled", || {
        stage.node.kept().pop().context("nobody came")
    })?;
    node.set_read_timeout(Some(stage::LIMIT)).context("read time-out")?;
    for (from, to) in [(&client, &node), (&node, &client), (&client, &node)] {
        Patient::new(from)?.write_all(b"x").context("a byte")?;
        Patient::new(to)?.read_exact(&mut [0]).context("a byte")?;
    }
    Ok((client, node))
}

fn reset(stream: TcpStream) -> Result<Instant> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger).context("linger")?;
    let start = Instant::now();
    drop(stream);
    Ok(start)
}

/// Reads until the connection ends, and says how.
fn end_of(stream: &TcpStream) -> io::Result<()> {
    let (mut buffer, mut stream) = (vec![0; 64 << 10], Patient::new(stream)?);
    while stream.read(&mut buffer)? > 0 {}
    Ok(())
}

fn expect_reset(stream: &TcpStream, since: Instant) -> Result<()> {
    let Err(error) = end_of(stream) else { bail!("it ended in peace, by a FIN") };
    ensure!(error.kind() == io::ErrorKind::ConnectionReset, "it ended by {error}");
    let took = since.elapsed();
    ensure!(took < SOON, "it took {took:?}");
    Ok(())
}

fn of_an_idle_client(datapath: &str) {
    stage::check(Stage::new(datapath, |_| Ok(())), |stage| {
        for _ in 0..20 {
            let (client, node) = pair(stage)?;
            let since = reset(client)?;
            expect_reset(&node, since)?;
        }
        Ok(())
    });
}

fn of_an_idle_node(datapath: &str) {
    stage::check(Stage::new(datapath, |_| Ok(())), |stage| {
        for _ in 0..20 {
            let (client, node) = pair(stage)?;
            let since = reset(node)?;
            expect_reset(&client, since)?;
        }
        Ok(())
    });
}

/// Both directions full; then `dying` goes, and `left` must learn of it, in its read or its write.
fn while_busy(dying: &TcpStream, left: &TcpStream) -> Result<()> {
    let writers = [pour(dying)?, pour(left)?];
    let time = Duration::from_millis(200);
    thread::scope(|scope| {
        let one = scope.spawn(|| drain(left, time));
        drain(dying, time)?;
        one.join().ok().context("drain panicked")?
    })?;
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    let since = Instant::now();
    // The writer has a descriptor of its own; only a disconnect ends the socket for both, and by RST.
    // SAFETY: the address outlives the call, and its length is its own.
    let result =
        unsafe { libc::connect(dying.as_raw_fd(), &raw const nobody, size_of::<libc::sockaddr>() as libc::socklen_t) };
    ensure!(result == 0, "disconnect: {}", io::Error::last_os_error());
    let read = end_of(left);
    let took = since.elapsed();
    let [_, written] = writers.map(|writer| writer.join().ok().context("a writer panicked"));
    // Of a read and a write at once, the kernel tells only one of the reset.
    let told = [read.err().map(|error| error.kind()), Some(written?.kind())];
    ensure!(told.contains(&Some(io::ErrorKind::ConnectionReset)), "it ended by {told:?}");
    ensure!(took < SOON, "it took {took:?}");
    Ok(())
}

/// Writes until it fails.
fn pour(stream: &TcpStream) -> Result<thread::JoinHandle<io::Error>> {
    let stream = stream.try_clone().context("clone")?;
    Ok(thread::spawn(move || {
        let chunk = vec![7; 16 << 10];
        loop {
            if let Err(error) = Patient::new(&stream).and_then(|mut stream| stream.write_all(&chunk)) {
                return error;
            }
        }
    }))
}

fn drain(stream: &TcpStream, time: Duration) -> Result<()> {
    let (start, mut buffer, mut stream) = (Instant::now(), vec![0; 64 << 10], Patient::new(stream)?);
    while start.elapsed() < time {
        ensure!(stream.read(&mut buffer).context("drain")? > 0, "it ended too early");
    }
    Ok(())
}

fn of_a_busy_client(datapath: &str) {
    stage::check(Stage::new(datapath, |_| Ok(())), |stage| {
        for _ in 0..5 {
            let (client, node) = pair(stage)?;
            while_busy(&client, &node)?;
        }
        Ok(())
    });
}

fn of_a_busy_node(datapath: &str) {
    stage::check(Stage::new(datapath, |_| Ok(())), |stage| {
        for _ in 0..5 {
            let (client, node) = pair(stage)?;
            while_busy(&node, &client)?;
        }
        Ok(())
    });
}

/// The node is stuck in a write that nobody takes; the client's end must free it.
fn of_a_client_that_does_not_read(datapath: &str) {
    stage::check(Stage::new(datapath, |_| Ok(())), |stage| {
        let (client, node) = pair(stage)?;
        let stuck = pour(&node)?;
        wait::pause(Duration::from_millis(500));
        ensure!(!stuck.is_finished(), "the node is not stuck: where do the bytes go?");
        let since = reset(client)?;
        let error = stuck.join().ok().context("the writer panicked")?;
        let took = since.elapsed();
        let told = [io::ErrorKind::ConnectionReset, io::ErrorKind::BrokenPipe].contains(&error.kind());
        ensure!(told, "the node's write ended by {error}");
        ensure!(took < SOON, "it took {took:?}");
        Ok(())
    });
}

fn the_node_ends_while_the_client_is_idle(datapath: &str) {
    stage::check(Stage::new(datapath, |_| Ok(())), |stage| {
        let (client, node) = pair(stage)?;
        let since = Instant::now();
        node.shutdown(Shutdown::Write).context("finish")?;
        ensure!(Patient::new(&client)?.read(&mut [0]).context("client")? == 0, "bytes from nowhere");
        ensure!(since.elapsed() < SOON, "it took {:?}", since.elapsed());
        Patient::new(&client)?.write_all(b"still here").context("the other way")?;
        let mut heard = [0; 10];
        Patient::new(&node)?.read_exact(&mut heard).context("the other way")?;
        let since = Instant::now();
        drop(client);
        ensure!(Patient::new(&node)?.read(&mut [0]).context("node")? == 0, "bytes from nowhere");
        ensure!(since.elapsed() < SOON, "it took {:?}", since.elapsed());
        Ok(())
    });
}

/// A real server, SIGKILL in the middle of many large replies.
fn the_node_is_killed(datapath: &str) {
    lab::check(Lab::start(Spec::bare(0), datapath, |setup| setup), |lab| {
        let mut setter = lab.writes()?;
        let _ok: redis::Value = setter.call(redis::cmd("SET").arg("big").arg(vec![b'x'; 1 << 20]))?;
        let to = lab.writes_address()?;
        let clients = (0..20).map(|_| lab.client()?.connect(to, SOON)).collect::<Result<Vec<_>>>()?;
        for (number, mut client) in clients.iter().enumerate() {
            client.set_read_timeout(Some(Duration::from_secs(20))).context("read time-out")?;
            client.write_all("GET big\r\n".repeat(number * 20).as_bytes()).context("pipeline")?;
        }
        wait::pause(Duration::from_millis(50));
        let since = Instant::now();
        lab.cluster.nodes[0].kill();
        for client in &clients {
            // By an end or a reset, whichever the kernel made of it.
            if let Err(error) = end_of(client) {
                ensure!(error.kind() == io::ErrorKind::ConnectionReset, "it ended by {error}");
            }
        }
        let took = since.elapsed();
        ensure!(took < Duration::from_secs(2), "the last client learned of it after {took:?}");
        Ok(())
    });
}
