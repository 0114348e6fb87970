//! A SYN to the node that is lost would be sent again after a second, and all who are parked behind its client would wait.

use std::{
    io::{Read as _, Write as _},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::wait;

use crate::{
    on_each_proxy,
    order::echo,
    stage::{self, Stage},
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
