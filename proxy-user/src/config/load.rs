//! A configuration from a file or from flags. Nothing is bound, connected to or changed by it:
//! it reads the file, the files that it names and the environment.

use std::{
    env,
    fs::File,
    io::Read as _,
    os::unix::fs::FileTypeExt as _,
    path::{Path, PathBuf},
};

use super::{
    Config,
    context::{Context, Env},
    errors::{Errors, Invalid, Problem},
    flags::{self, Setting},
    raw, root,
};

/// Far more than thousands of routes need.
const MAX_FILE: u64 = 1 << 20;

/// A configuration without an error, and what is unwise in it.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    pub config: Config,
    pub warnings: Vec<Problem>,
}

/// Reads a configuration file and logs its warnings.
pub fn load(path: &Path) -> Result<Config, Errors> {
    read(path).map(Loaded::log_warnings)
}

/// Reads a configuration file.
pub fn read(path: &Path) -> Result<Loaded, Errors> {
    let process = |name: &str| env::var_os(name);
    match text(path) {
        Ok(text) => parse(path, &text, &process),
        Err(invalid) => {
            let context = Context::of_file(path, PathBuf::new(), "", &process);
            context.refuse("", None, invalid);
            context.finish(None)
        }
    }
}

/// Builds a configuration from flags, by the same rules; problems name the flag.
pub fn from_flags(settings: &[Setting]) -> Result<Loaded, Errors> {
    let process = |name: &str| env::var_os(name);
    parse_flags(settings, &process)
}

impl Loaded {
    pub fn log_warnings(self) -> Config {
        for warning in &self.warnings {
            tracing::warn!(%warning, "configuration");
        }
        self.config
    }
}

pub(super) fn parse(path: &Path, text: &str, env: Env<'_>) -> Result<Loaded, Errors> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let folder = absolute.parent().map(Path::to_owned).unwrap_or_default();
    let context = Context::of_file(path, folder, text, env);
    match raw::parse(text) {
        Ok(value) => {
            let config = root::read(&context, &value);
            context.finish(config)
        }
        Err(problems) => {
            for problem in problems {
                context.refuse("", problem.at, problem.invalid);
            }
            context.finish(None)
        }
    }
}

pub(super) fn parse_flags(settings: &[Setting], env: Env<'_>) -> Result<Loaded, Errors> {
    // Relative paths on a command line start where the command runs.
    let folder = env::current_dir().unwrap_or_default();
    let context = Context::of_flags(folder, env, flags::label);
    let value = flags::tree(settings);
    let config = root::read(&context, &value);
    context.finish(config)
}

fn text(path: &Path) -> Result<String, Invalid> {
    // Whoever opens a pipe that nobody writes to waits; one that a shell has made has its writer.
    let of_a_shell = path.starts_with("/dev") || path.starts_with("/proc");
    if !of_a_shell && path.metadata().is_ok_and(|meta| meta.file_type().is_fifo()) {
        return Err(Invalid::new("is a pipe", "give the path of a file, or /dev/stdin"));
    }
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_end(&mut bytes)).map_err(|error| {
        Invalid::new(format!("cannot read it: {error}"), "give the path of a file that this user may read")
    })?;
    if bytes.len() as u64 > MAX_FILE {
        return Err(Invalid::new("is larger than 1 MiB", "this is not a configuration of switchmaster"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let good = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = good.iter().filter(|&&byte| byte == b'\n').count() + 1;
        Invalid::new(format!("is not UTF-8 in line {line}"), "save it as UTF-8")
    })
}
