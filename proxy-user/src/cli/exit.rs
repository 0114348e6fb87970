//! How the process ends, and why. Whoever starts us tells a mistake in the configuration, which a
//! restart cannot mend, from a failure by the code alone.

use std::process::{ExitCode, Termination};

use crate::config;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    Done,
    Failed,
    /// Wrong usage or configuration; clap's own code too.
    Usage,
    /// EX_NOPERM of sysexits.
    Privilege,
}

impl Exit {
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Privilege => 77,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

impl Termination for Exit {
    fn report(self) -> ExitCode {
        self.into()
    }
}

/// An error that knows the exit code it asks for. `main` finds it in an `anyhow::Error` by downcasting;
/// any other error is [`Exit::Failed`].
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error("{0}")]
    Usage(String),
    /// The message is every problem, one a line, each with its place.
    #[error(transparent)]
    Config(#[from] config::Errors),
    #[error("{what} needs {privilege}; {remedy}")]
    Privilege { what: String, privilege: String, remedy: String },
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    pub const fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) | Self::Config(_) => Exit::Usage,
            Self::Privilege { .. } => Exit::Privilege,
        }
    }
}
