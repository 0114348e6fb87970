//! What the operator asked for, checked. Everything after this module deals in these types only:
//! a value of [`Config`] has no impossible combination left in it.

mod address;
mod check;
mod choice;
mod context;
mod credential;
mod errors;
mod file;
mod flags;
mod group;
mod load;
mod quantity;
mod raw;
mod root;
mod route;
mod schema;
mod secret;
mod section;
#[cfg(test)]
mod tests;
mod tls;

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use ipnet::IpNet;

pub use self::{
    errors::{Errors, Invalid, Position, Problem},
    flags::Setting,
    load::{Loaded, from_flags, load, read},
    secret::Secret,
};

#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where events outlive the daemon; absent: they do not.
    pub state_dir: Option<PathBuf>,
    /// How long the kernel lets new connections to the last proven master when the daemon is dead.
    pub orphan_grace: Duration,
    pub admin: Option<Admin>,
    pub groups: Vec<Group>,
    pub routes: Vec<Route>,
    pub local: Local,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    pub listen: AdminListen,
    pub token: Option<Secret>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum AdminListen {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A name from the configuration, cheap to clone: it labels logs, metrics and status.
pub type Name = Arc<str>;

#[derive(Debug, Clone, PartialEq)]
pub struct Group {
    /// The Sentinel master name.
    pub name: Name,
    pub source: Source,
    pub commit: Commit,
    pub quorum_grace: Duration,
    pub check: Check,
    /// Without Sentinels only: a master must have an active replication backlog too.
    pub require_backlog: bool,
    pub node_access: Access,
    pub sentinel_access: Access,
}

/// Who says which node is master.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    Sentinels(Vec<HostPort>),
    Nodes(Vec<HostPort>),
}

/// How to talk to a server: who we are there, and through what.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Access {
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub tls: Option<Tls>,
}

#[derive(Debug, Clone, PartialEq, Default)]
pub struct Tls {
    /// Absent: the system's trust store.
    pub ca_file: Option<PathBuf>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Absent: the host of the address that was dialled.
    pub server_name: Option<String>,
}

/// An address as written: an IP address or a name still to be resolved.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostPort {
    pub host: String,
    pub port: u16,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Commit {
    #[default]
    Majority,
    Early,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    pub interval: Duration,
    pub fast_interval: Duration,
    pub down_interval: Duration,
    pub timeout: Duration,
    pub rise: u32,
    pub fall: u32,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(1),
            fast_interval: Duration::from_millis(100),
            down_interval: Duration::from_millis(500),
            timeout: Duration::from_millis(500),
            rise: 1,
            fall: 3,
        }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    pub name: Name,
    pub listen: Vec<SocketAddr>,
    /// The group's place in [`Config::groups`].
    pub group: usize,
    pub target: TargetRole,
    pub datapath: DatapathChoice,
    pub balance: Balance,
    pub max_lag: Lag,
    pub fallback: Fallback,
    /// Absent: everyone.
    pub allow: Option<Vec<IpNet>>,
    pub max_connections: u32,
    pub connect_timeout: Duration,
    /// Zero: never.
    pub idle_timeout: Duration,
    pub park: Park,
    /// Own addresses that nodes see its packets from; empty: what the kernel's route to a node prefers.
    pub snat: Vec<IpAddr>,
    /// New connections a second let through to a new master; 0: no limit.
    pub reconnect_rate: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetRole {
    Master,
    Replica,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum DatapathChoice {
    #[default]
    Auto,
    Xdp,
    Tc,
    Sockmap,
    Copy,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Balance {
    #[default]
    RoundRobin,
    LeastConnections,
    SourceHash,
}

/// How far behind its master a replica may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lag {
    Time(Duration),
    Bytes(u64),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fallback {
    #[default]
    None,
    Master,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Park {
    pub limit: u32,
    pub timeout: Duration,
}

impl Default for Park {
    fn default() -> Self {
        Self { limit: 10_000, timeout: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Local {
    pub steering: Steering,
    pub bypass: bool,
    /// Programs, as the kernel names them, whose connections are not bypassed.
    pub bypass_except: Vec<String>,
    pub all_namespaces: bool,
    /// Absent: the cgroup2 root found in /proc/mounts.
    pub cgroup: Option<PathBuf>,
}

impl Default for Local {
    fn default() -> Self {
        Self {
            steering: Steering::default(),
            bypass: false,
            bypass_except: vec!["haproxy".to_owned()],
            all_namespaces: false,
            cgroup: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Steering {
    #[default]
    Auto,
    On,
    Off,
}
