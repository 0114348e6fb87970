//! Every byte once, in order, both ways at once, whatever the sizes of the writes, the pauses and the
//! order of the ends. SWITCHMASTER_TRAFFIC_MIB sets how much is sent in all (256; the bar is 4096).

use std::{
    env,
    io::{Read as _, Write as _},
    ops::Range,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::wait;

use crate::{
    on_each_datapath, on_each_way,
    order::{self, Manner, Order},
    pattern::Random,
    stage::{self, LIMIT, Stage, crowd},
};

const CONNECTIONS: usize = 1000;

on_each_way!(a_thousand_connections);
on_each_datapath!(what_passes_is_counted);

fn total() -> Result<u64> {
    let mebibytes = env::var("SWITCHMASTER_TRAFFIC_MIB").unwrap_or_else(|_| "256".to_owned());
    Ok(mebibytes.parse::<u64>().context("SWITCHMASTER_TRAFFIC_MIB is a number of mebibytes")? << 20)
}

/// Every end behaves differently; together they carry `share` on average.
fn draw(number: usize, share: u64) -> (Order, Manner) {
    let mut random = Random::new(number as u64 + 1);
    // One in eight says nothing one way, so that a flow that never carries a byte also ends right.
    let length =
        |random: &mut Random| if random.one_in(8) { 0 } else { random.within(&Range { start: 1, end: share * 8 / 7 }) };
    let (up, down) = (length(&mut random), length(&mut random));
    let manner = |random: &mut Random, listens_first| Manner {
        listens_first,
        late_ms: if random.one_in(4) { random.below(50) as u32 } else { 0 },
        stalls_ms: if random.one_in(4) { 20 } else { 0 },
        rests_us: if random.one_in(2) { 2000 } else { 0 },
        most: 0,
    };
    // Both listening first would be silence.
    let listener = random.below(4);
    let (node, client) = (manner(&mut random, listener == 0), manner(&mut random, listener == 1));
    (Order { seed: number as u64, up, down, node }, client)
}

fn what_passes_is_counted(datapath: &str) {
    const SENT: &[u8] = &[b'x'; 30_000];
    stage::check(Stage::new(datapath, |stream| order::or_reset(order::echo(stream))), |stage| {
        let bytes = |way: &str| stage.metric("switchmaster_bytes_total{", &format!("direction=\"{way}\""));
        let before = [bytes("to-node")?, bytes("to-client")?];
        let mut client = stage.connect()?;
        client.write_all(SENT).context("send")?;
        client.read_exact(&mut vec![0; SENT.len()]).context("hear")?;
        let both = |ended: &str| {
            wait::until(LIMIT, ended, || {
                let rose = [bytes("to-node")? - before[0], bytes("to-client")? - before[1]];
                // What is sent again is counted again.
                let right = |rose: f64| (SENT.len() as f64..2.0 * SENT.len() as f64).contains(&rose);
                ensure!(rose.into_iter().all(right), "it rose by {rose:?}, of {}", SENT.len());
                Ok(())
            })
        };
        both("while the connection is there")?;
        drop(client);
        wait::pause(Duration::from_millis(1500));
        both("when it has gone")
    });
}

fn a_thousand_connections(datapath: &str) {
    stage::check(Stage::new(datapath, order::serve), |stage| {
        let share = total()? / CONNECTIONS as u64;
        let start = Instant::now();
        crowd(CONNECTIONS, CONNECTIONS, |number| {
            let (order, client) = draw(number, share);
            order::fulfil(stage.connect_as(number)?, &order, client)
        })?;
        stage.node.wait_ended(CONNECTIONS, LIMIT)?;
        let bytes: u64 = (0..CONNECTIONS).map(|number| draw(number, share).0).map(|order| order.up + order.down).sum();
        eprintln!("{datapath}: {} MiB over {CONNECTIONS} connections in {:?}", bytes >> 20, start.elapsed());
        Ok(())
    });
}
