//! A configuration before anything is known of it: tables, lists and plain values, each with its
//! place in the file. Comes from TOML text, or is put together from flags (which have no place).

use toml::de::{DeTable, DeValue};
use toml_parser::{Source, lexer::TokenKind};

use super::errors::{Invalid, quoted};

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Value {
    /// Byte offset in the file.
    pub(super) at: Option<usize>,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Kind {
    Text(String),
    Integer(i128),
    Float,
    Boolean(bool),
    Date,
    List(Vec<Value>),
    Table(Vec<Entry>),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    pub(super) key: String,
    /// Byte offset of the key in the file.
    pub(super) at: Option<usize>,
    pub(super) value: Value,
}

impl Kind {
    pub(super) fn describe(&self) -> &'static str {
        match self {
            Self::Text(_) => "a string",
            Self::Integer(_) => "a whole number",
            Self::Float => "a number with a fraction",
            Self::Boolean(_) => "true or false",
            Self::Date => "a date",
            Self::List(_) => "a list",
            Self::Table(_) => "a table",
        }
    }
}

/// A place in the text where it is no TOML, and why.
pub(super) struct Syntax {
    pub(super) at: Option<usize>,
    pub(super) invalid: Invalid,
}

/// Dots in one key; ours need two at most. The TOML parser bounds nested brackets itself, but not
/// dotted keys, and a tree of them is dropped recursively.
const MAX_DOTS: usize = 16;

pub(super) fn parse(text: &str) -> Result<Value, Vec<Syntax>> {
    if let Some(at) = deep_key(text) {
        let invalid = Invalid::new("a key with too many dots", "group.check.interval has as many as are ever needed");
        return Err(vec![Syntax { at: Some(at), invalid }]);
    }
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let at = Some(table.span().start);
        return Ok(Value { at, kind: Kind::Table(entries(table.into_inner())) });
    }
    Err(errors.iter().map(|error| syntax(text, error)).collect())
}

/// The place of a key with so many dots that its tree could not be dropped safely.
fn deep_key(text: &str) -> Option<usize> {
    let mut dots = 0;
    for token in Source::new(text).lex() {
        match token.kind() {
            TokenKind::Dot => dots += 1,
            TokenKind::Equals
            | TokenKind::Comma
            | TokenKind::LeftSquareBracket
            | TokenKind::RightSquareBracket
            | TokenKind::LeftCurlyBracket
            | TokenKind::RightCurlyBracket
            | TokenKind::Comment
            | TokenKind::Newline
            | TokenKind::Eof => dots = 0,
            TokenKind::Whitespace
            | TokenKind::LiteralString
            | TokenKind::BasicString
            | TokenKind::MlLiteralString
            | TokenKind::MlBasicString
            | TokenKind::Atom => {}
        }
        if dots > MAX_DOTS {
            return Some(token.span().start());
        }
    }
    None
}

fn syntax(text: &str, error: &toml::de::Error) -> Syntax {
    let span = error.span();
    let invalid = if error.message().starts_with("duplicate key") {
        // Only keys are quoted from the file here, never values: those could be secrets.
        let key = span.clone().and_then(|span| text.get(span)).unwrap_or_default();
        Invalid::new(
            format!("{} is written twice", quoted(key)),
            "write it once; more groups or routes are [[group]], [[route]]",
        )
    } else {
        Invalid::new(format!("not TOML: {}", error.message()), "see https://toml.io for the syntax")
    };
    Syntax { at: span.map(|span| span.start), invalid }
}

fn entries(table: DeTable<'_>) -> Vec<Entry> {
    let mut entries: Vec<Entry> = table
        .into_iter()
        .map(|(key, value)| Entry {
            at: Some(key.span().start),
            key: key.into_inner().into_owned(),
            value: Value { at: Some(value.span().start), kind: kind(value.into_inner()) },
        })
        .collect();
    entries.sort_by_key(|entry| entry.at);
    entries
}

fn kind(value: DeValue<'_>) -> Kind {
    match value {
        DeValue::String(text) => Kind::Text(text.into_owned()),
        // Beyond i128 any number is as impossible as the largest one.
        DeValue::Integer(number) => {
            Kind::Integer(i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(i128::MAX))
        }
        DeValue::Float(_) => Kind::Float,
        DeValue::Boolean(value) => Kind::Boolean(value),
        DeValue::Datetime(_) => Kind::Date,
        DeValue::Array(items) => Kind::List(
            items
                .into_iter()
                .map(|item| Value { at: Some(item.span().start), kind: kind(item.into_inner()) })
                .collect(),
        ),
        DeValue::Table(table) => Kind::Table(entries(table)),
    }
}

/// Turns byte offsets into lines and columns.
#[derive(Debug)]
pub(super) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at + 1);
        Self { text, starts: std::iter::once(0).chain(breaks).collect() }
    }

    pub(super) fn position(&self, at: usize) -> super::Position {
        let line = self.starts.partition_point(|&start| start <= at);
        let start = self.starts[line - 1];
        let before = self.text.get(start..at).unwrap_or_default();
        super::Position { line, column: before.chars().count() + 1 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_count_lines_and_characters() {
        let lines = Lines::new("a\nüb = 1\n");
        let position = lines.position(4);
        assert_eq!((position.line, position.column), (2, 2));
        assert_eq!(Lines::new("").position(0).line, 1);
        assert_eq!(lines.position(10).line, 3);
    }

    #[test]
    fn a_deep_tree_is_refused_before_it_is_built() {
        let deep = format!("[{}a]\n", "a.".repeat(500_000));
        assert!(parse(&deep).is_err());
        let deep = format!("{}a = 1\n", "\"=\" . ".repeat(300_000));
        assert!(parse(&deep).is_err());
        let deep = format!("a = {}1{}\n", "[".repeat(500_000), "]".repeat(500_000));
        assert!(parse(&deep).is_err());
    }
}
