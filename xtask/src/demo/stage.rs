//! The stage: a cluster of real servers, the daemon in front of it, and the clients.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result};
use nix::time::clock_getcpuclockid;
use switchmaster_tests::{Daemon, Lab, Spec, Writer};

use super::{audience::Audience, screen::Screen};
use crate::{journal::Clock, signs::Signs};

pub(super) const WRITES_PER_SECOND: u32 = 1000;
/// Until a server that comes back is a replica in good order again.
const RECOVERY: Duration = Duration::from_secs(40);

/// Ends in this order: clients, then the daemon, then the cluster.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) writer: Writer,
    pub(super) audience: Audience,
    pub(super) signs: Signs,
    pub(super) clock: Clock,
    pub(super) lab: Lab,
}

impl Stage {
    pub(super) fn start(program: PathBuf, datapath: &str) -> Result<Self> {
        let (world, cluster) = Lab::cluster(Spec::default())?;
        let setup = Lab::setup(&world, &cluster, datapath)?;
        let config = setup.config().program(program).argument("--log-format").argument("json");
        let clock = Clock::now();
        let daemon = Daemon::start(&world, &config).with_context(|| cluster.describe())?;
        let lab = Lab { daemon, cluster, world, local: None };
        let signs = Signs::listen(&lab.cluster).context("the Sentinels")?;
        let to = lab.writes_address()?;
        let writer = Writer::start(lab.client()?, to, WRITES_PER_SECOND, None);
        let audience = Audience::start(lab.client()?, to);
        Ok(Self { writer, audience, signs, clock, lab })
    }

    pub(super) fn introduce(&self, screen: &mut Screen) -> Result<()> {
        let status = self.lab.daemon.status()?;
        let route = status.route("writes")?;
        for node in &self.lab.cluster.nodes {
            screen.say(format!("  {} {}: {}", node.name(), node.address, node.role()?));
        }
        let spec = &self.lab.cluster.spec;
        screen.say(format!(
            "  {} Sentinels, quorum {}, down-after {} ms, failover-timeout {} ms",
            spec.sentinels, spec.quorum, spec.down_after_ms, spec.failover_timeout_ms
        ));
        screen.say(format!(
            "  switchmaster {} on {}: datapath {} ({})",
            status.version,
            self.lab.writes_address()?,
            route.datapath,
            route.datapath_reason.as_deref().unwrap_or("no reason given")
        ));
        screen.say(format!("  the writer adds {WRITES_PER_SECOND} numbers a second to a set, one at a time\n"));
        Ok(())
    }

    pub(super) fn address(&self, node: usize) -> SocketAddr {
        self.lab.cluster.nodes[node].address
    }

    /// CPU time that the daemon has used so far.
    pub(super) fn cpu(&self) -> Result<Duration> {
        let clock = clock_getcpuclockid(self.lab.daemon.process().pid()).context("the daemon's CPU clock")?;
        Ok(Duration::from(clock.now().context("the daemon's CPU clock")?))
    }

    /// Makes the cluster whole again after a round: who was master before follows the one of now.
    pub(super) fn recover(&mut self, screen: &mut Screen) -> Result<()> {
        screen.say("  waiting until the old master is back as a replica");
        self.lab.cluster.recover(RECOVERY).map(|_| ())
    }
}
