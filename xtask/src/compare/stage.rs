//! What every workload runs on: client, proxy and db in namespaces joined by veth, Redis with
//! persistence off, and in front of it the proxies to compare, a process each, so that a figure of
//! one holds nothing of another. Gone when it is dropped.

use std::{fs, net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Cluster, Daemon, HaProxy, Spec, World,
    daemon::{Config, Group, Route},
    netns::Namespace,
    process::Process,
};

use super::path::Path;

const FOUND: Duration = Duration::from_secs(10);
/// The value that `redis-benchmark -t get` asks for.
const KEY: &str = "key:__rand_int__";
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
    pub(super) fn start(program: &std::path::Path, paths: &[Path], replicas: usize) -> Result<Self> {
        let world = World::new()?;
        for namespace in [world.client()?, world.proxy()?, world.db()?] {
            namespace.enter(spare_ports)??;
        }
        let cluster = Cluster::start(&world, Spec::bare(replicas))?;
        let mut stage = Self { daemons: Vec::new(), haproxy: None, cluster, world };
        stage.cluster.nodes[0].client()?.set(KEY, &"x".repeat(VALUE_BYTES))?;
        for &path in paths {
            stage.put(program, path).with_context(|| format!("the path {path}"))?;
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
        let name = format!("switchmaster-{datapath}");
        let group = &self.cluster.spec.name;
        let config = Config::named(&name, 9180 + path.port() % 1000)
            .program(PathBuf::from(program))
            .argument("--pin-dir")
            .argument(format!("/sys/fs/bpf/{name}"))
            .group(Group::of(&self.cluster).set("check", r#"{ interval = "200ms" }"#))
            .route(Route::new("writes", group, "master", datapath, &[listen]));
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

/// Workloads that connect all the time must not run out of ports, on any path.
fn spare_ports() -> Result<()> {
    for (name, value) in [("ip_local_port_range", "10240 65535"), ("tcp_tw_reuse", "1")] {
        fs::write(format!("/proc/sys/net/ipv4/{name}"), value).context(name)?;
    }
    Ok(())
}
