//! `picloud logs`: what scripts wrote, oldest first, and with `-f` what they go on to write.

use serde_json::{Value, json};

use super::args::{Filter, Limit};
use super::client::with_query;
use super::error::Error;
use super::find;
use super::render::{text, time_ms};
use super::session::Session;
use super::sse::Events;

/// So many lines are printed unless another number is asked for.
const LISTED: usize = 100;

/// Which lines.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Print new lines as they are written
    #[arg(short, long)]
    follow: bool,
    /// Whose.
    #[command(flatten)]
    filter: Filter,
    /// Only lines with this text
    #[arg(short, long, value_name = "TEXT")]
    query: Option<String>,
    /// How many.
    #[command(flatten)]
    limit: Limit,
}

/// Does it.
pub(super) fn run(session: &mut Session<'_>, args: Args) -> Result<(), Error> {
    let app = args.filter.app.as_deref();
    let script =
        args.filter.script.map(|script| find::script_anywhere(&session.client, app, &script)).transpose()?;
    let parameters = [("app", app), ("script", script.as_deref()), ("q", args.query.as_deref())];
    if args.follow {
        return follow(session, &with_query("/api/v1/logs/tail", &parameters));
    }
    let list = session.client.list("/api/v1/logs", &parameters, args.limit.or(LISTED), "the log")?;
    if session.json {
        return session.document(&json!({ "items": list.items, "next_cursor": list.next_cursor }));
    }
    if list.items.is_empty() {
        return session.note("no lines");
    }
    for line in list.items.iter().rev() {
        session.say(in_words(line))?;
    }
    session.note_rest(&list)
}

fn follow(session: &mut Session<'_>, path: &str) -> Result<(), Error> {
    let stream = session.client.stream(path, "the log")?;
    for data in Events::new(stream) {
        let data = data.map_err(|why| Error::Failed(format!("the log broke off: {why}")))?;
        // One that is no JSON is none of ours; the stream goes on.
        let Ok(line) = serde_json::from_str::<Value>(&data) else { continue };
        if session.json {
            session.say(&line)?
        } else {
            session.say(in_words(&line))?
        }
        session.out.flush()?;
    }
    Err(Error::Failed("the log ended: PiCloud closed the connection".to_owned()))
}

fn in_words(line: &Value) -> String {
    let level = text(&line["level"]).to_ascii_uppercase();
    format!(
        "{}  {level:<5}  {}  {}",
        time_ms(&line["at"]),
        text(&line["script_name"]),
        text(&line["message"])
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_in_words() {
        let line = json!({"at": "2026-01-31T07:00:00.5Z", "level": "info", "script_name": "hello", "message": "a\nb"});
        assert_eq!(in_words(&line), "2026-01-31 07:00:00.500Z  INFO   hello  a\\nb");
    }
}
