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
    /// Change an app: its names, what it may take of the device, and what its scripts may call
    Update(Update),
    /// Remove an app and all that belongs to it
    Rm {
        /// Its slug or id
        app: String,
    },
}

/// What is to be changed of an app.
#[derive(Debug, clap::Args)]
pub(super) struct Update {
    /// Its slug or id
    app: String,
    /// A new slug
    #[arg(long)]
    slug: Option<String>,
    /// A new name for people
    #[arg(long)]
    name: Option<String>,
    /// Hosts that scripts may call, like api.example.org, *.example.org:443; `any` for every public one, `none`
    #[arg(long, value_name = "HOST,..", value_delimiter = ',')]
    egress_allow: Vec<String>,
    /// Networks that scripts may call though they are not public, like 192.168.1.0/24; or `none`
    #[arg(long, value_name = "NETWORK,..", value_delimiter = ',')]
    egress_network: Vec<String>,
    /// Runs at once
    #[arg(long, value_name = "N | default", value_parser = limit)]
    concurrency: Option<Limited>,
    /// Requests a second; 0 = any number
    #[arg(long, value_name = "N | default", value_parser = limit)]
    requests_per_second: Option<Limited>,
    /// Bytes of its keys and values
    #[arg(long, value_name = "N | default", value_parser = limit)]
    kv_bytes: Option<Limited>,
    /// Async rows that were accepted and have not ended
    #[arg(long, value_name = "N | default", value_parser = limit)]
    queue_rows: Option<Limited>,
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
        Verb::Update(update) => {
            let (path, what) = (app_path(&update.app), app_name(&update.app));
            let body = update.patch(session)?;
            let app = session.client.patch(&path, &body, &what)?;
            session.told(format_args!("updated {what}"), &app)
        }
        Verb::Rm { app } => session.remove(&app_path(&app), &app_name(&app)),
    }
}

fn show(session: &mut Session<'_>, mut app: Value) -> Result<(), Error> {
    if !session.json {
        app["limits"] = Value::from(limits_set(&app["limits"]));
    }
    session.object(&app, &["slug", "name", "id", "limits"])
}

impl Update {
    /// The fields that change. Limits are one field, and so is what scripts may call: the part that stays is asked for.
    fn patch(self, session: &Session<'_>) -> Result<Value, Error> {
        let mut patch = Map::new();
        let (path, what) = (app_path(&self.app), app_name(&self.app));
        let changed = [("egress", self.egress()), ("limits", self.limits())];
        for (part, changes) in changed.into_iter().filter(|(_, changes)| !changes.is_empty()) {
            let mut whole = session.client.get(&path, &what)?[part].take();
            for (field, value) in changes {
                whole[field] = value;
            }
            patch.insert(part.to_owned(), whole);
        }
        for (field, value) in [("slug", self.slug), ("name", self.name)] {
            patch.extend(value.map(|value| (field.to_owned(), value.into())));
        }
        if patch.is_empty() {
            return Err(Error::Usage("nothing to change: see `picloud app update --help`".to_owned()));
        }
        Ok(patch.into())
    }

    fn egress(&self) -> Vec<(&'static str, Value)> {
        let allow = match self.egress_allow.as_slice() {
            [] => None,
            [one] if one == "any" => Some(Value::Null),
            hosts => Some(listed(hosts)),
        };
        let networks = Some(self.egress_network.as_slice()).filter(|list| !list.is_empty()).map(listed);
        let given = [("allow", allow), ("networks", networks)];
        given.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
    }

    fn limits(&self) -> Vec<(&'static str, Value)> {
        let given = [
            ("concurrency", self.concurrency),
            ("requests_per_second", self.requests_per_second),
            ("kv_bytes", self.kv_bytes),
            ("queue_rows", self.queue_rows),
        ];
        given.into_iter().filter_map(|(field, limit)| Some((field, json!(limit?.0)))).collect()
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

/// The list that was given; the word `none` is the empty one.
fn listed(given: &[String]) -> Value {
    match given {
        [one] if one == "none" => json!([]),
        list => json!(list),
    }
}
