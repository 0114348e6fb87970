//! What every workload runs on: client, proxy and db in namespaces joined by veth, Redis with
//! persistence off, and in front of it the proxies to compare, a process each, so that a figure of
//! one holds nothing of another. Gone when it is dropped.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{Cluster, Daemon, HaProxy, Spec, World, netns::Namespace, process::Process};

use super::{Run, path::Path};
use crate::{daemon, requests::KEY, tuning::tune};

const FOUND: Duration = Duration::from_secs(10);
const VALUE_BYTES: usize = 64;

#[derive(Debug)]
pub(super) struct Stage {
    daemons: Vec<(Path, Daemon)>,
    haproxy: Option<HaProxy>,
    pub(super) cluster: Cluster,
    pub(super) world: World,
}

impl Stage {
    /// A master with so many replicas and no Sentinels, and the proxies of these paths.
    pub(super) fn start(run: &Run, paths: &[Path], replicas: usize) -> Result<Self> {
        let world = World::new()?;
        tune(&world, run.congestion_control.as_deref())?;
        let cluster = Cluster::start(&world, Spec::bare(replicas))?;
        let mut stage = Self { daemons: Vec::new(), haproxy: None, cluster, world };
        stage.cluster.nodes[0].client()?.set(KEY, &"x".repeat(VALUE_BYTES))?;
        for &path in paths {
            stage.put(&run.program, path).with_context(|| format!("the path {path}"))?;
        }
        Ok(stage)
    }

    fn put(&mut self, program: &std::path::Path, path: Path) -> Result<()> {
        let master = self.cluster.nodes[0].address;
        let listen = self.world.proxy()?.address(path.port());
        let Some(datapath) = path.datapath() else {
            if path == Path::Haproxy {
                self.haproxy = Some(HaProxy::plain(&self.world, listen, master)?);
            }
            return Ok(());
        };
        let group = &self.cluster.spec.name;
        let config = daemon::in_front(&self.cluster, program, datapath, listen);
        let daemon = Daemon::start(&self.world, &config)?;
        daemon.wait_master(group, master, FOUND)?;
        let serves = daemon.status()?.route("writes")?.datapath.clone();
        ensure!(serves == datapath, "the daemon serves it by {serves}");
        self.daemons.push((path, daemon));
        Ok(())
    }

    /// What a client dials.
    pub(super) fn address(&self, path: Path) -> Result<SocketAddr> {
        match path {
            Path::Direct => Ok(self.cluster.nodes[0].address),
            _ => Ok(self.world.proxy()?.address(path.port())),
        }
    }

    /// The proxy's own process, where there is one.
    pub(super) fn process(&self, path: Path) -> Option<&Process> {
        match path {
            Path::Direct => None,
            Path::Haproxy => self.haproxy.as_ref().map(HaProxy::process),
            Path::Copy | Path::Sockmap => self.daemon(path).map(Daemon::process),
        }
    }

    pub(super) fn daemon(&self, path: Path) -> Option<&Daemon> {
        self.daemons.iter().find(|(one, _)| *one == path).map(|(_, daemon)| daemon)
    }

    pub(super) fn client(&self) -> Result<&Namespace> {
        self.world.client()
    }
}
