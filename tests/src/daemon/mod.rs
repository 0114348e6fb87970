//! The daemon under test: `switchmaster run -c FILE` in a namespace, its log, and its admin API.
//! The binary is `$SWITCHMASTER_BIN`, or the newest build next to the test's own executable.

mod config;
mod status;

use std::{
    env,
    error::Error,
    ffi::OsString,
    fmt, fs,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;

pub use self::{
    config::{Config, Group, Route, quoted},
    status::{GroupStatus, Master, RouteStatus, Status},
};
use crate::{
    http::{self, Response},
    netns::{Namespace, World},
    process::{Process, tail},
    wait,
};

const READY: Duration = Duration::from_secs(15);

#[derive(Debug)]
pub struct Daemon {
    namespace: Namespace,
    admin: SocketAddr,
    process: Process,
}

/// The daemon ended before it was ready.
#[derive(Debug)]
pub struct Refusal {
    status: ExitStatus,
    log: String,
}

impl Refusal {
    /// Its last words.
    pub fn why(&self) -> &str {
        self.log.lines().next_back().unwrap_or("it said nothing").trim_start_matches("switchmaster: ")
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the daemon has ended ({}); its log ends with\n{}", self.status, tail(&self.log))
    }
}

impl Error for Refusal {}

impl Daemon {
    /// Starts it in `proxy` and waits until it says it is ready.
    pub fn start(world: &World, config: &Config) -> Result<Self> {
        let daemon = Self::launch(world, config)?;
        daemon.wait_ready()
    }

    /// Starts it and does not wait for anything.
    pub fn launch(world: &World, config: &Config) -> Result<Self> {
        let namespace = world.proxy()?.clone();
        let directory = world.directory().join(&config.name);
        fs::create_dir_all(&directory).context("daemon directory")?;
        let file = directory.join("switchmaster.toml");
        fs::write(&file, config.text()).context("configuration")?;
        let program = config.program.clone().map_or_else(binary, Ok)?;
        let mut words = config.launcher.iter().map(OsString::from).chain([program.into_os_string()]);
        let mut command = namespace.command(words.next().context("no program")?);
        command.args(words).arg("run").arg("-c").arg(&file).args(&config.arguments);
        command.envs(config.environment.iter().map(|(key, value)| (key, value)));
        let process = Process::start(&config.name, command, directory.join("log"))?;
        let admin = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), config.admin_port);
        Ok(Self { namespace, admin, process })
    }

    /// Waits until `/readyz` says so; a daemon that ends instead is a [`Refusal`].
    pub fn wait_ready(mut self) -> Result<Self> {
        let end = wait::until(READY, "the daemon to be ready", || {
            if let Some(status) = self.process.ended()? {
                return Ok(Some(status));
            }
            let answer = self.get("/readyz")?;
            ensure!(answer.code == 200, "/readyz says {}: {}", answer.code, answer.body);
            Ok(None)
        })
        .with_context(|| format!("the daemon's log ends with\n{}", tail(&self.process.log())))?;
        match end {
            None => Ok(self),
            Some(status) => Err(Refusal { status, log: self.process.log() }.into()),
        }
    }

    pub fn get(&self, path: &str) -> Result<Response> {
        http::get(&self.namespace, self.admin, path)
    }

    /// What `switchmaster events --json` prints, which is asked with the daemon's own program.
    pub fn events(&self) -> Result<Vec<serde_json::Value>> {
        let output = self.events_command()?.output().context("switchmaster events")?;
        let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "switchmaster events: {}: {err}", output.status);
        out.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }

    /// `switchmaster events --json --follow`; its log is what it tells, line by line.
    pub fn follow_events(&self) -> Result<Process> {
        let mut command = self.events_command()?;
        command.arg("--follow");
        Process::start("follower", command, self.process.log_path().with_extension("events"))
    }

    fn events_command(&self) -> Result<Command> {
        let mut command = self.namespace.command(binary()?);
        command.args(["events", "--json", "--admin", &self.admin.to_string()]);
        Ok(command)
    }

    pub fn status(&self) -> Result<Status> {
        let answer = self.get("/api/v1/status")?;
        ensure!(answer.code == 200, "status says {}: {}", answer.code, answer.body);
        serde_json::from_str(&answer.body)
            .with_context(|| format!("not the status that was agreed on: {}", answer.body))
    }

    /// Waits until the group's master is the node at this address.
    pub fn wait_master(&self, group: &str, address: SocketAddr, limit: Duration) -> Result<()> {
        wait::until(limit, format_args!("{address} to be the daemon's master"), || {
            let status = self.status()?;
            let group = status.group(group)?;
            match &group.master {
                Some(master) if master.addr == address => Ok(()),
                other => bail!("it is {other:?}, way {} ({})", group.way, group.reason),
            }
        })
        .with_context(|| format!("the daemon's log ends with\n{}", tail(&self.process.log())))
    }

    /// Waits until the group is `open`, `established` or `closed`.
    pub fn wait_way(&self, group: &str, way: &str, limit: Duration) -> Result<()> {
        wait::until(limit, format_args!("the group to be {way}"), || {
            let status = self.status()?;
            let group = status.group(group)?;
            ensure!(group.way == way, "it is {} ({})", group.way, group.reason);
            Ok(())
        })
    }

    pub fn process(&self) -> &Process {
        &self.process
    }

    pub fn log(&self) -> String {
        self.process.log()
    }

    /// SIGTERM: the daemon starts to drain.
    pub fn terminate(&self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.process.wait(limit)
    }

    /// SIGTERM, and wait for the end.
    pub fn stop(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.terminate()?;
        self.wait(limit)
    }
}

/// The daemon's program.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = env::var_os("SWITCHMASTER_BIN") {
        return Ok(path.into());
    }
    let here = env::current_exe().context("the path of this program")?;
    // target/debug/deps/ha-0123: the profiles' folders lie in the third one up.
    let target = here.ancestors().find(|dir| dir.join("release").is_dir() || dir.join("debug").is_dir());
    let target = target.context("this program does not lie in a target folder; set SWITCHMASTER_BIN")?;
    ["release", "debug"]
        .map(|profile| target.join(profile).join("switchmaster"))
        .into_iter()
        .filter_map(|path| Some((path.metadata().ok()?.modified().ok()?, path)))
        .max()
        .map(|(_, path)| path)
        .context("the daemon has not been built: run `cargo build --release`, or set SWITCHMASTER_BIN")
}
