//! `picloud app`.

use clap::Subcommand;
use serde_json::json;

use super::args::Limit;
use super::error::Error;
use super::find::{app_name, app_path};
use super::render::{Column, field};
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
    /// Remove an app and all that belongs to it
    Rm {
        /// Its slug or id
        app: String,
    },
}

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
            session.object(&value, &["slug", "name", "id"])
        }
        Verb::Rm { app } => session.remove(&app_path(&app), &app_name(&app)),
    }
}
