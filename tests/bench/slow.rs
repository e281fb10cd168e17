//! The same load on slower cards: each sync is made to take some milliseconds longer, as it does on cheap ones.
//!
//! With a slow card the rate is that of its syncs, whatever the machine: n connections that send one request
//! after the other reach at most n requests a sync. How near the daemon comes to that is what is judged. Nothing
//! added is measured too, relaxed requests with it, for what a request writes.

use std::collections::BTreeMap;
use std::path::Path;
use std::thread;

use crate::Outcome;
use crate::args::{Args, Subject};
use crate::daemon::{Daemon, Metrics};
use crate::load::{self, Load, Plan};
use crate::numbers::{float, median, per};
use crate::rounds::REST;

/// Milliseconds added to each sync.
const ADDED_MS: [u64; 4] = [0, 5, 15, 50];
/// The same where numbers do not matter.
const ADDED_MS_QUICK: [u64; 2] = [0, 5];
/// What is sent at each, with the route and its good answer.
const SUBJECTS: [(Subject, &str, u16); 3] =
    [(Subject::Strict, "/strict", 200), (Subject::Async, "/async", 202), (Subject::Relaxed, "/relaxed", 200)];
/// Bytes of the body of every request.
const BODY_BYTES: usize = 200;

/// The runs of one subject on one card with one number of connections.
pub(crate) struct Slow {
    pub(crate) subject: Subject,
    pub(crate) added_ms: u64,
    pub(crate) connections: usize,
    runs: Vec<Run>,
}

/// One run. What is per sync counts the warm-up, what is per request the aftermath too.
pub(crate) struct Run {
    pub(crate) rate: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) syncs_per_s: f64,
    /// The mean time of a sync, with what was added.
    pub(crate) sync_ms: f64,
    /// Requests for each connection and sync.
    pub(crate) per_sync: f64,
    /// Requests for each connection in the time of a sync.
    pub(crate) per_sync_time: f64,
    pub(crate) p99_syncs: f64,
    pub(crate) written_bytes: f64,
    pub(crate) commits: f64,
    errors: BTreeMap<String, u64>,
}

impl Slow {
    /// The median of one figure.
    pub(crate) fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(figure))
    }

    /// Everything that was no good answer, in all runs.
    pub(crate) fn errors(&self) -> BTreeMap<&str, u64> {
        let mut all = BTreeMap::new();
        for (kind, count) in self.runs.iter().flat_map(|run| &run.errors) {
            *all.entry(kind.as_str()).or_default() += count;
        }
        all
    }
}

/// Measures on every card with every number of connections.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Vec<Slow>> {
    let cards: &[u64] = if args.is_quick() { &ADDED_MS_QUICK } else { &ADDED_MS };
    let mut all = Vec::new();
    for added_ms in cards {
        all.extend(measure_card(args, dir, *added_ms)?);
    }
    Ok(all)
}

fn measure_card(args: &Args, dir: &Path, added_ms: u64) -> Outcome<Vec<Slow>> {
    let delay = ("PICLOUD_STORE_SYNC_DELAY_MS".to_owned(), added_ms.to_string());
    let environment: Vec<_> = args.environment.iter().cloned().chain([delay]).collect();
    let daemon = Daemon::start(&dir.join(format!("slow-{added_ms}")), &environment)?;
    daemon.furnish()?;
    let mut all = Vec::new();
    for connections in args.connections.iter().copied() {
        // Relaxed requests wait for no sync: how slow one is does not matter to them.
        let waits = |subject| added_ms == 0 || subject != Subject::Relaxed;
        for (subject, path, status) in SUBJECTS.into_iter().filter(|(subject, ..)| waits(*subject)) {
            let mut runs = Vec::new();
            for round in 1..=args.rounds_slow() {
                let run = measure(args, &daemon, path, status, connections)?;
                let rate = run.rate;
                eprintln!(
                    "sync + {added_ms} ms, {connections} connections, round {round}, {subject:?}: {rate:.0}/s"
                );
                runs.push(run);
            }
            all.push(Slow { subject, added_ms, connections, runs });
        }
    }
    daemon.stop()?;
    Ok(all)
}

fn measure(args: &Args, daemon: &Daemon, path: &str, status: u16, connections: usize) -> Outcome<Run> {
    let before = daemon.metrics()?;
    let load = load::run(&Plan {
        address: daemon.address,
        request: &load::post(daemon.address, path, &body()),
        status,
        connections,
        warm_up: args.warm_up(),
        measured: args.measured(),
    })?;
    let loaded = daemon.metrics()?;
    daemon.drain()?;
    thread::sleep(REST);
    let rested = daemon.metrics()?;
    daemon.forget_log()?;
    figures(args, load, connections, [&before, &loaded, &rested])
}

fn figures(
    args: &Args,
    load: Load,
    connections: usize,
    [before, loaded, rested]: [&Metrics; 3],
) -> Outcome<Run> {
    let syncs = loaded.since(before, "card_fsyncs_total")?;
    let sync_ms = per(float(loaded.since(before, "card_fsync_microseconds_total")?) / 1e3, syncs);
    let seconds = (args.warm_up() + args.measured()).as_secs_f64();
    let of_connection = 1.0 / float(u64::try_from(connections)?.max(1));
    let p99_ms = load.latencies.percentile(99).as_secs_f64() * 1e3;
    Ok(Run {
        rate: load.rate,
        p50_ms: load.latencies.percentile(50).as_secs_f64() * 1e3,
        p99_ms,
        syncs_per_s: float(syncs) / seconds,
        sync_ms,
        per_sync: per(float(load.answers) * of_connection, syncs),
        per_sync_time: load.rate * sync_ms / 1e3 * of_connection,
        p99_syncs: if sync_ms > 0.0 { p99_ms / sync_ms } else { 0.0 },
        written_bytes: per(float(rested.since(before, "card_written_bytes_total")?), load.answers),
        commits: per(float(rested.since(before, "store_commits_total")?), load.answers),
        errors: load.errors,
    })
}

/// JSON of 200 bytes.
fn body() -> String {
    let frame = r#"{"name":""}"#;
    format!(r#"{{"name":"{}"}}"#, "p".repeat(BODY_BYTES - frame.len()))
}
