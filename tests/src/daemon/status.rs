//! The admin API's status as tests read it: what they ask for is required, the rest is left alone.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::{Context as _, Result};
use serde::Deserialize;

#[derive(Debug, Clone, Deserialize)]
pub struct Status {
    pub version: String,
    pub uptime_ms: u64,
    pub ready: bool,
    pub groups: Vec<GroupStatus>,
    pub routes: Vec<RouteStatus>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct GroupStatus {
    pub name: String,
    /// `open`, `established` or `closed`.
    pub way: String,
    pub reason: String,
    pub master: Option<Master>,
    pub replicas: Vec<serde_json::Value>,
    pub sentinels: Vec<serde_json::Value>,
    pub nodes: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Master {
    pub addr: SocketAddr,
    pub epoch: Option<u64>,
    pub id: Option<String>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct RouteStatus {
    pub name: String,
    pub listen: Vec<SocketAddr>,
    pub group: String,
    pub target: String,
    pub datapath: String,
    pub datapath_reason: Option<String>,
    pub state: String,
    pub generation: u64,
    pub connections: u64,
    pub steered: u64,
    pub bypassed: u64,
    pub parked: u64,
    pub severed: u64,
    pub refused: BTreeMap<String, u64>,
    pub switches: u64,
    pub targets: Vec<Target>,
}

#[derive(Debug, Clone, Deserialize)]
pub struct Target {
    pub addr: SocketAddr,
    pub state: String,
    pub connections: u64,
}

impl Status {
    pub fn group(&self, name: &str) -> Result<&GroupStatus> {
        self.groups.iter().find(|group| group.name == name).with_context(|| format!("no group {name} in the status"))
    }

    pub fn route(&self, name: &str) -> Result<&RouteStatus> {
        self.routes.iter().find(|route| route.name == name).with_context(|| format!("no route {name} in the status"))
    }
}
