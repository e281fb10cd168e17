//! What a verb works with: the client, and the two ways of printing.

use std::fmt;
use std::io::Write;

use serde_json::{Value, json};

use super::backups::Offline;
use super::client::{Client, Listing};
use super::error::Error;
use super::render;

/// One run of a client verb.
pub(super) struct Session<'a> {
    /// The daemon.
    pub(super) client: Client,
    /// Whether the API's JSON is printed instead of words.
    pub(super) json: bool,
    /// What needs no daemon.
    pub(super) offline: Offline,
    /// Standard output.
    pub(super) out: &'a mut dyn Write,
    /// Standard error, for notes that are no part of the answer.
    pub(super) err: &'a mut dyn Write,
}

impl Session<'_> {
    /// Prints one line of an answer in words.
    pub(super) fn say(&mut self, line: impl fmt::Display) -> Result<(), Error> {
        Ok(writeln!(self.out, "{line}")?)
    }

    /// Tells something that is no part of the answer.
    pub(super) fn note(&mut self, line: impl fmt::Display) -> Result<(), Error> {
        Ok(writeln!(self.err, "{line}")?)
    }

    /// Prints a JSON document.
    pub(super) fn document(&mut self, value: &Value) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(value).map_err(|why| Error::Failed(why.to_string()))?;
        self.say(text)
    }

    /// Prints a line in words, or the API's answer.
    pub(super) fn told(&mut self, line: impl fmt::Display, answer: &Value) -> Result<(), Error> {
        if self.json { self.document(answer) } else { self.say(line) }
    }

    /// Prints one object: the named fields first, then whatever else the API knows.
    pub(super) fn object(&mut self, value: &Value, first: &[&str]) -> Result<(), Error> {
        if self.json { self.document(value) } else { self.say(render::object(value, first)) }
    }

    /// Prints a list as a table, or says that it is empty.
    pub(super) fn table(
        &mut self,
        listing: &Listing,
        columns: &[render::Column],
        empty: &str,
    ) -> Result<(), Error> {
        if self.json {
            return self.document(&json!({ "items": listing.items, "next_cursor": listing.next_cursor }));
        }
        if listing.items.is_empty() {
            return self.say(empty);
        }
        self.say(render::table(&listing.items, columns))?;
        self.note_rest(listing)
    }

    /// Says on standard error that a limit cut a list off.
    pub(super) fn note_rest(&mut self, listing: &Listing) -> Result<(), Error> {
        if listing.next_cursor.is_none() {
            return Ok(());
        }
        self.note(format_args!("the first {} are shown; --limit 0 shows all", listing.items.len()))
    }

    /// Removes a thing and says so.
    pub(super) fn remove(&mut self, path: &str, what: &str) -> Result<(), Error> {
        self.client.delete(path, what)?;
        self.told(format_args!("removed {what}"), &json!({ "removed": what }))
    }
}
