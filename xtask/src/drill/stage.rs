//! What the rounds of a side stand on: a cluster with every node in a namespace of its own, and the proxy
//! in front of it. One round after the other, as long as none fails. Gone when it is dropped.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use switchmaster_tests::{
    Cluster, Daemon, HaProxy, Lab, LocalWay, Spec, World,
    client::KEY,
    daemon::{Config, Group, Route, quoted},
    netns::Namespace,
    wait,
};

use super::{Run, name::Side};
use crate::journal::{Clock, Journal};

const PORT: u16 = 6379;
const SENTINELS: &str = "sentinels";
const FOUND: Duration = Duration::from_secs(10);
const RECOVERY: Duration = Duration::from_secs(40);
const DOWN_AFTER_MS: u64 = 1000;
const FAILOVER_TIMEOUT_MS: u64 = 10_000;

#[derive(Debug)]
pub(super) enum Front {
    Ours { daemon: Daemon, clock: Clock },
    Peer(HaProxy),
}

/// What the proxy counts itself.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Counters {
    pub(super) parked: u64,
    pub(super) refused: u64,
    /// Of its runtime, now.
    pub(super) tasks: u64,
}

/// The proxy ends first.
#[derive(Debug)]
pub(super) struct Stage {
    pub(super) front: Option<Front>,
    pub(super) cluster: Cluster,
    pub(super) world: World,
    local: Option<LocalWay>,
}

impl Stage {
    /// The cluster, and no proxy yet.
    pub(super) fn bare(run: &Run) -> Result<Self> {
        let spec = Spec {
            down_after_ms: DOWN_AFTER_MS,
            failover_timeout_ms: FAILOVER_TIMEOUT_MS,
            // With none of the nodes: whichever is cut off, they are not.
            sentinel_namespace: SENTINELS.to_owned(),
            ..Spec::apart()
        };
        let (world, cluster) = Lab::cluster(LocalWay::place(run.local, spec))?;
        if run.datapath == "xdp" {
            world.whole_packets()?;
        }
        Ok(Self { front: None, cluster, world, local: run.local })
    }

    /// All servers in their places, an empty set for the writer, and the proxy at the master; returns which that is.
    pub(super) fn prepare(&mut self, run: &Run, side: Side) -> Result<usize> {
        let master = self.cluster.recover(RECOVERY)?;
        self.empty(master)?;
        if self.front.is_none() {
            self.launch(run, side)?;
        }
        match self.front()? {
            Front::Ours { daemon, .. } => {
                daemon.wait_master(&self.cluster.spec.name, self.cluster.nodes[master].address, FOUND)?;
                let route = daemon.status()?.route("writes")?.clone();
                ensure!(route.datapath == run.datapath, "the daemon serves it by {}", route.datapath);
            }
            Front::Peer(haproxy) => haproxy.wait_master(&self.world)?,
        }
        Ok(master)
    }

    /// Takes the last round's numbers away, everywhere.
    fn empty(&self, master: usize) -> Result<()> {
        self.cluster.nodes[master].client()?.call::<i64>(redis::cmd("DEL").arg(KEY))?;
        for node in &self.cluster.nodes {
            wait::until(FOUND, format_args!("{} to be empty", node.name()), || {
                let held: i64 = node.client()?.call(redis::cmd("SCARD").arg(KEY))?;
                ensure!(held == 0, "it holds {held} numbers");
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Starts the proxy and waits for nothing.
    pub(super) fn launch(&mut self, run: &Run, side: Side) -> Result<()> {
        let listen = self.address()?;
        self.front = Some(match side {
            Side::Peer(style) => Front::Peer(HaProxy::launch(&self.world, &self.cluster, listen, style)?),
            Side::Ours(commit) => {
                let group = Group::of(&self.cluster).set("commit", quoted(commit.word()));
                let mut config = Config::default()
                    .program(run.program.clone())
                    .argument("--log-format")
                    .argument("json")
                    .group(group)
                    .route(Route::new("writes", &self.cluster.spec.name, "master", run.datapath, &[listen]));
                if let Some(way) = self.local {
                    config = way.configure(config);
                }
                let clock = Clock::now();
                Front::Ours { daemon: Daemon::launch(&self.world, &config)?, clock }
            }
        });
        Ok(())
    }

    pub(super) fn front(&self) -> Result<&Front> {
        self.front.as_ref().context("no proxy runs")
    }

    /// What clients dial.
    pub(super) fn address(&self) -> Result<SocketAddr> {
        Ok(self.world.proxy()?.address(PORT))
    }

    pub(super) fn client(&self) -> Result<&Namespace> {
        if self.local.is_some() { self.world.proxy() } else { self.world.client() }
    }

    /// That so many clients, at the least, go the way that is drilled.
    pub(super) fn led(&self, count: usize) -> Result<()> {
        let (Front::Ours { daemon, .. }, Some(way)) = (self.front()?, self.local) else { return Ok(()) };
        wait::until(FOUND, "the clients to be led", || {
            let led = way.count(daemon.status()?.route("writes")?);
            ensure!(led >= count as u64, "{led} of {count} are");
            Ok(())
        })
    }

    /// How many clients, of those that there are now, do not go the way that is drilled; `None` where there is no such way.
    pub(super) fn unled(&self) -> Result<Option<u64>> {
        let (Front::Ours { daemon, .. }, Some(way)) = (self.front()?, self.local) else { return Ok(None) };
        let route = daemon.status()?.route("writes")?.clone();
        Ok(Some(route.connections.saturating_sub(way.count(&route))))
    }

    /// Nothing passes between `node` and its peers and their Sentinels; proxy and clients reach all.
    pub(super) fn cut(&self, node: usize, cut: bool) -> Result<()> {
        let own = self.cluster.nodes[node].namespace();
        for name in self.cluster.spec.namespaces().into_iter().filter(|name| *name != own.name()) {
            let peer = self.world.ns(name)?;
            if cut { own.cut(peer)? } else { own.heal(peer)? }
        }
        Ok(())
    }
}

impl Front {
    pub(super) fn journal(&self, since: Instant) -> Option<Journal> {
        match self {
            Self::Ours { daemon, clock } => Some(Journal::since(since, &daemon.log(), *clock)),
            Self::Peer(_) => None,
        }
    }

    /// An error if it does not run: who serves nobody makes no mistakes.
    pub(super) fn lives(&self) -> Result<()> {
        match self {
            Self::Ours { daemon, .. } => daemon.status().map(drop),
            Self::Peer(haproxy) => haproxy.servers_up().map(drop),
        }
        .context("the proxy does not run")
    }

    /// `None` where the proxy has no such counters.
    pub(super) fn counters(&self) -> Result<Option<Counters>> {
        let Self::Ours { daemon, .. } = self else { return Ok(None) };
        let page = daemon.get("/metrics")?;
        if page.code != 200 {
            bail!("/metrics says {}", page.code);
        }
        let sum = |name: &str| -> u64 {
            let lines = page.body.lines().filter(|line| line.starts_with(name));
            lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
        };
        Ok(Some(Counters {
            parked: sum("switchmaster_parked_total{"),
            refused: sum("switchmaster_refused_total{"),
            tasks: sum("switchmaster_tasks "),
        }))
    }

    pub(super) fn process(&self) -> &switchmaster_tests::process::Process {
        match self {
            Self::Ours { daemon, .. } => daemon.process(),
            Self::Peer(haproxy) => haproxy.process(),
        }
    }
}
