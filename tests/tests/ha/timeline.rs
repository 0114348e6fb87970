//! The timeline of a switch, as `switchmaster events` tells it: one event, its stages in order at times
//! that can be, and the same after the daemon was killed and started again.

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use switchmaster_tests::{
    Client, Daemon, Lab, LocalWay, Spec, Writer, daemon,
    lab::{Setup, check, check_one_failover},
    netns::World,
    redis::Cluster,
    wait,
};

use crate::{FAILOVER, FOLLOW, follows, limit, on_each_way};

on_each_way!(planned, early, kill, aborted, demoted);

/// Somebody who follows the events hears of a switch within a second of it.
const HEARD: Duration = Duration::from_secs(1);
/// From the role that changes to the fence: the fast interval and ten milliseconds.
const FENCE: Duration = Duration::from_millis(110);

fn config(setup: &Setup) -> daemon::Config {
    // A relative path starts at the configuration's folder.
    setup.config().set("state_dir", daemon::quoted("state"))
}

fn setup(world: &World, cluster: &Cluster, way: &str, commit: &str) -> Result<Setup> {
    let setup = Lab::setup(world, cluster, way)?;
    Ok(Setup { group: setup.group.set("commit", daemon::quoted(commit)), ..setup })
}

fn start(spec: Spec, way: &str, commit: &str) -> Result<Lab> {
    let local = LocalWay::of(way);
    let (world, cluster) = Lab::cluster(LocalWay::place(local, spec))?;
    let daemon = Daemon::start(&world, &config(&setup(&world, &cluster, way, commit)?))?;
    // A Sentinel that takes an order now would find no replica that it asked lately enough.
    wait::pause(Duration::from_millis(800));
    Ok(Lab { daemon, cluster, world, local })
}

/// The only event of this outcome, when its aftermath is over.
fn event(lab: &Lab, outcome: &str) -> Result<Value> {
    let mut found = wait::until(FOLLOW * 2, format_args!("an event: {outcome}"), || {
        let found: Vec<Value> = lab.daemon.events()?.into_iter().filter(|event| event["outcome"] == outcome).collect();
        ensure!(!found.is_empty(), "no event yet");
        Ok(found)
    })?;
    ensure!(found.len() == 1, "one {outcome} is {} events: {found:#?}", found.len());
    found.pop().context("one")
}

fn mark<'a>(event: &'a Value, stage: &str) -> Result<&'a Value> {
    let mut stages = event["stages"].as_array().into_iter().flatten();
    stages.find(|mark| mark["stage"] == stage).with_context(|| format!("no {stage} in {event:#}"))
}

fn offset(event: &Value, stage: &str) -> Result<Duration> {
    let offset = mark(event, stage)?["offset_us"].as_u64();
    offset.map(Duration::from_micros).with_context(|| format!("no offset of {stage} in {event:#}"))
}

/// In this order, and the last one not later than `most` after the first one.
fn in_order(event: &Value, stages: &[&str], most: Duration) -> Result<()> {
    let offsets = stages.iter().map(|stage| offset(event, stage)).collect::<Result<Vec<_>>>()?;
    ensure!(offsets.is_sorted(), "{stages:?} were at {offsets:?}");
    let took = offsets[offsets.len() - 1] - offsets[0];
    ensure!(took <= most, "{stages:?} took {took:?}: {offsets:?}");
    Ok(())
}

/// When a stage was, by the wall clock.
fn at(event: &Value, stage: &str) -> Result<SystemTime> {
    let began = humantime::parse_rfc3339(event["at"].as_str().context("no time")?)?;
    Ok(began + offset(event, stage)?)
}

/// A stage between two moments.
fn within(event: &Value, stage: &str, since: SystemTime, until: SystemTime) -> Result<()> {
    let at = at(event, stage)?;
    ensure!(since <= at && at <= until, "{stage} was not between {since:?} and {until:?}: {event:#}");
    Ok(())
}

fn is_between(lab: &Lab, event: &Value, old: usize, new: usize) -> Result<()> {
    let address = |node: usize| lab.cluster.nodes[node].address.to_string();
    ensure!(event["from"]["addr"] == address(old) && event["to"]["addr"] == address(new), "{event:#}");
    let epoch = |of: &str| event[of]["epoch"].as_u64();
    ensure!(epoch("to") > epoch("from"), "the epoch did not rise: {event:#}");
    let sentinels: Vec<String> = lab.cluster.sentinels.iter().map(|it| it.address.to_string()).collect();
    for stage in ["first-sign", "majority"] {
        let who = mark(event, stage)?["who"].as_str().unwrap_or_default().to_owned();
        ensure!(sentinels.contains(&who), "{who:?} is no Sentinel: {stage} of {event:#}");
    }
    ensure!(mark(event, "role-change")?["who"] == address(new), "{event:#}");
    let chosen = format!("+selected-slave {}", address(new));
    let said = |mark: &Value| mark["what"].as_str().is_some_and(|what| what.starts_with(&chosen));
    ensure!(event["stages"].as_array().is_some_and(|marks| marks.iter().any(said)), "no {chosen}: {event:#}");
    Ok(())
}

/// The histograms have the switch, and no other.
fn is_counted(lab: &Lab, event: &Value) -> Result<()> {
    let page = lab.daemon.get("/metrics")?.body;
    let value = |series: &str| -> Result<f64> {
        let line = page.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).with_context(|| format!("no {series} in\n{page}"))
    };
    let group = lab.group_name();
    let switched = value(&format!("switchmaster_events_total{{group=\"{group}\",outcome=\"switched\"}}"))?;
    ensure!((switched - 1.0).abs() < 1e-9, "{switched} switches");
    for stage in ["armed", "fenced", "role-change", "majority", "flip"] {
        let labels = format!("{{group=\"{group}\",stage=\"{stage}\"}}");
        let count = value(&format!("switchmaster_switch_stage_seconds_count{labels}"))?;
        let sum = value(&format!("switchmaster_switch_stage_seconds_sum{labels}"))?;
        // From the first sign on, not from what the event began with.
        let expected = (offset(event, stage)? - offset(event, "first-sign")?).as_secs_f64();
        ensure!(
            (count - 1.0).abs() < 1e-9 && (sum - expected).abs() < 1e-6,
            "{stage}: {count} of {sum}, not {expected}"
        );
    }
    let step = format!("switchmaster_switch_step_seconds_count{{group=\"{group}\",step=\"role-change-to-flip\"}}");
    ensure!((value(&step)? - 1.0).abs() < 1e-9, "{step}");
    Ok(())
}

fn planned(way: &str) {
    let lab = || start(Spec::default(), way, "majority");
    check_one_failover(lab, |lab| {
        let writer = Writer::start(lab.client()?, lab.writes_address()?, 1000, None);
        let mut idle = [lab.writes()?, lab.writes()?, lab.writes()?];
        idle.iter_mut().try_for_each(Client::ping)?;
        let follower = lab.daemon.follow_events()?;
        wait::until_true(FOLLOW, "writes", || writer.acked() > 100)?;
        let began = SystemTime::now();
        let old = lab.cluster.failover()?;
        let told = wait::until(FAILOVER, "the follower to tell of it", || {
            let told = follower.log().lines().any(|line| line.contains("\"outcome\":\"switched\""));
            ensure!(told, "not yet: {}", follower.log());
            Ok(SystemTime::now())
        })?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        let event = event(lab, "switched")?;
        println!("{way}: {event}");
        let late = told.duration_since(at(&event, "flip")?).unwrap_or_default();
        println!("{way}: told {late:?} after the flip");
        ensure!(late <= limit(HEARD), "it was told {late:?} after the flip");
        ensure!(event["cause"] == "failover" && event["severed"] == 4, "{event:#}");
        is_between(lab, &event, old, new)?;
        within(&event, "first-sign", began, told)?;
        in_order(&event, &["first-sign", "armed", "fenced", "role-change", "majority", "flip"], FAILOVER)?;
        // A first vote for the new master, whom its role confirms, ends what is left on the old one.
        let left = if mark(&event, "closed").is_ok() { "closed" } else { "flip" };
        in_order(&event, &[left, "first-severed", "last-severed"], limit(Duration::from_millis(50)))?;
        in_order(&event, &["majority", "flip"], limit(Duration::from_millis(10)))?;
        in_order(&event, &["flip", "first-connection"], limit(Duration::from_millis(50)))?;
        is_counted(lab, &event)?;
        drop(writer.stop());
        Ok(())
    });
}

/// Followed before the majority: the event waits for it all the same.
fn early(way: &str) {
    let lab = || start(Spec::default(), way, "early");
    check_one_failover(lab, |lab| {
        let mut idle = lab.writes()?;
        idle.ping()?;
        let old = lab.cluster.failover()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        let event = event(lab, "switched")?;
        is_between(lab, &event, old, new)?;
        in_order(&event, &["first-sign", "armed", "fenced", "role-change", "flip", "majority"], FAILOVER)?;
        in_order(&event, &["role-change", "flip", "first-severed"], limit(Duration::from_millis(50)))
    });
}

fn kill(way: &str) {
    let lab = || start(Spec::default(), way, "majority");
    check_one_failover(lab, |lab| {
        let writer = Writer::start(lab.client()?, lab.writes_address()?, 1000, None);
        wait::until_true(FOLLOW, "writes", || writer.acked() > 100)?;
        let began = SystemTime::now();
        let old = lab.cluster.kill_master()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        writer.wait_ack_after(Instant::now(), FOLLOW)?;
        drop(writer.stop());
        let event = event(lab, "switched")?;
        println!("{way}: {event}");
        is_between(lab, &event, old, new)?;
        // Who notices first, the daemon or a Sentinel, is open.
        in_order(&event, &["held", "fenced"], FAILOVER)?;
        in_order(&event, &["first-sign", "armed", "fenced", "role-change", "majority", "flip"], FAILOVER)?;
        in_order(&event, &["majority", "flip", "first-connection"], limit(Duration::from_millis(100)))?;
        within(&event, "held", began, began + limit(Duration::from_secs(1)))?;
        within(&event, "first-sign", began, SystemTime::now())?;
        // The Sentinels wait for down-after first.
        within(&event, "fenced", began + Duration::from_millis(450), SystemTime::now())?;
        is_counted(lab, &event)?;
        survives(lab, way, &event)
    });
}

/// SIGKILL: nothing is written on the way out. Whoever follows goes on with the next daemon where it was.
fn survives(lab: &mut Lab, way: &str, switched: &Value) -> Result<()> {
    let follower = lab.daemon.follow_events()?;
    let told = || -> Vec<Value> { follower.log().lines().filter_map(|line| serde_json::from_str(line).ok()).collect() };
    wait::until_true(FOLLOW, "what there was so far", || told().last() == Some(switched))?;
    lab.daemon.process().signal(Signal::SIGKILL)?;
    lab.daemon.wait(FOLLOW)?;
    lab.daemon = Daemon::start(&lab.world, &config(&setup(&lab.world, &lab.cluster, way, "majority")?))?;
    ensure!(event(lab, "switched")? == *switched, "it is another one after the restart");
    // Where flows and target are taken over, the master that this daemon has proven too is no other.
    let outcome = if ["copy", "sockmap"].contains(&way) { "opened" } else { "reopened" };
    wait::until_true(FOLLOW * 2, "the event of the second start", || {
        told().last().is_some_and(|last| last["outcome"] == outcome)
    })?;
    let told = told();
    let [.., before, opened] = &told[..] else { bail!("too little was told: {told:#?}") };
    ensure!(before == switched, "told twice, or another one: {told:#?}");
    ensure!(opened["seq"].as_u64() > switched["seq"].as_u64(), "{opened:#}");
    ensure!(opened["cause"] == "start" && opened["to"]["addr"] == switched["to"]["addr"], "{opened:#}");
    ensure!(opened["severed"] == 0, "{opened:#}");
    Ok(())
}

/// The replicas hang when one is to be promoted: the Sentinel chooses one, waits, and gives up.
fn aborted(way: &str) {
    let spec = Spec { failover_timeout_ms: 700, down_after_ms: 5000, ..Spec::default() };
    check(start(spec, way, "majority"), |lab| {
        let mut idle = lab.writes()?;
        idle.ping()?;
        let old = lab.cluster.failover()?;
        // Between the order and the promotion lie some steps of a tenth of a second.
        for replica in &lab.cluster.nodes[1..] {
            replica.freeze()?;
        }
        let event = event(lab, "aborted")?;
        println!("{way}: {event}");
        idle.ping()?;
        ensure!(event["severed"] == 0 && event["from"] == event["to"], "{event:#}");
        ensure!(event["to"]["addr"] == lab.cluster.nodes[old].address.to_string(), "{event:#}");
        in_order(&event, &["first-sign", "armed", "fenced", "resumed"], limit(Duration::from_millis(1500)))?;
        for stage in ["flip", "role-change", "closed", "first-severed"] {
            ensure!(mark(&event, stage).is_err(), "{stage} in {event:#}");
        }
        let page = lab.daemon.get("/metrics")?.body;
        let held_up = "switchmaster_switch_step_seconds_count{group=\"mymaster\",step=\"fence-to-resumed\"} 1";
        ensure!(page.lines().any(|line| line == held_up), "no {held_up} in\n{page}");
        Ok(())
    });
}

/// `REPLICAOF` behind everybody's back: no Sentinel has a word in this event.
fn demoted(way: &str) {
    check(start(Spec::default(), way, "majority"), |lab| {
        let mut idle = [lab.writes()?, lab.writes()?];
        idle.iter_mut().try_for_each(Client::ping)?;
        let master = lab.cluster.master()?;
        let began = SystemTime::now();
        lab.cluster.demote(master, (master + 1) % lab.cluster.nodes.len())?;
        for client in &mut idle {
            client.wait_end(FOLLOW)?;
        }
        lab.cluster.nodes[master].replicate(None)?;
        let event = event(lab, "reopened")?;
        let address = lab.cluster.nodes[master].address.to_string();
        ensure!(event["cause"] == "role-lost" && event["severed"] == 2, "{event:#}");
        ensure!(event["from"]["addr"] == address && event["to"]["addr"] == address, "{event:#}");
        ensure!(mark(&event, "role-change")?["who"] == address, "{event:#}");
        in_order(&event, &["role-change", "closed", "first-severed", "last-severed", "resumed"], FOLLOW)?;
        in_order(&event, &["role-change", "closed", "last-severed"], limit(Duration::from_millis(20)))?;
        within(&event, "closed", began, began + limit(FENCE))?;
        ensure!(mark(&event, "first-sign").is_err(), "{event:#}");
        Ok(())
    });
}
