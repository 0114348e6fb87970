//! What a connection costs that has moved a reply of 16 KiB and says nothing more.

use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::json;
use switchmaster_tests::{client::Crowd, memory, wait};

use super::{Run, path::Path, report::Section, stage::Stage};
use crate::{
    bar::{Bar, Limit},
    table::Table,
};

const REPLY: usize = 16 << 10;
/// Before these are gone the proxy's own buffers and tables have not been touched.
const FIRST: usize = 100;
const SETTLE: Duration = Duration::from_secs(2);
const BAR: Limit = Limit::AtMost(4096.0);

/// Bytes a connection.
struct Cost {
    proxy: Option<f64>,
    machine: f64,
}

pub(super) fn measure(run: &Run) -> Result<Section> {
    let size = if run.quick { 500 } else { 5000 };
    let mut table = Table::new(&["path", "proxy process, bytes/connection", "whole machine, bytes/connection"]);
    let (mut bars, mut samples) = (Vec::new(), Vec::new());
    for &path in &run.paths {
        run.say(&format!("{size} idle connections through {path}"));
        let cost = cost(run, path, size).with_context(|| format!("idle connections through {path}"))?;
        let proxy = cost.proxy.map_or_else(|| "-".to_owned(), |bytes| format!("{bytes:.0}"));
        table.row(vec![path.to_string(), proxy.clone(), format!("{:.0}", cost.machine)]);
        samples.push(json!({ "path": path, "proxy_bytes": cost.proxy, "machine_bytes": cost.machine }));
        if let (Some(bytes), Some(_)) = (cost.proxy, path.datapath()) {
            bars.push(Bar {
                what: format!("{path}: an idle connection's share of the daemon's memory"),
                bar: BAR.text(" bytes"),
                measured: format!("{proxy} bytes"),
                met: BAR.holds(bytes),
            });
        }
    }
    Ok(Section {
        title: "Memory of an idle connection",
        method: format!(
            "{size} connections, each after one reply of {} KiB. The growth of the proxy's anonymous resident memory, and\n\
             of the whole machine's memory in use (the sockets of client, proxy and Redis, and Redis's own client\n\
             included; `direct` shows what is not the proxy's).",
            REPLY >> 10
        ),
        tables: vec![table],
        bars,
        samples: samples.into(),
    })
}

fn cost(run: &Run, path: Path, size: usize) -> Result<Cost> {
    let stage = Stage::start(run, &[path], 0)?;
    stage.cluster.nodes[0].client()?.set("reply", &"x".repeat(REPLY))?;
    let gather = |size| {
        let reply = format!("${REPLY}\r\n\r\n").len() + REPLY;
        Crowd::gather(stage.client()?, stage.address(path)?, size, "GET reply\r\n", reply)
    };
    let own = || stage.process(path).map(|process| memory::anonymous(process.pid())).transpose();
    drop(gather(FIRST)?);
    wait::pause(SETTLE);
    let (proxy, machine) = (own()?, memory::available()?);
    let crowd = gather(size)?;
    wait::pause(SETTLE);
    let each = |bytes: f64| bytes / size as f64;
    let cost = Cost {
        proxy: own()?.zip(proxy).map(|(now, before)| each(memory::growth(before, now))),
        machine: each(memory::taken_since(machine)?),
    };
    drop(crowd);
    Ok(cost)
}
