//! No majority of Sentinels: established connections live while their master is undisputed, and
//! nothing new is let through to anybody.

use std::{thread, time::Duration};

use anyhow::{Context as _, Result, ensure};
use redis::Value;
use switchmaster_tests::{
    Client, Cluster, Daemon, Lab, LocalWay, Namespace, Spec,
    lab::{Setup, WRITES, check},
    redis::Sentinel,
    tests_of, wait,
};

use crate::{FAILOVER, FOLLOW, follows, on_each_way};

const GRACE: Duration = Duration::from_secs(2);
const PARK: Duration = Duration::from_secs(2);

on_each_way!(all_gone, parked_connections_go_on_when_sentinels_return);
// The nodes count connections from other hosts.
tests_of!(a_second_master_without_a_majority: copy sockmap tc xdp steered);
tests_of!(two_masters_and_no_majority: copy sockmap tc xdp steered);
tests_of!(two_masters_and_no_sentinels: copy sockmap tc xdp steered);

fn all_gone(datapath: &str) {
    let adjust = |mut setup: Setup| {
        setup.group = setup.group.quorum_grace(GRACE);
        setup.writes = setup.writes.park(10, PARK);
        setup
    };
    check(Lab::start(Spec::default(), datapath, adjust), |lab| {
        let mut established = lab.writes()?;
        established.set("before", "1")?;
        lab.cluster.sentinels.iter_mut().for_each(Sentinel::kill);
        lab.writes()?.ping().context("within the grace new connections are served")?;
        lab.daemon.wait_way(lab.group_name(), "established", GRACE * 3)?;
        established.set("during", "1").context("an established connection lives on")?;
        let mut late = lab.writes()?;
        late.send(&redis::cmd("PING"))?;
        let answer = late.receive()?;
        ensure!(is_masterdown(&answer), "a late connection was answered {answer:?}");
        established.ping().context("it still lives on")
    });
}

fn parked_connections_go_on_when_sentinels_return(datapath: &str) {
    let adjust = |mut setup: Setup| {
        setup.group = setup.group.quorum_grace(GRACE);
        setup.writes = setup.writes.park(10, FAILOVER);
        setup
    };
    check(Lab::start(Spec::default(), datapath, adjust), |lab| {
        lab.cluster.sentinels.iter_mut().for_each(Sentinel::kill);
        lab.daemon.wait_way(lab.group_name(), "established", GRACE * 3)?;
        let (namespace, to) = (lab.client()?.clone(), lab.writes_address()?);
        let parked = thread::spawn(move || Client::connect_within(&namespace, to, FAILOVER)?.ping());
        wait::until_true(FOLLOW, "a parked connection", || {
            lab.daemon.status().is_ok_and(|status| status.route("writes").is_ok_and(|route| route.parked == 1))
        })?;
        lab.cluster.sentinels.iter_mut().try_for_each(Sentinel::start)?;
        parked.join().ok().context("the client panicked")?.context("the parked client")?;
        follows(lab, 0)
    });
}

fn is_masterdown(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code().eq_ignore_ascii_case("MASTERDOWN"))
}

/// A thousand clients, eight at a time, each of which tries to write, if it is let in that far.
fn storm(namespace: &Namespace, to: std::net::SocketAddr, datapath: &str) -> Result<()> {
    const THREADS: usize = 8;
    // On packets nobody is connected before there is a node.
    let patience = Duration::from_millis(if ["tc", "xdp"].contains(&datapath) { 20 } else { 1000 });
    let client = |_: usize| -> Result<()> {
        let mut open = Vec::new();
        for number in 0..1000 / THREADS {
            let Ok(mut client) = Client::connect_within(namespace, to, patience) else { continue };
            // A connection that is refused or ended already is as good an answer as any.
            let _ended = client.send(redis::cmd("SET").arg(format!("key{number}")).arg("x"));
            open.push(client);
        }
        wait::pause(PARK / 2);
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|number| scope.spawn(move || client(number))).collect();
        threads.into_iter().try_for_each(|thread| thread.join().ok().context("a client panicked")?)
    })
}

fn nothing_was_written(cluster: &Cluster) -> Result<()> {
    for node in &cluster.nodes {
        let keys: u64 = node.client()?.call(&redis::cmd("DBSIZE"))?;
        ensure!(keys == 0, "{} holds {keys} keys", node.name());
        let stats: String = node.client()?.call(redis::cmd("INFO").arg("commandstats"))?;
        ensure!(!stats.contains("cmdstat_set:"), "a SET reached {}", node.name());
    }
    Ok(())
}

/// Notes, at the nodes, the connections that the proxy begins: each once, however often its SYN is sent (a veth that a
/// program is being attached to in the driver loses some).
fn count_syns(cluster: &Cluster) -> Result<()> {
    let node = cluster.nodes[0].namespace();
    let ports: Vec<String> = cluster.nodes.iter().map(|node| node.address.port().to_string()).collect();
    let rules = format!(
        "table inet watch {{\n set syns {{ type inet_service . inet_service; flags dynamic; size 65535; }}\n \
         chain input {{\n  type filter hook input priority 0;\n  \
         iifname != \"lo\" tcp dport {{ {} }} tcp flags & (syn | ack) == syn add @syns {{ tcp sport . tcp dport }}\n }}\n}}\n",
        ports.join(", ")
    );
    node.run("nft", &[&rules]).map(|_| ())
}

fn syns(cluster: &Cluster) -> Result<usize> {
    let text = cluster.nodes[0].namespace().run("nft", &["list set inet watch syns"])?;
    // One in its type, and one in each element.
    text.matches(" . ").count().checked_sub(1).with_context(|| text.clone())
}

fn a_thousand_connections_reach_nobody(spec: Spec, datapath: &str) -> Result<()> {
    let local = LocalWay::of(datapath);
    let (world, mut cluster) = Lab::cluster(LocalWay::place(local, spec))?;
    cluster.sentinels.iter_mut().skip(1).for_each(Sentinel::kill);
    cluster.nodes[1].replicate(None)?;
    ensure!(cluster.masters() == [0, 1], "{}", cluster.describe());
    let mut setup = Lab::setup(&world, &cluster, datapath)?;
    setup.writes = setup.writes.park(2000, PARK);
    count_syns(&cluster)?;
    let daemon = Daemon::launch(&world, &setup.config())?;
    wait::until(FOLLOW, "the daemon to live", || daemon.get("/healthz").map(|_| ()))?;
    let listener = world.proxy()?.address(WRITES);
    let clients = if local.is_some() { world.proxy()? } else { world.client()? };
    storm(clients, listener, datapath)?;
    nothing_was_written(&cluster).with_context(|| daemon.log())?;
    let syns = syns(&cluster)?;
    ensure!(
        syns == cluster.nodes.len(),
        "{syns} connections to {} nodes: more than the probes' own",
        cluster.nodes.len()
    );
    wait::until(FOLLOW, "the group to be closed", || {
        let status = daemon.status()?;
        let group = status.group(&cluster.spec.name)?;
        ensure!(group.way == "closed" && group.master.is_none(), "{group:?}");
        Ok(())
    })
}

/// The same to a daemon that had a master: it closes long before the grace is over.
fn a_second_master_without_a_majority(datapath: &str) {
    let adjust = |mut setup: Setup| {
        setup.writes = setup.writes.park(2000, PARK);
        setup
    };
    check(Lab::start(Spec::default(), datapath, adjust), |lab| {
        let mut established = lab.writes()?;
        established.ping()?;
        lab.cluster.sentinels.iter_mut().skip(1).for_each(Sentinel::kill);
        lab.cluster.nodes[1].replicate(None)?;
        lab.daemon.wait_way(lab.group_name(), "closed", FOLLOW)?;
        ensure!(established.wait_end(FOLLOW)?, "it ended by FIN, not by RST");
        count_syns(&lab.cluster)?;
        storm(lab.client()?, lab.writes_address()?, datapath)?;
        nothing_was_written(&lab.cluster)?;
        let syns = syns(&lab.cluster)?;
        ensure!(syns == 0, "{syns} connections were made to nodes");
        let refused = lab.daemon.status()?.route("writes")?.refused.clone();
        wait::until_true(FOLLOW, "the parked ones to be told", || {
            lab.daemon.status().is_ok_and(|status| status.route("writes").is_ok_and(|route| route.parked == 0))
        })
        .with_context(|| format!("{refused:?}"))
    });
}

fn two_masters_and_no_majority(datapath: &str) {
    if let Err(error) = a_thousand_connections_reach_nobody(Spec::default(), datapath) {
        panic!("{error:?}");
    }
}

fn two_masters_and_no_sentinels(datapath: &str) {
    if let Err(error) = a_thousand_connections_reach_nobody(Spec::bare(2), datapath) {
        panic!("{error:?}");
    }
}

/// A group of nodes only is followed by asking the nodes.
#[test]
fn without_sentinels_the_only_master_is_followed() {
    check(Lab::start(Spec::bare(1), "copy", |setup| setup), |lab| {
        lab.cluster.kill_master()?;
        lab.cluster.nodes[1].replicate(None)?;
        follows(lab, 1)
    });
}
