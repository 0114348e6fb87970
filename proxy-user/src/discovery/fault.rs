//! Why a Sentinel or a node could not be asked: the election's short [`Failure`] and the operator's
//! whole sentence. Promises that the sentence is short, printable, and free of the password.

use std::{fmt, io, sync::Arc, time::Duration};

use redis::{ErrorKind, RedisError};

use super::meter::Oversized;
use crate::election::Failure;

/// The longest text of a fault; a server's own words are cut to it.
const LONGEST: usize = 240;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(super) struct Fault {
    pub(super) failure: Failure,
    pub(super) text: String,
}

impl Fault {
    pub(super) fn new(failure: Failure, text: impl fmt::Display) -> Self {
        Self { failure, text: printable(&text.to_string()) }
    }

    pub(super) fn protocol(text: impl fmt::Display) -> Self {
        Self::new(Failure::Protocol, text)
    }

    pub(super) fn timed_out(what: &str, limit: Duration) -> Self {
        Self::new(Failure::TimedOut, format_args!("{what} took longer than {}", humantime::format_duration(limit)))
    }

    pub(super) fn connect(error: &io::Error) -> Self {
        let failure = if error.kind() == io::ErrorKind::TimedOut { Failure::TimedOut } else { Failure::Unreachable };
        Self::new(failure, format_args!("cannot connect: {error}"))
    }

    /// An error of the conversation itself. What a server refuses is an answer, see `Reply`.
    pub(super) fn conversation(error: &RedisError) -> Self {
        if let Some(oversized) = oversized(error) {
            return Self::protocol(oversized);
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => {
                Self::new(Failure::Denied, "the server refuses the user name or password")
            }
            ErrorKind::Io => Self::new(Failure::Unreachable, format_args!("the connection broke: {error}")),
            _ => Self::protocol(format_args!("not a Redis reply: {error}")),
        }
    }

    /// What the operator can do about it. `sentinel`: the server should be a Sentinel.
    pub(super) fn remedy(&self, sentinel: bool) -> &'static str {
        match (self.failure, sentinel) {
            (Failure::Unreachable | Failure::TimedOut, _) => {
                "check that it runs, and that the network lets us reach it"
            }
            (Failure::Denied, true) => {
                "check sentinel_username and sentinel_password (one that needs none refuses them); the user needs +sentinel, +ping, +psubscribe and &*"
            }
            (Failure::Denied, false) => {
                "check username and password (a node that needs none refuses them); the user needs +hello, +ping, and +info for lag"
            }
            (Failure::Protocol, true) => {
                "check that the address is a Sentinel's, usually port 26379, and whether it wants TLS"
            }
            (Failure::Protocol, false) => {
                "check that the address is a Redis or Valkey server's, and whether it wants TLS"
            }
            (Failure::UnknownGroup, _) => "check that the group's name is the one in `sentinel monitor`",
            (Failure::Unresolved, _) => "check the name, and the resolver of this host",
            (Failure::Tls, _) => "check ca_file, cert_file, key_file and server_name, and that the port speaks TLS",
        }
    }
}

/// The word for a failure in status and logs.
pub fn word(failure: Failure) -> &'static str {
    match failure {
        Failure::Unreachable => "unreachable",
        Failure::TimedOut => "timed-out",
        Failure::Denied => "denied",
        Failure::Protocol => "protocol",
        Failure::UnknownGroup => "unknown-group",
        Failure::Unresolved => "unresolved",
        Failure::Tls => "tls",
    }
}

/// The meter's own error, which comes wrapped in an io::Error, which comes wrapped in an Arc.
fn oversized(error: &RedisError) -> Option<&Oversized> {
    let shared = std::error::Error::source(error)?.downcast_ref::<Arc<dyn std::error::Error + Send + Sync>>()?;
    shared.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref()
}

/// One short line: what a server sends may be long, or hold terminal control characters.
fn printable(text: &str) -> String {
    let mut line: String = text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        line.push_str("...");
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_short_line() {
        let fault = Fault::protocol(format_args!("a\r\n\x1b[31m{}", "x".repeat(1000)));
        assert!(fault.text.chars().all(|c| !c.is_control()));
        assert!(fault.text.chars().count() <= LONGEST + 3);
    }

    #[test]
    fn an_oversized_reply_is_a_protocol_failure() {
        let error = RedisError::from(io::Error::new(io::ErrorKind::InvalidData, Oversized));
        assert_eq!(Fault::conversation(&error), Fault::protocol(Oversized));
    }

    #[test]
    fn a_broken_connection_is_unreachable() {
        let error = RedisError::from(io::Error::from(io::ErrorKind::ConnectionReset));
        assert_eq!(Fault::conversation(&error).failure, Failure::Unreachable);
    }
}
