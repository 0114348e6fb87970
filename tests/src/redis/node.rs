//! One `redis-server`. Its address stays the same through kills and restarts, its id does not.

use std::{net::SocketAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{
    Passwords, Spec, Tls,
    server::{Door, Server},
};
use crate::{Client, netns::Namespace};

#[derive(Debug)]
pub struct Node {
    pub address: SocketAddr,
    /// How it is named in configurations: its address, or a host name.
    pub host: String,
    server: Server,
}

impl Node {
    pub(super) fn prepare(
        spec: &Spec,
        tls: Option<&Tls>,
        index: usize,
        namespace: &Namespace,
        directory: &Path,
    ) -> Result<Self> {
        let port = spec.first_node_port + u16::try_from(index).context("too many nodes")?;
        let password = spec.passwords.as_ref().map(|passwords| passwords.node.clone());
        let node = Self {
            address: SocketAddr::new(spec.address_in(namespace), port),
            host: spec.host_in(namespace),
            server: Server::new("redis-server", format!("node{index}"), namespace, directory, password)?,
        };
        node.server.configure(&node.configuration(spec, tls))?;
        Ok(node)
    }

    fn configuration(&self, spec: &Spec, tls: Option<&Tls>) -> String {
        let mut text = self.server.common_lines();
        text += "save \"\"\nappendonly no\n\
                 repl-diskless-sync yes\nrepl-diskless-sync-delay 0\nrepl-ping-replica-period 1\n";
        match tls {
            Some(tls) => {
                text += &format!("port 0\ntls-port {}\ntls-replication yes\n{}", self.address.port(), tls.lines());
            }
            None => text += &format!("port {}\n", self.address.port()),
        }
        if spec.hostnames {
            text += &format!("replica-announce-ip {}\n", self.host);
        }
        if let Some(Passwords { node, probe: (user, password), .. }) = &spec.passwords {
            text += &format!("requirepass {node}\nmasterauth {node}\nuser {user} on >{password} -@all +@connection\n");
        }
        for line in &spec.node_lines {
            text += &format!("{line}\n");
        }
        text
    }

    /// Starts it, a replica of `master` if there is one, and waits until it answers.
    pub fn start(&mut self, master: Option<(&str, u16)>) -> Result<()> {
        match master {
            Some((host, port)) => self.server.start(&["--replicaof", host, &port.to_string()]),
            None => self.server.start(&[]),
        }
    }

    /// A connection that no partition can cut, already logged in.
    pub fn client(&self) -> Result<Client> {
        self.server.client()
    }

    pub fn role(&self) -> Result<String> {
        self.client()?.role()
    }

    /// One field of INFO.
    pub fn info(&self, section: &str, field: &str) -> Result<String> {
        let info: String = self.client()?.call(redis::cmd("INFO").arg(section))?;
        let value = info.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        value.map(str::to_owned).with_context(|| format!("{} has no {field} in INFO {section}", self.name()))
    }

    /// `run_id`: another one at the same address is another server.
    pub fn id(&self) -> Result<String> {
        self.info("server", "run_id")
    }

    /// Is it a replica whose link is up and whose data is there?
    pub fn linked(&self) -> Result<()> {
        let (link, role) = (self.info("replication", "master_link_status"), self.role()?);
        if role == "slave" && link.as_deref().is_ok_and(|link| link == "up") {
            return Ok(());
        }
        bail!("{} is {role}, its link {link:?}", self.name())
    }

    /// REPLICAOF behind the Sentinels' back; `None` makes it a master.
    pub fn replicate(&self, master: Option<(&str, u16)>) -> Result<()> {
        let mut command = redis::cmd("REPLICAOF");
        match master {
            Some((host, port)) => command.arg(host).arg(port),
            None => command.arg("NO").arg("ONE"),
        };
        self.client()?.call::<String>(&command).map(|_| ())
    }

    /// Connections that data clients have to it, by their addresses: neither the harness nor replication.
    pub fn tcp_clients(&self) -> Result<Vec<String>> {
        let list: String = self.client()?.call(redis::cmd("CLIENT").arg("LIST").arg("TYPE").arg("normal"))?;
        let address = |line: &str| line.split(' ').find_map(|field| field.strip_prefix("addr=").map(str::to_owned));
        Ok(list.lines().filter_map(address).filter(|address| !address.starts_with('/')).collect())
    }

    pub fn door(&self) -> &Door {
        self.server.door()
    }

    pub fn name(&self) -> &str {
        &self.server.name
    }

    pub fn namespace(&self) -> &Namespace {
        &self.server.namespace
    }

    pub fn running(&self) -> bool {
        self.server.running()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGSTOP: its sockets stay, nothing answers.
    pub fn freeze(&self) -> Result<()> {
        self.server.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.server.signal(Signal::SIGCONT)
    }
}
