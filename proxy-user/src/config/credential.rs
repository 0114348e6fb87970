//! Where secrets come from: an environment variable or a file, read at load, never a literal.
//! No message of this file repeats what was read.

use std::path::Path;

use super::{Secret, errors::Invalid, file, section::Section};

/// Redis keeps far shorter ones, and a request with it must fit one segment or two.
const MAX_SECRET: usize = 4096;

/// The keys of one login.
#[derive(Debug, Clone, Copy)]
pub(super) struct LoginKeys {
    pub(super) username: &'static str,
    pub(super) password_env: &'static str,
    pub(super) password_file: &'static str,
}

pub(super) const NODE: LoginKeys =
    LoginKeys { username: "username", password_env: "password_env", password_file: "password_file" };

pub(super) const SENTINEL: LoginKeys = LoginKeys {
    username: "sentinel_username",
    password_env: "sentinel_password_env",
    password_file: "sentinel_password_file",
};

impl LoginKeys {
    pub(super) const fn all(&self) -> [&'static str; 3] {
        [self.username, self.password_env, self.password_file]
    }
}

impl Section<'_> {
    pub(super) fn login(&self, keys: &LoginKeys) -> (Option<String>, Option<Secret>) {
        let username = self.get(keys.username, |value| {
            let name = Self::text(value)?;
            let plain = name.len() <= 256 && !name.chars().any(|c| c.is_whitespace() || c.is_control());
            if plain {
                Ok(name.to_owned())
            } else {
                Err(Invalid::new("is not a user name", "valid: no spaces, at most 256 bytes"))
            }
        });
        let (env, file) = (self.label(keys.password_env), self.label(keys.password_file));
        if self.has(keys.password_env) && self.has(keys.password_file) {
            self.refuse(keys.password_file, Invalid::new(format!("stands beside {env}"), "keep one of the two"));
            return (username, None);
        }
        if self.has(keys.username) && !self.has(keys.password_env) && !self.has(keys.password_file) {
            let valid = format!("add {env} or {file}; the default user's password needs no user name");
            self.refuse(keys.username, Invalid::new("stands without a password", valid));
        }
        (username, self.secret_env(keys.password_env).or_else(|| self.secret_file(keys.password_file)))
    }

    fn secret_env(&self, key: &str) -> Option<Secret> {
        self.get(key, |value| {
            let name = Self::text(value)?;
            let valid = "valid: the name of a variable that holds the password, not the password itself";
            // A password put here by mistake must not be printed: only what looks like a variable's name is.
            let conventional = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
            let shown = if name.chars().all(conventional) { name } else { "the variable that it names" };
            if name.contains(['=', '\0']) {
                return Err(Invalid::new("is not the name of an environment variable", valid));
            }
            let Some(secret) = (self.context.env)(name) else {
                return Err(Invalid::new(format!("{shown} is not set in the environment"), valid));
            };
            let secret = secret.into_string().map_err(|_| Invalid::new(format!("{shown} is not UTF-8"), valid))?;
            check(secret).map_err(|what| Invalid::new(format!("{shown} {what}"), valid))
        })
    }

    /// A trailing newline, which editors and `echo` leave behind, is no part of the secret.
    pub(super) fn secret_file(&self, key: &str) -> Option<Secret> {
        self.get(key, |value| {
            let path = self.context.path(Self::text(value)?);
            let secret = read(&path)?;
            self.warn_if_open(key, &path);
            Ok(secret)
        })
    }
}

fn read(path: &Path) -> Result<Secret, Invalid> {
    let valid = "valid: a file that holds nothing but the secret";
    let mut text = String::from_utf8(file::read(path)?).map_err(|_| Invalid::new("the file is not UTF-8", valid))?;
    let kept = text.strip_suffix('\n').map_or(text.len(), |rest| rest.strip_suffix('\r').unwrap_or(rest).len());
    text.truncate(kept);
    check(text).map_err(|what| Invalid::new(format!("the file {what}"), valid))
}

fn check(secret: String) -> Result<Secret, &'static str> {
    match secret.len() {
        0 => Err("is empty"),
        1..=MAX_SECRET => Ok(Secret::new(secret)),
        _ => Err("is longer than 4096 bytes"),
    }
}
