//! `picloud key`.

use clap::Subcommand;
use serde_json::json;

use super::args::Limit;
use super::error::Error;
use super::render::{Column, clean, field, text};
use super::session::Session;
use super::{find, input};
use crate::model::UnixMs;

/// What can be done with api keys.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List keys, without their secrets
    Ls(Limit),
    /// Make a key; its secret is shown this once
    Add {
        /// What it is for
        name: String,
        /// When it ends: a span like 90d, or an instant like 2026-12-31T00:00:00Z [default: never]
        #[arg(long, value_name = "WHEN")]
        expires: Option<String>,
    },
    /// Show a key, without its secret
    Show {
        /// Its name or id
        key: String,
    },
    /// Revoke a key
    Rm {
        /// Its name or id
        key: String,
    },
}

const COLUMNS: &[Column] = &[
    Column("NAME", |item| field(item, "name")),
    Column("HINT", |item| field(item, "hint")),
    Column("ID", |item| field(item, "id")),
    Column(
        "EXPIRES",
        |item| if item["expires_at"].is_null() { "never".into() } else { field(item, "expires_at") },
    ),
    Column("CREATED", |item| field(item, "created_at")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls(limit) => {
            let list = session.client.list("/api/v1/keys", &[], limit.or_all(), "the list of keys")?;
            session.table(&list, COLUMNS, "no keys yet; make one with `picloud key add`")
        }
        Verb::Add { name, expires } => add(session, &name, expires.as_deref()),
        Verb::Show { key } => {
            let path = format!("/api/v1/keys/{}", find::key(&session.client, &key)?);
            let value = session.client.get(&path, &format!("key {}", clean(&key)))?;
            session.object(&value, &["name", "hint", "id", "expires_at"])
        }
        Verb::Rm { key } => {
            let path = format!("/api/v1/keys/{}", find::key(&session.client, &key)?);
            session.remove(&path, &format!("key {}", clean(&key)))
        }
    }
}

/// The secret goes to standard output alone, so that it can be piped to where it belongs.
fn add(session: &mut Session<'_>, name: &str, expires: Option<&str>) -> Result<(), Error> {
    let mut body = json!({ "name": name });
    if let Some(expires) = expires {
        body["expires_at"] = json!(input::until(expires, UnixMs::now())?);
    }
    let key = session.client.post("/api/v1/keys", &body, "the list of keys")?;
    if session.json {
        return session.document(&key);
    }
    session.note(format_args!("added key {}; its secret is shown this once:", clean(name)))?;
    session.say(text(&key["secret"]))
}
