//! One `redis-sentinel`. Its configuration file is its memory: it writes the epoch and its peers there.

use std::{collections::HashMap, net::SocketAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{
    Node, Spec, Tls,
    server::{Door, Server},
};
use crate::{Client, netns::Namespace};

#[derive(Debug)]
pub struct Sentinel {
    pub address: SocketAddr,
    pub host: String,
    master: String,
    server: Server,
}

impl Sentinel {
    pub(super) fn prepare(
        spec: &Spec,
        tls: Option<&Tls>,
        index: usize,
        namespace: &Namespace,
        master: &Node,
        directory: &Path,
    ) -> Result<Self> {
        let port = spec.first_sentinel_port + u16::try_from(index).context("too many Sentinels")?;
        let password = spec.passwords.as_ref().map(|passwords| passwords.sentinel.clone());
        let sentinel = Self {
            address: SocketAddr::new(spec.address_in(namespace), port),
            host: spec.host_in(namespace),
            master: spec.name.clone(),
            server: Server::new("redis-sentinel", format!("sentinel{index}"), namespace, directory, password)?,
        };
        sentinel.server.configure(&sentinel.configuration(spec, tls, master))?;
        Ok(sentinel)
    }

    fn configuration(&self, spec: &Spec, tls: Option<&Tls>, master: &Node) -> String {
        let mut text = self.server.common_lines();
        match tls {
            Some(tls) => {
                text += &format!("port 0\ntls-port {}\ntls-replication yes\n{}", self.address.port(), tls.lines());
            }
            None => text += &format!("port {}\n", self.address.port()),
        }
        if spec.hostnames {
            text += "sentinel resolve-hostnames yes\nsentinel announce-hostnames yes\n";
        }
        text += &format!("sentinel announce-ip {}\nsentinel announce-port {}\n", self.host, self.address.port());
        let name = &spec.name;
        text += &format!(
            "sentinel monitor {name} {} {} {}\nsentinel down-after-milliseconds {name} {}\n\
             sentinel failover-timeout {name} {}\nsentinel parallel-syncs {name} 8\n",
            master.host,
            master.address.port(),
            spec.quorum,
            spec.down_after_ms,
            spec.failover_timeout_ms
        );
        if let Some(passwords) = &spec.passwords {
            let (node, sentinel) = (&passwords.node, &passwords.sentinel);
            text += &format!(
                "sentinel auth-pass {name} {node}\nrequirepass {sentinel}\nsentinel sentinel-pass {sentinel}\n"
            );
        }
        text
    }

    pub fn start(&mut self) -> Result<()> {
        self.server.start(&[])
    }

    pub fn client(&self) -> Result<Client> {
        self.server.client()
    }

    /// `SENTINEL MASTER`, field by field.
    pub fn view(&self) -> Result<HashMap<String, String>> {
        self.client()?.call(redis::cmd("SENTINEL").arg("MASTER").arg(&self.master))
    }

    /// The master's port and the config-epoch it is known under.
    pub fn names(&self) -> Result<(String, u16, u64)> {
        let view = self.view()?;
        let field = |name: &str| view.get(name).with_context(|| format!("no {name} in SENTINEL MASTER"));
        Ok((
            field("ip")?.clone(),
            field("port")?.parse().context("port")?,
            field("config-epoch")?.parse().context("config-epoch")?,
        ))
    }

    /// Are all replicas believed to be well?
    pub(super) fn replicas_well(&self) -> Result<()> {
        let replicas: Vec<HashMap<String, String>> =
            self.client()?.call(redis::cmd("SENTINEL").arg("REPLICAS").arg(&self.master))?;
        let ill = replicas.iter().find(|view| view.get("flags").is_none_or(|flags| flags != "slave"));
        ill.map_or(Ok(()), |ill| bail!("{} has a replica that is not well: {ill:?}", self.name()))
    }

    /// Are all the others known, and the master believed to be well?
    pub(super) fn settled(&self, spec: &Spec) -> Result<()> {
        let view = self.view()?;
        let is = |name: &str, wanted: &str| view.get(name).is_some_and(|value| value == wanted);
        if is("flags", "master")
            && is("num-slaves", &spec.replicas.to_string())
            && is("num-other-sentinels", &(spec.sentinels - 1).to_string())
        {
            return Ok(());
        }
        bail!("{} is not settled: {view:?}", self.name())
    }

    /// How often it looks around: Redis 7's debugging knob, which older and other servers may lack.
    pub(super) fn pace(&self, publish_ms: u32, info_ms: u32) {
        for (period, ms) in [("publish-period", publish_ms), ("info-period", info_ms)] {
            let set = |mut client: Client| -> Result<String> {
                client.call(redis::cmd("SENTINEL").arg("DEBUG").arg(period).arg(ms))
            };
            let _unsupported = self.client().and_then(set);
        }
    }

    pub fn failover(&self) -> Result<()> {
        self.client()?.call::<String>(redis::cmd("SENTINEL").arg("FAILOVER").arg(&self.master)).map(|_| ())
    }

    pub fn door(&self) -> &Door {
        self.server.door()
    }

    pub fn name(&self) -> &str {
        &self.server.name
    }

    /// All it wrote since it was started.
    pub(super) fn log(&self) -> String {
        self.server.log()
    }

    pub fn running(&self) -> bool {
        self.server.running()
    }

    pub fn kill(&mut self) {
        self.server.kill();
    }

    pub fn freeze(&self) -> Result<()> {
        self.server.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.server.signal(Signal::SIGCONT)
    }
}
