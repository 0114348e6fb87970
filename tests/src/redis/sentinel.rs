//! One `redis-sentinel`. Its configuration file is its memory: it writes the epoch and its peers there.

use std::{
    collections::HashMap,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use super::{Node, Spec, Tls};
use crate::{Client, netns::Namespace, process::Process, wait};

const ANSWER: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub struct Sentinel {
    pub address: SocketAddr,
    pub host: String,
    name: String,
    master: String,
    namespace: Namespace,
    directory: PathBuf,
    password: Option<String>,
    process: Option<Process>,
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
        let name = format!("sentinel{index}");
        let port = spec.first_sentinel_port + u16::try_from(index).context("too many Sentinels")?;
        let sentinel = Self {
            address: SocketAddr::new(spec.address_in(namespace), port),
            host: spec.host_in(namespace),
            directory: directory.join(&name),
            name,
            master: spec.name.clone(),
            namespace: namespace.clone(),
            password: spec.passwords.as_ref().map(|passwords| passwords.sentinel.clone()),
            process: None,
        };
        fs::create_dir_all(&sentinel.directory).context("Sentinel directory")?;
        fs::write(sentinel.directory.join("sentinel.conf"), sentinel.configuration(spec, tls, master))
            .context("sentinel.conf")?;
        Ok(sentinel)
    }

    fn configuration(&self, spec: &Spec, tls: Option<&Tls>, master: &Node) -> String {
        let (directory, socket) = (self.directory.display(), self.socket());
        let mut text = format!("bind * -::*\nprotected-mode no\ndir {directory}\nunixsocket {}\n", socket.display());
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

    fn socket(&self) -> PathBuf {
        self.directory.join("s")
    }

    pub fn start(&mut self) -> Result<()> {
        self.kill();
        let mut command = self.namespace.command("redis-sentinel");
        command.arg(self.directory.join("sentinel.conf"));
        self.process = Some(Process::start(&self.name, command, self.directory.join("log"))?);
        let what = format!("{} to answer", self.name);
        wait::until(START, what, || {
            if let Some(process) = self.process.as_mut()
                && let Some(status) = process.ended()?
            {
                bail!("{} ended ({status}): {}", self.name, crate::process::tail(&process.log()));
            }
            self.client()?.ping()
        })
    }

    pub fn client(&self) -> Result<Client> {
        let mut client = Client::unix(&self.socket(), ANSWER).with_context(|| self.name.clone())?;
        if let Some(password) = &self.password {
            client.auth(None, password)?;
        }
        Ok(client)
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
        bail!("{} is not settled: {view:?}", self.name)
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

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn running(&self) -> bool {
        self.process.is_some()
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::SIGSTOP)
    }

    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::SIGCONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().with_context(|| format!("{} is not running", self.name))?.signal(signal)
    }
}
