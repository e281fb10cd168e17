//! What is measured, how long, and where: the arguments after `cargo bench --`.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Parser, ValueEnum};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Subject {
    /// The bare hyper echo server; also measured beside each of the next six
    Bare,
    /// A sync route with relaxed durability
    Relaxed,
    /// A sync route with strict durability
    Strict,
    /// An async route: the 202, and how long the outbox takes to drain
    Async,
    /// A script executed directly, by id
    Direct,
    /// A sync relaxed route whose script reads one value and writes one
    Values,
    /// A sync strict route whose every run changes the same value
    Counter,
    /// The strict and async routes on cards whose syncs take 5, 15 and 50 ms longer, with bodies of 200 bytes
    Slow,
    /// A healthy app beside one that loops or floods the outbox
    Fair,
    /// TLS beside the same in the clear, handshakes beside Caddy's, memory of idle connections
    Tls,
    /// A script through the executor, beyond the engine's own evaluation
    Hello,
    /// Reading values of an app that keeps a million
    Million,
    /// What ten thousand cron triggers cost that do not strike
    Cron,
    /// Time from the spawn to the ready line with many routes and log rows
    Start,
    /// Time to find the route of a request among many
    Match,
    /// What becomes of the file, commits and memory over millions of executions; only if it is named, or quickly
    Endurance,
}

/// Measures PiCloud on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo bench --")]
pub(crate) struct Args {
    /// What to measure [default: everything]
    #[arg(value_enum, value_name = "WHAT")]
    subjects: Vec<Subject>,
    /// Connections at once, separated by commas
    #[arg(long, value_delimiter = ',', default_value = "1,32,128")]
    pub(crate) connections: Vec<usize>,
    /// Seconds measured in each run [default: 3]
    #[arg(long, value_parser = seconds)]
    seconds: Option<Duration>,
    /// Seconds of load before each measured run [default: 1]
    #[arg(long, value_parser = seconds)]
    warm_up: Option<Duration>,
    /// Rounds of all runs; medians are printed [default: 3, on slow cards 1]
    #[arg(long)]
    rounds: Option<u32>,
    /// Executions of the endurance run [default: 10000000, quick 20000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(10..))]
    executions: Option<u64>,
    /// Only see that everything works: one short round
    #[arg(long)]
    quick: bool,
    /// Where the daemon's data is made, and removed at the end [default: below the target directory]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// A variable for the daemon, like PICLOUD_LOG_ACCESS=false; may be repeated
    #[arg(long = "env", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) environment: Vec<(String, String)>,
    /// Sent by cargo bench; without it (`cargo test --benches`) everything is quick
    #[arg(long, hide = true)]
    bench: bool,
    /// Serve as the bare hyper echo server
    #[arg(long, hide = true)]
    pub(crate) bare_hyper: bool,
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text} is no number"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

fn variable(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or("it must be like NAME=VALUE")?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

impl Args {
    /// Reads the command line; says what is wrong with it and exits.
    pub(crate) fn read() -> Args {
        Args::parse()
    }

    /// Whether this is to be measured.
    pub(crate) fn wants(&self, subject: Subject) -> bool {
        let by_default = subject != Subject::Endurance || self.is_quick();
        self.subjects.contains(&subject) || (self.subjects.is_empty() && by_default)
    }

    /// Whether anything needs the load generator.
    pub(crate) fn wants_load(&self) -> bool {
        use Subject::{Async, Bare, Counter, Direct, Relaxed, Strict, Values};
        [Bare, Relaxed, Strict, Async, Direct, Values, Counter].into_iter().any(|subject| self.wants(subject))
    }

    /// Whether numbers do not matter.
    pub(crate) fn is_quick(&self) -> bool {
        self.quick || !self.bench
    }

    /// How long each run is measured.
    pub(crate) fn measured(&self) -> Duration {
        self.seconds.unwrap_or(Duration::from_millis(if self.is_quick() { 300 } else { 3_000 }))
    }

    /// Load before each measured run.
    pub(crate) fn warm_up(&self) -> Duration {
        self.warm_up.unwrap_or(Duration::from_millis(if self.is_quick() { 100 } else { 1_000 }))
    }

    /// How often everything is measured under load.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.is_quick() { 1 } else { 3 }).max(1)
    }

    /// How often everything is measured on a slow card: its pace hardly varies.
    pub(crate) fn rounds_slow(&self) -> u32 {
        self.rounds.unwrap_or(1).max(1)
    }

    /// Executions of the endurance run.
    pub(crate) fn executions(&self) -> u64 {
        self.executions.unwrap_or(if self.is_quick() { 20_000 } else { 10_000_000 })
    }

    /// Where directories for data are made: the target directory is on a real disk where `/tmp` may be memory.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.as_deref().unwrap_or(Path::new(env!("CARGO_TARGET_TMPDIR")))
    }

    /// The command as it was given, for the report.
    pub(crate) fn command() -> String {
        let given = std::env::args_os().skip(1).filter(|arg| arg != OsStr::new("--bench"));
        let given: Vec<String> = given.map(|arg| arg.to_string_lossy().into_owned()).collect();
        if given.is_empty() { "cargo bench".into() } else { format!("cargo bench -- {}", given.join(" ")) }
    }
}
