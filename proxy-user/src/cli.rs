//! The command line: `run`, `check`, `doctor`, `status`, `purge`, `events`. Every flag has an environment variable of the
//! same name with `SWITCHMASTER_` before it. No flag takes a secret: they take where one is.

mod check;
mod exit;
mod routes;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{self, AdminListen, Config, Setting},
    kernel, log,
};

pub use self::{
    check::{check, summary},
    exit::{Exit, Failure},
    routes::Routes,
};

/// One address in front of Redis or Valkey: clients reach the current Sentinel master.
///
/// Exit codes: 0 done, 1 failed, 2 wrong usage or configuration, 77 missing privilege.
#[derive(Debug, Parser)]
#[command(name = "switchmaster", version, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
    #[command(flatten)]
    pub log: Log,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Forward clients, from a file (-c) or from flags alone.
    Run(Box<Run>),
    /// Check a configuration file and say everything that is wrong with it.
    Check(Check),
    /// Say what this kernel, these privileges and these interfaces can do, each "no" with its remedy.
    Doctor(Doctor),
    /// Say what the daemon on this host does: masters, routes, connections.
    Status(Status),
    /// Remove what a daemon that was killed left in the kernel: its connections are reset.
    Purge(Purge),
    /// Say what happened: each switch with its stages, who said what, and when.
    Events(Events),
}

#[derive(Debug, Args)]
pub struct Log {
    /// How lines of the log look.
    #[arg(long, global = true, value_enum, default_value_t, env = "SWITCHMASTER_LOG_FORMAT")]
    pub log_format: log::Format,
    /// off, error, warn, info, debug, trace; or by module: "info,switchmaster::discovery=debug".
    #[arg(long, global = true, value_name = "LEVEL", default_value = "info", env = "SWITCHMASTER_LOG_LEVEL")]
    pub log_level: String,
}

#[derive(Debug, Args)]
pub struct Run {
    /// The configuration file. Without one, the flags below describe one group and one route.
    #[arg(short, long, value_name = "FILE", env = "SWITCHMASTER_CONFIG")]
    pub config: Option<PathBuf>,
    /// At the end (SIGTERM): how long connections may go on before they are severed.
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = drain_time, env = "SWITCHMASTER_DRAIN")]
    pub drain: Duration,
    /// Where the maps are pinned: one folder for each daemon of a host, below a bpffs.
    #[arg(long, value_name = "DIR", default_value = kernel::DEFAULT_DIR, env = "SWITCHMASTER_PIN_DIR")]
    pub pin_dir: PathBuf,
    #[command(flatten)]
    pub routes: Routes,
}

#[derive(Debug, Args)]
pub struct Check {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", env = "SWITCHMASTER_CONFIG")]
    pub config: PathBuf,
}

#[derive(Debug, Args)]
pub struct Doctor {
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Judge by this datapath alone: exit 0 if it works here, 77 if only privileges are missing, else 1.
    #[arg(long, value_name = "NAME", env = "SWITCHMASTER_DATAPATH")]
    pub datapath: Option<config::DatapathChoice>,
    /// The folder of the daemon's pins, as for `run`.
    #[arg(long, value_name = "DIR", default_value = kernel::DEFAULT_DIR, env = "SWITCHMASTER_PIN_DIR")]
    pub pin_dir: PathBuf,
    /// The `cgroup` of [local]; without it the root of cgroup2.
    #[arg(long, value_name = "DIR", env = "SWITCHMASTER_CGROUP")]
    pub cgroup: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct Status {
    /// As JSON, for programs.
    #[arg(long)]
    pub json: bool,
    /// Where the daemon's admin server listens, as in [admin]: "127.0.0.1:9180" or "unix:/run/switchmaster.sock".
    #[arg(long, value_name = "ADDR", default_value_t = default_admin(), env = "SWITCHMASTER_ADMIN")]
    pub admin: AdminListen,
}

#[derive(Debug, Args)]
pub struct Purge {
    /// The folder of the daemon's pins, as for `run`.
    #[arg(long, value_name = "DIR", default_value = kernel::DEFAULT_DIR, env = "SWITCHMASTER_PIN_DIR")]
    pub pin_dir: PathBuf,
    /// Also from under a daemon that runs: its packet datapath ends until it is restarted.
    #[arg(long)]
    pub force: bool,
}

#[derive(Debug, Args)]
pub struct Events {
    /// Go on: tell of each event as it ends. A daemon that restarts is waited for.
    #[arg(long)]
    pub follow: bool,
    /// As JSON, for programs: one event a line.
    #[arg(long)]
    pub json: bool,
    /// Begin with so many of the newest ones.
    #[arg(long, value_name = "N", default_value_t = 20, env = "SWITCHMASTER_LIMIT")]
    pub limit: usize,
    /// Where the daemon's admin server listens, as for `status`.
    #[arg(long, value_name = "ADDR", default_value_t = default_admin(), env = "SWITCHMASTER_ADMIN")]
    pub admin: AdminListen,
}

fn default_admin() -> AdminListen {
    AdminListen::Tcp(SocketAddr::from(([127, 0, 0, 1], 9180)))
}

fn drain_time(text: &str) -> Result<Duration, String> {
    let valid = "valid: \"0s\" (sever at once) to \"1h\"";
    let time = humantime::parse_duration(text).map_err(|_| format!("it is not a duration with a unit; {valid}"))?;
    if time <= Duration::from_secs(3600) { Ok(time) } else { Err(format!("it is too long; {valid}")) }
}

impl Run {
    /// The configuration that the file or the flags describe. Its warnings are logged.
    pub fn configuration(&self) -> Result<Config, Failure> {
        let settings = self.routes.settings();
        let Some(file) = &self.config else {
            if settings.is_empty() {
                return Err(Failure::usage(
                    "there is no configuration; give -c FILE, or at least --listen, --master and --sentinel",
                ));
            }
            return Ok(config::from_flags(&settings)?.log_warnings());
        };
        if !settings.is_empty() {
            return Err(Failure::usage(beside_file(&settings)));
        }
        Ok(config::load(file)?)
    }
}

fn beside_file(settings: &[Setting]) -> String {
    let flag = |setting: &Setting| format!("{} (or {})", setting.flag, variable(setting.flag));
    let flags: Vec<String> = settings.iter().map(flag).collect();
    format!(
        "-c (or SWITCHMASTER_CONFIG) names a file, and so everything is read from there, but these were given too: {}; \
         write them into the file, or leave the file out",
        flags.join(", ")
    )
}

/// The environment variable that stands for a flag.
fn variable(flag: &str) -> String {
    format!("SWITCHMASTER_{}", flag.trim_start_matches('-').to_uppercase().replace('-', "_"))
}

#[cfg(test)]
mod tests;
