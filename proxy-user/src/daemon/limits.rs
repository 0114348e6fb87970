//! The process's limit of open files, which bounds the connections before anything else does.

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::config::Config;

/// What the daemon itself needs beside two for each connection.
const OWN: u64 = 256;

/// Raises the soft limit to the hard one, and says if that is too little for the configuration.
pub(super) fn raise_open_files(config: &Config) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return };
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "the limit of open files cannot be raised");
        return;
    }
    let connections: u64 = config.routes.iter().map(|route| u64::from(route.max_connections)).sum();
    let needed = connections * 2 + OWN;
    if hard < needed {
        tracing::warn!(
            limit = hard,
            needed,
            "the limit of open files is too low for the sum of max_connections; raise it (LimitNOFILE=) or lower them"
        );
    }
}
