//! `picloud kv`.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Value, json};

use super::args::{InApp, Limit};
use super::client::{segment, with_query};
use super::error::Error;
use super::find::{app_name, app_path};
use super::input;
use super::render::{Column, clean, field, text};
use super::session::Session;
use crate::model::UnixMs;

/// What can be done with the values of an app.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the values of an app, by key
    #[command(alias = "list")]
    Ls {
        /// Only keys that begin so
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Print a value as JSON
    Get {
        /// Its key
        key: String,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Set a value
    Set {
        /// Its key
        key: String,
        /// JSON, or else a text as it is; - reads it from standard input
        #[arg(allow_negative_numbers = true)]
        value: String,
        /// Take the value as a text, also if it is JSON
        #[arg(long)]
        text: bool,
        /// After so long it is gone: a span like 90s, 15m, 2h or 7d [default: it stays]
        #[arg(long, value_name = "SPAN")]
        ttl: Option<String>,
        /// Only if it has this version; 0 = only if it is not there
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Remove a value
    #[command(alias = "remove")]
    Rm {
        /// Its key
        key: String,
        /// Only if it has this version
        #[arg(long, value_name = "N")]
        if_version: Option<u64>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Write values to a file, one line of JSON each
    Export {
        /// Where to, or - for standard output
        file: PathBuf,
        /// Only keys that begin so
        #[arg(long, value_name = "TEXT")]
        prefix: Option<String>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Set the values of a file that `picloud kv export` wrote; other values stay
    Import {
        /// The file, or - for standard input
        file: PathBuf,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
}

const COLUMNS: &[Column] = &[
    Column("KEY", |item| field(item, "key")),
    Column("VALUE", |item| clean(&item["value"].to_string())),
    Column("VERSION", |item| field(item, "version")),
    Column(
        "EXPIRES",
        |item| if item["expires_at"].is_null() { "never".into() } else { field(item, "expires_at") },
    ),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls { prefix, of, limit } => {
            let path = format!("{}/kv", app_path(&of.app));
            let prefix = [("prefix", prefix.as_deref())];
            let list = session.client.list(&path, &prefix, limit.or(100), &app_name(&of.app))?;
            let empty = format!("{} has no such values; set one with `picloud kv set`", app_name(&of.app));
            session.table(&list, COLUMNS, &empty)
        }
        Verb::Get { key, of } => {
            let (path, what) = one(&of.app, &key);
            let entry = session.client.get(&path, &what)?;
            if session.json {
                session.document(&entry)
            } else {
                session.say(clean(&entry["value"].to_string()))
            }
        }
        Verb::Set { key, value, text, ttl, if_version, of } => {
            let (path, what) = one(&of.app, &key);
            let mut body = json!({ "value": read_value(&value, text)? });
            if let Some(ttl) = ttl {
                body["ttl"] = json!(seconds(&ttl)?);
            }
            if let Some(version) = if_version {
                body["if_version"] = json!(version);
            }
            let entry = session.client.put(&path, &body, &what)?;
            session.told(format_args!("set {what}: version {}", entry["version"]), &entry)
        }
        Verb::Rm { key, if_version, of } => {
            let (path, what) = one(&of.app, &key);
            let version = if_version.map(|version| version.to_string());
            session.remove(&with_query(&path, &[("if_version", version.as_deref())]), &what)
        }
        Verb::Export { file, prefix, of } => export(session, &of.app, prefix.as_deref(), &file),
        Verb::Import { file, of } => import(session, &of.app, &file),
    }
}

fn one(app: &str, key: &str) -> (String, String) {
    (format!("{}/kv/{}", app_path(app), segment(key)), format!("value {} of {}", clean(key), app_name(app)))
}

/// A value from the arguments or from standard input, whose last line break is left out.
fn read_value(given: &str, as_text: bool) -> Result<Value, Error> {
    let given = if given == "-" {
        let unread = |_| Error::File { path: "-".into(), why: "a value must be UTF-8".into() };
        let mut read = String::from_utf8(input::bytes(Path::new("-"))?).map_err(unread)?;
        if read.ends_with('\n') {
            read.pop();
        }
        read
    } else {
        given.to_owned()
    };
    let json = if as_text { None } else { serde_json::from_str(&given).ok() };
    Ok(json.unwrap_or(Value::String(given)))
}

fn seconds(span: &str) -> Result<u64, Error> {
    let read = input::span(span).map(|span| span.as_secs()).filter(|seconds| *seconds > 0);
    read.ok_or_else(|| Error::Usage(format!("--ttl {span}: must be a span like 90s, 15m, 2h or 7d")))
}

/// Writes page by page: there may be more values than memory.
fn export(session: &mut Session<'_>, app: &str, prefix: Option<&str>, file: &Path) -> Result<(), Error> {
    let unwritten = |why: io::Error| Error::File { path: file.to_owned(), why: why.to_string() };
    let to_out = file == Path::new("-");
    let mut out = if to_out { None } else { Some(BufWriter::new(File::create(file).map_err(unwritten)?)) };
    let (mut cursor, mut count) = (None::<String>, 0_usize);
    loop {
        let query = [("prefix", prefix), ("cursor", cursor.as_deref())];
        let path = with_query(&format!("{}/kv", app_path(app)), &query);
        let page = session.client.get(&path, &app_name(app))?;
        for item in page["items"].as_array().into_iter().flatten() {
            let line =
                json!({ "key": item["key"], "value": item["value"], "expires_at": item["expires_at"] });
            match &mut out {
                Some(out) => writeln!(out, "{line}").map_err(unwritten)?,
                None => session.say(line)?,
            }
            count += 1;
        }
        let next = page["next_cursor"].as_str().map(str::to_owned);
        if next.is_none() || next == cursor {
            break;
        }
        cursor = next;
    }
    if let Some(mut out) = out {
        out.flush().and_then(|()| out.get_ref().sync_all()).map_err(unwritten)?;
    }
    session.note(format_args!("exported {count} values of {}", app_name(app)))
}

fn import(session: &mut Session<'_>, app: &str, file: &Path) -> Result<(), Error> {
    let unread = |why: io::Error| Error::File { path: file.to_owned(), why: why.to_string() };
    let lines: Box<dyn BufRead> = if file == Path::new("-") {
        Box::new(BufReader::new(io::stdin()))
    } else {
        Box::new(BufReader::new(File::open(file).map_err(unread)?))
    };
    let (mut count, mut expired) = (0_usize, 0_usize);
    for (number, line) in lines.lines().enumerate() {
        let line = line.map_err(unread)?;
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |why: &str| Error::Failed(format!("{}:{}: {why}", file.display(), number + 1));
        let entry: Value = serde_json::from_str(&line).map_err(|why| wrong(&why.to_string()))?;
        let (Some(key), Some(value)) = (entry["key"].as_str(), entry.get("value")) else {
            return Err(wrong("a line is an object with \"key\" and \"value\""));
        };
        let mut body = json!({ "value": value });
        match remaining(&entry["expires_at"]) {
            None => {}
            Some(left) if left > 0 => body["ttl"] = json!(left),
            Some(_) => {
                expired += 1;
                continue;
            }
        }
        let (path, what) = one(app, key);
        session.client.put(&path, &body, &what).map_err(|why| wrong(&why.to_string()))?;
        count += 1;
    }
    let told = json!({ "imported": count, "expired": expired });
    session.told(format_args!("imported {count} values into {}; {expired} had expired", app_name(app)), &told)
}

/// Seconds until an instant; 0 or less if it is over, `None` if there is none.
fn remaining(expires_at: &Value) -> Option<i64> {
    let at = UnixMs::parse(&text(expires_at)).filter(|_| expires_at.is_string())?;
    // Rounded up: what expires within the second is still there.
    Some((at.0 - UnixMs::now().0 + 999) / 1000)
}
