//! Kernel settings of the namespaces that something is measured in.

use std::fs;

use anyhow::{Context as _, Result};
use switchmaster_tests::World;

/// The source ports of the packet datapaths (docs/datapaths.md), which the host's own connections must leave alone.
const OURS: &str = "10000-31999";

/// Workloads that connect all the time must not run out of ports, on any way.
pub(crate) fn tune(world: &World, congestion_control: Option<&str>) -> Result<()> {
    let control = congestion_control.map(|name| ("tcp_congestion_control", name));
    let settings = || [("ip_local_port_range", "10240 65535"), ("tcp_tw_reuse", "1")].into_iter().chain(control);
    let set = || -> Result<()> {
        for (name, value) in settings() {
            fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| format!("{name} = {value}"))?;
        }
        Ok(())
    };
    [world.client()?, world.proxy()?, world.db()?].into_iter().try_for_each(|namespace| namespace.enter(set)?)?;
    let reserve = || fs::write("/proc/sys/net/ipv4/ip_local_reserved_ports", OURS).context("ip_local_reserved_ports");
    world.proxy()?.enter(reserve)?
}
