//! What is xdp's own: which interfaces it takes and says no to, that it is really it which carries the packets, and that
//! connections live on, by tc, when the ground changes under it.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Daemon, FakeNode, World,
    daemon::{Refusal, Route},
    wait,
};

use crate::{
    order::echo,
    stage::{self, GROUP, PORT, Stage, config, dial, metric},
};

const NODE_PORT: u16 = 7000;
const ROUND_TRIPS: u32 = 2000;
/// The interfaces are looked at every second.
const NOTICED: Duration = Duration::from_secs(5);

/// A step at all ends of the proxy's links.
fn at_the_ends(world: &World, offloads: &[&str]) -> Result<()> {
    for namespace in [world.client()?, world.db()?] {
        namespace.run("ethtool", &[&["--offload", "eth0"], offloads].concat())?;
    }
    Ok(())
}

/// What the daemon says of a route with this datapath: the datapath it took and why, or its refusal.
fn says(world: &World, node: &FakeNode, datapath: &str) -> Result<Result<(String, String), String>> {
    match Daemon::start(world, &config(world, node.ipv4(), datapath, |route| route)?) {
        Ok(daemon) => {
            let status = daemon.status()?;
            let route = status.route("writes")?;
            Ok(Ok((route.datapath.clone(), route.datapath_reason.clone().unwrap_or_default())))
        }
        Err(error) => Ok(Err(error.downcast_ref::<Refusal>().context("no refusal")?.why().to_owned())),
    }
}

#[test]
fn an_interface_that_cannot_is_refused_by_name_and_left_to_tc_by_auto() -> Result<()> {
    let world = World::new()?;
    let node = FakeNode::master(&world, NODE_PORT, |_| Ok(()))?;
    let steps: [(&[&str], &str); 3] = [
        (&["gro", "off"], "ethtool -K PEER gro on"),
        (&["gro", "on", "tx", "on"], "ethtool -K PEER tx off"),
        (&["gro", "on", "tx", "off"], ""),
    ];
    for (offloads, remedy) in steps {
        at_the_ends(&world, offloads)?;
        let (named, auto) = (says(&world, &node, "xdp")?, says(&world, &node, "auto")?);
        let (datapath, reason) = auto.map_err(anyhow::Error::msg)?;
        if remedy.is_empty() {
            let (named, why) = named.map_err(anyhow::Error::msg)?;
            ensure!(named == "xdp" && why.starts_with("configured"), "{named}: {why}");
            let slower = "link1: it is a veth, where tc is faster";
            ensure!(datapath == "tc" && reason.contains(slower), "{datapath}: {reason}");
        } else {
            let why = named.err().with_context(|| format!("it starts with {offloads:?}"))?;
            for said in [&why, &reason] {
                ensure!(said.contains("link1: ") && said.contains("link2: ") && said.contains(remedy), "{said}");
            }
            ensure!(datapath == "tc", "auto takes {datapath}: {reason}");
        }
    }
    // One that nobody is sure to use must not be in the way; one that is used must pass.
    world.proxy()?.run("sysctl", &["-q", "net.ipv4.conf.link1.forwarding=0"])?;
    let why = says(&world, &node, "xdp")?.err().context("it starts without forwarding")?;
    ensure!(why.contains("net.ipv4.conf.link1.forwarding = 1"), "{why}");
    Ok(())
}

fn sent(stage: &Stage, fate: &str) -> Result<f64> {
    stage.metric("switchmaster_xdp_packets_total{", &format!("fate=\"{fate}\""))
}

fn round_trips(stream: &mut TcpStream, count: u32) -> Result<()> {
    let (mut buffer, request) = ([0; 700], [b'r'; 700]);
    for _ in 0..count {
        stream.write_all(&request).context("send")?;
        stream.read_exact(&mut buffer).context("echo")?;
        ensure!(buffer == request, "other bytes came back");
    }
    Ok(())
}

#[test]
fn it_is_xdp_that_carries_an_established_connection() {
    stage::check(Stage::new("xdp", echo), |stage| {
        let mut stream = stage.connect()?;
        let before = sent(stage, "sent")?;
        round_trips(&mut stream, ROUND_TRIPS)?;
        let sent = sent(stage, "sent")? - before;
        ensure!(sent >= f64::from(ROUND_TRIPS) * 2.0 * 0.95, "it sent {sent} packets of {ROUND_TRIPS} round trips");
        Ok(())
    });
}

/// Of two routes to one node.
#[test]
fn a_route_for_which_tc_is_named_is_left_to_tc() -> Result<()> {
    let world = World::new()?;
    world.whole_packets()?;
    let node = FakeNode::master(&world, NODE_PORT, echo)?;
    let proxy = world.proxy()?;
    let (first, second) = (proxy.address(PORT), proxy.address(PORT + 1));
    let others = Route::new("others", GROUP, "master", "tc", &[second]);
    let daemon = Daemon::start(&world, &config(&world, node.ipv4(), "xdp", |route| route)?.route(others))?;
    let status = daemon.status()?;
    for (route, datapath) in [("writes", "xdp"), ("others", "tc")] {
        ensure!(status.route(route)?.datapath == datapath, "{route} is served by {}", status.route(route)?.datapath);
    }
    let xdp = |fate: &str| metric(&daemon, "switchmaster_xdp_packets_total{", &format!("fate=\"{fate}\""));
    let expected = f64::from(ROUND_TRIPS) * 2.0 * 0.95;
    for (address, fate) in [(first, "sent"), (second, "other_route")] {
        let mut stream = dial(world.client()?, address)?;
        let before = [xdp("sent")?, xdp("other_route")?];
        round_trips(&mut stream, ROUND_TRIPS)?;
        let [sent, left] = [xdp("sent")? - before[0], xdp("other_route")? - before[1]];
        let (is, is_not) = if fate == "sent" { (sent, left) } else { (left, sent) };
        ensure!(is >= expected && is_not == 0.0, "{address}: {sent} packets were sent, {left} left to tc");
    }
    node.no_faults()
}

/// Whether XDP has a part in what passes now.
fn takes_part(stage: &Stage, stream: &mut TcpStream) -> Result<bool> {
    let before = sent(stage, "sent")?;
    round_trips(stream, 100)?;
    Ok(sent(stage, "sent")? > before)
}

fn until(stage: &Stage, stream: &mut TcpStream, expected: bool) -> Result<()> {
    wait::until(NOTICED, format_args!("xdp to take part: {expected}"), || {
        ensure!(takes_part(stage, stream)? == expected, "not yet");
        Ok(())
    })
}

/// Nobody may be left with sums that nobody makes, nor with frames that nobody takes.
#[test]
fn connections_live_on_when_an_end_changes_its_offloads() {
    stage::check(Stage::new("xdp", echo), |stage| {
        let mut stream = stage.connect()?;
        until(stage, &mut stream, true)?;
        let before = sent(stage, "unfinished")?;
        at_the_ends(&stage.world, &["tx", "on"])?;
        // Known by the segments themselves at first, and when the interfaces are looked at again, by these.
        let took_part = takes_part(stage, &mut stream)?;
        ensure!(!took_part || sent(stage, "unfinished")? > before, "what was unfinished was sent");
        until(stage, &mut stream, false)?;
        at_the_ends(&stage.world, &["tx", "off"])?;
        until(stage, &mut stream, true)?;
        // What goes out until that is noticed is lost, and sent again by tc.
        at_the_ends(&stage.world, &["gro", "off"])?;
        round_trips(&mut stream, 3)?;
        until(stage, &mut stream, false)?;
        at_the_ends(&stage.world, &["gro", "on"])?;
        until(stage, &mut stream, true)
    });
}
