//! `picloud outbox`: work that was accepted and has not ended.

use clap::Subcommand;

use super::args::Limit;
use super::error::Error;
use super::render::{Column, field};
use super::session::Session;

/// What can be done with the outbox.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// What to do.
    #[command(subcommand)]
    verb: Option<Verb>,
    /// How many, if there is no verb.
    #[command(flatten)]
    limit: Limit,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// List its rows
    Ls(Limit),
}

const COLUMNS: &[Column] = &[
    Column("EXECUTION", |item| field(item, "execution_id")),
    Column("STATUS", |item| field(item, "status")),
    Column("KIND", |item| field(item, "kind")),
    Column("SCRIPT", |item| field(item, "script_name")),
    Column("ATTEMPTS", |item| field(item, "attempts")),
    Column("DUE", |item| field(item, "due_at")),
    Column("CREATED", |item| field(item, "created_at")),
];

/// Does it.
pub(super) fn run(session: &mut Session<'_>, args: Args) -> Result<(), Error> {
    let limit = match args.verb {
        Some(Verb::Ls(limit)) => limit,
        None => args.limit,
    };
    let list = session.client.list("/api/v1/outbox", &[], limit.or_all(), "the outbox")?;
    session.table(&list, COLUMNS, "the outbox is empty: all accepted work has ended")
}
