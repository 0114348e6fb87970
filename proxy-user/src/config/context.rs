//! What reading a configuration needs besides its values: where relative paths start, the
//! environment, and the place where problems and warnings are gathered.

use std::{
    cell::RefCell,
    ffi::OsString,
    path::{Path, PathBuf},
    sync::Arc,
};

use super::{
    Config, Loaded,
    errors::{Errors, Invalid, Problem, Problems},
    raw::Lines,
};

/// Looks a variable up; a function, so that tests have an environment of their own.
pub(super) type Env<'a> = &'a dyn Fn(&str) -> Option<OsString>;

/// Names a key as the user wrote it: `route[0].listen`, or `--listen`.
pub(super) type Label = fn(&str) -> String;

pub(super) struct Context<'a> {
    pub(super) env: Env<'a>,
    pub(super) label: Label,
    /// Relative paths start here.
    folder: PathBuf,
    file: Option<Arc<Path>>,
    lines: Lines<'a>,
    problems: RefCell<Problems>,
    warnings: RefCell<Problems>,
}

impl<'a> Context<'a> {
    pub(super) fn of_file(file: &Path, folder: PathBuf, text: &'a str, env: Env<'a>) -> Self {
        Self { file: Some(file.into()), ..Self::new(folder, text, env, str::to_owned) }
    }

    pub(super) fn of_flags(folder: PathBuf, env: Env<'a>, label: Label) -> Self {
        Self::new(folder, "", env, label)
    }

    fn new(folder: PathBuf, text: &'a str, env: Env<'a>, label: Label) -> Self {
        let (problems, warnings) = (RefCell::default(), RefCell::default());
        Self { env, label, folder, file: None, lines: Lines::new(text), problems, warnings }
    }

    pub(super) fn path(&self, written: &str) -> PathBuf {
        self.folder.join(written)
    }

    pub(super) fn refuse(&self, path: &str, at: Option<usize>, invalid: Invalid) {
        self.problems.borrow_mut().push(self.problem(path, at, invalid));
    }

    pub(super) fn warn(&self, path: &str, at: Option<usize>, invalid: Invalid) {
        self.warnings.borrow_mut().push(self.problem(path, at, invalid));
    }

    fn problem(&self, path: &str, at: Option<usize>, invalid: Invalid) -> Problem {
        let position = self.file.as_ref().and(at).map(|at| self.lines.position(at));
        let key = if path.is_empty() { String::new() } else { (self.label)(path) };
        Problem { file: self.file.clone(), position, key, what: invalid.what, valid: invalid.valid }
    }

    /// The configuration and its warnings, if there was no problem.
    pub(super) fn finish(self, config: Option<Config>) -> Result<Loaded, Errors> {
        if config.is_none() && self.problems.borrow().is_empty() {
            // Every way to no configuration notes why. Should one ever not, silence would be worse.
            self.refuse(
                "",
                None,
                Invalid::new("cannot be used", "report this as a bug, with the file but without its secrets"),
            );
        }
        match (self.problems.into_inner().into_errors(), config) {
            (None, Some(config)) => {
                let warnings = self.warnings.into_inner().into_errors().map(Errors::into_problems);
                Ok(Loaded { config, warnings: warnings.unwrap_or_default() })
            }
            (errors, _) => Err(errors.unwrap_or_default()),
        }
    }
}
