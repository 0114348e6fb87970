//! A half-close: the bytes before it all arrive, then the end, and the other direction lives on.
//! Also of a client that has finished before the daemon even accepts it.

use std::{
    io::{Read as _, Write as _},
    net::Shutdown,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use switchmaster_tests::wait;

use crate::{
    on_each_datapath, on_each_way,
    order::{self, Manner, Order},
    stage::{self, LIMIT, Stage, crowd},
};

const CONNECTIONS: usize = 24;
const QUEUED: u64 = 8 << 20;

on_each_way!(of_the_client, of_the_node, of_both_at_once, of_idle_ends, short_lives);
on_each_datapath!(before_the_accept);

/// The reader begins late: by then everything is queued wherever there is room, and the FIN behind it.
fn run(datapath: &str, up: u64, down: u64, node: Manner, client: Manner) {
    stage::check(Stage::new(datapath, order::serve), |stage| {
        crowd(CONNECTIONS, CONNECTIONS, |number| {
            let order = Order { seed: number as u64, up, down, node };
            order::fulfil(stage.connect_as(number)?, &order, client)
        })?;
        stage.node.wait_ended(CONNECTIONS, LIMIT)
    });
}

fn of_the_client(datapath: &str) {
    // The node answers only after the end has come: the way back must have stayed open.
    let late = Manner { late_ms: 300, listens_first: true, ..Manner::default() };
    run(datapath, QUEUED, 1 << 20, late, Manner::default());
}

fn of_the_node(datapath: &str) {
    let late = Manner { late_ms: 300, listens_first: true, ..Manner::default() };
    run(datapath, 1 << 20, QUEUED, Manner::default(), late);
}

fn of_both_at_once(datapath: &str) {
    let late = Manner { late_ms: 300, ..Manner::default() };
    run(datapath, QUEUED, QUEUED, late, late);
}

fn of_idle_ends(datapath: &str) {
    run(datapath, 0, 0, Manner::default(), Manner::default());
}

/// Thousands of connections that end as soon as they have spoken: the FIN is on the heels of the bytes.
fn short_lives(datapath: &str) {
    const MANY: usize = 3000;
    stage::check(Stage::new(datapath, order::serve), |stage| {
        crowd(MANY, 8, |number| {
            let len = |shift: usize| 1 << ((number >> shift) % 18);
            let order = Order { seed: number as u64, up: len(0), down: len(3), node: Manner::default() };
            order::fulfil(stage.connect_as(number)?, &order, Manner::default())
        })?;
        stage.node.wait_ended(MANY, LIMIT)
    });
}

/// The daemon sleeps while clients connect, send their request and finish: it accepts sockets in
/// CLOSE_WAIT, which the kernel refuses to splice.
fn before_the_accept(datapath: &str) {
    stage::check(Stage::new(datapath, order::serve), |stage| {
        stage.daemon.process().signal(Signal::SIGSTOP)?;
        let early: Result<Vec<_>> = (0..CONNECTIONS)
            .map(|number| {
                let order = Order { seed: 0, up: 0, down: 100_000 + number as u64, node: Manner::default() };
                let mut stream = stage.connect_as(number)?;
                stream.write_all(&order.encode()).context("send")?;
                stream.shutdown(Shutdown::Write).context("finish")?;
                Ok((stream, order))
            })
            .collect();
        wait::pause(Duration::from_millis(50));
        stage.daemon.process().signal(Signal::SIGCONT)?;
        for (mut stream, order) in early? {
            let mut reply = Vec::new();
            stream.read_to_end(&mut reply).context("the reply")?;
            ensure!(reply.len() as u64 == order.down, "{} bytes of {} came back", reply.len(), order.down);
        }
        stage.node.wait_ended(CONNECTIONS, LIMIT)
    });
}
