//! `[[group]]`: one master with its replicas, who says which node it is, and how to ask.

use super::{
    Access, Check, Commit, Group, HostPort, Name, Source, credential,
    errors::{Invalid, quoted},
    quantity::{duration, duration_or_zero, ms, number, secs},
    raw::Value,
    schema,
    section::{ListShape, Placed, Section},
    tls,
};

const SENTINELS: ListShape =
    ListShape { max: 64, single: false, valid: "valid: a list such as [\"10.0.0.10:26379\", \"10.0.0.20:26379\"]" };
const NODES: ListShape =
    ListShape { max: 256, single: false, valid: "valid: a list such as [\"10.0.0.10:6379\", \"10.0.0.20:6379\"]" };

/// A group, and the servers that it names with their places.
pub(super) struct Read {
    pub(super) group: Group,
    pub(super) servers: Vec<Placed<HostPort>>,
}

pub(super) fn read(section: &Section<'_>, name: Option<Name>) -> Option<Read> {
    let source = source(section);
    // Everything is read before anything is given up, so that all problems are found at once.
    let (node_tls, sentinel_tls) = tls::read(section);
    let (username, password) = section.login(&credential::NODE);
    let node_access = Access { username, password, tls: node_tls };
    let (username, password) = section.login(&credential::SENTINEL);
    let sentinel_access = Access { username, password, tls: sentinel_tls };
    let commit = section.or("commit", Commit::default(), Section::parsed);
    let quorum_grace = section.or("quorum_grace", secs(10), duration_or_zero("no grace", ms(100)..=secs(3600)));
    let require_backlog = section.or("require_backlog", false, Section::boolean);
    let check = check(section);
    let (source, servers) = source?;
    let name = name?;
    let group = Group { name, source, commit, quorum_grace, check, require_backlog, node_access, sentinel_access };
    Some(Read { group, servers })
}

/// A group's or route's name: it labels logs, metrics and files.
pub(super) fn name(value: &Value) -> Result<Name, Invalid> {
    let name = Section::text(value)?;
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if plain && name.len() <= 64 && !name.starts_with('.') {
        return Ok(name.into());
    }
    let what = format!("{} is not a name", quoted(name));
    Err(Invalid::new(
        what,
        "valid: up to 64 letters, digits, \"-\", \"_\" and \".\" (not first), as Sentinel takes them",
    ))
}

fn source(section: &Section<'_>) -> Option<(Source, Vec<Placed<HostPort>>)> {
    let (sentinels, nodes) = (section.label("sentinels"), section.label("nodes"));
    let key = match (section.has("sentinels"), section.has("nodes")) {
        (true, true) => {
            section.refuse("nodes", Invalid::new(format!("stands beside {sentinels}"), "keep one of the two"));
            "sentinels"
        }
        (false, false) => {
            let valid = format!("give {sentinels} (they say who is master) or {nodes} (each is asked itself)");
            section.refuse("sentinels", Invalid::new("is missing", valid));
            return None;
        }
        (true, false) => {
            // Whoever asks for this test counts on it, so leaving it out silently would be worse than an error.
            if section.has("require_backlog") {
                let valid = format!("remove it: it is a test for groups of {nodes}");
                section.refuse("require_backlog", Invalid::new("cannot be used with Sentinels", valid));
            }
            "sentinels"
        }
        (false, true) => {
            let keys = [&credential::SENTINEL.all()[..], &["sentinel_tls", "commit", "quorum_grace"]].concat();
            section.idle(&keys, "has no effect without Sentinels", "remove it");
            "nodes"
        }
    };
    let shape = if key == "nodes" { NODES } else { SENTINELS };
    let servers = section.list(key, shape, Section::parsed::<HostPort>)?;
    let mut seen = std::collections::BTreeSet::new();
    for server in servers.iter().filter(|server| !seen.insert(&server.value)) {
        let what = format!("\"{}\" is in the list twice", server.value);
        section.context.refuse(&server.path, server.at, Invalid::new(what, "name each server once"));
    }
    let hosts = servers.iter().map(|server| server.value.clone()).collect();
    let source = if key == "nodes" { Source::Nodes(hosts) } else { Source::Sentinels(hosts) };
    Some((source, servers))
}

fn check(group: &Section<'_>) -> Check {
    let default = Check::default();
    let Some(section) = group.section("check", &schema::CHECK) else {
        return default;
    };
    let interval = section.or("interval", default.interval, duration(ms(10)..=secs(3600)));
    // A short interval given alone speeds up the default of the fast one too.
    let fast = default.fast_interval.min(interval);
    let fast_interval = section.or("fast_interval", fast, duration(ms(1)..=secs(3600)));
    if fast_interval > interval {
        let what = format!("is longer than {}", section.label("interval"));
        section.refuse("fast_interval", Invalid::new(what, "valid: at most as long"));
    }
    Check {
        interval,
        fast_interval,
        down_interval: section.or("down_interval", default.down_interval, duration(ms(10)..=secs(3600))),
        timeout: section.or("timeout", default.timeout, duration(ms(10)..=secs(60))),
        rise: section.or("rise", default.rise, number(1..=1000)),
        fall: section.or("fall", default.fall, number(1..=1000)),
    }
}
