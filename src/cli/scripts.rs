//! `picloud script`, and `picloud validate`.

use std::path::{Path, PathBuf};

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::args::{self, Access, InApp, Limit};
use super::error::Error;
use super::find::{self, app_name, app_path};
use super::render::{Column, clean, field, text};
use super::session::Session;
use super::{deploy, input};

/// What can be done with scripts.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the scripts of an app
    Ls {
        /// Whose.
        #[command(flatten)]
        of: InApp,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Store a new script; `picloud deploy` also updates
    Add(Add),
    /// Show a script
    Show {
        /// Its name or id
        script: String,
        /// Print the active source instead
        #[arg(long)]
        source: bool,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Remove a script and all its versions
    Rm {
        /// Its name or id
        script: String,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// List the versions of a script
    Versions {
        /// Its name or id
        script: String,
        /// Whose.
        #[command(flatten)]
        of: InApp,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Make an earlier version the active one
    Rollback {
        /// Its name or id
        script: String,
        /// The version
        version: u32,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
}

/// A new script.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// The file, or - for standard input
    file: PathBuf,
    /// The script's name [default: the file's name without its ending]
    #[arg(long)]
    name: Option<String>,
    /// Wall-clock limit of a run in seconds
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u16>,
    /// Who may run it
    #[arg(long)]
    access: Option<Access>,
    /// A limit that differs, like max_operations=1000000; may be repeated
    #[arg(long, value_name = "LIMIT=N", value_parser = limit)]
    sandbox: Vec<(String, u64)>,
    /// For whom.
    #[command(flatten)]
    of: InApp,
}

const COLUMNS: &[Column] = &[
    Column("NAME", |item| field(item, "name")),
    Column("VERSION", |item| field(item, "active_version")),
    Column("ACCESS", |item| field(item, "access")),
    Column("ID", |item| field(item, "id")),
    Column("UPDATED", |item| field(item, "updated_at")),
];

const VERSIONS: &[Column] = &[
    Column("VERSION", |item| field(item, "version")),
    Column("BYTES", |item| {
        item["source"].as_str().map_or_else(|| "-".into(), |source| source.len().to_string())
    }),
    Column("CREATED", |item| field(item, "created_at")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls { of, limit } => {
            let path = format!("{}/scripts", app_path(&of.app));
            let list = session.client.list(&path, &[], limit.or_all(), &app_name(&of.app))?;
            let empty = format!("{} has no scripts; store one with `picloud deploy`", app_name(&of.app));
            session.table(&list, COLUMNS, &empty)
        }
        Verb::Add(args) => add(session, args),
        Verb::Show { script, source, of } => show(session, &of.app, &script, source),
        Verb::Rm { script, of } => {
            let (path, what) = one(session, &of.app, &script)?;
            session.remove(&path, &what)
        }
        Verb::Versions { script, of, limit } => {
            let (path, what) = one(session, &of.app, &script)?;
            let list = session.client.list(&format!("{path}/versions"), &[], limit.or_all(), &what)?;
            session.table(&list, VERSIONS, "no versions")
        }
        Verb::Rollback { script, version, of } => {
            let (path, what) = one(session, &of.app, &script)?;
            let body = json!({ "version": version });
            let answer = session.client.post(
                &format!("{path}/rollback"),
                &body,
                &format!("version {version} of {what}"),
            )?;
            session.told(format_args!("{what} runs version {version}"), &answer)
        }
    }
}

/// `picloud validate`.
pub(super) fn validate(session: &mut Session<'_>, file: &Path) -> Result<(), Error> {
    let source = input::source(file)?;
    let answer = session.client.post("/api/v1/validate", &json!({ "source": source.text }), "the validator");
    let answer = answer.map_err(|why| source.explain(why))?;
    session.told(format_args!("{} is valid", source.file), &answer)
}

/// The API's path of a script and its name for people.
fn one(session: &Session<'_>, app: &str, script: &str) -> Result<(String, String), Error> {
    let id = find::script(&session.client, app, script)?;
    Ok((format!("{}/scripts/{id}", app_path(app)), format!("script {}", clean(script))))
}

fn add(session: &mut Session<'_>, args: Add) -> Result<(), Error> {
    let source = input::source(&args.file)?;
    let name = deploy::script_name(args.name, &args.file)?;
    let mut body = json!({ "name": name, "source": source.text });
    if let Some(timeout) = args.timeout {
        body["timeout_seconds"] = json!(timeout);
    }
    if let Some(access) = args.access.and_then(args::word) {
        body["access"] = json!(access);
    }
    if !args.sandbox.is_empty() {
        body["sandbox"] =
            args.sandbox.into_iter().map(|(name, n)| (name, json!(n))).collect::<Map<_, _>>().into();
    }
    let path = format!("{}/scripts", app_path(&args.of.app));
    let script =
        session.client.post(&path, &body, &app_name(&args.of.app)).map_err(|why| source.explain(why))?;
    session.told(format_args!("added script {} ({})", clean(&name), text(&script["id"])), &script)
}

fn show(session: &mut Session<'_>, app: &str, script: &str, source: bool) -> Result<(), Error> {
    let (path, what) = one(session, app, script)?;
    let mut value = session.client.get(&path, &what)?;
    if source && !session.json {
        let source = value["source"].as_str().unwrap_or_default();
        // Byte for byte, so that it can be written to a file and deployed again.
        return Ok(session.out.write_all(source.as_bytes())?);
    }
    if !session.json {
        value.as_object_mut().map(|fields| fields.remove("source"));
        value["sandbox"] = Value::from(limits(&value["sandbox"]));
    }
    session.object(
        &value,
        &["name", "id", "app_id", "active_version", "latest_version", "timeout_seconds", "access"],
    )
}

/// The overrides that are set.
fn limits(sandbox: &Value) -> String {
    let set = sandbox.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let set = set.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>();
    if set.is_empty() { "the device's defaults".to_owned() } else { set.join(" ") }
}

fn limit(text: &str) -> Result<(String, u64), String> {
    let (name, number) = text.split_once('=').ok_or("must be like max_operations=1000000")?;
    let number = number.parse().map_err(|_| "must be like max_operations=1000000")?;
    Ok((name.trim().to_owned(), number))
}
