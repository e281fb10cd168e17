//! The order of measurements under load.
//!
//! For one number of connections everything is measured in turn, several rounds of it, and each rate is held
//! against the bare hyper of the same round, so that what slows this machine for a minute slows both. Between
//! two runs the daemon comes to rest: what one left for later must not be paid in the next.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::Outcome;
use crate::args::{Args, Subject};
use crate::bare::Bare;
use crate::daemon::{BODY, Daemon};
use crate::load::{self, Load, Plan};
use crate::numbers::{float, median, per};
use crate::process::Process;

/// Relaxed changes reach the card within one second.
pub(crate) const REST: Duration = Duration::from_millis(1_200);

/// Runs that ended well.
pub(crate) const SUCCESSES: &str = "executions_total{status=\"success\"}";

/// All runs, and what the daemon held before the first.
pub(crate) struct Rounds {
    pub(crate) idle_bytes: u64,
    /// Runs of all rounds, by subject and connections, in the order in which they were measured.
    pub(crate) results: Vec<Runs>,
}

/// The runs of one subject with one number of connections, one each round.
pub(crate) struct Runs {
    pub(crate) subject: Subject,
    pub(crate) connections: usize,
    runs: Vec<Run>,
}

/// One run. Everything per request counts warm-up and aftermath too.
#[derive(Default)]
pub(crate) struct Run {
    pub(crate) rate: f64,
    /// Of the bare hyper of this round.
    pub(crate) ratio: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) cpu_us: f64,
    pub(crate) peak_bytes: f64,
    pub(crate) fsyncs: f64,
    pub(crate) written_bytes: f64,
    pub(crate) commits: f64,
    /// Seconds until the outbox was empty.
    pub(crate) drain_s: f64,
    errors: BTreeMap<String, u64>,
}

impl Runs {
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

/// Both servers, ready to be measured.
struct Field<'a> {
    args: &'a Args,
    bare: Bare,
    daemon: Daemon,
    /// The script, for direct execution.
    script: String,
}

/// Measures everything that was asked for.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Rounds> {
    let daemon = Daemon::start(&dir.join("load"), &args.environment)?;
    std::thread::sleep(Duration::from_secs(1));
    let idle_bytes = daemon.metrics()?.value("resident_memory_bytes")?;
    let script = daemon.furnish()?;
    daemon.furnish_values()?;
    let field = Field { args, bare: Bare::start()?, daemon, script };
    let mut results = Vec::new();
    for connections in &args.connections {
        results.extend(field.measure(*connections)?);
    }
    field.daemon.stop()?;
    Ok(Rounds { idle_bytes, results })
}

impl Field<'_> {
    /// All rounds with one number of connections.
    fn measure(&self, connections: usize) -> Outcome<Vec<Runs>> {
        use Subject::{Async, Bare, Counter, Direct, Relaxed, Strict, Values};
        let subjects = [Relaxed, Strict, Async, Direct, Values, Counter];
        let subjects = subjects.into_iter().filter(|subject| self.args.wants(*subject));
        let runs_of = |subject| Runs { subject, connections, runs: Vec::new() };
        let mut results: Vec<Runs> = [Bare].into_iter().chain(subjects).map(runs_of).collect();
        for round in 1..=self.args.rounds() {
            let mut bare = None;
            for result in &mut results {
                let mut run = self.run(result.subject, connections)?;
                run.ratio = run.rate / *bare.get_or_insert(run.rate);
                let (subject, rate) = (result.subject, run.rate);
                eprintln!("{connections} connections, round {round}, {subject:?}: {rate:.0}/s");
                result.runs.push(run);
            }
        }
        Ok(results)
    }

    fn run(&self, subject: Subject, connections: usize) -> Outcome<Run> {
        match subject {
            Subject::Bare => self.run_bare(connections),
            Subject::Relaxed => self.run_daemon("/relaxed", 200, connections),
            Subject::Strict => self.run_daemon("/strict", 200, connections),
            Subject::Async => self.run_daemon("/async", 202, connections),
            Subject::Direct => self.run_daemon(&format!("/api/execute/{}", self.script), 200, connections),
            Subject::Values => self.run_daemon("/values", 200, connections),
            Subject::Counter => self.run_counter(connections),
            Subject::Slow
            | Subject::Fair
            | Subject::Hello
            | Subject::Million
            | Subject::Cron
            | Subject::Start
            | Subject::Match
            | Subject::Endurance
            | Subject::Tls => Err("this is not measured under load".into()),
        }
    }

    /// The counter must have risen by one for each good answer.
    fn run_counter(&self, connections: usize) -> Outcome<Run> {
        let before = (self.daemon.counter()?, self.daemon.metrics()?.value(SUCCESSES)?);
        let run = self.run_daemon("/counter", 200, connections)?;
        let after = (self.daemon.counter()?, self.daemon.metrics()?.value(SUCCESSES)?);
        if after.0 - before.0 == after.1 - before.1 {
            return Ok(run);
        }
        Err(format!("{} runs counted up to {}", after.1 - before.1, after.0 - before.0).into())
    }

    fn run_bare(&self, connections: usize) -> Outcome<Run> {
        let usage = Usage::begin(&self.bare.process)?;
        let load = self.load(self.bare.address, "/", 200, connections)?;
        usage.end(load)
    }

    fn run_daemon(&self, path: &str, status: u16, connections: usize) -> Outcome<Run> {
        let before = self.daemon.metrics()?;
        let usage = Usage::begin(&self.daemon.process)?;
        let load = self.load(self.daemon.address, path, status, connections)?;
        let drain_s = self.daemon.drain()?.as_secs_f64();
        std::thread::sleep(REST);
        let after = self.daemon.metrics()?;
        self.daemon.forget_log()?;
        let answers = load.answers;
        let each =
            |name| Ok::<_, Box<dyn std::error::Error>>(per(float(after.since(&before, name)?), answers));
        Ok(Run {
            drain_s,
            fsyncs: each("card_fsyncs_total")?,
            written_bytes: each("card_written_bytes_total")?,
            commits: each("store_commits_total")?,
            ..usage.end(load)?
        })
    }

    fn load(&self, address: SocketAddr, path: &str, status: u16, connections: usize) -> Outcome<Load> {
        load::run(&Plan {
            address,
            request: &load::post(address, path, BODY),
            status,
            connections,
            warm_up: self.args.warm_up(),
            measured: self.args.measured(),
        })
    }
}

/// What a server uses during a run.
struct Usage<'a> {
    process: &'a Process,
    cpu_before: Duration,
}

impl<'a> Usage<'a> {
    fn begin(process: &'a Process) -> Outcome<Usage<'a>> {
        process.forget_peak();
        Ok(Usage { process, cpu_before: process.cpu()? })
    }

    fn end(self, load: Load) -> Outcome<Run> {
        let cpu = self.process.cpu()?.saturating_sub(self.cpu_before);
        let milliseconds = |percent| load.latencies.percentile(percent).as_secs_f64() * 1e3;
        Ok(Run {
            rate: load.rate,
            p50_ms: milliseconds(50),
            p99_ms: milliseconds(99),
            cpu_us: per(cpu.as_secs_f64() * 1e6, load.answers),
            peak_bytes: float(self.process.peak_bytes()?),
            errors: load.errors,
            ..Run::default()
        })
    }
}
