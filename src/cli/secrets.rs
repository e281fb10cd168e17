//! `picloud secret`.
//!
//! A value is read from standard input or a file, never from the arguments: those of a process can be seen by everybody
//! on the machine, and shells keep them in their history.

use std::fs::File;
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::json;

use super::args::{InApp, Limit};
use super::client::segment;
use super::error::Error;
use super::find::{app_name, app_path};
use super::input;
use super::render::{Column, clean, field};
use super::session::Session;

/// What can be done with secrets.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the secrets of an app, without their values
    #[command(alias = "list")]
    Ls {
        /// Whose.
        #[command(flatten)]
        of: InApp,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Set a secret; its value is read from standard input, never from the arguments, which others can see
    Set {
        /// Its name, like smtp.password
        name: String,
        /// Read the value from a file instead; one line break at its end is left out
        #[arg(long, value_name = "FILE")]
        value_file: Option<PathBuf>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Remove a secret
    #[command(alias = "remove")]
    Rm {
        /// Its name
        name: String,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
}

const COLUMNS: &[Column] = &[
    Column("NAME", |item| field(item, "name")),
    Column("CREATED", |item| field(item, "created_at")),
    Column("UPDATED", |item| field(item, "updated_at")),
    Column("STATE", |item| {
        let state = if item["usable"] == false { "sealed by another device: set it again" } else { "ok" };
        state.to_owned()
    }),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    let one = |app: &str, name: &str| {
        let path = format!("{}/secrets/{}", app_path(app), segment(name));
        (path, format!("secret {} of {}", clean(name), app_name(app)))
    };
    match verb {
        Verb::Ls { of, limit } => {
            let path = format!("{}/secrets", app_path(&of.app));
            let list = session.client.list(&path, &[], limit.or_all(), &app_name(&of.app))?;
            let empty = format!("{} has no secrets; set one with `picloud secret set`", app_name(&of.app));
            session.table(&list, COLUMNS, &empty)
        }
        Verb::Set { name, value_file, of } => {
            let value = value(value_file.as_deref().unwrap_or(Path::new("-")))?;
            let (path, what) = one(&of.app, &name);
            let secret = session.client.put(&path, &json!({ "value": value }), &what)?;
            session.told(format_args!("set {what}"), &secret)
        }
        Verb::Rm { name, of } => {
            let (path, what) = one(&of.app, &name);
            session.remove(&path, &what)
        }
    }
}

/// A value without the line break that editors and `echo` put at its end.
pub(super) fn value(from: &Path) -> Result<String, Error> {
    let unusable = |why: String| Error::File { path: from.to_owned(), why };
    // The line break is none of the value's bytes.
    let most = input::SECRET_BYTES_MAX + 2;
    let read = if from == Path::new("-") {
        input::within(most, io::stdin())
    } else {
        File::open(from).and_then(|file| input::within(most, file))
    };
    let mut bytes = read.map_err(|why| unusable(why.to_string()))?;
    let mut text =
        String::from_utf8(mem::take(&mut *bytes)).map_err(|_| unusable("a secret must be UTF-8".into()))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}
