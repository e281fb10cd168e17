//! A provisioning file taken apart: tables, keys and values that know their line, every error of the file at once, and
//! where its secrets stand.

use std::ops::Range;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::values::Read;

/// What stands in the place of a secret after it was applied; as a value it means that the secret stays as it is.
pub(super) const REMOVED: &str = "(removed)";
/// More errors than that nobody reads.
const ERRORS_MAX: usize = 30;

/// The reading of one file.
pub(super) struct Reader<'a> {
    name: &'a str,
    text: &'a str,
    errors: Vec<(usize, String)>,
    secrets: Vec<(Range<usize>, String)>,
    /// What is unknown is noted here instead of being wrong, if it may be.
    notes: Option<Vec<String>>,
}

/// One table of it, which may be absent.
#[derive(Clone, Copy)]
pub(super) struct Section<'t> {
    name: &'static str,
    table: Option<&'t DeTable<'t>>,
}

/// A secret of the file.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Secret {
    /// It stands there.
    New(String),
    /// The file was applied before: it stays what it was.
    Kept,
}

impl<'a> Reader<'a> {
    /// Of the text of a file; `name` is for the messages.
    pub(super) fn new(name: &'a str, text: &'a str) -> Reader<'a> {
        Reader { name, text, errors: Vec::new(), secrets: Vec::new(), notes: None }
    }

    /// From here on, what is unknown does no harm: it is noted, and its value is taken for a secret.
    pub(super) fn tolerate_unknown(&mut self) {
        self.notes = Some(Vec::new());
    }

    /// What people should know.
    pub(super) fn notes(&self) -> &[String] {
        self.notes.as_deref().unwrap_or_default()
    }

    /// A key that nobody knows.
    pub(super) fn unknown(&mut self, at: usize, value: &Spanned<DeValue<'_>>, why: String) {
        let Some(notes) = &mut self.notes else { return self.wrong(at, why) };
        notes.push(why);
        // A table's values may be anywhere in the file: it has none that can be taken out at once.
        match value.get_ref().as_table() {
            Some(table) => {
                for (key, value) in table.iter() {
                    let why = format!("unknown key {}", key.get_ref());
                    self.unknown(key.span().start, value, why);
                }
            }
            None => {
                let text = value.get_ref().as_str().unwrap_or_default().to_owned();
                self.secrets.push((value.span(), text));
            }
        }
    }

    /// The tables of the file. With errors of its grammar there is nothing else to say about it.
    pub(super) fn parse(&mut self) -> DeTable<'a> {
        let (table, errors) = DeTable::parse_recoverable(self.text);
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            self.errors.push((self.line(at), error.message().trim().replace('\n', "; ")));
        }
        table.into_inner()
    }

    /// Whether nothing was wrong so far.
    pub(super) fn is_good(&self) -> bool {
        self.errors.is_empty()
    }

    /// All that was wrong, in the order of the file, each with its place; never a value.
    pub(super) fn into_errors(mut self) -> Vec<String> {
        self.errors.sort();
        self.errors.dedup();
        let left = self.errors.len().saturating_sub(ERRORS_MAX);
        let shown = self.errors.iter().take(ERRORS_MAX);
        let mut all: Vec<String> =
            shown.map(|(line, why)| format!("{}, line {line}: {why}", self.name)).collect();
        if left > 0 {
            all.push(format!("{}: and {left} more", self.name));
        }
        all
    }

    /// The text without its secrets; everything else stays as it was written.
    pub(super) fn redacted(&self) -> String {
        let mut text = self.text.to_owned();
        let mut secrets = self.secrets.clone();
        secrets.sort_by_key(|(span, _)| std::cmp::Reverse(span.start));
        for (span, _) in &secrets {
            text.replace_range(span.clone(), &format!("\"{REMOVED}\""));
        }
        // Whoever tries things out leaves old lines as comments.
        for (_, secret) in secrets.iter().filter(|(_, secret)| secret.len() >= 8) {
            text = text.replace(secret.as_str(), REMOVED);
        }
        text
    }

    /// Something is wrong at a place of the file.
    pub(super) fn wrong(&mut self, at: usize, why: impl Into<String>) {
        let line = self.line(at);
        self.errors.push((line, why.into()));
    }

    /// Something is wrong in a line, from 1.
    pub(super) fn wrong_line(&mut self, line: usize, why: String) {
        self.errors.push((line, why));
    }

    /// Something is wrong with the value of a key, or with the table if it is not there.
    pub(super) fn wrong_key(&mut self, section: Section<'_>, key: &str, why: &str) {
        let at = section.find(key).map_or_else(|| section.start(), |(key, _)| key.span().start);
        self.wrong(at, format!("{}.{key} {why}", section.name));
    }

    /// A table of the file, with none but the known keys. An absent one is empty.
    pub(super) fn section<'t>(
        &mut self,
        root: &'t DeTable<'t>,
        name: &'static str,
        known: &[&str],
    ) -> Section<'t> {
        let Some((key, value)) = root.iter().find(|(key, _)| key.get_ref() == name) else {
            return Section { name, table: None };
        };
        let Some(table) = value.get_ref().as_table() else {
            self.wrong(key.span().start, format!("{name} is a table: write it as [{name}]"));
            return Section { name, table: None };
        };
        for (key, value) in table.iter().filter(|(key, _)| !known.contains(&key.get_ref().as_ref())) {
            let why = format!("unknown key {name}.{}; [{name}] has {}", key.get_ref(), known.join(", "));
            self.unknown(key.span().start, value, why);
        }
        Section { name, table: Some(table) }
    }

    /// A text that `read` takes.
    pub(super) fn text<T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        read: impl FnOnce(&str) -> Read<T>,
    ) -> Option<T> {
        let (_, value) = section.find(key)?;
        let Some(text) = value.get_ref().as_str() else {
            self.wrong_key(section, key, "must be a text in quotes");
            return None;
        };
        read(text).map_err(|why| self.wrong_key(section, key, &why)).ok()
    }

    /// A secret that `read` takes; where it stands is remembered.
    pub(super) fn secret(
        &mut self,
        section: Section<'_>,
        key: &str,
        read: impl FnOnce(&str) -> Read<String>,
    ) -> Option<Secret> {
        let (_, value) = section.find(key)?;
        match value.get_ref().as_str() {
            Some(REMOVED) => return Some(Secret::Kept),
            // An empty one says that there is none.
            Some("") => return Some(Secret::New(String::new())),
            Some(text) => self.secrets.push((value.span(), text.to_owned())),
            None => {}
        }
        self.text(section, key, read).map(Secret::New)
    }

    /// Yes or no.
    pub(super) fn flag(&mut self, section: Section<'_>, key: &str) -> Option<bool> {
        let (_, value) = section.find(key)?;
        let flag = value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong_key(section, key, "must be true or false, without quotes");
        }
        flag
    }

    /// A list of texts that `read` takes, at most so many. Empty texts are passed over.
    pub(super) fn list<T>(
        &mut self,
        section: Section<'_>,
        key: &str,
        most: usize,
        read: impl Fn(&str) -> Read<T>,
    ) -> Option<Vec<T>> {
        let (_, value) = section.find(key)?;
        let Some(items) = value.get_ref().as_array() else {
            self.wrong_key(section, key, "must be a list of texts, like [\"one\", \"two\"]");
            return None;
        };
        if items.len() > most {
            self.wrong_key(section, key, &format!("holds at most {most}"));
            return None;
        }
        let mut all = Vec::new();
        for item in items.iter() {
            match item.get_ref().as_str().map(str::trim) {
                Some("") => {}
                Some(text) => match read(text) {
                    Ok(value) => all.push(value),
                    Err(why) => self.wrong(item.span().start, format!("{}.{key} {why}", section.name)),
                },
                None => {
                    self.wrong(
                        item.span().start,
                        format!("{}.{key} must hold texts in quotes", section.name),
                    );
                }
            }
        }
        Some(all)
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        before.iter().filter(|&&byte| byte == b'\n').count() + 1
    }
}

impl<'t> Section<'t> {
    /// Whether the file has it.
    pub(super) fn is_there(self) -> bool {
        self.table.is_some()
    }

    /// Whether it says nothing.
    pub(super) fn is_empty(self) -> bool {
        self.table.is_none_or(|table| table.is_empty())
    }

    /// Whether it has this key.
    pub(super) fn has(self, key: &str) -> bool {
        self.find(key).is_some()
    }

    fn find(self, key: &str) -> Option<(&'t Spanned<std::borrow::Cow<'t, str>>, &'t Spanned<DeValue<'t>>)> {
        self.table?.iter().find(|(name, _)| name.get_ref() == key)
    }

    fn start(self) -> usize {
        let first = self.table.into_iter().flat_map(|table| table.keys()).map(|key| key.span().start).min();
        first.unwrap_or_default()
    }
}
