//! One table of a configuration while it is read: asks for its keys by name and kind, and gathers
//! every problem with its place instead of stopping at the first.

use super::{
    context::Context,
    errors::{Invalid, quoted},
    raw::{Entry, Kind, Value},
    schema::{Table, advice},
};

/// A value together with its place, for the checks that compare values later on.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) path: String,
    pub(super) at: Option<usize>,
}

#[derive(Clone)]
pub(super) struct Section<'a> {
    pub(super) context: &'a Context<'a>,
    table: &'static Table,
    path: String,
    at: Option<usize>,
    entries: &'a [Entry],
}

impl<'a> Section<'a> {
    /// Refuses every key that `table` does not have.
    pub(super) fn open(
        context: &'a Context<'a>,
        table: &'static Table,
        path: String,
        at: Option<usize>,
        value: &'a Value,
    ) -> Option<Self> {
        let Kind::Table(entries) = &value.kind else {
            let valid = format!("valid: a table with the keys {}", table.keys.join(", "));
            context.refuse(&path, value.at, Invalid::new(format!("is {}, not a table", value.kind.describe()), valid));
            return None;
        };
        let section = Self { context, table, path, at, entries };
        for entry in entries.iter().filter(|entry| !table.keys.contains(&entry.key.as_str())) {
            // A key comes from the user: it is shown as it is only if it is a plain word.
            let plain = entry.key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-');
            let key = if plain && entry.key.len() <= 60 { entry.key.clone() } else { quoted(&entry.key) };
            let unknown = Invalid::new("unknown key", advice(table, &entry.key));
            context.refuse(&section.child(&key), entry.at, unknown);
        }
        Some(section)
    }

    fn child(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }

    fn entry(&self, key: &str) -> Option<&'a Entry> {
        debug_assert!(self.table.keys.contains(&key), "{key} is in no table of the schema");
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// The key as the user knows it, for messages about other keys.
    pub(super) fn label(&self, key: &str) -> String {
        let label = (self.context.label)(&self.child(key));
        label.rsplit('.').next().unwrap_or(&label).to_owned()
    }

    pub(super) fn has(&self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    pub(super) fn refuse(&self, key: &str, invalid: Invalid) {
        let at = self.entry(key).map_or(self.at, |entry| entry.at);
        self.context.refuse(&self.child(key), at, invalid);
    }

    pub(super) fn warn(&self, key: &str, invalid: Invalid) {
        let at = self.entry(key).map_or(self.at, |entry| entry.at);
        self.context.warn(&self.child(key), at, invalid);
    }

    /// Warns of each of these keys that is present: it changes nothing, but it does no harm either.
    pub(super) fn idle(&self, keys: &[&str], what: &str, remedy: &str) {
        for key in keys.iter().filter(|key| self.has(key)) {
            self.warn(key, Invalid::new(what, remedy));
        }
    }

    pub(super) fn get<T>(&self, key: &str, parse: impl Fn(&Value) -> Result<T, Invalid>) -> Option<T> {
        self.placed(key, parse).map(|placed| placed.value)
    }

    /// A wrong value counts as the default from here on: its problem is already noted.
    pub(super) fn or<T>(&self, key: &str, default: T, parse: impl Fn(&Value) -> Result<T, Invalid>) -> T {
        self.get(key, parse).unwrap_or(default)
    }

    pub(super) fn require<T>(
        &self,
        key: &str,
        valid: &str,
        parse: impl Fn(&Value) -> Result<T, Invalid>,
    ) -> Option<Placed<T>> {
        if !self.has(key) {
            self.refuse(key, Invalid::new("is missing", valid));
        }
        self.placed(key, parse)
    }

    fn placed<T>(&self, key: &str, parse: impl Fn(&Value) -> Result<T, Invalid>) -> Option<Placed<T>> {
        self.take(&self.entry(key)?.value, self.child(key), parse)
    }

    fn take<T>(&self, value: &Value, path: String, parse: impl Fn(&Value) -> Result<T, Invalid>) -> Option<Placed<T>> {
        match parse(value) {
            Ok(parsed) => Some(Placed { value: parsed, path, at: value.at }),
            Err(invalid) => {
                self.context.refuse(&path, value.at, invalid);
                None
            }
        }
    }

    /// A list, every item of which is read; `single` allows one plain value in its place.
    pub(super) fn list<T>(
        &self,
        key: &str,
        shape: ListShape,
        parse: impl Fn(&Value) -> Result<T, Invalid>,
    ) -> Option<Vec<Placed<T>>> {
        let value = &self.entry(key)?.value;
        match &value.kind {
            Kind::List(items) if items.is_empty() => {
                self.refuse(key, Invalid::new("is an empty list", shape.valid));
                None
            }
            Kind::List(items) if items.len() > shape.max => {
                let what = format!("has {} items", items.len());
                self.refuse(key, Invalid::new(what, format!("valid: at most {}", shape.max)));
                None
            }
            Kind::List(items) => {
                let path = self.child(key);
                let read = |(index, item)| self.take(item, format!("{path}[{index}]"), &parse);
                Some(items.iter().enumerate().filter_map(read).collect())
            }
            Kind::Text(_) if shape.single => Some(self.placed(key, parse).into_iter().collect()),
            other => {
                self.refuse(key, Invalid::new(format!("is {}, not a list", other.describe()), shape.valid));
                None
            }
        }
    }

    pub(super) fn section(&self, key: &str, table: &'static Table) -> Option<Section<'a>> {
        let entry = self.entry(key)?;
        Self::open(self.context, table, self.child(key), entry.value.at, &entry.value)
    }

    /// The tables of `[[key]]`. A table that is none is noted and left out; the others keep their index.
    pub(super) fn sections(&self, key: &str, table: &'static Table) -> Vec<Option<Section<'a>>> {
        let header = format!("write {} with two pairs of brackets", table.title);
        let Some(entry) = self.entry(key) else {
            self.refuse(key, Invalid::new("is missing", format!("add at least one {}", table.title)));
            return Vec::new();
        };
        match &entry.value.kind {
            Kind::List(items) if items.is_empty() => {
                self.refuse(key, Invalid::new("is an empty list", format!("add at least one {}", table.title)));
                Vec::new()
            }
            Kind::List(items) => (items.iter().enumerate())
                .map(|(index, item)| Self::open(self.context, table, format!("{key}[{index}]"), item.at, item))
                .collect(),
            other => {
                self.refuse(key, Invalid::new(format!("is {}, not a list of tables", other.describe()), header));
                Vec::new()
            }
        }
    }

    pub(super) fn text(value: &Value) -> Result<&str, Invalid> {
        match &value.kind {
            Kind::Text(text) if text.is_empty() => {
                Err(Invalid::new("is empty", "leave the key out if it has no value"))
            }
            Kind::Text(text) => Ok(text),
            other => Err(Invalid::new(format!("is {}, not a string", other.describe()), "write it in quotes")),
        }
    }

    pub(super) fn boolean(value: &Value) -> Result<bool, Invalid> {
        match &value.kind {
            Kind::Boolean(value) => Ok(*value),
            other => Err(Invalid::new(format!("is {}", other.describe()), "valid: true, false (without quotes)")),
        }
    }

    /// A value that is written as a string and has a type of its own.
    pub(super) fn parsed<T: std::str::FromStr<Err = Invalid>>(value: &Value) -> Result<T, Invalid> {
        Self::text(value)?.parse()
    }
}

/// What a list may be.
#[derive(Debug, Clone, Copy)]
pub(super) struct ListShape {
    pub(super) max: usize,
    pub(super) single: bool,
    pub(super) valid: &'static str,
}
