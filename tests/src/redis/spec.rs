//! What a cluster should look like. The default is the smallest real one: a master, two replicas and
//! three Sentinels of which two must agree, all in `db`.

use std::net::IpAddr;

use crate::netns::{HUB, Namespace};

#[derive(Debug, Clone)]
pub struct Spec {
    /// The Sentinel master name.
    pub name: String,
    pub replicas: usize,
    /// 0: no Sentinels, the nodes are on their own.
    pub sentinels: usize,
    pub quorum: usize,
    pub down_after_ms: u64,
    pub failover_timeout_ms: u64,
    pub passwords: Option<Passwords>,
    /// Nodes and Sentinels speak TLS only.
    pub tls: bool,
    pub ipv6: bool,
    /// Nodes and Sentinels are announced by name, not by address.
    pub hostnames: bool,
    /// Where the nodes run, in turn; the last one also gets what is left over.
    pub node_namespaces: Vec<String>,
    pub sentinel_namespace: String,
    pub first_node_port: u16,
    pub first_sentinel_port: u16,
    /// Lines for every node's configuration.
    pub node_lines: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct Passwords {
    /// `requirepass` of the nodes: what data clients use.
    pub node: String,
    /// `requirepass` of the Sentinels.
    pub sentinel: String,
    /// An ACL user on every node that may do nothing but `+@connection`.
    pub probe: (String, String),
}

impl Default for Spec {
    fn default() -> Self {
        Self {
            name: "mymaster".to_owned(),
            replicas: 2,
            sentinels: 3,
            quorum: 2,
            down_after_ms: 500,
            failover_timeout_ms: 3000,
            passwords: None,
            tls: false,
            ipv6: false,
            hostnames: false,
            node_namespaces: vec!["db".to_owned()],
            sentinel_namespace: "db".to_owned(),
            first_node_port: 6379,
            first_sentinel_port: 26379,
            node_lines: Vec::new(),
        }
    }
}

impl Spec {
    /// No Sentinels: the daemon finds the master by asking the nodes.
    pub fn bare(replicas: usize) -> Self {
        Self { replicas, sentinels: 0, ..Self::default() }
    }

    /// Every node alone in a namespace, `db0`, `db1`..., the Sentinels with the last one.
    pub fn apart() -> Self {
        let spec = Self::default();
        let names: Vec<String> = (0..=spec.replicas).map(|n| format!("db{n}")).collect();
        let sentinel_namespace = names.last().cloned().unwrap_or_default();
        Self { node_namespaces: names, sentinel_namespace, ..spec }
    }

    /// The namespaces a world needs for it, beside the one in the middle.
    pub fn namespaces(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.node_namespaces.iter().map(String::as_str).collect();
        names.push(&self.sentinel_namespace);
        names.sort_unstable();
        names.dedup();
        names.retain(|name| *name != HUB);
        names
    }

    pub(super) fn address_in(&self, namespace: &Namespace) -> IpAddr {
        if self.ipv6 { namespace.ipv6() } else { namespace.ipv4() }
    }

    /// How the servers in `namespace` are called in configurations.
    pub(super) fn host_in(&self, namespace: &Namespace) -> String {
        match (self.hostnames, self.ipv6) {
            (false, _) => self.address_in(namespace).to_string(),
            (true, false) => namespace.name().to_owned(),
            (true, true) => format!("{}6", namespace.name()),
        }
    }
}
