//! The log: text or JSON lines on standard error.
//! Secrets stay out of it by their type; [`quiet_core_dumps`] keeps them out of a core dump too.

use std::io::{self, IsTerminal as _};

use nix::sys::{
    prctl::set_dumpable,
    resource::{Resource, setrlimit},
};
use tracing_subscriber::{EnvFilter, filter::ParseError};

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line, for collectors.
    Json,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "log level \"{level}\": {source}; valid: off, error, warn, info, debug, trace, or by module: \
         \"info,switchmaster::discovery=debug\""
    )]
    Level { level: String, source: ParseError },
    #[error("the log is set up already")]
    Twice(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Sets the log of this process up, once. Lines have a timestamp in UTC and structured fields.
pub fn init(format: Format, level: &str) -> Result<(), Error> {
    let filter = EnvFilter::try_new(level).map_err(|source| Error::Level { level: level.to_owned(), source })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let done = match format {
        Format::Text => lines.with_ansi(wants_colour()).try_init(),
        // Fields at the top level: that is where collectors look for them.
        Format::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    done.map_err(Error::Twice)
}

fn wants_colour() -> bool {
    io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Keeps this process's memory, where the secrets are, out of core dumps. Call it before reading them.
///
/// The size limit alone would not do: it is not heeded when core_pattern pipes to a program (core(5)).
/// An exec or a change of user id resets the dumpable flag, so call it again after one.
pub fn quiet_core_dumps() -> io::Result<()> {
    set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wrong_level_says_which_are_right() {
        let error = init(Format::Text, "switchmaster=loud").expect_err("no such level").to_string();
        assert!(error.contains("switchmaster=loud") && error.contains("off, error, warn, info"), "{error}");
    }

    #[test]
    fn core_dumps_are_off() {
        quiet_core_dumps().expect("no privilege is needed");
        assert_eq!(nix::sys::prctl::get_dumpable(), Ok(false));
        assert_eq!(nix::sys::resource::getrlimit(Resource::RLIMIT_CORE), Ok((0, 0)));
    }
}
