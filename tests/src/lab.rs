//! What most tests want: a world, a cluster in it, the daemon in front, and routes `writes` (6379)
//! and `reads` (6380) on both address families. Parts end in the order in which they are named here.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, ensure};

use crate::{
    Client, Cluster, Daemon, LocalWay, Spec, World,
    daemon::{Config, Group, Route},
    netns::Namespace,
    wait,
};

pub const WRITES: u16 = 6379;
pub const READS: u16 = 6380;
const READY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Lab {
    pub daemon: Daemon,
    pub cluster: Cluster,
    pub world: World,
    /// How clients get to the nodes that are on the daemon's host; none: they are on another one.
    pub local: Option<LocalWay>,
}

/// The parts of a configuration that differ from test to test.
#[derive(Debug, Clone)]
pub struct Setup {
    pub group: Group,
    pub writes: Route,
    pub reads: Route,
    pub arguments: Vec<String>,
    pub launcher: Vec<&'static str>,
    pub local: Option<LocalWay>,
}

impl Setup {
    fn of(world: &World, cluster: &Cluster, way: &str) -> Result<Self> {
        let local = LocalWay::of(way);
        let datapath = if local.is_some() { "copy" } else { way };
        if datapath == "xdp" {
            world.whole_packets()?;
        }
        let proxy = world.proxy()?;
        let name = &cluster.spec.name;
        let listen = |port| [proxy.address(port), proxy.address6(port)];
        let writes = Route::new("writes", name, "master", datapath, &listen(WRITES));
        let reads = Route::new("reads", name, "replica", datapath, &listen(READS));
        Ok(Self { group: Group::of(cluster), writes, reads, arguments: Vec::new(), launcher: Vec::new(), local })
    }

    pub fn config(&self) -> Config {
        let config = Config::default().group(self.group.clone()).route(self.writes.clone()).route(self.reads.clone());
        let config = self.local.into_iter().fold(config, |config, way| way.configure(config));
        self.arguments.iter().fold(config.launched_by(&self.launcher), Config::argument)
    }
}

impl Lab {
    /// A world and a cluster, and the daemon not yet started.
    pub fn cluster(spec: Spec) -> Result<(World, Cluster)> {
        let mut spokes = vec!["client"];
        spokes.extend(spec.namespaces());
        let world = World::with(&spokes)?;
        let cluster = Cluster::start(&world, spec)?;
        Ok((world, cluster))
    }

    /// All of it, ready; `adjust` changes the configuration first. The way to the nodes is a datapath, or a [`LocalWay`].
    pub fn start(spec: Spec, way: &str, adjust: impl FnOnce(Setup) -> Setup) -> Result<Self> {
        let local = LocalWay::of(way);
        let (world, cluster) = Self::cluster(LocalWay::place(local, spec))?;
        let config = adjust(Setup::of(&world, &cluster, way)?).config();
        let daemon = Daemon::start(&world, &config).with_context(|| cluster.describe())?;
        let lab = Self { daemon, cluster, world, local };
        let master = lab.cluster.nodes[lab.cluster.master()?].address;
        lab.daemon.wait_master(&lab.cluster.spec.name, master, READY)?;
        // Nobody else is dialled for: who is closed here would have its place for a moment longer.
        if local.is_some() {
            wait::until(READY, "a client to be led", || lab.leads())?;
        }
        Ok(lab)
    }

    fn leads(&self) -> Result<()> {
        let proxy = self.world.proxy()?;
        let to = if self.cluster.spec.ipv6 { proxy.address6(WRITES) } else { proxy.address(WRITES) };
        let mut client = self.dial(to)?;
        // Whatever is said to it: it may not be allowed to say anything.
        client.send_raw(b"PING\r\n")?;
        self.led(1)
    }

    /// Clients of this host: so many of `writes`, at the least, go their way to the node. All others are not asked.
    pub fn led(&self, least: u64) -> Result<()> {
        let Some(way) = self.local else { return Ok(()) };
        let route = self.daemon.status()?.route("writes")?.clone();
        let led = way.count(&route);
        ensure!(led >= least, "{led} of {least} are led: {route:?}");
        Ok(())
    }

    /// The configuration `start` would use, for tests that start the daemon themselves.
    pub fn setup(world: &World, cluster: &Cluster, datapath: &str) -> Result<Setup> {
        Setup::of(world, cluster, datapath)
    }

    /// A new connection from `client` to the current master, as the daemon sees it.
    pub fn writes(&self) -> Result<Client> {
        self.dial(self.writes_address()?)
    }

    pub fn reads(&self) -> Result<Client> {
        self.dial(self.reads_address()?)
    }

    fn dial(&self, to: SocketAddr) -> Result<Client> {
        Client::connect(self.client()?, to)
    }

    pub fn client(&self) -> Result<&Namespace> {
        if self.local.is_some() { self.world.proxy() } else { self.world.client() }
    }

    pub fn writes_address(&self) -> Result<SocketAddr> {
        Ok(self.world.proxy()?.address(WRITES))
    }

    pub fn reads_address(&self) -> Result<SocketAddr> {
        Ok(self.world.proxy()?.address(READS))
    }

    pub fn group_name(&self) -> &str {
        &self.cluster.spec.name
    }

    /// Which node answers on a connection, by its id.
    pub fn node_behind(&self, client: &mut Client) -> Result<usize> {
        let info: String = client.call(redis::cmd("INFO").arg("server"))?;
        let id = info.lines().find_map(|line| line.strip_prefix("run_id:")).context("no run_id")?;
        let is = |index: &usize| self.cluster.nodes[*index].id().is_ok_and(|one| one == id);
        (0..self.cluster.nodes.len()).find(is).with_context(|| format!("{id} is none of the cluster's nodes"))
    }
}

/// Runs a test so that an error is a panic while all parts still exist: each then shows its log.
pub fn check(lab: Result<Lab>, test: impl FnOnce(&mut Lab) -> Result<()>) {
    let mut lab = started(lab);
    if let Err(error) = test(&mut lab) {
        fail(&lab, &error);
    }
}

/// The same for a test of one failover. Of the Sentinels of a busy machine some hear of it late or find the new master down
/// too, and fail over once more: such a run says nothing, and all of it is done anew.
pub fn check_one_failover(start: impl Fn() -> Result<Lab>, test: impl Fn(&mut Lab) -> Result<()>) {
    for last in [false, false, true] {
        let mut lab = started(start());
        match test(&mut lab) {
            Ok(()) => return,
            Err(error) if lab.cluster.failovers() > 1 && !last => {
                println!("more than one failover, so anew: {error:#}");
            }
            Err(error) => fail(&lab, &error),
        }
    }
}

fn started(lab: Result<Lab>) -> Lab {
    lab.unwrap_or_else(|error| panic!("the lab does not start: {error:?}"))
}

fn fail(lab: &Lab, error: &anyhow::Error) -> ! {
    let servers = lab.cluster.describe();
    let daemon = lab.daemon.status().map_or_else(|error| format!("{error:#}"), |status| format!("{status:#?}"));
    panic!("{error:?}\n{servers}{daemon}");
}
