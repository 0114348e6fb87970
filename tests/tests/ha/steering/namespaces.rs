//! Clients in other network namespaces, as containers have them. Steering is at a cgroup of the test's own: the addresses of
//! its world are those of other tests' worlds too, whose clients it must not meet.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    process::{Child, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use switchmaster_tests::{
    Daemon, Lab, Namespace, Spec,
    daemon::{Route, quoted},
    lab::{WRITES, check},
    wait,
};

use super::{cgroup::Cgroup, ensure_hop, outcome, steered, with_steering};
use crate::{FAILOVER, FOLLOW};

struct Idle(Child);

impl Drop for Idle {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ended = self.0.kill().and_then(|()| self.0.wait());
    }
}

/// As the node sees a client that dials from in there.
fn addr(cgroup: &Cgroup, namespace: &Namespace, to: SocketAddr) -> Result<SocketAddr> {
    let (host, port) = (to.ip().to_string(), to.port().to_string());
    let output = cgroup.command(namespace, &["redis-cli", "-h", &host, "-p", &port, "client", "info"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let addr = said.split(' ').find_map(|field| field.strip_prefix("addr="));
    Ok(addr.with_context(|| format!("{said}{}", String::from_utf8_lossy(&output.stderr)))?.parse()?)
}

#[test]
fn a_client_elsewhere_is_led_from_its_own_addresses_and_from_ours() {
    let (world, cluster) = Lab::cluster(Spec::default()).unwrap();
    let cgroup = Cgroup::new(world.name()).unwrap();
    let start = || -> Result<Lab> {
        let mut setup = Lab::setup(&world, &cluster, "copy")?;
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, WRITES));
        setup.writes = Route::new("writes", &cluster.spec.name, "master", "copy", &[any]);
        let config =
            with_steering(&setup).local("namespaces", "\"all\"").local("cgroup", quoted(cgroup.path().display()));
        let daemon = Daemon::start(&world, &config)?;
        Ok(Lab { daemon, cluster, world, local: None })
    };
    check(start(), |lab| {
        let client = lab.client()?.clone();
        // The namespace is known as long as a process is in it.
        let subscribe = ["redis-cli", "-h", "proxy", "subscribe", "news"];
        let sleep = Idle(cgroup.command(&client, &["sleep", "60"]).spawn().context("sleep")?);
        let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, WRITES));
        wait::until(FOLLOW, "its own loopback address to lead to the node", || {
            let seen = addr(&cgroup, &client, loopback)?;
            ensure!(seen.ip() == client.ipv4(), "the node sees {seen}");
            Ok(())
        })?;
        let seen = addr(&cgroup, &client, lab.writes_address()?)?;
        ensure!(seen.ip() == client.ipv4(), "from the daemon's address the node sees {seen}");
        // Who is in the namespace and not in the cgroup is nobody's affair.
        ensure_hop(&mut lab.writes()?)?;

        let subscriber = cgroup.command(&client, &subscribe).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let mut subscriber = Idle(subscriber);
        wait::until(FOLLOW, "the subscriber", || {
            ensure!(steered(lab)? == 1, "it is not led");
            Ok(())
        })?;
        let old = lab.cluster.failover()?;
        lab.cluster.wait_failover(old, FAILOVER)?;
        wait::until(FOLLOW, "the subscriber to be ended at the switch", || {
            let severed = lab.daemon.status()?.route("writes")?.severed;
            ensure!(severed >= 1, "it is not");
            Ok(())
        })?;
        subscriber.0.kill()?;

        // A cgroup that is made anew has the same name and another number.
        drop((sleep, subscriber));
        wait::until(FOLLOW, "the cgroup to be made anew", || {
            fs::remove_dir(cgroup.path()).and_then(|()| fs::create_dir(cgroup.path())).context("cgroup")
        })?;
        let sleep = Idle(cgroup.command(&client, &["sleep", "60"]).spawn().context("sleep")?);
        wait::until(FOLLOW, "clients of the new one to be led", || {
            let seen = addr(&cgroup, &client, loopback)?;
            ensure!(seen.ip() == client.ipv4(), "the node sees {seen}");
            Ok(())
        })?;

        // A server of its own goes first.
        let mut own = client.command("redis-server");
        let port = WRITES.to_string();
        own.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--dir"]).arg(lab.world.directory());
        let own = Idle(own.stdout(Stdio::null()).spawn().context("a server there")?);
        wait::until(FOLLOW, "the server there", || {
            let seen = addr(&cgroup, &client, loopback)?;
            ensure!(seen.ip() == loopback.ip(), "another server sees {seen}");
            Ok(())
        })?;
        ensure!(outcome(lab, "occupied")? >= 1, "it is not counted");
        drop((own, sleep));
        Ok(())
    });
}

#[test]
fn by_default_only_the_daemon_s_own_namespace_is_led() {
    check(super::lab("copy"), |lab| ensure_hop(&mut lab.writes()?));
}
