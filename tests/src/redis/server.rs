//! What a node and a Sentinel have in common: a program of Redis in a namespace, with a folder for its
//! configuration, its log and its unix socket. It may be killed, frozen and started again.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;

use crate::{
    Client,
    netns::Namespace,
    process::{Process, tail},
    wait,
};

/// A server that lives answers its unix socket well within this.
const ANSWER: Duration = Duration::from_secs(1);
const START: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Server {
    pub(super) name: String,
    pub(super) namespace: Namespace,
    program: &'static str,
    directory: PathBuf,
    door: Door,
    process: Option<Process>,
}

/// The way into a server that no partition can cut: for those who ask again and again, from a thread of
/// their own, whether it runs or not.
#[derive(Debug, Clone)]
pub struct Door {
    socket: PathBuf,
    password: Option<String>,
}

impl Door {
    /// A connection, already logged in.
    pub fn client(&self) -> Result<Client> {
        let mut client = Client::unix(&self.socket, ANSWER)?;
        if let Some(password) = &self.password {
            client.auth(None, password)?;
        }
        Ok(client)
    }
}

impl Server {
    /// Not running yet, and without a configuration. `password` is what `client` logs in with.
    pub(super) fn new(
        program: &'static str,
        name: String,
        namespace: &Namespace,
        parent: &Path,
        password: Option<String>,
    ) -> Result<Self> {
        let directory = parent.join(&name);
        fs::create_dir_all(&directory).with_context(|| format!("the folder of {name}"))?;
        let door = Door { socket: directory.join("s"), password };
        Ok(Self { name, namespace: namespace.clone(), program, directory, door, process: None })
    }

    /// The lines of a configuration that every program of Redis understands.
    pub(super) fn common_lines(&self) -> String {
        let (directory, socket) = (self.directory.display(), &self.door.socket);
        format!("bind * -::*\nprotected-mode no\ndir {directory}\nunixsocket {}\n", socket.display())
    }

    pub(super) fn configure(&self, text: &str) -> Result<()> {
        fs::write(self.file(), text).with_context(|| format!("the configuration of {}", self.name))
    }

    fn file(&self) -> PathBuf {
        self.directory.join("conf")
    }

    /// Starts it anew and waits until it answers.
    pub(super) fn start(&mut self, arguments: &[&str]) -> Result<()> {
        self.launch(arguments)?;
        wait::until(START, format!("{} to answer", self.name), || {
            self.alive()?;
            self.client()?.ping()
        })
    }

    fn launch(&mut self, arguments: &[&str]) -> Result<()> {
        self.kill();
        let mut command = self.namespace.command(self.program);
        command.arg(self.file()).args(arguments);
        self.process = Some(Process::start(&self.name, command, self.directory.join("log"))?);
        Ok(())
    }

    /// An error that shows its log if it has ended by itself.
    fn alive(&mut self) -> Result<()> {
        let process = self.process.as_mut().with_context(|| format!("{} is not running", self.name))?;
        if let Some(status) = process.ended()? {
            bail!("{} ended ({status}): {}", self.name, tail(&process.log()));
        }
        Ok(())
    }

    pub(super) fn door(&self) -> &Door {
        &self.door
    }

    pub(super) fn client(&self) -> Result<Client> {
        self.door.client().with_context(|| self.name.clone())
    }

    pub(super) fn log(&self) -> String {
        self.process.as_ref().map(Process::log).unwrap_or_default()
    }

    pub(super) fn running(&self) -> bool {
        self.process.is_some()
    }

    /// SIGKILL.
    pub(super) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill();
        }
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.as_ref().with_context(|| format!("{} is not running", self.name))?.signal(signal)
    }
}
