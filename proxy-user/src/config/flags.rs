//! A configuration of one group and one route, told by flags. The flags become the same tree of values
//! as a file, so one set of rules checks both; this table also names the flag in every message.

use std::collections::BTreeMap;

use super::raw::{Entry, Kind, Value};

/// A flag that was given (or its environment variable), with its values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// As typed: `--listen`.
    pub flag: &'static str,
    pub values: Vec<String>,
}

/// How a flag's values stand in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    One,
    Many,
    /// The table exists; it may stay empty.
    Present,
    /// The table is replaced by `"off"`.
    Off,
}

struct Flag {
    name: &'static str,
    table: &'static str,
    key: &'static str,
    shape: Shape,
}

const fn flag(name: &'static str, table: &'static str, key: &'static str, shape: Shape) -> Flag {
    Flag { name, table, key, shape }
}

/// No table: the top level.
const ROOT: &str = "";
const ADMIN: &str = "admin";
const GROUP: &str = "group[0]";
const TLS: &str = "group[0].tls";
const SENTINEL_TLS: &str = "group[0].sentinel_tls";
const ROUTE: &str = "route[0]";

const FLAGS: [Flag; 32] = [
    flag("--listen", ROUTE, "listen", Shape::Many),
    flag("--target", ROUTE, "target", Shape::One),
    flag("--datapath", ROUTE, "datapath", Shape::One),
    flag("--balance", ROUTE, "balance", Shape::One),
    flag("--max-lag", ROUTE, "max_lag", Shape::One),
    flag("--fallback", ROUTE, "fallback", Shape::One),
    flag("--allow", ROUTE, "allow", Shape::Many),
    flag("--max-connections", ROUTE, "max_connections", Shape::One),
    flag("--master", GROUP, "name", Shape::One),
    flag("--sentinel", GROUP, "sentinels", Shape::Many),
    flag("--node", GROUP, "nodes", Shape::Many),
    flag("--commit", GROUP, "commit", Shape::One),
    flag("--username", GROUP, "username", Shape::One),
    flag("--password-env", GROUP, "password_env", Shape::One),
    flag("--password-file", GROUP, "password_file", Shape::One),
    flag("--sentinel-username", GROUP, "sentinel_username", Shape::One),
    flag("--sentinel-password-env", GROUP, "sentinel_password_env", Shape::One),
    flag("--sentinel-password-file", GROUP, "sentinel_password_file", Shape::One),
    flag("--tls", TLS, "", Shape::Present),
    flag("--tls-ca-file", TLS, "ca_file", Shape::One),
    flag("--tls-cert-file", TLS, "cert_file", Shape::One),
    flag("--tls-key-file", TLS, "key_file", Shape::One),
    flag("--tls-server-name", TLS, "server_name", Shape::One),
    flag("--sentinel-tls-off", SENTINEL_TLS, "", Shape::Off),
    flag("--sentinel-tls-ca-file", SENTINEL_TLS, "ca_file", Shape::One),
    flag("--sentinel-tls-cert-file", SENTINEL_TLS, "cert_file", Shape::One),
    flag("--sentinel-tls-key-file", SENTINEL_TLS, "key_file", Shape::One),
    flag("--sentinel-tls-server-name", SENTINEL_TLS, "server_name", Shape::One),
    flag("--admin-listen", ADMIN, "listen", Shape::One),
    flag("--admin-token-file", ADMIN, "token_file", Shape::One),
    flag("--state-dir", ROOT, "state_dir", Shape::One),
    flag("--orphan-grace", ROOT, "orphan_grace", Shape::One),
];

/// The flag for a path of the tree; the path itself if no flag leads there.
pub(super) fn label(path: &str) -> String {
    let of = |path: &str| {
        let named = |flag: &&Flag| match flag.key {
            "" => flag.table == path,
            key if flag.table == ROOT => path == key,
            key => path.strip_prefix(flag.table).and_then(|rest| rest.strip_prefix('.')) == Some(key),
        };
        FLAGS.iter().find(named).map(|flag| flag.name.to_owned())
    };
    // "route[0].listen[2]" is the third `--listen`: its value says which one.
    let list = path.strip_suffix(']').and_then(|path| path.rsplit_once('[')).map(|(list, _)| list);
    of(path).or_else(|| of(list?)).unwrap_or_else(|| path.to_owned())
}

/// The tree of a file that says the same as the flags.
pub(super) fn tree(settings: &[Setting]) -> Value {
    let mut tables: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
    let mut off = false;
    for setting in settings {
        let Some(flag) = FLAGS.iter().find(|flag| flag.name == setting.flag) else {
            debug_assert!(false, "{} is in no table of flags", setting.flag);
            continue;
        };
        let mut texts = setting.values.iter().cloned().map(|text| value(Kind::Text(text)));
        match (flag.shape, texts.next()) {
            (Shape::Off, _) => off = true,
            (Shape::Present, _) => drop(tables.entry(flag.table).or_default()),
            (Shape::One, Some(text)) => tables.entry(flag.table).or_default().push(entry(flag.key, text)),
            (Shape::Many, first) => {
                let list = value(Kind::List(first.into_iter().chain(texts).collect()));
                tables.entry(flag.table).or_default().push(entry(flag.key, list));
            }
            (Shape::One, None) => {}
        }
    }
    assemble(tables, off)
}

fn assemble(mut tables: BTreeMap<&str, Vec<Entry>>, sentinel_tls_off: bool) -> Value {
    let mut group = tables.remove(GROUP).unwrap_or_default();
    if has(&group, "nodes") && !has(&group, "name") {
        group.push(entry("name", text("default")));
    }
    for (table, key) in [(TLS, "tls"), (SENTINEL_TLS, "sentinel_tls")] {
        if let Some(entries) = tables.remove(table) {
            group.push(entry(key, value(Kind::Table(entries))));
        }
    }
    if sentinel_tls_off && !has(&group, "sentinel_tls") {
        group.push(entry("sentinel_tls", text("off")));
    }
    let mut route = tables.remove(ROUTE).unwrap_or_default();
    let name =
        group.iter().find(|entry| entry.key == "name").map_or_else(|| text("default"), |entry| entry.value.clone());
    route.extend([entry("name", text("default")), entry("group", name)]);
    let list = |entries| value(Kind::List(vec![value(Kind::Table(entries))]));
    let mut root = vec![entry("group", list(group)), entry("route", list(route))];
    root.extend(tables.remove(ROOT).unwrap_or_default());
    if let Some(entries) = tables.remove(ADMIN) {
        root.push(entry(ADMIN, value(Kind::Table(entries))));
    }
    value(Kind::Table(root))
}

fn has(entries: &[Entry], key: &str) -> bool {
    entries.iter().any(|entry| entry.key == key)
}

fn entry(key: &str, value: Value) -> Entry {
    Entry { key: key.to_owned(), at: None, value }
}

fn value(kind: Kind) -> Value {
    Value { at: None, kind }
}

fn text(text: &str) -> Value {
    value(Kind::Text(text.to_owned()))
}
