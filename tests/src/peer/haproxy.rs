//! HAProxy, to compare with: in front of a cluster in the three ways in which people deploy it, or as
//! a plain forwarder to one server.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use super::{directory, wait_program};
use crate::{
    Client, Cluster,
    netns::World,
    process::{Process, tail},
    wait,
};

/// In this time a HAProxy that balances would have balanced.
const SURE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub struct HaProxy {
    process: Process,
    socket: PathBuf,
    pub listen: SocketAddr,
}

/// How HAProxy finds the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// A tcp-check asks every node for its role once a second.
    Role,
    /// Two of three Sentinels must name a node's IP, looked for as text; the node itself need only accept.
    Quorum,
    /// As the redis-ha chart does it: the Sentinels and the node's role, and one check decides.
    Chart,
}

impl HaProxy {
    /// A tcp-check asks every node for its role once a second.
    pub fn role_check(world: &World, cluster: &Cluster, listen: SocketAddr) -> Result<Self> {
        let mut haproxy = Self::launch(world, cluster, listen, Style::Role)?;
        wait::until(Duration::from_secs(20), "HAProxy to have found the master", || {
            let up = haproxy.servers_up()?;
            ensure!(up == 1, "{up} servers are up");
            Ok(())
        })?;
        wait_program(&mut haproxy.process, world.proxy()?, listen)?;
        Ok(haproxy)
    }

    /// Waits until it has found the master: before its checks have failed HAProxy sends clients to any node.
    pub fn wait_master(&self, world: &World) -> Result<()> {
        wait::until(Duration::from_secs(20), "HAProxy to have found the master", || {
            wait::throughout(SURE, "only the master answering", || {
                let role = Client::connect_within(world.proxy()?, self.listen, Duration::from_secs(1))?.role()?;
                ensure!(role == "master", "a {role} answered");
                Ok(())
            })
        })
        .with_context(|| tail(&self.process.log()))
    }

    /// Started, and nothing waited for.
    pub fn launch(world: &World, cluster: &Cluster, listen: SocketAddr, style: Style) -> Result<Self> {
        match style {
            Style::Role => Self::start(world, listen, "", &role_backend(cluster), ""),
            Style::Quorum | Style::Chart => {
                let (backend, checks) = quorum_backends(cluster, style);
                Self::start(world, listen, "", &backend, &checks)
            }
        }
    }

    /// To one server, whatever it is.
    pub fn plain(world: &World, listen: SocketAddr, server: SocketAddr) -> Result<Self> {
        Self::to_one(world, listen, &format!(" server only {server}\n"), "")
    }

    /// The same with `option splice-auto`: where it sees fit the kernel moves the bytes from socket to socket.
    pub fn spliced(world: &World, listen: SocketAddr, server: SocketAddr) -> Result<Self> {
        // Without a limit it wants descriptors for a pipe each way of every connection that it allows.
        let global = " maxpipes 1500\n";
        Self::to_one(world, listen, &format!(" option splice-auto\n server only {server}\n"), global)
    }

    fn to_one(world: &World, listen: SocketAddr, backend: &str, global: &str) -> Result<Self> {
        let mut haproxy = Self::start(world, listen, global, backend, "")?;
        wait_program(&mut haproxy.process, world.proxy()?, listen)?;
        Ok(haproxy)
    }

    /// `global` are further lines for the process, `backend` has the nodes, `checks` are further sections.
    fn start(world: &World, listen: SocketAddr, global: &str, backend: &str, checks: &str) -> Result<Self> {
        let directory = directory(world, "haproxy", listen.port())?;
        let file = directory.join("haproxy.cfg");
        let text = format!(
            "global\n nbthread 2\n maxconn 8000\n stats socket {}\n{global}\
             defaults\n mode tcp\n timeout connect 3s\n timeout client 7d\n timeout server 7d\n timeout check 1s\n\
             frontend gate\n bind {listen}\n default_backend nodes\n\
             backend nodes\n{backend}{checks}",
            directory.join("s").display()
        );
        fs::write(&file, text).context("haproxy.cfg")?;
        let mut command = world.proxy()?.command("haproxy");
        command.arg("-db").arg("-f").arg(&file);
        Ok(Self {
            process: Process::start("haproxy", command, directory.join("log"))?,
            listen,
            socket: directory.join("s"),
        })
    }

    /// How many servers HAProxy would send a client to.
    pub fn servers_up(&self) -> Result<usize> {
        let mut socket = UnixStream::connect(&self.socket).context("HAProxy's socket")?;
        socket.write_all(b"show stat\n").context("show stat")?;
        let mut table = String::new();
        socket.read_to_string(&mut table).context("show stat")?;
        let up = |line: &&str| {
            let fields: Vec<&str> = line.split(',').collect();
            // proxy, server, ..., status
            fields.first() == Some(&"nodes")
                && fields.get(1) != Some(&"BACKEND")
                && fields.get(17).is_some_and(|status| status.starts_with("UP"))
        };
        Ok(table.lines().filter(up).count())
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}

fn role_backend(cluster: &Cluster) -> String {
    let mut backend = String::from(" option tcp-check\n tcp-check connect\n");
    if let Some(passwords) = &cluster.spec.passwords {
        backend += &format!(" tcp-check send AUTH\\ {}\\r\\n\n tcp-check expect string +OK\n", passwords.node);
    }
    backend += &conversation(&[("PING", "+PONG"), ("info\\ replication", "role:master"), ("QUIT", "+OK")]);
    cluster.nodes.iter().fold(backend, |text, node| text + &server(node.name(), node.address, "inter 1s"))
}

/// The nodes' backend, and for each node a backend of the Sentinels that name it.
fn quorum_backends(cluster: &Cluster, style: Style) -> (String, String) {
    let name = &cluster.spec.name;
    let (question, sentinel_pace, node_check, node_pace) = match style {
        Style::Chart => (
            format!("SENTINEL\\ get-master-addr-by-name\\ {name}"),
            "inter 1s",
            conversation(&[("PING", "+PONG"), ("info\\ replication", "role:master"), ("QUIT", "+OK")]),
            "inter 1s fall 1 rise 1",
        ),
        Style::Role | Style::Quorum => (format!("SENTINEL\\ master\\ {name}"), "inter 2s", String::new(), "inter 2s"),
    };
    let (mut backend, mut checks) = (String::new(), String::new());
    if !node_check.is_empty() {
        backend += &format!(" option tcp-check\n tcp-check connect\n{node_check}");
    }
    for node in &cluster.nodes {
        let own = node.name();
        backend += &format!(" use-server {own} if {{ srv_is_up({own}) }} {{ nbsrv(named_{own}) ge 2 }}\n");
        backend += &server(own, node.address, node_pace);
        let ip = node.address.ip().to_string();
        let asked = conversation(&[("PING", "+PONG"), (&question, &ip), ("QUIT", "+OK")]);
        checks += &format!("backend named_{own}\n option tcp-check\n tcp-check connect\n{asked}");
        for sentinel in &cluster.sentinels {
            checks += &server(sentinel.name(), sentinel.address, sentinel_pace);
        }
    }
    (backend, checks)
}

/// What is sent, and the text that must come back.
fn conversation(steps: &[(&str, &str)]) -> String {
    let step =
        |(send, expect): &(&str, &str)| format!(" tcp-check send {send}\\r\\n\n tcp-check expect string {expect}\n");
    steps.iter().map(step).collect()
}

fn server(name: &str, address: SocketAddr, pace: &str) -> String {
    format!(" server {name} {address} check {pace}\n")
}
