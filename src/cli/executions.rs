//! `picloud executions`.

use std::time::{Duration, Instant};

use clap::{Subcommand, ValueEnum};
use serde_json::Value;

use super::args::{self, Filter, Limit};
use super::client::with_query;
use super::error::Error;
use super::render::{self, Column, clean, field, text};
use super::session::Session;
use super::{find, input};
use crate::model::UnixMs;

/// Longest wait that one request may ask for.
const WAIT_SECONDS_MAX: u128 = 60;
/// So many are listed unless another number is asked for.
const LISTED: usize = 50;

/// What can be done with executions.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to do.
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Which to list, if there is no verb.
    #[command(flatten)]
    list: List,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List executions, newest first
    Ls(List),
    /// Show an execution with its request, answer and log
    Show {
        /// Its id
        id: String,
        /// Wait so long for its end
        #[arg(long, value_name = "SECONDS")]
        wait: Option<u64>,
    },
    /// Cancel an execution that has not ended
    Cancel {
        /// Its id
        id: String,
    },
}

/// Which executions.
#[derive(Debug, clap::Args)]
struct List {
    /// Whose.
    #[command(flatten)]
    filter: Filter,
    /// Only those in this state
    #[arg(long)]
    status: Option<Status>,
    /// Only those since then: a span like 2h, or an instant like 2026-01-31T07:00:00Z
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// How many.
    #[command(flatten)]
    limit: Limit,
}

/// States, as the API says them.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Status {
    Success,
    Error,
    Timeout,
    BudgetExceeded,
    Queued,
    Running,
    Retrying,
}

const COLUMNS: &[Column] = &[
    Column("ID", |item| field(item, "id")),
    Column("STATUS", |item| field(item, "status")),
    Column("CODE", |item| field(item, "response_code")),
    Column("SCRIPT", |item| field(item, "script_name")),
    Column("REQUEST", |item| {
        let line = format!("{} {}", field(item, "request_method"), field(item, "request_path"));
        if item["request_path"].is_null() { field(item, "kind") } else { line }
    }),
    Column("DURATION", |item| field(item, "duration_ms")),
    Column("CREATED", |item| field(item, "created_at")),
];

/// What `show` prints on lines of its own, below the other fields.
const BLOCKS: [&str; 4] = ["request_headers", "request_body", "response_body", "script_logs"];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, args: Args) -> Result<(), Error> {
    match args.verb {
        None => list(session, args.list),
        Some(Verb::Ls(which)) => list(session, which),
        Some(Verb::Show { id, wait }) => {
            let execution = fetch(session, &id, wait)?;
            if session.json { session.document(&execution) } else { show(session, execution) }
        }
        Some(Verb::Cancel { id }) => {
            let path = format!("/api/v1/executions/{}/cancel", super::client::segment(&id));
            let what = format!("execution {}", clean(&id));
            let answer = session.client.post(&path, &Value::Object(serde_json::Map::new()), &what)?;
            session.told(format_args!("cancelled {what}"), &answer)
        }
    }
}

fn list(session: &mut Session<'_>, which: List) -> Result<(), Error> {
    let since =
        which.since.map(|text| input::since(&text, UnixMs::now())).transpose()?.map(|at| at.to_string());
    let app = which.filter.app.as_deref();
    let script =
        which.filter.script.map(|script| find::script_anywhere(&session.client, app, &script)).transpose()?;
    let status = which.status.and_then(args::word);
    let parameters = [
        ("app", app),
        ("script", script.as_deref()),
        ("status", status.as_deref()),
        ("since", since.as_deref()),
    ];
    let limit = which.limit.or(LISTED);
    let list = session.client.list("/api/v1/executions", &parameters, limit, "the list of executions")?;
    session.table(&list, COLUMNS, "no executions")
}

/// The execution; after `wait` seconds as it is then, ended or not.
fn fetch(session: &Session<'_>, id: &str, wait: Option<u64>) -> Result<Value, Error> {
    let path = format!("/api/v1/executions/{}", super::client::segment(id));
    let what = format!("execution {}", clean(id));
    let until = Instant::now().checked_add(Duration::from_secs(wait.unwrap_or_default()));
    loop {
        let left = until.map_or(Duration::MAX, |until| until.saturating_duration_since(Instant::now()));
        let seconds = left.as_millis().div_ceil(1000).min(WAIT_SECONDS_MAX);
        let seconds = (seconds > 0).then(|| seconds.to_string());
        let execution = session.client.get(&with_query(&path, &[("wait", seconds.as_deref())]), &what)?;
        let is_open = matches!(execution["status"].as_str(), Some("queued" | "running" | "retrying"));
        if !is_open || seconds.is_none() {
            return Ok(execution);
        }
    }
}

fn show(session: &mut Session<'_>, mut execution: Value) -> Result<(), Error> {
    let mut taken =
        |name: &str| execution.as_object_mut().and_then(|fields| fields.remove(name)).unwrap_or_default();
    let [headers, request, response, logs] = BLOCKS.map(&mut taken);
    session.object(
        &execution,
        &["id", "status", "error", "response_code", "script_name", "request_method", "request_path"],
    )?;
    session.say(render::pairs("request headers", &headers))?;
    session.say(render::block("request body", &request))?;
    session.say(render::block("response body", &response))?;
    let lines: Vec<Vec<String>> = logs.as_array().into_iter().flatten().map(log_line).collect();
    let lines = if lines.is_empty() { "none".to_owned() } else { render::aligned(&lines) };
    session.say(format_args!("\nlog:\n{}", render::indented(&lines)))
}

fn log_line(line: &Value) -> Vec<String> {
    vec![format!("+{} ms", text(&line["offset_ms"])), text(&line["level"]), text(&line["message"])]
}
