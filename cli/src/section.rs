//! A table of a TOML file and the way to it, so that an error can name the key.

use std::path::Path;

use toml::{Table, Value};

use crate::failure::Failure;
use crate::units;

/// What is wrong with a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Bad {
    key: String,
    why: String,
    /// The unknown word and the known ones, when the key is not known at all.
    unknown: Option<(String, Vec<&'static str>)>,
}

impl Bad {
    /// The failure that names the file.
    pub(crate) fn failure(self, file: &Path) -> Failure {
        let Self { key, why, unknown } = self;
        match unknown {
            Some((word, known)) => {
                let what = format!("{}: `{key}` {why}", file.display());
                Failure::invalid(what).nearest(&word, known)
            }
            None => Failure::invalid(format!("{}: `{key}` is not valid", file.display())).why(why),
        }
    }
}

/// Reads a file's text; `file` is named in errors.
pub(crate) fn parse(file: &Path, text: &str) -> crate::failure::Result<Table> {
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start).min(text.len());
        let line = text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        Failure::invalid(format!("{}: line {line} is not TOML", file.display()))
            .why(error.message().trim().to_owned())
    })
}

/// A table and the way to it.
pub(crate) struct Section<'a> {
    /// What the file is: `a manifest`.
    file_is: &'static str,
    path: String,
    table: &'a Table,
}

type Read<T> = Result<T, Bad>;

impl<'a> Section<'a> {
    /// The whole file.
    pub(crate) fn root(table: &'a Table, file_is: &'static str) -> Self {
        Self { file_is, path: String::new(), table }
    }

    /// The keys that stand in it.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.table.keys().map(String::as_str)
    }

    /// Refuses every key but these.
    pub(crate) fn only(&self, known: &[&'static str]) -> Read<()> {
        match self.keys().find(|key| !known.contains(key)) {
            None => Ok(()),
            Some(key) => Err(Bad {
                key: self.at(key),
                why: format!("is no key of {}", self.file_is),
                unknown: Some((key.to_owned(), known.to_vec())),
            }),
        }
    }

    /// An error about one of its keys.
    pub(crate) fn bad(&self, key: &str, why: impl Into<String>) -> Bad {
        Bad { key: self.at(key), why: why.into(), unknown: None }
    }

    /// A table in it.
    pub(crate) fn section(&self, key: &str) -> Read<Option<Self>> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Table(table)) => {
                Ok(Some(Self { file_is: self.file_is, path: self.at(key), table }))
            }
            Some(other) => Err(self.wrong_type(key, other, "a table")),
        }
    }

    /// A text in it.
    pub(crate) fn string(&self, key: &str) -> Read<Option<&'a str>> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(self.wrong_type(key, other, "text in quotes")),
        }
    }

    /// A list of texts in it; empty when it is missing.
    pub(crate) fn strings(&self, key: &str) -> Read<Vec<&'a str>> {
        let Some(value) = self.table.get(key) else { return Ok(Vec::new()) };
        let wanted = "a list of texts, such as [\"a\", \"b\"]";
        let Value::Array(values) = value else { return Err(self.wrong_type(key, value, wanted)) };
        let text =
            |value: &'a Value| value.as_str().ok_or_else(|| self.wrong_type(key, value, wanted));
        values.iter().map(text).collect()
    }

    /// A text in it, or a list of them; empty when it is missing.
    pub(crate) fn one_or_more(&self, key: &str) -> Read<Vec<&'a str>> {
        match self.table.get(key) {
            Some(Value::String(text)) => Ok(vec![text]),
            _ => self.strings(key),
        }
    }

    /// A whole number from 0 to `max` in it.
    pub(crate) fn count(&self, key: &str, max: u32) -> Read<Option<u32>> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Integer(number)) => match u32::try_from(*number) {
                Ok(number) if number <= max => Ok(Some(number)),
                _ => Err(self.bad(key, format!("{number} is no whole number from 0 to {max}"))),
            },
            Some(other) => Err(self.wrong_type(key, other, "a whole number")),
        }
    }

    /// True or false in it.
    pub(crate) fn boolean(&self, key: &str) -> Read<Option<bool>> {
        match self.table.get(key) {
            None => Ok(None),
            Some(Value::Boolean(value)) => Ok(Some(*value)),
            Some(other) => Err(self.wrong_type(key, other, "true or false")),
        }
    }

    /// A duration in it, in ms.
    pub(crate) fn duration_ms(&self, key: &str) -> Read<Option<u64>> {
        match self.table.get(key) {
            Some(value) if !value.is_str() => {
                Err(self.wrong_type(key, value, "a duration in quotes, such as \"5s\" or \"50ms\""))
            }
            _ => {
                let text = self.string(key)?;
                text.map(units::duration_ms).transpose().map_err(|why| self.bad(key, why))
            }
        }
    }

    /// A size in it, in bytes.
    pub(crate) fn size(&self, key: &str) -> Read<Option<u64>> {
        match self.table.get(key) {
            Some(value) if !value.is_str() => {
                Err(self.wrong_type(key, value, "a size in quotes, such as \"128MiB\""))
            }
            _ => {
                let text = self.string(key)?;
                text.map(units::size).transpose().map_err(|why| self.bad(key, why))
            }
        }
    }

    fn wrong_type(&self, key: &str, found: &Value, wanted: &str) -> Bad {
        let found = match found {
            Value::String(_) => "text",
            Value::Integer(_) | Value::Float(_) => "a number",
            Value::Boolean(_) => "true or false",
            Value::Datetime(_) => "a date",
            Value::Array(_) => "a list",
            Value::Table(_) => "a table",
        };
        self.bad(key, format!("it is {found}; write {wanted}"))
    }

    fn at(&self, key: &str) -> String {
        if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) }
    }
}
