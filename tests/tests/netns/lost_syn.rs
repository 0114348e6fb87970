//! A SYN to the node that is lost would be sent again after a second, and all who are parked behind its client would wait.
//! A client whose own SYN is lost there is not refused by a switch that comes meanwhile.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{World, wait};

use crate::{
    on_each_proxy,
    order::echo,
    stage::{self, LIMIT, Stage},
};

on_each_proxy!(a_node_that_did_not_hear_the_first_is_dialled_again);

/// Less than the kernel waits with its second SYN.
const SOON: Duration = Duration::from_millis(800);

fn a_node_that_did_not_hear_the_first_is_dialled_again(datapath: &str) {
    stage::check(Stage::new(datapath, echo), |stage| {
        let (proxy, db) = (stage.world.proxy()?, stage.world.db()?);
        for _ in 0..3 {
            db.ignore(proxy)?;
            let mut late = stage.connect()?;
            let dialled = Instant::now();
            let asked = thread::scope(|scope| -> Result<()> {
                let answer = scope.spawn(move || -> Result<()> {
                    late.write_all(b"ping").context("ping")?;
                    late.read_exact(&mut [0; 4]).context("pong")
                });
                wait::pause(Duration::from_millis(50));
                db.listen_to(proxy)?;
                answer.join().ok().context("the client panicked")?
            });
            asked?;
            let took = dialled.elapsed();
            ensure!(took < SOON, "it was served after {took:?}");
        }
        Ok(())
    });
}

fn a_switch_refuses_nobody_whose_node_has_not_answered(datapath: &str) {
    for ipv6 in [false, true] {
        let stage = World::new().and_then(|world| Stage::over(world, ipv6, datapath, echo));
        stage::check(stage, |stage| refuses_nobody(stage, usize::from(ipv6)));
    }
}

fn refuses_nobody(stage: &Stage, family: usize) -> Result<()> {
    let (proxy, db) = (stage.world.proxy()?, stage.world.db()?);
    stage.wait_translated(family)?;
    db.ignore_new(proxy)?;
    let before = stage.packets("new")?;
    thread::scope(|scope| {
        let client = scope.spawn(move || -> Result<()> {
            let mut client = stage.connect_as(family)?;
            client.write_all(b"ping").context("ping")?;
            client.read_exact(&mut [0; 4]).context("pong")
        });
        wait::until(LIMIT, "its SYN on the way to the node", || {
            ensure!(stage.packets("new")? > before, "it has not come");
            Ok(())
        })?;
        stage.node.say_master(false);
        stage.daemon.wait_way("fake", "closed", LIMIT)?;
        // What the end of a generation has for its flows is under way by now.
        wait::pause(Duration::from_millis(200));
        db.listen_to(proxy)?;
        stage.node.say_master(true);
        client.join().ok().context("the client panicked")?
    })
}

#[test]
fn a_switch_refuses_nobody_whose_node_has_not_answered_by_tc() {
    a_switch_refuses_nobody_whose_node_has_not_answered("tc");
}

#[test]
fn a_switch_refuses_nobody_whose_node_has_not_answered_by_xdp() {
    a_switch_refuses_nobody_whose_node_has_not_answered("xdp");
}
