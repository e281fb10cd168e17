//! `picloud route`.

use clap::Subcommand;
use serde_json::{Value, json};

use super::args::{self, Access, BodyMode, Durability, InApp, Limit};
use super::client::Listing;
use super::error::Error;
use super::find::{self, app_name, app_path, describe_route};
use super::render::{self, Column, clean, field, text};
use super::session::Session;

/// What can be done with routes.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the routes of an app
    Ls {
        /// Whose.
        #[command(flatten)]
        of: InApp,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Bind a method and a path to a script
    Add(Add),
    /// Show a route
    Show {
        /// Its id, its path, or its method and path
        #[arg(required = true, num_args = 1..=2, value_name = "ROUTE")]
        route: Vec<String>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Remove a route
    Rm {
        /// Its id, its path, or its method and path
        #[arg(required = true, num_args = 1..=2, value_name = "ROUTE")]
        route: Vec<String>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Say which route would answer a request
    Match {
        /// The request's method
        method: String,
        /// The request's path or URL
        #[arg(value_name = "PATH | URL")]
        target: String,
        /// The request's host
        #[arg(long)]
        host: Option<String>,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
}

/// A new route.
#[derive(Debug, clap::Args)]
pub(super) struct Add {
    /// GET, POST, ... or ANY
    method: String,
    /// The path, with {param} for a segment and {*rest} for the rest
    path: String,
    /// The script, by name or id
    script: String,
    /// Only for requests to this host
    #[arg(long)]
    host: Option<String>,
    /// Answer 202 at once, and run in the background
    #[arg(long)]
    r#async: bool,
    /// When sync work is durable
    #[arg(long)]
    durability: Option<Durability>,
    /// How bodies reach the script
    #[arg(long)]
    body: Option<BodyMode>,
    /// Who may call
    #[arg(long)]
    access: Option<Access>,
    /// For whom.
    #[command(flatten)]
    of: InApp,
}

const COLUMNS: &[Column] = &[
    Column("METHOD", |item| field(item, "method")),
    Column("PATH", |item| field(item, "path")),
    Column("HOST", |item| field(item, "host")),
    Column("SCRIPT", |item| field(item, "script_name")),
    Column("MODE", |item| field(item, "dispatch_mode")),
    Column("DURABILITY", |item| field(item, "durability")),
    Column("ACCESS", |item| field(item, "access")),
    Column("ID", |item| field(item, "id")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    match verb {
        Verb::Ls { of, limit } => list(session, &of.app, limit),
        Verb::Add(args) => add(session, args),
        Verb::Show { route, of } => {
            let id = find::route(&session.client, &of.app, &route)?;
            let value = session.client.get(&format!("{}/routes/{id}", app_path(&of.app)), &named(&route))?;
            session.object(&value, &["method", "path", "host", "id", "app_id", "script_id", "dispatch_mode"])
        }
        Verb::Rm { route, of } => {
            let id = find::route(&session.client, &of.app, &route)?;
            session.remove(&format!("{}/routes/{id}", app_path(&of.app)), &named(&route))
        }
        Verb::Match { method, target, host, of } => matching(session, &of.app, &method, &target, host),
    }
}

fn named(words: &[String]) -> String {
    format!("route {}", clean(&words.join(" ")))
}

/// Routes know their script by id only; people by name.
fn list(session: &mut Session<'_>, app: &str, limit: Limit) -> Result<(), Error> {
    let path = format!("{}/routes", app_path(app));
    let mut list = session.client.list(&path, &[], limit.or_all(), &app_name(app))?;
    if !session.json && !list.items.is_empty() {
        let scripts =
            session.client.list(&format!("{}/scripts", app_path(app)), &[], None, &app_name(app))?;
        name_scripts(&mut list, &scripts);
    }
    let empty =
        format!("{} has no routes; bind one with `picloud route add` or `picloud deploy`", app_name(app));
    session.table(&list, COLUMNS, &empty)
}

fn name_scripts(routes: &mut Listing, scripts: &Listing) {
    for route in &mut routes.items {
        let script = scripts.items.iter().find(|script| script["id"] == route["script_id"]);
        route["script_name"] =
            script.map_or_else(|| route["script_id"].clone(), |script| script["name"].clone());
    }
}

fn add(session: &mut Session<'_>, args: Add) -> Result<(), Error> {
    let app = &args.of.app;
    let script_id = find::script(&session.client, app, &args.script)?;
    let mut body = json!({ "method": args.method, "path": args.path, "script_id": script_id });
    let options = [
        ("host", args.host),
        ("dispatch_mode", args.r#async.then(|| "async".to_owned())),
        ("durability", args.durability.and_then(args::word)),
        ("body", args.body.and_then(args::word)),
        ("access", args.access.and_then(args::word)),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            body[name] = Value::from(value);
        }
    }
    let route = session.client.post(&format!("{}/routes", app_path(app)), &body, &app_name(app))?;
    let said = format!("added route {} -> {}", describe_route(&route), clean(&args.script));
    session.told(said, &route)
}

fn matching(
    session: &mut Session<'_>,
    app: &str,
    method: &str,
    url: &str,
    host: Option<String>,
) -> Result<(), Error> {
    let (named_host, path) = host_and_path(url);
    let mut body = json!({ "method": method.to_ascii_uppercase(), "path": path });
    if let Some(host) = host.or(named_host) {
        body["host"] = Value::from(host);
    }
    let answer = session.client.post(&format!("{}/routes/match", app_path(app)), &body, &app_name(app))?;
    if session.json {
        return session.document(&answer);
    }
    if answer["matched"] != true {
        return Err(Error::Failed(text(&answer["error"])));
    }
    session.say(render::aligned(&[
        vec!["route".to_owned(), describe_route(&answer["route"])],
        vec!["id".to_owned(), text(&answer["route"]["id"])],
        vec!["script_id".to_owned(), text(&answer["route"]["script_id"])],
        vec!["params".to_owned(), text(&answer["params"])],
        vec!["rest".to_owned(), text(&answer["rest"])],
    ]))
}

/// The host of a URL, and its path without the query; a path is only that.
fn host_and_path(url: &str) -> (Option<String>, String) {
    let bare = url.split(['?', '#']).next().unwrap_or_default();
    let Some((_, rest)) = bare.split_once("://") else { return (None, bare.to_owned()) };
    match rest.find('/') {
        Some(at) => (Some(rest[..at].to_owned()), rest[at..].to_owned()),
        None => (Some(rest.to_owned()), "/".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_come_apart() {
        for (url, host, path) in [
            ("/a/b?x=1", None, "/a/b"),
            ("http://pi.local:8080/a?x=http://y/", Some("pi.local:8080"), "/a"),
            ("https://pi.local", Some("pi.local"), "/"),
            ("/a?u=http://x/y", None, "/a"),
        ] {
            assert_eq!(host_and_path(url), (host.map(str::to_owned), path.to_owned()));
        }
    }
}
