//! What one peer is measured on, alone: client, proxy and db in namespaces of their own, joined by veth and
//! routed through the proxy's; Redis with persistence off; the peer in front of it. So nothing of another
//! peer, neither rules nor programs nor idle processes, is in the way. Gone when it is dropped.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::unistd::Pid;
use switchmaster_tests::{
    Client, Cluster, Daemon, HaProxy, Nat, Nginx, Spec, Twemproxy, World,
    netns::{HUB, Namespace},
    process::Process,
    wait,
};

use super::{Run, peer::Peer, route::Route, workload::Place};
use crate::{daemon, tuning::tune};

const PORT: u16 = 7000;
const FOUND: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Stage {
    front: Front,
    pub(super) cluster: Cluster,
    world: World,
    place: Place,
    /// What clients dial.
    pub(super) address: SocketAddr,
}

#[derive(Debug)]
enum Front {
    Nothing,
    Rules { _until_dropped: Nat },
    HaProxy(HaProxy),
    Nginx(Nginx),
    Twemproxy(Twemproxy),
    Ours(Daemon),
    Route { _until_dropped: Route },
}

impl Stage {
    pub(super) fn start(run: &Run, peer: Peer, place: Place) -> Result<Self> {
        let world = World::new()?;
        tune(&world, run.congestion_control.as_deref())?;
        if run.whole_packets || peer.wants_whole_packets() {
            world.whole_packets()?;
        }
        if run.queued {
            for link in ["link1", "link2"] {
                world.proxy()?.run("tc", &["qdisc", "replace", "dev", link, "root", "pfifo"])?;
            }
        }
        let mut spec = Spec::bare(0);
        if place == Place::Together {
            spec.node_namespaces = vec![HUB.to_owned()];
        }
        let cluster = Cluster::start(&world, spec)?;
        let master = cluster.nodes[0].address;
        let listen = world.proxy()?.address(PORT);
        let front = match peer {
            Peer::Direct => Front::Nothing,
            Peer::Nftables => {
                Front::Rules { _until_dropped: Nat::plain(&world, listen, master, facing(&world, master.ip())?)? }
            }
            Peer::Haproxy => Front::HaProxy(HaProxy::plain(&world, listen, master)?),
            Peer::HaproxySplice => Front::HaProxy(HaProxy::spliced(&world, listen, master)?),
            Peer::Nginx => Front::Nginx(Nginx::plain(&world, listen, master)?),
            Peer::Twemproxy => Front::Twemproxy(Twemproxy::plain(&world, listen, master)?),
            Peer::XdpRoute => Front::Route { _until_dropped: Route::start(&world)? },
            Peer::Steered => Front::Ours(local(run, &world, &cluster, "off")?),
            Peer::Bypassed => Front::Ours(local(run, &world, &cluster, "on")?),
            Peer::Copy | Peer::Sockmap | Peer::Tc | Peer::Xdp => Front::Ours(ours(run, &world, &cluster, peer)?),
        };
        let address = if peer.is_routed() { master } else { listen };
        Ok(Self { front, cluster, world, place, address })
    }

    fn process(&self) -> Option<&Process> {
        match &self.front {
            Front::Nothing | Front::Rules { .. } | Front::Route { .. } => None,
            Front::HaProxy(haproxy) => Some(haproxy.process()),
            Front::Nginx(nginx) => Some(nginx.process()),
            Front::Twemproxy(twemproxy) => Some(twemproxy.process()),
            Front::Ours(daemon) => Some(daemon.process()),
        }
    }

    /// The peer's own processes; none where the kernel does it all.
    pub(super) fn processes(&self) -> Result<Vec<Pid>> {
        self.process().map_or(Ok(Vec::new()), Process::family)
    }

    pub(super) fn client(&self) -> Result<&Namespace> {
        match self.place {
            Place::Apart => self.world.client(),
            Place::Together => self.world.proxy(),
        }
    }

    pub(super) fn proxy(&self) -> Result<&Namespace> {
        self.world.proxy()
    }

    pub(super) fn directory(&self) -> &std::path::Path {
        self.world.directory()
    }
}

/// The daemon, which must serve by this very datapath.
fn ours(run: &Run, world: &World, cluster: &Cluster, peer: Peer) -> Result<Daemon> {
    let datapath = peer.datapath().context("not a datapath")?;
    let listen = world.proxy()?.address(PORT);
    let mut snat = Vec::new();
    if run.spare_addresses != 0 {
        let spare = (1..=run.spare_addresses).map(|last| IpAddr::from([192, 0, 2, last]));
        snat.push(facing(world, cluster.nodes[0].address.ip())?);
        snat.extend(spare);
    }
    let config = daemon::seen_as(&snat, cluster, &run.program, datapath, listen);
    let daemon = Daemon::start(world, &config)?;
    daemon.wait_master(&cluster.spec.name, cluster.nodes[0].address, FOUND)?;
    let serves = daemon.status()?.route("writes")?.datapath.clone();
    ensure!(serves == datapath, "the daemon serves it by {serves}");
    if peer.moves_packets() {
        wait::until(FOUND, "a connection to pass as packets", || passes_as_packets(world, listen))?;
    }
    Ok(daemon)
}

/// The daemon, which leads its own host's clients; `copy` is what would be left.
fn local(run: &Run, world: &World, cluster: &Cluster, bypass: &str) -> Result<Daemon> {
    let listen = world.proxy()?.address(PORT);
    let config = daemon::in_front(cluster, &run.program, "copy", listen);
    let config = config.local("steering", "\"on\"").local("bypass", format!("\"{bypass}\""));
    let daemon = Daemon::start(world, &config)?;
    daemon.wait_master(&cluster.spec.name, cluster.nodes[0].address, FOUND)?;
    wait::until(FOUND, "a client to be led", || {
        let mut client = Client::connect(world.proxy()?, listen)?;
        client.ping()?;
        let route = daemon.status()?.route("writes")?.clone();
        ensure!(route.steered > 0, "the daemon's listener has taken it");
        ensure!(bypass == "off" || route.bypassed > 0, "it goes by TCP");
        Ok(())
    })?;
    Ok(daemon)
}

/// The daemon's listener is on the same address, and it is not what is to be measured.
fn passes_as_packets(world: &World, listen: SocketAddr) -> Result<()> {
    let mut client = Client::connect(world.client()?, listen)?;
    client.ping()?;
    let own = client.tcp()?.local_addr().context("the client's address")?.to_string();
    let sockets = world.proxy()?.run("ss", &["--no-header", "--tcp", "--numeric"])?;
    ensure!(!sockets.contains(&own), "the daemon's listener has taken it: {sockets}");
    Ok(())
}

/// The address of `proxy` in the network of this server.
fn facing(world: &World, server: IpAddr) -> Result<IpAddr> {
    let network = |ip: &IpAddr| match ip {
        IpAddr::V4(ip) => Some([ip.octets()[0], ip.octets()[1], ip.octets()[2]]),
        IpAddr::V6(_) => None,
    };
    let own = world.proxy()?.addresses();
    own.iter().find(|ip| network(ip) == network(&server)).copied().context("proxy has no address beside the server")
}
