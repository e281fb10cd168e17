//! `picloud trigger`.

use clap::{ArgGroup, Subcommand};
use serde_json::{Value, json};

use super::args::{InApp, Limit};
use super::client::segment;
use super::error::Error;
use super::find::{self, app_name, app_path};
use super::render::{Column, clean, field, text};
use super::session::Session;

/// What can be done with triggers.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the triggers of an app
    #[command(visible_alias = "list")]
    Ls {
        /// Whose.
        #[command(flatten)]
        of: InApp,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Run a script by the clock, or when something happens
    Add(Box<Add>),
    /// Show a trigger
    Show(One),
    /// Remove a trigger
    #[command(visible_alias = "remove")]
    Rm(One),
    /// Hold back what a trigger makes, and let it make nothing more
    Pause(One),
    /// Let a paused trigger go on
    Resume(One),
    /// Run a trigger's script now
    Run(One),
}

/// One trigger.
#[derive(Debug, clap::Args)]
pub(super) struct One {
    /// Its id
    trigger: String,
    /// Whose.
    #[command(flatten)]
    of: InApp,
}

/// A new trigger.
#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("kind").required(true).args(["cron", "kv", "queue", "dead_letters", "startup"])))]
pub(super) struct Add {
    /// The script, by name or id
    #[arg(long, short)]
    script: String,
    /// When the clock strikes: a cron line like "0 7 * * *", or @daily
    #[arg(long, value_name = "LINE")]
    cron: Option<String>,
    /// When a value changes whose key begins so; "" is any
    #[arg(long, value_name = "PREFIX")]
    kv: Option<String>,
    /// When a message comes to this queue
    #[arg(long, value_name = "NAME")]
    queue: Option<String>,
    /// When work ends as a dead letter
    #[arg(long)]
    dead_letters: bool,
    /// When the daemon starts
    #[arg(long)]
    startup: bool,
    /// The time zone of the cron line, like Europe/Berlin [default: UTC]
    #[arg(long, value_name = "ZONE", requires = "cron")]
    zone: Option<String>,
    /// Ticks that passed while the device was off: skip, once or all
    #[arg(long, value_name = "HOW", requires = "cron")]
    catch_up: Option<String>,
    /// A tick while the run of the one before is not over: skip, queue or parallel
    #[arg(long, value_name = "HOW", requires = "cron")]
    overlap: Option<String>,
    /// Only these changes of values: set or delete
    #[arg(long, value_name = "CHANGE", requires = "kv")]
    on: Option<String>,
    /// Attempts for each message
    #[arg(long, value_name = "N", requires = "queue")]
    max_attempts: Option<u16>,
    /// Only dead letters of this script, by name or id
    #[arg(long, value_name = "SCRIPT", requires = "dead_letters")]
    of_script: Option<String>,
    /// Begin paused
    #[arg(long)]
    paused: bool,
    /// For whom.
    #[command(flatten)]
    of: InApp,
}

const COLUMNS: &[Column] = &[
    Column("KIND", |item| field(item, "kind")),
    Column("WHEN", when),
    Column("SCRIPT", |item| field(item, "script_name")),
    Column("ENABLED", |item| field(item, "enabled")),
    Column("NEXT", |item| field(item, "next_at")),
    Column("LAST", |item| field(item, "last_at")),
    Column("ID", |item| field(item, "id")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls { of, limit } => list(session, &of.app, limit),
        Verb::Add(args) => add(session, *args),
        Verb::Show(one) => {
            let value = session.client.get(&path(&one), &named(&one))?;
            session.object(&value, &["kind", "script_id", "enabled", "id", "app_id"])
        }
        Verb::Rm(one) => session.remove(&path(&one), &named(&one)),
        Verb::Pause(one) => turn(session, &one, "pause", "paused"),
        Verb::Resume(one) => turn(session, &one, "resume", "resumed"),
        Verb::Run(one) => {
            let answer = session.client.post(&format!("{}/run", path(&one)), &json!({}), &named(&one))?;
            let said = format!("{} runs as execution {}", named(&one), text(&answer["execution_id"]));
            session.told(said, &answer)
        }
    }
}

fn turn(session: &mut Session<'_>, one: &One, verb: &str, done: &str) -> Result<(), Error> {
    let answer = session.client.post(&format!("{}/{verb}", path(one)), &json!({}), &named(one))?;
    session.told(format!("{done} {}", named(one)), &answer)
}

fn path(one: &One) -> String {
    format!("{}/triggers/{}", app_path(&one.of.app), segment(&one.trigger))
}

fn named(one: &One) -> String {
    format!("trigger {}", clean(&one.trigger))
}

/// What a trigger waits for, in a few words.
fn when(item: &Value) -> String {
    match item["kind"].as_str() {
        Some("cron") => format!("{} {}", field(item, "schedule"), field(item, "timezone")),
        Some("kv") => format!("{}*", field(item, "prefix")),
        Some("queue") => field(item, "queue"),
        Some("dead_letter") => item["source_script_id"].as_str().map(clean).unwrap_or_default(),
        _ => String::new(),
    }
}

/// Triggers know their script by id only; people by name.
fn list(session: &mut Session<'_>, app: &str, limit: Limit) -> Result<(), Error> {
    let path = format!("{}/triggers", app_path(app));
    let mut list = session.client.list(&path, &[], limit.or_all(), &app_name(app))?;
    if !session.json && !list.items.is_empty() {
        let scripts =
            session.client.list(&format!("{}/scripts", app_path(app)), &[], None, &app_name(app))?;
        for trigger in &mut list.items {
            let script = scripts.items.iter().find(|script| script["id"] == trigger["script_id"]);
            trigger["script_name"] =
                script.map_or_else(|| trigger["script_id"].clone(), |script| script["name"].clone());
        }
    }
    let empty = format!("{} has no triggers; add one with `picloud trigger add`", app_name(app));
    session.table(&list, COLUMNS, &empty)
}

fn add(session: &mut Session<'_>, args: Add) -> Result<(), Error> {
    let app = &args.of.app;
    let script_id = find::script(&session.client, app, &args.script)?;
    let kinds = [
        ("cron", args.cron.is_some()),
        ("kv", args.kv.is_some()),
        ("queue", args.queue.is_some()),
        ("dead_letter", args.dead_letters),
        ("startup", args.startup),
    ];
    let kind = kinds.into_iter().find_map(|(kind, is_it)| is_it.then_some(kind));
    let of_script =
        args.of_script.as_ref().map(|name| find::script(&session.client, app, name)).transpose()?;
    let mut body = json!({ "kind": kind, "script_id": script_id, "enabled": !args.paused });
    let options = [
        ("schedule", args.cron),
        ("timezone", args.zone),
        ("catch_up", args.catch_up),
        ("overlap", args.overlap),
        ("prefix", args.kv),
        ("on", args.on),
        ("queue", args.queue),
        ("source_script_id", of_script),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            body[name] = Value::from(value);
        }
    }
    if let Some(attempts) = args.max_attempts {
        body["max_attempts"] = Value::from(attempts);
    }
    let trigger = session.client.post(&format!("{}/triggers", app_path(app)), &body, &app_name(app))?;
    let next = trigger["next_at"].as_str().map(|at| format!("; it strikes next at {}", clean(at)));
    let said = format!(
        "added {} trigger {}{}",
        field(&trigger, "kind"),
        field(&trigger, "id"),
        next.unwrap_or_default()
    );
    session.told(said, &trigger)
}
