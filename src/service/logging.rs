//! Where events go: readable lines on a desk, JSON on request, the journal under systemd.

use std::io::{self, IsTerminal};

use tracing_subscriber::filter::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

use super::lines::Lines;
use crate::config::{Log, LogFormat};

type Sink = Box<dyn Layer<Registry> + Send + Sync>;

/// Starts the log of this process. What it gives back is to be flushed at the end.
pub(super) fn start(config: &Log) -> Result<Lines, String> {
    let filter = EnvFilter::try_new(&config.level).map_err(|error| format!("log.level: {error}"))?;
    let lines = Lines::start().map_err(|error| error.to_string())?;
    let sink: Sink = match config.format {
        LogFormat::Json => Box::new(fmt::layer().json().with_writer(lines.clone())),
        LogFormat::Text => text(&lines),
        LogFormat::Journald => journal().map_err(|error| format!("log.format is journald, but: {error}"))?,
        // systemd says so when standard error is the journal (systemd.exec(5), JOURNAL_STREAM).
        LogFormat::Auto if std::env::var_os("JOURNAL_STREAM").is_some() => {
            journal().unwrap_or_else(|_| text(&lines))
        }
        LogFormat::Auto => text(&lines),
    };
    let registry = tracing_subscriber::registry().with(sink.with_filter(filter));
    registry.try_init().map_err(|error| error.to_string())?;
    Ok(lines)
}

fn text(lines: &Lines) -> Sink {
    Box::new(fmt::layer().with_ansi(io::stderr().is_terminal()).with_target(false).with_writer(lines.clone()))
}

fn journal() -> io::Result<Sink> {
    let journal = tracing_journald::layer()?.with_field_prefix(None).with_syslog_identifier("picloud".into());
    Ok(Box::new(journal))
}
