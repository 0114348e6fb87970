//! What a client sees of it, and which calls are led.

use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsFd as _,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{Domain, Protocol, Socket, Type};
use switchmaster_tests::{Client, Lab, Spec, lab::check, wait};

use super::{counted, ensure_direct, ensure_hop, lab, lab_with, local, local_to, outcome, steered};
use crate::{FOLLOW, on_each_datapath};

on_each_datapath!(a_client_of_this_host_has_no_hop);

fn a_client_of_this_host_has_no_hop(datapath: &str) {
    check(lab(datapath), |lab| {
        let mut client = local(lab)?;
        ensure_direct(&mut client)?;
        ensure!(client.role()? == "master", "it is at another node");
        ensure!(client.tcp()?.peer_addr()? == lab.writes_address()?, "it sees another address than it dialled");
        ensure!(steered(lab)? == 1 && outcome(lab, "steered")? >= 1, "it is not counted");
        let route = lab.daemon.status()?.route("writes")?.clone();
        ensure!(route.connections == 1, "it is no connection of the route: {route:?}");
        ensure!(route.targets.iter().map(|it| it.connections).sum::<u64>() == 1, "nor of a node: {route:?}");
        // Whoever comes over the network goes on as ever.
        let mut other = lab.writes()?;
        other.set("key", "value")?;
        ensure!(client.get("key")?.as_deref() == Some("value"), "they are at different nodes");
        drop(client);
        counted(lab, 0)?;
        Ok(())
    });
}

/// A socket in the daemon's namespace that has dialled nothing yet.
fn socket(lab: &Lab, domain: Domain) -> Result<Socket> {
    lab.world.proxy()?.enter(|| Socket::new(domain, Type::STREAM, Some(Protocol::TCP)))?.context("socket")
}

fn connected(socket: Socket) -> Result<Client> {
    Client::over(socket.into(), FOLLOW)
}

#[test]
fn a_call_that_does_not_wait_is_led_too() {
    check(lab("copy"), |lab| {
        let socket = socket(lab, Domain::IPV4)?;
        socket.set_nonblocking(true)?;
        let began = socket.connect(&lab.writes_address()?.into());
        ensure!(began.is_err_and(|error| error.raw_os_error() == Some(libc::EINPROGRESS)), "it waited");
        let mut fds = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
        ensure!(poll(&mut fds, PollTimeout::from(2000u16))? == 1, "it does not come about");
        socket.set_nonblocking(false)?;
        ensure_direct(&mut connected(socket)?)
    });
}

#[test]
fn an_ipv6_socket_that_dials_an_ipv4_address_is_led() {
    check(lab("copy"), |lab| {
        let IpAddr::V4(ip) = lab.writes_address()?.ip() else { unreachable!("the first address is IPv4") };
        let mapped = SocketAddr::new(ip.to_ipv6_mapped().into(), lab.writes_address()?.port());
        let socket = socket(lab, Domain::IPV6)?;
        socket.connect(&mapped.into())?;
        ensure!(socket.peer_addr()?.as_socket() == Some(mapped), "it sees {:?}", socket.peer_addr()?);
        let mut client = connected(socket)?;
        ensure!(client.role()? == "master" && steered(lab)? == 1, "the listener has it");
        Ok(())
    });
}

#[test]
fn over_ipv6_a_client_is_led_to_an_ipv6_node() {
    let spec = Spec { ipv6: true, ..Spec::default() };
    check(lab_with(spec, "copy", |config| config), |lab| {
        let to = lab.world.proxy()?.address6(switchmaster_tests::lab::WRITES);
        let mut client = local_to(lab, to)?;
        ensure_direct(&mut client)?;
        ensure!(client.tcp()?.peer_addr()? == to, "it sees another address than it dialled");
        // A node of the other family is the listener's.
        let mut client = local(lab)?;
        ensure!(client.role()? == "master" && outcome(lab, "other_family")? == 1, "what of the other family?");
        ensure_hop(&mut client)
    });
}

#[test]
fn a_socket_that_is_bound_is_led_where_a_way_leads() {
    check(lab("copy"), |lab| {
        let bound = socket(lab, Domain::IPV4)?;
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into())?;
        bound.connect(&lab.writes_address()?.into())?;
        ensure!(outcome(lab, "bound")? == 1, "it was led from the loopback address");
        ensure!(connected(bound)?.role()? == "master", "the listener does not serve it");
        // One that the node can answer to.
        let own = lab.world.proxy()?.addresses().iter().copied().rfind(IpAddr::is_ipv4);
        let bound = socket(lab, Domain::IPV4)?;
        bound.bind(&SocketAddr::new(own.context("no address")?, 0).into())?;
        bound.connect(&lab.writes_address()?.into())?;
        ensure_direct(&mut connected(bound)?)
    });
}

#[test]
fn a_socket_that_dials_again_is_led_anew_and_counted_once() {
    check(lab("copy"), |lab| {
        let to = lab.writes_address()?;
        let again = socket(lab, Domain::IPV4)?;
        let elsewhere = SocketAddr::new(to.ip(), 1);
        let refused = again.connect(&elsewhere.into());
        ensure!(refused.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused), "port 1 answers");
        again.connect(&to.into())?;
        ensure!(steered(lab)? == 1, "it is counted {} times", steered(lab)?);
        // AF_UNSPEC ends the connection and leaves the socket.
        let nowhere = [0u8; 16];
        // SAFETY: an address of 16 zero bytes, whose family is AF_UNSPEC.
        let done = unsafe {
            libc::connect(
                std::os::fd::AsRawFd::as_raw_fd(&again),
                nowhere.as_ptr().cast(),
                nowhere.len() as libc::socklen_t,
            )
        };
        ensure!(done == 0, "{}", std::io::Error::last_os_error());
        again.connect(&to.into())?;
        ensure!(steered(lab)? == 1, "it is counted {} times", steered(lab)?);
        ensure_direct(&mut connected(again)?)?;
        counted(lab, 0)?;
        Ok(())
    });
}

#[test]
fn nothing_is_led_but_tcp_to_the_routes_own_addresses() {
    check(lab("copy"), |lab| {
        let proxy = lab.world.proxy()?;
        let to = lab.writes_address()?;
        let before = outcome(lab, "steered")?;
        let udp = proxy.enter(|| UdpSocket::bind("0.0.0.0:0"))?.context("UDP")?;
        udp.connect(to)?;
        ensure!(udp.peer_addr()? == to, "UDP was led");
        // Straight to a node: its own address is no route's.
        let node = lab.cluster.nodes[0].address;
        let mut direct = local_to(lab, node)?;
        direct.ping()?;
        ensure!(direct.tcp()?.peer_addr()? == node && outcome(lab, "steered")? == before, "it was led");
        // Over the network: not this host's.
        lab.writes()?.ping()?;
        ensure!(outcome(lab, "steered")? == before, "a client elsewhere was led");
        Ok(())
    });
}

/// The kernel makes its subflows itself, and tells nobody when they end.
#[test]
fn mptcp_is_left_alone() {
    check(lab("copy"), |lab| {
        let proxy = lab.world.proxy()?;
        let make = || Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP));
        let Ok(socket) = proxy.enter(make)? else {
            println!("skipped: this kernel has no MPTCP");
            return Ok(());
        };
        socket.connect(&lab.writes_address()?.into())?;
        ensure!(connected(socket)?.role()? == "master", "the listener does not serve it");
        ensure!(steered(lab)? == 0 && outcome(lab, "steered")? == 0, "it was led");
        Ok(())
    });
}

#[test]
fn who_may_not_or_finds_no_place_goes_to_the_listener() {
    let start = || {
        let (world, cluster) = Lab::cluster(Spec::default())?;
        let mut setup = Lab::setup(&world, &cluster, "copy")?;
        setup.writes = setup.writes.set("max_connections", 1);
        setup.reads = setup.reads.set("allow", "[\"192.0.2.0/24\"]");
        let daemon = switchmaster_tests::Daemon::start(&world, &super::with_steering(&setup))?;
        Ok(Lab { daemon, cluster, world, local: None })
    };
    check(start(), |lab| {
        let mut first = local(lab)?;
        ensure_direct(&mut first)?;
        let served = |to| local_to(lab, to).and_then(|mut client| client.ping());
        ensure!(served(lab.writes_address()?).is_err() && outcome(lab, "full")? == 1, "there was a second place");
        ensure!(served(lab.reads_address()?).is_err(), "who is not allowed is served");
        ensure!(outcome(lab, "not_allowed")? == 1, "it was not the reason");
        drop(first);
        wait::until(FOLLOW, "the place", || ensure_direct(&mut local(lab)?))
    });
}

#[test]
fn replicas_are_shared_out_as_elsewhere() {
    check(lab("copy"), |lab| {
        let mut nodes = std::collections::BTreeSet::new();
        wait::until(FOLLOW, "both replicas", || {
            let mut client = local_to(lab, lab.reads_address()?)?;
            ensure_direct(&mut client)?;
            ensure!(client.role()? == "slave", "it is at the master");
            nodes.insert(lab.node_behind(&mut client)?);
            ensure!(nodes.len() == 2, "only {nodes:?}");
            Ok(())
        })
    });
}

/// Beside a program of somebody else's at the same place, and beside another daemon.
#[test]
fn two_daemons_lead_each_its_own() {
    check(lab("copy"), |lab| {
        let setup = Lab::setup(&lab.world, &lab.cluster, "copy")?;
        let proxy = lab.world.proxy()?;
        let name = lab.group_name();
        let at = proxy.address(7777);
        let config = switchmaster_tests::daemon::Config::named("second", 9181)
            .group(setup.group)
            .route(switchmaster_tests::daemon::Route::new("other", name, "master", "copy", &[at]))
            .local("steering", "\"on\"")
            .argument("--pin-dir")
            .argument("/sys/fs/bpf/second");
        let second = switchmaster_tests::Daemon::start(&lab.world, &config)?;
        wait::until(FOLLOW, "both to lead", || {
            ensure_direct(&mut local_to(lab, at)?)?;
            ensure_direct(&mut local(lab)?)
        })?;
        let mut theirs = local_to(lab, at)?;
        ensure_direct(&mut theirs)?;
        drop(second);
        wait::pause(Duration::from_millis(100));
        ensure_direct(&mut local(lab)?)
    });
}
