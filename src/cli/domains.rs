//! `picloud domain`.

use clap::Subcommand;
use serde_json::json;

use super::args::{InApp, Limit};
use super::error::Error;
use super::find::{self, app_name, app_path};
use super::render::{Column, clean, field};
use super::session::Session;

/// What can be done with domains.
#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// List the domains of an app
    Ls {
        /// Whose.
        #[command(flatten)]
        of: InApp,
        /// How many.
        #[command(flatten)]
        limit: Limit,
    },
    /// Claim hosts for an app
    Add {
        /// A host like pi.local, a wildcard like *.example.org, or * for every host
        pattern: String,
        /// For whom.
        #[command(flatten)]
        of: InApp,
    },
    /// Show a domain
    Show {
        /// Its pattern or id
        domain: String,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
    /// Give up a claim
    Rm {
        /// Its pattern or id
        domain: String,
        /// Whose.
        #[command(flatten)]
        of: InApp,
    },
}

const COLUMNS: &[Column] = &[
    Column("PATTERN", |item| field(item, "pattern")),
    Column("ID", |item| field(item, "id")),
    Column("CREATED", |item| field(item, "created_at")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, verb: Verb) -> Result<(), Error> {
    let one = |session: &Session<'_>, app: &str, domain: &str| {
        let id = find::domain(&session.client, app, domain)?;
        Ok::<_, Error>((format!("{}/domains/{id}", app_path(app)), format!("domain {}", clean(domain))))
    };
    match verb {
        Verb::Ls { of, limit } => {
            let path = format!("{}/domains", app_path(&of.app));
            let list = session.client.list(&path, &[], limit.or_all(), &app_name(&of.app))?;
            let empty = format!("{} claims no host; claim one with `picloud domain add`", app_name(&of.app));
            session.table(&list, COLUMNS, &empty)
        }
        Verb::Add { pattern, of } => {
            let path = format!("{}/domains", app_path(&of.app));
            let domain = session.client.post(&path, &json!({ "pattern": pattern }), &app_name(&of.app))?;
            session.told(format_args!("{} claims {}", app_name(&of.app), field(&domain, "pattern")), &domain)
        }
        Verb::Show { domain, of } => {
            let (path, what) = one(session, &of.app, &domain)?;
            let value = session.client.get(&path, &what)?;
            session.object(&value, &["pattern", "id", "app_id"])
        }
        Verb::Rm { domain, of } => {
            let (path, what) = one(session, &of.app, &domain)?;
            session.remove(&path, &what)
        }
    }
}
