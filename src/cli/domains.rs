//! `picloud domain`.

use clap::Subcommand;
use serde_json::{Map, Value, json};

use super::args::{InApp, Limit, TlsSource, word};
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
        /// Where its certificate comes from
        #[arg(long, value_name = "SOURCE", default_value = "auto")]
        tls: TlsSource,
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
    /// Change a claim
    #[command(group(clap::ArgGroup::new("change").required(true).multiple(true)))]
    Update {
        /// Its pattern or id
        domain: String,
        /// Where its certificate comes from
        #[arg(long, value_name = "SOURCE", group = "change")]
        tls: Option<TlsSource>,
        /// Another host, wildcard or *
        #[arg(long, value_name = "PATTERN", group = "change")]
        pattern: Option<String>,
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
    Column("TLS", |item| field(item, "tls")),
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
        Verb::Add { pattern, tls, of } => {
            let path = format!("{}/domains", app_path(&of.app));
            let body = json!({ "pattern": pattern, "tls": word(tls) });
            let domain = session.client.post(&path, &body, &app_name(&of.app))?;
            session.told(format_args!("{} claims {}", app_name(&of.app), field(&domain, "pattern")), &domain)
        }
        Verb::Show { domain, of } => {
            let (path, what) = one(session, &of.app, &domain)?;
            let value = session.client.get(&path, &what)?;
            session.object(&value, &["pattern", "tls", "id", "app_id"])
        }
        Verb::Update { domain, tls, pattern, of } => {
            let (path, what) = one(session, &of.app, &domain)?;
            let mut change = Map::new();
            let fields = [("tls", tls.and_then(word)), ("pattern", pattern)];
            change.extend(
                fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))),
            );
            let value = session.client.patch(&path, &Value::from(change), &what)?;
            session.told(format_args!("updated {what}"), &value)
        }
        Verb::Rm { domain, of } => {
            let (path, what) = one(session, &of.app, &domain)?;
            session.remove(&path, &what)
        }
    }
}
