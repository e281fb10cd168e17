//! `picloud app`.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::args::Limit;
use super::error::Error;
use super::find::{app_name, app_path};
use super::render::{Column, field, text};
use super::session::Session;

/// What can be done with apps.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List apps
    Ls(Limit),
    /// Make an app
    Add {
        /// Its short name in URLs: a-z, 0-9 and -
        slug: String,
        /// Its name for people [default: the slug]
        #[arg(long)]
        name: Option<String>,
    },
    /// Show an app
    Show {
        /// Its slug or id
        app: String,
    },
    /// Change an app: its slug, its name, or what it may take of the device
    Update(Update),
    /// Remove an app and all that belongs to it
    Rm {
        /// Its slug or id
        app: String,
    },
}

/// What changes. What is not named stays as it is.
#[derive(Debug, clap::Args)]
#[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
pub(super) struct Update {
    /// Its slug or id
    app: String,
    /// A new slug
    #[arg(long, group = "change")]
    slug: Option<String>,
    /// A new name
    #[arg(long, group = "change")]
    name: Option<String>,
    /// Runs at once
    #[arg(long, group = "change", value_name = "N | default", value_parser = limit)]
    concurrency: Option<Limited>,
    /// Requests a second; 0 = any number
    #[arg(long, group = "change", value_name = "N | default", value_parser = limit)]
    requests_per_second: Option<Limited>,
    /// Bytes of its keys and values
    #[arg(long, group = "change", value_name = "N | default", value_parser = limit)]
    kv_bytes: Option<Limited>,
    /// Async rows that were accepted and have not ended
    #[arg(long, group = "change", value_name = "N | default", value_parser = limit)]
    queue_rows: Option<Limited>,
    /// Hosts that scripts may call, like api.example.org, *.example.org:443; `any` for every public one, `none`
    #[arg(long, group = "change", value_name = "HOST,..", value_delimiter = ',')]
    egress_allow: Vec<String>,
    /// Networks that scripts may call though they are not public, like 192.168.1.0/24; or `none`
    #[arg(long, group = "change", value_name = "NETWORK,..", value_delimiter = ',')]
    egress_network: Vec<String>,
}

/// A limit; without a number it is the device's default.
#[derive(Clone, Copy, Debug)]
struct Limited(Option<u64>);

const COLUMNS: &[Column] = &[
    Column("SLUG", |item| field(item, "slug")),
    Column("NAME", |item| field(item, "name")),
    Column("ID", |item| field(item, "id")),
    Column("CREATED", |item| field(item, "created_at")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls(limit) => {
            let list = session.client.list("/api/v1/apps", &[], limit.or_all(), "the list of apps")?;
            session.table(&list, COLUMNS, "no apps yet; make one with `picloud app add`")
        }
        Verb::Add { slug, name } => {
            let body = json!({ "slug": slug, "name": name.as_ref().unwrap_or(&slug) });
            let app = session.client.post("/api/v1/apps", &body, "the list of apps")?;
            session.told(format_args!("added {}", app_name(&slug)), &app)
        }
        Verb::Show { app } => {
            let value = session.client.get(&app_path(&app), &app_name(&app))?;
            show(session, value)
        }
        Verb::Update(args) => update(session, args),
        Verb::Rm { app } => session.remove(&app_path(&app), &app_name(&app)),
    }
}

fn show(session: &mut Session<'_>, mut app: Value) -> Result<(), Error> {
    if !session.json {
        app["limits"] = Value::from(limits_set(&app["limits"]));
    }
    session.object(&app, &["slug", "name", "id", "limits"])
}

fn update(session: &mut Session<'_>, args: Update) -> Result<(), Error> {
    let (path, what) = (app_path(&args.app), app_name(&args.app));
    let mut change = Map::new();
    let names = [("slug", args.slug), ("name", args.name)];
    change.extend(names.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
    let limits = [
        ("concurrency", args.concurrency),
        ("requests_per_second", args.requests_per_second),
        ("kv_bytes", args.kv_bytes),
        ("queue_rows", args.queue_rows),
    ];
    if limits.iter().any(|(_, limit)| limit.is_some()) {
        // The API replaces all limits at once.
        let mut all = session.client.get(&path, &what)?["limits"].take();
        for (name, limit) in limits {
            if let Some(Limited(number)) = limit {
                all[name] = json!(number);
            }
        }
        change.insert("limits".to_owned(), all);
    }
    let egress = egress(&args.egress_allow, &args.egress_network);
    if !egress.is_empty() {
        // Like the limits, one field.
        let mut all = session.client.get(&path, &what)?["egress"].take();
        for (name, value) in egress {
            all[name] = value;
        }
        change.insert("egress".to_owned(), all);
    }
    let app = session.client.patch(&path, &Value::from(change), &what)?;
    session.told(format_args!("updated {what}"), &app)
}

/// What is to be changed of whom scripts may call.
fn egress(allow: &[String], networks: &[String]) -> Vec<(&'static str, Value)> {
    let allow = match allow {
        [] => None,
        [one] if one == "any" => Some(Value::Null),
        hosts => Some(listed(hosts)),
    };
    let networks = Some(networks).filter(|list| !list.is_empty()).map(listed);
    [("allow", allow), ("networks", networks)]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

/// The list that was given; the word `none` is the empty one.
fn listed(given: &[String]) -> Value {
    match given {
        [one] if one == "none" => json!([]),
        list => json!(list),
    }
}

/// The limits that an app has of its own.
fn limits_set(limits: &Value) -> String {
    let set = limits.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
    let set = set.map(|(name, value)| format!("{name}={}", text(value))).collect::<Vec<_>>();
    if set.is_empty() { "the device's defaults".to_owned() } else { set.join(" ") }
}

fn limit(text: &str) -> Result<Limited, String> {
    match text {
        "default" => Ok(Limited(None)),
        text => Ok(Limited(Some(text.parse().map_err(|_| "must be a whole number, or \"default\"")?))),
    }
}
