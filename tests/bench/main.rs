//! The benchmark: `cargo bench`, or `cargo bench -- --help` for what can be chosen.
//!
//! It drives the real daemon in its own process, over loopback, with a load generator of one thread, and holds
//! every rate against a bare hyper echo server measured seconds before under the same load: machines differ and
//! are noisy, ratios less so. Both servers and the generator share the cores. It says what it saw and which goals
//! were reached; it asserts nothing about speed, so it fails only if something does not work.
//!
//! [`load`] is the generator, [`bare`] the yardstick, [`daemon`] the daemon under test and what its metrics say,
//! [`rounds`] the order of measurements, [`slow`] the same on slower cards, [`fair`] beside a bad
//! neighbour, [`tls`] what encryption costs, [`endurance`] many of them in a row; [`hello`], [`million`], [`cron`], [`startup`] and [`matching`] need no
//! load; [`report`] prints.

mod args;
mod bare;
mod cron;
mod daemon;
mod endurance;
mod fair;
mod hello;
mod histogram;
mod load;
mod machine;
mod matching;
mod million;
mod numbers;
mod process;
mod report;
mod rounds;
mod seed;
mod slow;
mod startup;
mod tls;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use args::{Args, Subject};
use report::Report;

/// What went wrong, for the person at the desk: nobody handles it.
type Outcome<T> = Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let args = Args::read();
    let done = if args.bare_hyper { bare::serve() } else { bench(&args) };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn bench(args: &Args) -> Outcome<()> {
    let dir = args.dir().join(format!("picloud-bench-{}", std::process::id()));
    fs::create_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    let report =
        measure(args, &dir).map_err(|error| format!("{error} (all is left in {})", dir.display()))?;
    print!("{report}");
    Ok(fs::remove_dir_all(&dir).map_err(|error| format!("{}: {error}", dir.display()))?)
}

fn measure(args: &Args, dir: &Path) -> Outcome<Report> {
    let mut report = Report::new(&machine::describe(dir)?, args);
    if args.wants_load() {
        report.add_rounds(&rounds::run(args, dir)?);
    }
    if args.wants(Subject::Slow) {
        report.add_slow(&slow::run(args, dir)?);
    }
    if args.wants(Subject::Fair) {
        report.add_fair(&fair::run(args, dir)?);
    }
    if args.wants(Subject::Tls) {
        report.add_tls(&tls::run(args, &dir.join("tls"))?);
    }
    if args.wants(Subject::Hello) {
        report.add_hello(&hello::run(args, dir)?);
    }
    if args.wants(Subject::Million) {
        report.add_million(&million::run(args, dir)?);
    }
    if args.wants(Subject::Cron) {
        report.add_cron(&cron::run(args, dir)?);
    }
    if args.wants(Subject::Start) {
        report.add_starts(&startup::run(args, dir)?);
    }
    if args.wants(Subject::Match) {
        report.add_matches(&matching::run(args)?);
    }
    if args.wants(Subject::Endurance) {
        report.add_endurance(&endurance::run(args, dir)?);
    }
    Ok(report)
}
