//! How a route to replicas shares its clients out, as they see it: whoever accepts them, the daemon or no one.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, bind, connect, socket};
use switchmaster_tests::{Client, Lab, Spec, lab::Setup, lab::check, on_each_way, wait};

use crate::FOLLOW;

on_each_way!(
    source_hash_keeps_a_client_where_it_is,
    least_connections_fills_up_the_emptiest,
    a_replica_that_loses_its_role_takes_its_own_clients_along_only,
);

fn balanced_by(balance: &str) -> impl FnOnce(Setup) -> Setup {
    move |mut setup| {
        setup.reads = setup.reads.set("balance", format_args!("\"{balance}\""));
        setup
    }
}

fn three_replicas() -> Spec {
    Spec { replicas: 3, ..Spec::default() }
}

/// Addresses of the client's host beside its own.
fn more_addresses(lab: &Lab, count: u8) -> Result<Vec<IpAddr>> {
    let IpAddr::V4(own) = lab.client()?.ipv4() else { anyhow::bail!("not IPv4") };
    let [a, b, c, _] = own.octets();
    let addresses: Vec<IpAddr> = (0..count).map(|n| Ipv4Addr::new(a, b, c, 100 + n).into()).collect();
    // The daemon's host has an interface for each network.
    let interface = if lab.local.is_some() { "lo" } else { "eth0" };
    for address in &addresses {
        lab.client()?.run("ip", &["addr", "add", &format!("{address}/32"), "dev", interface])?;
    }
    Ok(addresses)
}

fn client_from(lab: &Lab, from: IpAddr) -> Result<Client> {
    let to = lab.reads_address()?;
    let stream = lab.client()?.enter(|| -> Result<TcpStream> {
        let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        bind(socket.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(from, 0)))?;
        connect(socket.as_raw_fd(), &SockaddrStorage::from(to))?;
        Ok(TcpStream::from(socket))
    })??;
    Client::over(stream, FOLLOW)
}

/// Which node answers each.
fn nodes_of(lab: &Lab, addresses: &[IpAddr]) -> Result<Vec<usize>> {
    addresses.iter().map(|from| lab.node_behind(&mut client_from(lab, *from)?)).collect()
}

fn source_hash_keeps_a_client_where_it_is(way: &str) {
    check(Lab::start(three_replicas(), way, balanced_by("source-hash")), |lab| {
        let clients = more_addresses(lab, 24)?;
        let first = wait::until(FOLLOW, "every replica to have clients", || {
            let nodes = nodes_of(lab, &clients)?;
            ensure!([1, 2, 3].iter().all(|node| nodes.contains(node)), "they are on {nodes:?}");
            Ok(nodes)
        })?;
        ensure!(nodes_of(lab, &clients)? == first, "the same clients were led elsewhere");
        let lost = first[0];
        lab.cluster.nodes[lost].kill();
        let without = wait::until(FOLLOW, "everybody to leave the dead replica", || {
            let nodes = nodes_of(lab, &clients)?;
            ensure!(!nodes.contains(&lost), "some are led to node{lost}");
            Ok(nodes)
        })?;
        for (before, now) in first.iter().zip(&without) {
            ensure!(*before == lost || now == before, "{first:?} became {without:?} without node{lost}");
        }
        ensure!(nodes_of(lab, &clients)? == without, "the same clients were led elsewhere");
        let master = lab.cluster.nodes[0].host.clone();
        lab.cluster.nodes[lost].start(Some((&master, lab.cluster.spec.first_node_port)))?;
        wait::until(Duration::from_secs(10), "its clients to come back", || {
            let nodes = nodes_of(lab, &clients)?;
            ensure!(nodes == first, "{first:?} became {nodes:?}");
            Ok(())
        })
    });
}

/// Connections of the route to replicas that the daemon has accepted so far.
fn accepted(lab: &Lab) -> Result<u64> {
    let page = lab.daemon.get("/metrics")?.body;
    let series = "switchmaster_connections_total{route=\"reads\"} ";
    let count = page.lines().find_map(|line| line.strip_prefix(series)).context("no such series")?;
    count.parse().context("a count")
}

/// Connections of the route to replicas by node, as the status has them.
fn connections(lab: &Lab) -> Result<Vec<u64>> {
    let status = lab.daemon.status()?;
    let targets = &status.route("reads")?.targets;
    let of = |node: &switchmaster_tests::redis::Node| {
        targets.iter().find(|target| target.addr == node.address).map_or(0, |target| target.connections)
    };
    Ok(lab.cluster.nodes.iter().map(of).collect())
}

fn least_connections_fills_up_the_emptiest(way: &str) {
    check(Lab::start(Spec::default(), way, balanced_by("least-connections")), |lab| {
        wait::until(FOLLOW, "both replicas to be open", || {
            let status = lab.daemon.status()?;
            let open = status.route("reads")?.targets.iter().filter(|target| target.state == "open").count();
            ensure!(open == 2, "{open} are");
            Ok(())
        })?;
        let dial = |lab: &Lab| -> Result<(usize, Client)> {
            let mut client = lab.reads()?;
            Ok((lab.node_behind(&mut client)?, client))
        };
        let mut held = (0..6).map(|_| dial(lab)).collect::<Result<Vec<_>>>()?;
        let seen = connections(lab)?;
        ensure!(seen == [0, 3, 3], "the connections are {seen:?}");
        ensure!(lab.daemon.status()?.route("reads")?.connections == 6);
        ensure!(
            accepted(lab)? == if ["copy", "sockmap"].contains(&way) { 6 } else { 0 },
            "the daemon has accepted {}",
            accepted(lab)?
        );
        held.retain(|(node, _)| *node == 1);
        wait::until(Duration::from_secs(5), "the others to be gone", || {
            let seen = connections(lab)?;
            ensure!(seen == [0, 3, 0], "the connections are {seen:?}");
            Ok(())
        })?;
        let mut fresh = (0..3).map(|_| dial(lab)).collect::<Result<Vec<_>>>()?;
        let nodes: Vec<usize> = fresh.iter().map(|(node, _)| *node).collect();
        ensure!(nodes == [2, 2, 2], "they went to {nodes:?}");
        held.iter_mut().chain(&mut fresh).try_for_each(|(_, client)| client.ping())
    });
}

fn a_replica_that_loses_its_role_takes_its_own_clients_along_only(way: &str) {
    check(Lab::start(Spec::default(), way, balanced_by("round-robin")), |lab| {
        let mut clients = wait::until(FOLLOW, "clients on both replicas", || {
            let mut clients = Vec::new();
            for _ in 0..6 {
                let mut client = lab.reads()?;
                clients.push((lab.node_behind(&mut client)?, client));
            }
            ensure!([1, 2].iter().all(|node| clients.iter().filter(|(on, _)| on == node).count() == 3));
            Ok(clients)
        })?;
        // Not by a failover: there Sentinel itself has every replica end its clients.
        lab.cluster.nodes[1].replicate(None)?;
        for (_, client) in clients.iter_mut().filter(|(node, _)| *node == 1) {
            ensure!(client.wait_end(FOLLOW)?, "a client of the former replica was not reset");
        }
        for (_, client) in clients.iter_mut().filter(|(node, _)| *node == 2) {
            client.ping().context("a client of the other replica")?;
        }
        let mut next = (0..4).map(|_| lab.reads()).collect::<Result<Vec<_>>>()?;
        next.iter_mut().try_for_each(|client| {
            let node = lab.node_behind(client)?;
            ensure!(node == 2, "a new client is on node{node}");
            Ok(())
        })
    });
}
