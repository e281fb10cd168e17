//! `picloud dead-letters`.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::args::{self, Filter, Limit};
use super::client::segment;
use super::error::Error;
use super::render::{self, Column, clean, field, text};
use super::session::Session;
use super::{find, input};

/// So many are listed unless another number is asked for.
const LISTED: usize = 50;

/// What can be done with dead letters.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List dead letters, newest first
    Ls {
        /// Whose.
        #[command(flatten)]
        filter: Filter,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Show a dead letter with its request and attempts
    Show {
        /// Its id
        id: String,
    },
    /// Run dead letters again
    Redrive {
        /// Their ids
        #[arg(conflicts_with_all = ["all", "app", "script"], required_unless_present = "all")]
        ids: Vec<String>,
        /// All of them, or all of an app or a script
        #[arg(long)]
        all: bool,
        /// Whose.
        #[command(flatten)]
        filter: Filter,
        /// The script's version to run
        #[arg(long, default_value = "active")]
        version: Version,
    },
    /// Delete dead letters
    Purge {
        /// Their ids [default: all, or all of an app or a script]
        #[arg(conflicts_with_all = ["app", "script"])]
        ids: Vec<String>,
        /// Whose.
        #[command(flatten)]
        filter: Filter,
        /// Do not ask
        #[arg(long)]
        yes: bool,
    },
}

/// Which version of a script, as the API says it.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(super) enum Version {
    /// The one that runs now
    Active,
    /// The one that failed
    Original,
}

const COLUMNS: &[Column] = &[
    Column("ID", |item| field(item, "id")),
    Column("REASON", |item| field(item, "reason")),
    Column("SCRIPT", |item| field(item, "script_name")),
    Column("VERSION", |item| field(item, "script_version")),
    Column("ATTEMPTS", |item| {
        item["attempts"].as_array().map_or_else(|| "-".into(), |list| list.len().to_string())
    }),
    Column("DIED", |item| field(item, "died_at")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls { filter, limit } => list(session, &filter, limit),
        Verb::Show { id } => show(session, &id),
        Verb::Redrive { ids, all: _, filter, version } => redrive(session, &ids, &filter, version),
        Verb::Purge { ids, filter, yes } => purge(session, &ids, &filter, yes),
    }
}

fn list(session: &mut Session<'_>, filter: &Filter, limit: Limit) -> Result<(), Error> {
    let script = script(session, filter)?;
    let parameters = [("app", filter.app.as_deref()), ("script", script.as_deref())];
    let list =
        session.client.list("/api/v1/dead-letters", &parameters, limit.or(LISTED), "the dead letters")?;
    session.table(&list, COLUMNS, "no dead letters")
}

fn show(session: &mut Session<'_>, id: &str) -> Result<(), Error> {
    let mut letter = session.client.get(&path(id), &named(id))?;
    if session.json {
        return session.document(&letter);
    }
    let mut taken =
        |name: &str| letter.as_object_mut().and_then(|fields| fields.remove(name)).unwrap_or_default();
    let [attempts, request] = ["attempts", "request"].map(&mut taken);
    session.object(&letter, &["id", "reason", "script_name", "script_version", "execution_id", "died_at"])?;
    let row = |attempt: &Value| vec![field(attempt, "at"), text(&attempt["status"]), text(&attempt["error"])];
    let rows: Vec<Vec<String>> = attempts.as_array().into_iter().flatten().map(row).collect();
    session.say(format_args!("\nattempts:\n{}", render::indented(&render::aligned(&rows))))?;
    session.say(format_args!("\nrequest:\n  {} {}", text(&request["method"]), text(&request["path"])))?;
    session.say(render::pairs("request headers", &request["headers"]))?;
    session.say(render::block("request body", &request["body"]))
}

fn redrive(
    session: &mut Session<'_>,
    ids: &[String],
    filter: &Filter,
    version: Version,
) -> Result<(), Error> {
    let version = args::word(version);
    if ids.is_empty() {
        let mut body = selection(session, filter)?;
        body["version"] = json!(version);
        let answer = session.client.post("/api/v1/dead-letters/redrive", &body, "the dead letters")?;
        return session.told(format_args!("{} dead letters run again", text(&answer["count"])), &answer);
    }
    let mut answers = Vec::new();
    for id in ids {
        let body = json!({ "version": version });
        let answer = session.client.post(&format!("{}/redrive", path(id)), &body, &named(id))?;
        if !session.json {
            session.say(format_args!(
                "{} runs again as execution {}",
                named(id),
                text(&answer["execution_id"])
            ))?;
        }
        answers.push(answer);
    }
    match answers.as_slice() {
        _ if !session.json => Ok(()),
        [one] => session.document(one),
        several => session.document(&json!({ "items": several })),
    }
}

fn purge(session: &mut Session<'_>, ids: &[String], filter: &Filter, yes: bool) -> Result<(), Error> {
    if !ids.is_empty() {
        for id in ids {
            session.client.delete(&path(id), &named(id))?;
        }
        let count = ids.len();
        return session.told(format_args!("purged {count}"), &json!({ "count": count }));
    }
    let whose = match (&filter.script, &filter.app) {
        (Some(script), _) => format!("all dead letters of script {}", clean(script)),
        (None, Some(app)) => format!("all dead letters of app {}", clean(app)),
        (None, None) => "all dead letters of the device".to_owned(),
    };
    match if yes { Some(true) } else { input::confirm(&format!("delete {whose} for good?"))? } {
        Some(true) => {}
        Some(false) => return Err(Error::Failed("nothing was purged".to_owned())),
        None => return Err(Error::Usage(format!("this deletes {whose} for good; add --yes"))),
    }
    let body = selection(session, filter)?;
    let answer = session.client.post("/api/v1/dead-letters/purge", &body, "the dead letters")?;
    session.told(format_args!("purged {}", text(&answer["count"])), &answer)
}

fn script(session: &Session<'_>, filter: &Filter) -> Result<Option<String>, Error> {
    let find = |script: &String| find::script_anywhere(&session.client, filter.app.as_deref(), script);
    filter.script.as_ref().map(find).transpose()
}

/// The body that selects many.
fn selection(session: &Session<'_>, filter: &Filter) -> Result<Value, Error> {
    let mut body = json!({});
    if let Some(app) = &filter.app {
        body["app"] = json!(app);
    }
    if let Some(script) = script(session, filter)? {
        body["script"] = json!(script);
    }
    Ok(body)
}

fn path(id: &str) -> String {
    format!("/api/v1/dead-letters/{}", segment(id))
}

fn named(id: &str) -> String {
    format!("dead letter {}", clean(id))
}
