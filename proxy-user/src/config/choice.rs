//! Values that are one word out of a few. The words are written once here; parsing, printing and
//! the messages about a wrong word all come from that list.

use std::{fmt, str::FromStr};

use super::{
    Balance, Commit, DatapathChoice, Fallback, Steering, TargetRole,
    errors::{Invalid, quoted},
    schema::nearest,
};

/// A type whose values each have one word.
pub(super) trait Choice: Copy + PartialEq + 'static {
    const WORDS: &'static [(&'static str, Self)];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }

    fn of_word(word: &str) -> Result<Self, Invalid> {
        if let Some((_, value)) = Self::WORDS.iter().find(|(known, _)| *known == word) {
            return Ok(*value);
        }
        let words: Vec<String> = Self::WORDS.iter().map(|(word, _)| format!("\"{word}\"")).collect();
        let mut what = format!("{} is not a choice here", quoted(word));
        if let Some(near) = nearest(word, Self::WORDS.iter().map(|(word, _)| *word)) {
            what.push_str(&format!(" (did you mean \"{near}\"?)"));
        }
        Err(Invalid::new(what, format!("valid: {}", words.join(", "))))
    }
}

macro_rules! choices {
    ($($kind:ty { $($word:literal => $value:expr),+ $(,)? })+) => {$(
        impl Choice for $kind {
            const WORDS: &'static [(&'static str, Self)] = &[$(($word, $value)),+];
        }

        impl FromStr for $kind {
            type Err = Invalid;

            fn from_str(word: &str) -> Result<Self, Invalid> {
                Self::of_word(word)
            }
        }

        impl fmt::Display for $kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    )+};
}

/// `bypass = "on" | "off"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnOff {
    On,
    Off,
}

/// `namespaces = "own" | "all"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Namespaces {
    Own,
    All,
}

choices! {
    Commit { "majority" => Self::Majority, "early" => Self::Early }
    TargetRole { "master" => Self::Master, "replica" => Self::Replica }
    DatapathChoice {
        "auto" => Self::Auto, "xdp" => Self::Xdp, "tc" => Self::Tc, "sockmap" => Self::Sockmap, "copy" => Self::Copy,
    }
    Balance {
        "round-robin" => Self::RoundRobin, "least-connections" => Self::LeastConnections, "source-hash" => Self::SourceHash,
    }
    Fallback { "none" => Self::None, "master" => Self::Master }
    Steering { "auto" => Self::Auto, "on" => Self::On, "off" => Self::Off }
    OnOff { "on" => Self::On, "off" => Self::Off }
    Namespaces { "own" => Self::Own, "all" => Self::All }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_prints_as_it_is_read() {
        for (word, value) in DatapathChoice::WORDS {
            assert_eq!(word.parse::<DatapathChoice>().as_ref(), Ok(value));
            assert_eq!(value.to_string(), *word);
        }
        assert_eq!(Balance::LeastConnections.to_string(), "least-connections");
    }

    #[test]
    fn a_wrong_word_names_the_right_ones() {
        let error = "sokmap".parse::<DatapathChoice>().expect_err("no such datapath").to_string();
        assert!(error.contains("did you mean \"sockmap\"?"), "{error}");
        assert!(error.contains("valid: \"auto\", \"xdp\", \"tc\", \"sockmap\", \"copy\""), "{error}");
    }
}
