//! Configuration files for the daemon. Values are put in as TOML, so that a test can also write
//! what the builder has no method for.

use std::{
    fmt::Display,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::redis::{Cluster, Passwords};

#[derive(Debug, Clone)]
pub struct Config {
    pub(super) name: String,
    pub(super) admin_port: u16,
    pub(super) program: Option<PathBuf>,
    pub(super) arguments: Vec<String>,
    pub(super) environment: Vec<(String, String)>,
    pub(super) launcher: Vec<String>,
    top: Vec<String>,
    local: Vec<String>,
    groups: Vec<Group>,
    routes: Vec<Route>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            name: "switchmaster".to_owned(),
            admin_port: 9180,
            program: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            launcher: Vec::new(),
            top: Vec::new(),
            local: Vec::new(),
            groups: Vec::new(),
            routes: Vec::new(),
        }
    }
}

impl Config {
    /// A second daemon in the same world needs another name and another admin port.
    pub fn named(name: &str, admin_port: u16) -> Self {
        Self { name: name.to_owned(), admin_port, ..Self::default() }
    }

    /// This very program, and not the one that [`super::binary`] finds.
    pub fn program(mut self, program: PathBuf) -> Self {
        self.program = Some(program);
        self
    }

    pub fn argument(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// A program with arguments that is given the daemon's command line and becomes the daemon: to take
    /// privileges, limits or mounts away from it.
    pub fn launched_by(mut self, launcher: &[&str]) -> Self {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
        self
    }

    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    /// A key of the top level; `value` as it stands in TOML.
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.top.push(format!("{key} = {value}\n"));
        self
    }

    /// A key of `[local]`. Without any, steering is off: it has tests of its own, and in the others every client comes over
    /// the network.
    pub fn local(mut self, key: &str, value: impl Display) -> Self {
        self.local.push(format!("{key} = {value}\n"));
        self
    }

    pub fn group(mut self, group: Group) -> Self {
        self.environment.extend(group.environment.iter().cloned());
        self.groups.push(group);
        self
    }

    pub fn route(mut self, route: Route) -> Self {
        self.routes.push(route);
        self
    }

    /// The file's text.
    pub fn text(&self) -> String {
        let mut text = format!("{}[admin]\nlisten = \"127.0.0.1:{}\"\n", self.top.concat(), self.admin_port);
        for group in &self.groups {
            text += &format!("\n[[group]]\n{}", group.lines.concat());
        }
        for route in &self.routes {
            text += &format!("\n[[route]]\n{}", route.lines.concat());
        }
        let local = if self.local.is_empty() { "steering = \"off\"\n".to_owned() } else { self.local.concat() };
        format!("{text}\n[local]\n{local}")
    }
}

#[derive(Debug, Clone)]
pub struct Group {
    lines: Vec<String>,
    environment: Vec<(String, String)>,
}

impl Group {
    pub fn new(name: &str) -> Self {
        Self { lines: Vec::new(), environment: Vec::new() }.set("name", quoted(name))
    }

    /// Everything needed to follow `cluster`: its Sentinels (or its nodes), passwords and certificates.
    pub fn of(cluster: &Cluster) -> Self {
        let mut group = Self::new(&cluster.spec.name);
        group = if cluster.sentinels.is_empty() {
            group.set("nodes", list(cluster.nodes.iter().map(|node| host_port(&node.host, node.address.port()))))
        } else {
            let name = |host: &str, port| host_port(host, port);
            group.set("sentinels", list(cluster.sentinels.iter().map(|one| name(&one.host, one.address.port()))))
        };
        if let Some(passwords) = &cluster.spec.passwords {
            group = group.passwords(passwords);
        }
        if let Some(tls) = &cluster.tls {
            let file = |path: &Path| quoted(path.display());
            group = group.set(
                "tls",
                format!(
                    "{{ ca_file = {}, cert_file = {}, key_file = {}, server_name = {} }}",
                    file(&tls.ca_file),
                    file(&tls.cert_file),
                    file(&tls.key_file),
                    quoted(crate::redis::SERVER_NAME)
                ),
            );
        }
        group
    }

    /// Probes come as the ACL user that may do nothing but `+@connection`.
    fn passwords(mut self, passwords: &Passwords) -> Self {
        let (user, password) = &passwords.probe;
        self.environment.push(("NODE_PASSWORD".to_owned(), password.clone()));
        self.environment.push(("SENTINEL_PASSWORD".to_owned(), passwords.sentinel.clone()));
        self.set("username", quoted(user))
            .set("password_env", quoted("NODE_PASSWORD"))
            .set("sentinel_password_env", quoted("SENTINEL_PASSWORD"))
    }

    /// `value` as it stands in TOML.
    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.lines.push(format!("{key} = {value}\n"));
        self
    }

    pub fn quorum_grace(self, grace: Duration) -> Self {
        self.set("quorum_grace", quoted(format_args!("{}ms", grace.as_millis())))
    }
}

#[derive(Debug, Clone)]
pub struct Route {
    lines: Vec<String>,
}

impl Route {
    pub fn new(name: &str, group: &str, target: &str, datapath: &str, listen: &[SocketAddr]) -> Self {
        Self { lines: Vec::new() }
            .set("name", quoted(name))
            .set("listen", list(listen.iter().map(ToString::to_string)))
            .set("group", quoted(group))
            .set("target", quoted(target))
            .set("datapath", quoted(datapath))
    }

    pub fn set(mut self, key: &str, value: impl Display) -> Self {
        self.lines.push(format!("{key} = {value}\n"));
        self
    }

    pub fn park(self, limit: u32, timeout: Duration) -> Self {
        self.set("park", format_args!("{{ limit = {limit}, timeout = \"{}ms\" }}", timeout.as_millis()))
    }
}

/// A TOML string.
pub fn quoted(value: impl Display) -> String {
    // Debug escapes what TOML's basic strings want escaped; harness values hold nothing beyond ASCII.
    format!("{:?}", value.to_string())
}

fn list(values: impl Iterator<Item = String>) -> String {
    let values: Vec<String> = values.map(quoted).collect();
    format!("[{}]", values.join(", "))
}

fn host_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
