//! How long a start takes on a device that has been in use.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::args::Args;
use crate::daemon::Daemon;
use crate::numbers::median;
use crate::seed;

/// Medians of some starts on the same data, which the system has in memory after the first.
pub(crate) struct Start {
    pub(crate) routes: usize,
    pub(crate) log_rows: usize,
    pub(crate) file_bytes: u64,
    /// From the spawn to the line that says ready, in milliseconds.
    pub(crate) ready_ms: f64,
    /// From the spawn to the first answer of a script, in milliseconds.
    pub(crate) answer_ms: f64,
}

/// Seeds two devices and starts the daemon on each a few times.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Vec<Start>> {
    let log_rows = if args.is_quick() { 1_000 } else { 100_000 };
    let sizes = [1_000, 10_000].map(|routes| if args.is_quick() { routes / 10 } else { routes });
    sizes
        .map(|routes| starts(args, &dir.join(format!("start-{routes}")), routes, log_rows))
        .into_iter()
        .collect()
}

fn starts(args: &Args, dir: &Path, routes: usize, log_rows: usize) -> Outcome<Start> {
    eprintln!("start: {routes} routes, {log_rows} log rows");
    seed::fill(&dir.join("data"), routes, log_rows)?;
    let count = if args.is_quick() { 1 } else { 5 };
    let (mut ready, mut answer) = (Vec::new(), Vec::new());
    for _ in 0..count {
        let daemon = Daemon::start(dir, &args.environment)?;
        daemon.get(seed::ANSWERS)?;
        answer.push(milliseconds(daemon.age()));
        ready.push(milliseconds(daemon.ready_after));
        daemon.stop()?;
    }
    let file_bytes = fs::metadata(dir.join("data").join("picloud.redb"))?.len();
    Ok(Start { routes, log_rows, file_bytes, ready_ms: median(ready), answer_ms: median(answer) })
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
