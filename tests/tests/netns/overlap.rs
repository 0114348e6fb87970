//! A retransmission may begin with bytes that have arrived already: TCP merges small segments that it
//! sends again (tcp_retrans_try_collapse), and the receiver skips what it knows. sockmap hands the
//! program the whole segment. Joined on the way (GRO), or in the queue of those that came out of order, it
//! may begin with some 60 KiB that are known.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::wait;

use crate::{
    on_each_datapath,
    order::{self, Manner, Order, echo},
    pattern::Pattern,
    stage::{self, LIMIT, MANY, Stage, crowd},
};

on_each_datapath!(a_retransmission_that_begins_with_old_bytes);
on_each_datapath!(a_retransmission_that_is_the_first_the_kernel_sees);
on_each_datapath!(an_end_that_comes_with_old_bytes_only);
on_each_datapath!(a_node_that_sends_much_again);

const PIECE: usize = 64;
/// Three questions and their answers; with one more a connection is no brief one.
const TRIPS: usize = 3;
const CONNECTIONS: usize = 16;
const LOST_PERCENT: u32 = 3;
/// Long enough for a few retransmission time-outs (200 ms and twice as much each time).
const TIMEOUTS: Duration = Duration::from_millis(1500);

fn a_retransmission_that_begins_with_old_bytes(datapath: &str) {
    after_a_loss(datapath, 0, |stream, pattern| (0..3).try_for_each(|_| send(stream, pattern, PIECE)));
}

/// Where many connections are brief the daemon has the first bytes of each, and reads them; the old bytes are of those.
fn a_retransmission_that_is_the_first_the_kernel_sees(datapath: &str) {
    after_a_loss(datapath, MANY, |stream, pattern| (0..3).try_for_each(|_| send(stream, pattern, PIECE)));
}

fn an_end_that_comes_with_old_bytes_only(datapath: &str) {
    after_a_loss(datapath, 0, |stream, _| stream.shutdown(Shutdown::Write).context("finish"));
}

/// After `brief` connections, a piece arrives whose acknowledgement does not; what `lost` sends after it does not arrive, and
/// comes again with it.
fn after_a_loss(datapath: &str, brief: usize, lost: impl Fn(&mut TcpStream, &mut Pattern) -> Result<()>) {
    stage::check(Stage::new(datapath, echo), |stage| {
        let (client, proxy) = (stage.world.client()?, stage.world.proxy()?);
        for number in 0..4 {
            stage.be_brief(brief)?;
            let mut stream = stage.connect_as(number)?;
            let mut pattern = Pattern::new(number as u64 + 1);
            // The next one is the last that the daemon has.
            for _ in 0..TRIPS {
                send(&mut stream, &mut pattern, PIECE)?;
                stream.read_exact(&mut [0; PIECE]).context("the first pieces come back")?;
            }
            client.ignore(proxy)?;
            send(&mut stream, &mut pattern, PIECE)?;
            wait::pause(Duration::from_millis(50));
            proxy.ignore(client)?;
            lost(&mut stream, &mut pattern)?;
            wait::pause(Duration::from_millis(50));
            proxy.listen_to(client)?;
            wait::pause(TIMEOUTS);
            client.listen_to(proxy)?;
            // Refused where that was what had been lost, and has been heard.
            let _finished_already = stream.shutdown(Shutdown::Write);
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).context("read to the end")?;
            let mut expected = Pattern::new(number as u64 + 1);
            expected.at = (TRIPS * PIECE) as u64;
            expected.check(&rest)?;
            ensure!(expected.at == pattern.at, "{} bytes came back, {} were sent", expected.at, pattern.at);
        }
        ensure!(datapath != "sockmap" || stage.verdicts("trimmed")? > 0.0, "no segment began with what was known");
        Ok(())
    });
}

fn send(stream: &mut TcpStream, pattern: &mut Pattern, len: usize) -> Result<()> {
    stream.write_all(pattern.peek(len)).context("send")?;
    pattern.at += len as u64;
    Ok(())
}

/// A part of what the node sends is lost, and it is not told what came behind it (no SACK): it sends that again
/// as well, and the receiver joins it with what is new.
fn a_node_that_sends_much_again(datapath: &str) {
    stage::check(Stage::new(datapath, order::serve), |stage| {
        let (node, proxy) = (stage.world.ns("db")?, stage.world.proxy()?);
        stage.world.whole_packets()?;
        proxy.run("ethtool", &["--offload", "link2", "gro", "on"])?;
        node.run("sysctl", &["-qw", "net.ipv4.tcp_sack=0"])?;
        proxy.run("nft", &["add table ip lossy"])?;
        proxy.run("nft", &["add chain ip lossy in { type filter hook prerouting priority raw; }"])?;
        let lose =
            format!("add rule ip lossy in tcp sport {} numgen random mod 100 < {LOST_PERCENT} drop", stage::NODE_PORT);
        proxy.run("nft", &[&lose])?;
        crowd(CONNECTIONS, CONNECTIONS, |number| {
            let order = Order { seed: number as u64, up: 1 << 20, down: 8 << 20, node: Manner::default() };
            // It stalls, so that flows change hands meanwhile.
            let client = Manner { late_ms: 300, stalls_ms: 20, listens_first: true, ..Manner::default() };
            order::fulfil(stage.connect_as(number)?, &order, client)
        })?;
        if datapath == "sockmap" {
            let trimmed = stage.verdicts("trimmed")?;
            ensure!(trimmed > 0.0, "no segment began with what was known");
        }
        stage.node.wait_ended(CONNECTIONS, LIMIT)
    });
}
