//! Every table of a configuration and its keys, written once: a key that is not here is refused,
//! and `docs/configuration.md` and the example file are tested against this list.

#[derive(Debug)]
pub(super) struct Table {
    /// As the user writes its header.
    pub(super) title: &'static str,
    pub(super) keys: &'static [&'static str],
}

pub(super) const ROOT: Table =
    Table { title: "the top level", keys: &["admin", "group", "route", "local", "state_dir", "orphan_grace"] };

pub(super) const ADMIN: Table = Table { title: "[admin]", keys: &["listen", "token_file"] };

pub(super) const GROUP: Table = Table {
    title: "[[group]]",
    keys: &[
        "name",
        "sentinels",
        "nodes",
        "username",
        "password_env",
        "password_file",
        "sentinel_username",
        "sentinel_password_env",
        "sentinel_password_file",
        "tls",
        "sentinel_tls",
        "commit",
        "quorum_grace",
        "require_backlog",
        "check",
    ],
};

pub(super) const TLS: Table = Table { title: "tls", keys: &["ca_file", "cert_file", "key_file", "server_name"] };

pub(super) const CHECK: Table =
    Table { title: "check", keys: &["interval", "fast_interval", "down_interval", "timeout", "rise", "fall"] };

pub(super) const ROUTE: Table = Table {
    title: "[[route]]",
    keys: &[
        "name",
        "listen",
        "group",
        "target",
        "datapath",
        "balance",
        "max_lag",
        "fallback",
        "allow",
        "max_connections",
        "connect_timeout",
        "idle_timeout",
        "park",
        "reconnect_rate",
        "snat",
    ],
};

pub(super) const PARK: Table = Table { title: "park", keys: &["limit", "timeout"] };

pub(super) const LOCAL: Table =
    Table { title: "[local]", keys: &["steering", "bypass", "bypass_except", "namespaces", "cgroup"] };

pub(super) const ALL: [&Table; 8] = [&ROOT, &ADMIN, &GROUP, &TLS, &CHECK, &ROUTE, &PARK, &LOCAL];

/// Keys under which other tools keep a secret in the file itself.
const SECRETS: [&str; 9] =
    ["password", "pass", "auth", "auth_pass", "requirepass", "masterauth", "sentinel_password", "secret", "token"];

/// What to say of a key that `table` does not have.
pub(super) fn advice(table: &Table, key: &str) -> String {
    let keys = || table.keys.join(", ");
    if SECRETS.contains(&key) {
        return match table.keys.iter().any(|known| known.ends_with("password_env")) {
            true if key.starts_with("sentinel") => {
                "a secret is never written here; use sentinel_password_env or sentinel_password_file".into()
            }
            true => "a secret is never written here; use password_env or password_file".into(),
            false => format!("a secret is never written here; valid: {}", keys()),
        };
    }
    if let Some(near) = nearest(key, table.keys.iter().copied()) {
        return format!("did you mean {near}? valid: {}", keys());
    }
    match ALL.iter().find(|other| other.keys.contains(&key)) {
        Some(home) => format!("{key} belongs to {}; valid here: {}", home.title, keys()),
        None => format!("valid: {}", keys()),
    }
}

/// The known word that `word` was most likely meant to be, if any is near enough.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // A word much longer than any of ours is not a slip of the finger, and comparing costs its length.
    if word.len() > 40 {
        return None;
    }
    let word = word.to_lowercase().replace('-', "_");
    known
        .map(|known| (strsim::damerau_levenshtein(&word, &known.replace('-', "_")), known))
        .filter(|(distance, known)| *distance <= (known.len() / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, known)| known)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_finds_slips_secrets_and_misplaced_keys() {
        for (table, key, expected) in [
            (&CHECK, "intervall", "did you mean interval?"),
            (&ROUTE, "max-lag", "did you mean max_lag?"),
            (&GROUP, "password", "use password_env or password_file"),
            (&GROUP, "sentinel_password", "use sentinel_password_env"),
            (&GROUP, "max_lag", "max_lag belongs to [[route]]"),
            (&ROUTE, "xyzzy", "valid: name, listen"),
        ] {
            let advice = advice(table, key);
            assert!(advice.contains(expected), "{key}: {advice}");
        }
    }

    #[test]
    fn no_advice_for_a_key_that_is_like_nothing() {
        assert_eq!(nearest("zzz", ["fall", "rise"].into_iter()), None);
        assert_eq!(nearest(&"x".repeat(1 << 20), ["fall"].into_iter()), None);
    }
}
