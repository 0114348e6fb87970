//! `switchmaster check -c FILE`: "FILE: ok" and what the file sets up, or everything that is wrong with
//! it. Touches nothing but the file and the files that it names.

use std::{
    fmt::Write as _,
    io::{self, Write},
    path::Path,
};

use super::Exit;
use crate::config::{self, Config, Group, Route, Source, TargetRole};

/// The answer goes to `out`; warnings and errors to `err`.
pub fn check(file: &Path, out: &mut impl Write, err: &mut impl Write) -> io::Result<Exit> {
    match config::read(file) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                writeln!(err, "warning: {warning}")?;
            }
            write!(out, "{}: ok\n{}", file.display(), summary(&loaded.config))?;
            Ok(Exit::Done)
        }
        Err(errors) => {
            writeln!(err, "{errors}")?;
            Ok(Exit::Usage)
        }
    }
}

/// What a configuration sets up, a line for each part.
pub fn summary(config: &Config) -> String {
    let mut text = String::new();
    for group in &config.groups {
        text.push_str(&group_line(group));
    }
    for route in &config.routes {
        text.push_str(&route_line(config, route));
    }
    // Writing to a String cannot fail.
    let _infallible = match &config.admin {
        Some(admin) if admin.token.is_some() => writeln!(text, "admin  {} (with a token)", admin.listen),
        Some(admin) => writeln!(text, "admin  {}", admin.listen),
        None => writeln!(text, "admin  none"),
    };
    if let Some(dir) = &config.state_dir {
        let _infallible = writeln!(text, "events are kept in {}", dir.display());
    }
    text
}

fn group_line(group: &Group) -> String {
    let (servers, kind, auth) = match &group.source {
        Source::Sentinels(servers) => (servers, "Sentinels", Some(&group.sentinel_access)),
        Source::Nodes(servers) => (servers, "nodes", None),
    };
    let servers: Vec<String> = servers.iter().map(ToString::to_string).collect();
    let access = |name: &str, access: &config::Access| {
        let user = access.username.as_deref().unwrap_or("default");
        let login = access.password.as_ref().map_or("no password".to_owned(), |_| format!("password for user {user}"));
        let tls = if access.tls.is_some() { ", TLS" } else { "" };
        format!("; to {name}: {login}{tls}")
    };
    let to_sentinels = auth.map(|auth| access("Sentinels", auth)).unwrap_or_default();
    let to_nodes = access("nodes", &group.node_access);
    format!("group  {}: {kind} {}{to_nodes}{to_sentinels}\n", group.name, servers.join(", "))
}

fn route_line(config: &Config, route: &Route) -> String {
    let listen: Vec<String> = route.listen.iter().map(ToString::to_string).collect();
    let group = config.groups.get(route.group).map_or("", |group| &*group.name);
    let target = match route.target {
        TargetRole::Master => "master".to_owned(),
        TargetRole::Replica => format!("replicas ({}, lag up to {})", route.balance, route.max_lag),
    };
    format!("route  {}: {} -> {target} of {group}, datapath {}\n", route.name, listen.join(", "), route.datapath)
}
