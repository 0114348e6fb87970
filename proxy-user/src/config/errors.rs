//! What is wrong with a configuration: every problem of it at once, each with its place, the key,
//! and what would be valid. No message here ever carries a secret: callers name keys, not values,
//! wherever a value could be one.

use std::{fmt, path::Path, sync::Arc};

/// Problems kept of one configuration. A file that is not a configuration at all could have as many
/// as it has lines; past this number they are only counted.
const KEPT: usize = 200;

/// A value that cannot be: what is wrong with it, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; {valid}")]
pub struct Invalid {
    pub what: String,
    pub valid: String,
}

impl Invalid {
    pub fn new(what: impl Into<String>, valid: impl Into<String>) -> Self {
        Self { what: what.into(), valid: valid.into() }
    }
}

/// One thing that is wrong, or (as a warning) unwise, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Absent when the configuration came from flags.
    pub file: Option<Arc<Path>>,
    pub position: Option<Position>,
    /// `group[0].check.interval`, or the flag. Empty: the file as a whole.
    pub key: String,
    pub what: String,
    /// What would be valid, or what to do.
    pub valid: String,
}

/// Counted from 1, as editors do; columns are characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(Position { line, column }) = self.position {
                write!(f, "{line}:{column}:")?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        write!(f, "{}; {}", self.what, self.valid)
    }
}

/// Everything that is wrong with a configuration, in the order of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq, thiserror::Error)]
pub struct Errors {
    problems: Vec<Problem>,
    more: usize,
}

impl Errors {
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(super) fn into_problems(self) -> Vec<Problem> {
        self.problems
    }
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            let end = if index == 0 { "" } else { "\n" };
            write!(f, "{end}{problem}")?;
        }
        if self.more > 0 {
            write!(f, "\nand {} more", self.more)?;
        }
        Ok(())
    }
}

/// Collects problems while a configuration is read.
#[derive(Debug, Default)]
pub(super) struct Problems {
    kept: Vec<Problem>,
    more: usize,
}

impl Problems {
    pub(super) fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    pub(super) fn push(&mut self, problem: Problem) {
        if self.kept.len() < KEPT {
            self.kept.push(problem);
        } else {
            self.more += 1;
        }
    }

    /// The problems in the order of the file, or nothing if there are none.
    pub(super) fn into_errors(mut self) -> Option<Errors> {
        self.kept.sort_by_key(|problem| problem.position);
        (!self.kept.is_empty()).then_some(Errors { problems: self.kept, more: self.more })
    }
}

/// A value as it may stand in a message: quoted, control characters escaped, cut when long.
pub(super) fn quoted(value: &str) -> String {
    const SHOWN: usize = 60;
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    format!("{shown:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(line: usize) -> Problem {
        let position = Some(Position { line, column: 1 });
        Problem { file: None, position, key: "k".into(), what: "w".into(), valid: "v".into() }
    }

    #[test]
    fn problems_come_in_the_order_of_the_file_and_are_bounded() {
        let mut problems = Problems::default();
        for line in (1..=KEPT + 5).rev() {
            problems.push(problem(line));
        }
        let errors = problems.into_errors().expect("there are problems");
        assert_eq!(errors.problems().len(), KEPT);
        assert!(errors.problems().is_sorted_by_key(|p| p.position));
        assert!(errors.to_string().ends_with("\nand 5 more"));
        assert!(Problems::default().into_errors().is_none());
    }

    #[test]
    fn quoted_values_are_short_and_on_one_line() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(&"x".repeat(1000)).chars().count(), 63);
    }
}
