//! Frames for the other end of a veth pass by this end's queue, but not where somebody has set up something there that is to
//! see them.

use std::{
    io::{Read as _, Write as _},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Namespace, wait};

use crate::{
    order,
    stage::{self, Stage},
};

const TRIPS: u64 = 500;
/// What others send there meanwhile: probes, ARP.
const OTHERS: u64 = TRIPS / 5;

/// How many packets have gone out by an interface.
fn sent(at: &Namespace, interface: &str) -> Result<u64> {
    let text = at.run("ip", &["-stats", "-json", "link", "show", "dev", interface])?;
    let links: serde_json::Value = serde_json::from_str(&text).context("ip's answer")?;
    links[0]["stats64"]["tx"]["packets"].as_u64().with_context(|| format!("no count: {text}"))
}

/// What a round trip adds to what goes out by an interface of the proxy's, in packets.
fn passes(stage: &Stage, interface: &str) -> Result<u64> {
    let proxy = stage.world.proxy()?;
    let mut client = stage.connect()?;
    let before = sent(proxy, interface)?;
    for _ in 0..TRIPS {
        client.write_all(b"ping").context("ping")?;
        client.read_exact(&mut [0; 4]).context("pong")?;
    }
    Ok(sent(proxy, interface)? - before)
}

fn wait_passes(stage: &Stage, what: &str, both: bool) -> Result<()> {
    for interface in ["link1", "link2"] {
        wait::until(Duration::from_secs(15), format_args!("{what}, {interface}"), || {
            let passes = passes(stage, interface)?;
            ensure!(if both { passes < OTHERS } else { passes >= TRIPS }, "{passes} packets in {TRIPS} round trips");
            Ok(())
        })?;
    }
    Ok(())
}

#[test]
fn a_veth_is_passed_by_where_nothing_would_be_missed() {
    stage::check(Stage::new("tc", |stream| order::or_reset(order::serve_or_echo(stream))), |stage| {
        stage.wait_translated(0)?;
        wait_passes(stage, "at first", true)?;
        let proxy = stage.world.proxy()?;
        let on_both = |arguments: &str| -> Result<()> {
            ["link1", "link2"].iter().try_for_each(|interface| {
                let arguments = arguments.replace("LINK", interface);
                proxy.run("tc", &arguments.split(' ').collect::<Vec<_>>()).map(drop)
            })
        };
        on_both("qdisc add dev LINK clsact")?;
        wait_passes(stage, "beside filters at egress", false)?;
        on_both("qdisc del dev LINK clsact")?;
        wait_passes(stage, "without them", true)?;
        on_both("qdisc add dev LINK root pfifo")?;
        wait_passes(stage, "behind a queue", false)
    });
}
