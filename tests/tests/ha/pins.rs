//! The pinned maps: readable by whoever looks, gone with the daemon, taken over after one that was killed.

use std::net::Ipv4Addr;

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use switchmaster_tests::{Daemon, Lab, Spec, lab::check, wait};

use crate::{FAILOVER, FOLLOW, follows};

/// The entry of the first route's first target, as bpftool shows it with the map's own type information.
fn target(lab: &Lab) -> Result<Value> {
    let arguments = ["-j", "map", "dump", "pinned", "/sys/fs/bpf/switchmaster/targets"];
    let dump: Value =
        serde_json::from_str(&lab.world.proxy()?.run("bpftool", &arguments)?).context("bpftool's JSON")?;
    let entries = dump.as_array().context("a list")?;
    let first = |entry: &&Value| entry["formatted"]["key"]["route"] == 0 && entry["formatted"]["key"]["slot"] == 0;
    let entry = entries.iter().find(first).with_context(|| format!("no entry of the first route in {dump}"))?;
    Ok(entry["formatted"]["value"].clone())
}

fn shows(lab: &Lab, node: usize) -> Result<u64> {
    let value = target(lab)?;
    let bytes = |name: &str| -> Vec<u8> {
        let list = value[name].as_array().into_iter().flatten();
        // bpftool prints bytes as numbers or, from some versions on, as "0x0a".
        let byte =
            |one: &Value| one.as_u64().or_else(|| u64::from_str_radix(one.as_str()?.trim_start_matches("0x"), 16).ok());
        list.filter_map(byte).filter_map(|byte| u8::try_from(byte).ok()).collect()
    };
    let address = lab.cluster.nodes[node].address;
    let ip: [u8; 4] = bytes("addr").get(..4).context("no addr")?.try_into()?;
    ensure!(address.ip() == Ipv4Addr::from(ip), "the address is {value}");
    ensure!(bytes("port") == address.port().to_be_bytes(), "the port is {value}");
    ensure!(value["family"] == 2 && value["state"] == 1, "it is not open: {value}");
    let (live, generation) = (value["live"].as_u64(), value["generation"].as_u64());
    ensure!(live == generation, "what lives is not the latest generation: {value}");
    let status = lab.daemon.status()?;
    ensure!(generation == Some(status.route("writes")?.generation), "the status says {status:?}");
    ensure!(
        value["epoch"].as_u64() == status.group(lab.group_name())?.master.as_ref().and_then(|master| master.epoch),
        "{value}"
    );
    generation.context("no generation")
}

#[test]
fn bpftool_shows_the_master() {
    check(Lab::start(Spec::default(), "sockmap", |setup| setup), |lab| {
        let before = shows(lab, 0)?;
        let old = lab.cluster.kill_master()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        follows(lab, new)?;
        let after = shows(lab, new)?;
        ensure!(after > before, "the generation went from {before} to {after}");
        let pins = lab.world.bpffs().join("switchmaster");
        ensure!(pins.join("targets").exists(), "no pin");
        lab.daemon.stop(FOLLOW)?;
        ensure!(!pins.exists(), "the pins outlive the daemon");
        Ok(())
    });
}

#[test]
fn the_pins_of_a_killed_daemon_are_taken_over() {
    check(Lab::start(Spec::default(), "sockmap", |setup| setup), |lab| {
        lab.writes()?.ping()?;
        lab.daemon.process().signal(Signal::SIGKILL)?;
        lab.daemon.wait(FOLLOW)?;
        ensure!(
            lab.world.bpffs().join("switchmaster/targets").exists(),
            "a killed daemon cannot have removed its pins"
        );
        let old = lab.cluster.failover()?;
        let new = lab.cluster.wait_failover(old, FAILOVER)?;
        let config = Lab::setup(&lab.world, &lab.cluster, "sockmap")?.config();
        lab.daemon = Daemon::start(&lab.world, &config)?;
        follows(lab, new)?;
        wait::until(FOLLOW, "the map to show the new master", || shows(lab, new)).map(|_| ())
    });
}
