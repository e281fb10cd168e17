//! The TOML file (<https://toml.io/en/v1.0.0>), taken apart into keys that know their line.

use std::fs;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use toml::de::{DeTable, DeValue, ValueDeserializer};
use toml::{Spanned, Value};

use super::layers::{Layers, Origin};
use super::load::Error;
use super::rules;

/// Lays the file at `path` over `layers`.
pub(super) fn lay(layers: &mut Layers, path: &Path) -> Result<(), Error> {
    let unreadable = |why: String| Error::Unreadable { path: path.to_owned(), why };
    let bytes = fs::read(path).map_err(|why| unreadable(why.to_string()))?;
    let text = String::from_utf8(bytes).map_err(|why| {
        let line =
            why.as_bytes()[..why.utf8_error().valid_up_to()].iter().filter(|&&b| b == b'\n').count() + 1;
        unreadable(format!("line {line} is not UTF-8, as TOML must be"))
    })?;
    lay_text(layers, path, &text)
}

/// Lays the text of a file over `layers`; `path` is for the messages.
pub(super) fn lay_text(layers: &mut Layers, path: &Path, text: &str) -> Result<(), Error> {
    let file = File { path, text, others: &[] };
    let table = DeTable::parse(text).map_err(|why| file.syntax(&why))?;
    file.lay_table(layers, "", table.get_ref(), &mut Err)
}

/// The same, but everything that is wrong is told, and the tables that are named are passed over.
pub(super) fn lay_tables(layers: &mut Layers, path: &Path, text: &str, others: &[&str]) -> Vec<Error> {
    let file = File { path, text, others };
    let table = match DeTable::parse(text) {
        Ok(table) => table.into_inner(),
        Err(why) => return vec![file.syntax(&why)],
    };
    let mut all = Vec::new();
    let mut tell = |error| {
        all.push(error);
        Ok(())
    };
    // What is told does not end it.
    let ended = file.lay_table(layers, "", &table, &mut tell);
    all.extend(ended.err());
    all
}

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    /// Tables that are somebody else's.
    others: &'a [&'a str],
}

impl File<'_> {
    /// Lays every key of a table; `refused` says whether an error ends that.
    fn lay_table(
        &self,
        layers: &mut Layers,
        prefix: &str,
        table: &DeTable<'_>,
        refused: &mut dyn FnMut(Error) -> Result<(), Error>,
    ) -> Result<(), Error> {
        for (name, value) in table {
            if prefix.is_empty() && self.others.contains(&name.get_ref().as_ref()) {
                continue;
            }
            let key = if prefix.is_empty() {
                name.get_ref().to_string()
            } else {
                format!("{prefix}.{}", name.get_ref())
            };
            let origin = Origin::File(self.path.to_owned(), self.line(&name.span()));
            let laid = match value.get_ref() {
                DeValue::Table(inner) if is_table(&key) => self.lay_table(layers, &key, inner, refused),
                _ if rules::rule(&key).is_some() => {
                    self.value(value).and_then(|value| layers.lay(&key, value, origin))
                }
                _ if is_table(&key) => {
                    let allowed = format!("is a table: write it as [{key}]");
                    Err(Error::Value { place: origin.to_string(), key, allowed })
                }
                _ => Err(Error::UnknownKey { place: origin.to_string(), hint: hint(&key), key }),
            };
            laid.or_else(&mut *refused)?;
        }
        Ok(())
    }

    /// The value without its spans: its text is TOML by itself.
    fn value(&self, value: &Spanned<DeValue<'_>>) -> Result<Value, Error> {
        let text = self.text.get(value.span()).unwrap_or_default();
        // The span of a table built from dotted keys is no value; no key takes a table, so any value will be refused.
        let parsed = ValueDeserializer::parse(text).and_then(Value::deserialize);
        Ok(parsed.unwrap_or_else(|_| Value::Table(toml::Table::new())))
    }

    fn line(&self, span: &Range<usize>) -> usize {
        let before = self.text.as_bytes().get(..span.start).unwrap_or_default();
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }

    fn syntax(&self, why: &toml::de::Error) -> Error {
        let line = why.span().map_or(1, |span| self.line(&span));
        Error::Syntax { path: self.path.to_owned(), line, why: why.message().trim().replace('\n', "; ") }
    }
}

fn is_table(key: &str) -> bool {
    if key == rules::SETTINGS {
        return true;
    }
    rules::RULES.iter().any(|(name, _)| name.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

/// The tables at the top of the file.
pub fn sections() -> Vec<&'static str> {
    let mut all: Vec<&str> = Vec::new();
    for (name, _) in rules::RULES {
        let section = name.split('.').next().unwrap_or_default();
        if all.last() != Some(&section) {
            all.push(section);
        }
    }
    all.push(rules::SETTINGS);
    all
}

/// What could have been meant: the keys of the same table, or the tables there are.
fn hint(key: &str) -> String {
    let (table, prefix) = match key.rsplit_once('.') {
        Some((table, _)) => (table, format!("{table}.")),
        None => ("the file", String::new()),
    };
    let mut known: Vec<&str> = Vec::new();
    for (name, _) in rules::RULES {
        let next = name.strip_prefix(&prefix).and_then(|rest| rest.split('.').next());
        known.extend(next.filter(|next| known.last() != Some(next)));
    }
    if prefix.is_empty() {
        known.push(rules::SETTINGS);
    }
    format!("; {table} has {}", known.join(", "))
}
