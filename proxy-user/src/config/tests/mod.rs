//! The configuration as a whole: what the contract promises to accept, every error with its place
//! and remedy, and that no secret ever shows.

mod accepted;
mod documented;
mod refused;
mod secrets;
mod setting;

use std::{ffi::OsString, fs, os::unix::fs::PermissionsExt as _, path::Path};

use tempfile::TempDir;

use super::{Errors, Loaded, load::parse};

pub(super) const NODE_PASSWORD: &str = "node-hunter2-word";
pub(super) const SENTINEL_PASSWORD: &str = "sentinel-hunter2-word";
pub(super) const TOKEN: &str = "token-hunter2-word";
/// Part of each of them.
pub(super) const MARK: &str = "hunter2";

/// The environment of these tests.
pub(super) fn env(name: &str) -> Option<OsString> {
    match name {
        "REDIS_PASSWORD" => Some(NODE_PASSWORD.into()),
        "SENTINEL_PASSWORD" => Some(SENTINEL_PASSWORD.into()),
        "EMPTY" => Some(OsString::new()),
        _ => None,
    }
}

/// A folder with certificates, keys and secrets, as a configuration next to them would name them.
pub(super) fn folder() -> TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let key = rcgen::generate_simple_self_signed(["redis.internal".to_owned()]).expect("a certificate");
    let write = |name: &str, content: &str, mode| {
        let path = folder.path().join(name);
        fs::write(&path, content).expect(name);
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect(name);
    };
    write("ca.pem", &key.cert.pem(), 0o644);
    write("c.pem", &key.cert.pem(), 0o644);
    write("k.pem", &key.signing_key.serialize_pem(), 0o600);
    write("admin.token", &format!("{TOKEN}\n"), 0o600);
    write("node.password", &format!("{NODE_PASSWORD}\r\n"), 0o640);
    write("open.password", NODE_PASSWORD, 0o644);
    write("empty.password", "\n", 0o600);
    write("two-words", "two words", 0o600);
    fs::write(folder.path().join("binary"), [0xff, 0xfe]).expect("binary");
    folder
}

pub(super) fn parse_in(folder: &Path, text: &str) -> Result<Loaded, Errors> {
    parse(&folder.join("s.toml"), text, &env)
}
