//! Where events go: readable lines on a desk, JSON on request, the journal under systemd.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use super::journal::Journal;
use super::lines::Lines;
use crate::config::{self, LogFormat};

type Sink = Box<dyn Layer<Registry> + Send + Sync>;

/// The target of lines that scripts wrote.
const SCRIPT_LINES: &str = "picloud::script_lines";

/// syslog(3) has no level for what is finer than debugging.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// The log of this process. Cheap to clone.
#[derive(Clone)]
pub(super) struct Log {
    lines: Lines,
    journal: Option<Journal>,
    filter: reload::Handle<Targets, Registry>,
}

impl Log {
    /// Starts it.
    pub(super) fn start(config: &config::Log) -> Result<Log, String> {
        let lines = Lines::start().map_err(|error| error.to_string())?;
        let mut journal = None;
        let sink: Sink = match config.format {
            LogFormat::Json => Box::new(fmt::layer().json().with_writer(lines.clone())),
            LogFormat::Text => text(&lines),
            LogFormat::Journald => {
                let found =
                    open_journal().map_err(|error| format!("log.format is journald, but: {error}"))?;
                Box::new(journal.insert(found).layer())
            }
            // systemd says so when standard error is the journal (systemd.exec(5), JOURNAL_STREAM).
            LogFormat::Auto if is_journal(&io::stderr()) => match open_journal() {
                Ok(found) => Box::new(journal.insert(found).layer()),
                Err(_) => text(&lines),
            },
            LogFormat::Auto => text(&lines),
        };
        let (filter, handle) = reload::Layer::new(filter(config)?);
        let registry = tracing_subscriber::registry().with(sink.with_filter(filter));
        registry.try_init().map_err(|error| error.to_string())?;
        Ok(Log { lines, journal, filter: handle })
    }

    /// Tells more or less from here on.
    pub(super) fn set_level(&self, config: &config::Log) -> Result<(), String> {
        self.filter.reload(filter(config)?).map_err(|error| error.to_string())
    }

    /// Writes what has gathered: the process may end after it.
    pub(super) fn flush(&self) {
        self.lines.flush();
        if let Some(journal) = &self.journal {
            journal.flush();
        }
    }
}

fn filter(config: &config::Log) -> Result<Targets, String> {
    let filter: Targets = config.level.parse().map_err(|error| format!("log.level: {error}"))?;
    // All that a script writes, whatever is told of the daemon itself.
    let scripts = if config.scripts { LevelFilter::TRACE } else { LevelFilter::OFF };
    Ok(filter.with_target(SCRIPT_LINES, scripts))
}

/// Whether a stream is the journal's. The variable alone says nothing: children inherit it, and what they write to goes
/// elsewhere.
fn is_journal(stream: &impl AsFd) -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else { return false };
    rustix::fs::fstat(stream).is_ok_and(|stat| named == format!("{}:{}", stat.st_dev, stat.st_ino))
}

fn text(lines: &Lines) -> Sink {
    Box::new(fmt::layer().with_ansi(io::stderr().is_terminal()).with_target(false).with_writer(lines.clone()))
}

/// Fields are `PICLOUD_APP`, `PICLOUD_SCRIPT` and so on.
fn open_journal() -> io::Result<Journal> {
    let layer = tracing_journald::layer()?
        .with_field_prefix(Some("PICLOUD".to_owned()))
        .with_syslog_identifier("picloud".to_owned())
        .with_priority_mappings(PRIORITIES);
    Journal::start(layer)
}
