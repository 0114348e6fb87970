//! HAProxy, to compare with: in front of a cluster with role checks as people deploy it, or as a
//! plain forwarder to one server.

use std::{
    fs,
    io::{Read as _, Write as _},
    net::SocketAddr,
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};

use crate::{
    Client, Cluster,
    netns::{Namespace, World},
    process::{Process, tail},
    wait,
};

#[derive(Debug)]
pub struct HaProxy {
    process: Process,
    socket: PathBuf,
    pub listen: SocketAddr,
}

impl HaProxy {
    /// A tcp-check asks every node for its role once a second.
    pub fn role_check(world: &World, cluster: &Cluster, listen: SocketAddr) -> Result<Self> {
        let mut backend = String::from(" option tcp-check\n tcp-check connect\n");
        if let Some(passwords) = &cluster.spec.passwords {
            backend += &format!(" tcp-check send AUTH\\ {}\\r\\n\n tcp-check expect string +OK\n", passwords.node);
        }
        for (send, expect) in [("PING", "+PONG"), ("info\\ replication", "role:master"), ("QUIT", "+OK")] {
            backend += &format!(" tcp-check send {send}\\r\\n\n tcp-check expect string {expect}\n");
        }
        for node in &cluster.nodes {
            backend += &format!(" server {} {} check inter 1s\n", node.name(), node.address);
        }
        let haproxy = Self::start(world, listen, &backend)?;
        // Until its checks have failed three times HAProxy sends clients to any node.
        wait::until(Duration::from_secs(20), "HAProxy to have found the master", || {
            let up = haproxy.servers_up()?;
            ensure!(up == 1, "{up} servers are up");
            Ok(())
        })?;
        haproxy.wait_serving(world.proxy()?)?;
        Ok(haproxy)
    }

    /// To one server, whatever it is.
    pub fn plain(world: &World, listen: SocketAddr, server: SocketAddr) -> Result<Self> {
        let haproxy = Self::start(world, listen, &format!(" server only {server}\n"))?;
        haproxy.wait_serving(world.proxy()?)?;
        Ok(haproxy)
    }

    fn start(world: &World, listen: SocketAddr, backend: &str) -> Result<Self> {
        let directory = world.directory().join(format!("haproxy-{}", listen.port()));
        fs::create_dir_all(&directory).context("HAProxy directory")?;
        let file = directory.join("haproxy.cfg");
        let text = format!(
            "global\n nbthread 2\n maxconn 8000\n stats socket {}\n\
             defaults\n mode tcp\n timeout connect 3s\n timeout client 7d\n timeout server 7d\n timeout check 1s\n\
             frontend gate\n bind {listen}\n default_backend nodes\n\
             backend nodes\n{backend}",
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

    /// Waits until a connection through it reaches a server.
    fn wait_serving(&self, namespace: &Namespace) -> Result<()> {
        wait::until(Duration::from_secs(10), "HAProxy to serve", || {
            let mut client = Client::connect_within(namespace, self.listen, Duration::from_secs(1))?;
            client.send(&redis::cmd("PING"))?;
            // A server that wants a password first has been reached all the same.
            match client.receive()? {
                redis::Value::Nil => bail!("no answer"),
                _ => Ok(()),
            }
        })
        .with_context(|| tail(&self.process.log()))
    }

    pub fn process(&self) -> &Process {
        &self.process
    }
}
