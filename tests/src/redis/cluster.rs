//! A master, its replicas and their Sentinels, and what can befall them.

use std::{fmt::Write as _, fs, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};

use super::{Node, Sentinel, Spec, Tls};
use crate::{netns::World, wait};

const SETTLE: Duration = Duration::from_secs(20);
/// Sentinel's own defaults.
const PUBLISH_MS: u32 = 2000;
const INFO_MS: u32 = 10_000;
/// In a hurry.
const BRISK: (u32, u32) = (100, 200);

#[derive(Debug)]
pub struct Cluster {
    pub spec: Spec,
    pub tls: Option<Tls>,
    pub nodes: Vec<Node>,
    pub sentinels: Vec<Sentinel>,
}

impl Cluster {
    /// Node 0 is the master to begin with.
    pub fn start(world: &World, spec: Spec) -> Result<Self> {
        let mut cluster = Self::prepare(world, spec)?;
        let master = (cluster.nodes[0].host.clone(), cluster.nodes[0].address.port());
        for (index, node) in cluster.nodes.iter_mut().enumerate() {
            node.start((index > 0).then_some((&master.0, master.1)))?;
        }
        for replica in cluster.replicas_of(0) {
            wait::until(SETTLE, format_args!("{} to be linked", replica.name()), || replica.linked())?;
        }
        for sentinel in &mut cluster.sentinels {
            sentinel.start()?;
        }
        cluster.settle()?;
        Ok(cluster)
    }

    /// Everything ready to be started, nothing started: for tests of what happens at the first instant.
    pub fn prepare(world: &World, spec: Spec) -> Result<Self> {
        let directory = world.directory().join(&spec.name);
        fs::create_dir_all(&directory).context("cluster directory")?;
        let tls = if spec.tls {
            let mut addresses = vec![spec.address_in(world.ns(&spec.sentinel_namespace)?)];
            for name in &spec.node_namespaces {
                addresses.push(spec.address_in(world.ns(name)?));
            }
            Some(Tls::make(&directory, &addresses)?)
        } else {
            None
        };
        let mut nodes = Vec::new();
        for index in 0..=spec.replicas {
            let place =
                spec.node_namespaces.get(index).or(spec.node_namespaces.last()).context("no namespace for nodes")?;
            nodes.push(Node::prepare(&spec, tls.as_ref(), index, world.ns(place)?, &directory)?);
        }
        let mut sentinels = Vec::new();
        for index in 0..spec.sentinels {
            let place = world.ns(&spec.sentinel_namespace)?;
            sentinels.push(Sentinel::prepare(&spec, tls.as_ref(), index, place, &nodes[0], &directory)?);
        }
        Ok(Self { spec, tls, nodes, sentinels })
    }

    /// Waits until every Sentinel knows all others, all replicas, and calls the master well.
    pub fn settle(&self) -> Result<()> {
        self.sentinels.iter().for_each(|sentinel| sentinel.pace(BRISK.0, BRISK.1));
        for sentinel in &self.sentinels {
            wait::until(SETTLE, format_args!("{} to settle", sentinel.name()), || sentinel.settled(&self.spec))
                .with_context(|| self.describe())?;
        }
        self.ask_every(INFO_MS);
        Ok(())
    }

    /// From now on the Sentinels ask the nodes for INFO this often; ten seconds is their own habit.
    pub fn ask_every(&self, info_ms: u32) {
        self.sentinels.iter().for_each(|sentinel| sentinel.pace(PUBLISH_MS, info_ms));
    }

    fn replicas_of(&self, master: usize) -> impl Iterator<Item = &Node> {
        self.nodes.iter().enumerate().filter(move |(index, _)| *index != master).map(|(_, node)| node)
    }

    /// Every node that says it is master, asked directly.
    pub fn masters(&self) -> Vec<usize> {
        let says_master = |index: &usize| self.nodes[*index].role().is_ok_and(|role| role == "master");
        (0..self.nodes.len()).filter(|index| self.nodes[*index].running()).filter(says_master).collect()
    }

    /// The one node that says it is master.
    pub fn master(&self) -> Result<usize> {
        match self.masters()[..] {
            [master] => Ok(master),
            ref masters => bail!("{} nodes say they are master: {masters:?}", masters.len()),
        }
    }

    /// The node a strict majority of all Sentinels names, with the epoch.
    pub fn majority(&self) -> Result<(usize, u64)> {
        let views: Vec<_> = self.sentinels.iter().filter_map(|sentinel| sentinel.names().ok()).collect();
        for (index, node) in self.nodes.iter().enumerate() {
            let named = |(host, port, _): &&(String, u16, u64)| {
                *port == node.address.port() && (*host == node.host || *host == node.address.ip().to_string())
            };
            let epochs: Vec<u64> = views.iter().filter(named).map(|(_, _, epoch)| *epoch).collect();
            if epochs.len() * 2 > self.sentinels.len() {
                return Ok((index, epochs.into_iter().max().unwrap_or_default()));
            }
        }
        bail!("no majority: {views:?}")
    }

    /// The node that every Sentinel names. During a failover not even a majority's word lasts: the one that
    /// leads it calls the new master by its name before it says so of the group.
    fn unanimous(&self) -> Result<usize> {
        let (master, _) = self.majority()?;
        let port = self.nodes[master].address.port();
        for sentinel in &self.sentinels {
            let (_, named, _) = sentinel.names()?;
            ensure!(named == port, "{} names port {named}, the majority {port}", sentinel.name());
        }
        Ok(master)
    }

    /// Waits until the Sentinels' majority names another node than `old`, and that node says master.
    pub fn wait_failover(&self, old: usize, limit: Duration) -> Result<usize> {
        wait::until(limit, format_args!("a failover away from node{old}"), || {
            let (named, epoch) = self.majority()?;
            if named == old {
                bail!("the majority still names node{old} at epoch {epoch}");
            }
            match self.nodes[named].role()?.as_str() {
                "master" => Ok(named),
                role => bail!("node{named} is named at epoch {epoch} but says {role}"),
            }
        })
        .with_context(|| self.describe())
    }

    /// SIGKILL to the master; returns which it was.
    pub fn kill_master(&mut self) -> Result<usize> {
        let master = self.master()?;
        self.nodes[master].kill();
        Ok(master)
    }

    /// A planned failover, ordered at the first Sentinel that takes the order; returns the old master.
    pub fn failover(&self) -> Result<usize> {
        let old = self.master()?;
        // A Sentinel that has not looked at the replicas lately (for three periods) finds none good enough:
        // when it takes the order, or a step later, and then it gives up.
        self.ask_every(200);
        wait::pause(Duration::from_millis(500));
        wait::until(Duration::from_secs(5), "a Sentinel to take the order", || {
            self.sentinels.iter().find(|sentinel| sentinel.running()).context("no Sentinel runs")?.failover()
        })?;
        Ok(old)
    }

    /// Starts whatever does not run again and waits until the Sentinels' master has every other node for
    /// a replica in good order, and every Sentinel calls all of them well. Returns that master.
    pub fn recover(&mut self, limit: Duration) -> Result<usize> {
        for sentinel in self.sentinels.iter_mut().filter(|sentinel| !sentinel.running()) {
            sentinel.start()?;
        }
        // A server that returns in the middle of one failover sets off the next.
        let master = wait::until(limit, "all Sentinels to name one master", || self.unanimous())
            .with_context(|| self.describe())?;
        let (host, port) = (self.nodes[master].host.clone(), self.nodes[master].address.port());
        self.settle()?;
        for node in self.nodes.iter_mut().filter(|node| !node.running()) {
            node.start(Some((&host, port)))?;
        }
        // On a busy machine one that resynchronizes may be taken for dead meanwhile, and another is master then.
        let linked = || {
            let (master, _) = self.majority()?;
            self.replicas_of(master).into_iter().try_for_each(Node::linked)?;
            Ok(master)
        };
        let master = wait::until(limit, "all replicas to be linked", linked).with_context(|| self.describe())?;
        self.sentinels.iter().for_each(|sentinel| sentinel.pace(BRISK.0, BRISK.1));
        for sentinel in &self.sentinels {
            wait::until(limit, "all replicas to be seen well", || sentinel.replicas_well())?;
        }
        self.settle()?;
        Ok(master)
    }

    /// REPLICAOF on `node` behind the Sentinels' back.
    pub fn demote(&self, node: usize, to: usize) -> Result<()> {
        let to = &self.nodes[to];
        self.nodes[node].replicate(Some((&to.host, to.address.port())))
    }

    /// The server at this address is replaced by a fresh, empty one that calls itself master.
    pub fn restart_empty(&mut self, node: usize) -> Result<()> {
        self.nodes[node].start(None)
    }

    /// How many failovers its Sentinels have begun.
    pub fn failovers(&self) -> usize {
        self.sentinels.iter().map(|sentinel| sentinel.log().matches("+try-failover").count()).sum()
    }

    /// How all servers see the world, in one text.
    pub fn describe(&self) -> String {
        let mut text = format!("cluster {}:\n", self.spec.name);
        for node in &self.nodes {
            let role =
                if node.running() { node.role().unwrap_or_else(|error| format!("{error:#}")) } else { "down".into() };
            let link = node.info("replication", "master_link_status").unwrap_or_default();
            // Writing to a String cannot fail.
            let _written = writeln!(text, "  {} {}: {role} {link}", node.name(), node.address);
        }
        for sentinel in &self.sentinels {
            let view = sentinel.names().map_or_else(|error| format!("{error:#}"), |names| format!("{names:?}"));
            let _written = writeln!(text, "  {} {}: {view}", sentinel.name(), sentinel.address);
        }
        text
    }
}
