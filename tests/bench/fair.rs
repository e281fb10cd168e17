//! A healthy app beside one that takes what it can get: how much later the slowest of its answers come.
//!
//! The neighbour is another app of the same daemon, called by eight connections that never pause. Each kind of
//! neighbour gets a daemon of its own, on which the healthy app is measured alone first. Its callers share the cores
//! with all of that, as everything here does.

use std::path::Path;
use std::thread;
use std::time::Duration;

use crate::Outcome;
use crate::args::Args;
use crate::daemon::{BODY, Daemon, NEIGHBOUR};
use crate::load::{self, Load, Plan};
use crate::numbers::median;
use crate::rounds::REST;

/// What the neighbour does: a name, its route, and the answer to most of its calls.
const NEIGHBOURS: [(&str, &str, u16); 3] = [
    ("loops, somebody waits", "/loop", 507),
    ("loops, nobody waits", "/loop-later", 202),
    ("floods the outbox", "/flood", 202),
];
/// Connections that call the neighbour.
const NEIGHBOUR_CONNECTIONS: usize = 8;
/// Connections that call the healthy app.
const HEALTHY_CONNECTIONS: [usize; 2] = [1, 8];
/// The neighbour begins so much earlier.
const AHEAD: Duration = Duration::from_secs(1);

/// The healthy app beside one neighbour.
pub(crate) struct Fair {
    pub(crate) neighbour: &'static str,
    pub(crate) connections: usize,
    runs: Vec<Run>,
}

/// One run alone and one beside the neighbour.
pub(crate) struct Run {
    pub(crate) alone_rate: f64,
    pub(crate) beside_rate: f64,
    pub(crate) alone_p99_ms: f64,
    pub(crate) beside_p99_ms: f64,
    /// Answers beside the neighbour that were not good.
    pub(crate) refused: u64,
}

impl Fair {
    /// The median of one figure.
    pub(crate) fn median(&self, figure: impl Fn(&Run) -> f64) -> f64 {
        median(self.runs.iter().map(figure))
    }

    /// How much longer the slowest hundredth takes beside the neighbour.
    pub(crate) fn ratio(&self) -> f64 {
        self.median(|run| run.beside_p99_ms / run.alone_p99_ms)
    }

    /// Answers of all runs that were not good.
    pub(crate) fn refused(&self) -> u64 {
        self.runs.iter().map(|run| run.refused).sum()
    }
}

/// Measures beside every neighbour.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Vec<Fair>> {
    let mut all = Vec::new();
    for (name, path, status) in NEIGHBOURS {
        for connections in HEALTHY_CONNECTIONS {
            let mut runs = Vec::new();
            for round in 1..=args.rounds() {
                let place = dir.join(format!("fair{}-{connections}-{round}", path.replace('/', "-")));
                let run = measure(args, &place, (path, status), connections)?;
                eprintln!(
                    "a neighbour that {name}, {connections} connections, round {round}: p99 {:.2} ms, alone {:.2} ms",
                    run.beside_p99_ms, run.alone_p99_ms
                );
                runs.push(run);
            }
            all.push(Fair { neighbour: name, connections, runs });
        }
    }
    Ok(all)
}

fn measure(args: &Args, dir: &Path, neighbour: (&str, u16), connections: usize) -> Outcome<Run> {
    // What the neighbour left is not waited for.
    let no_grace = ("PICLOUD_SERVER_DRAIN_GRACE_SECONDS".to_owned(), "0".to_owned());
    let environment: Vec<_> = args.environment.iter().cloned().chain([no_grace]).collect();
    let daemon = Daemon::start(dir, &environment)?;
    daemon.furnish()?;
    daemon.furnish_neighbour()?;
    let alone = healthy(args, &daemon, connections)?;
    thread::sleep(REST);
    let beside = thread::scope(|scope| {
        let (address, (path, status)) = (daemon.address, neighbour);
        let length = AHEAD + args.warm_up() + args.measured();
        let request = load::post(NEIGHBOUR, path, BODY);
        scope.spawn(move || {
            let plan = Plan {
                address,
                request: &request,
                status,
                connections: NEIGHBOUR_CONNECTIONS,
                warm_up: Duration::ZERO,
                measured: length,
            };
            // Its own troubles are not what is measured.
            load::run(&plan).map_err(|error| eprintln!("the neighbour: {error}")).ok();
        });
        thread::sleep(AHEAD);
        healthy(args, &daemon, connections)
    })?;
    daemon.stop()?;
    let p99 = |load: &Load| load.latencies.percentile(99).as_secs_f64() * 1e3;
    Ok(Run {
        alone_rate: alone.rate,
        beside_rate: beside.rate,
        alone_p99_ms: p99(&alone),
        beside_p99_ms: p99(&beside),
        refused: beside.errors.values().sum(),
    })
}

fn healthy(args: &Args, daemon: &Daemon, connections: usize) -> Outcome<Load> {
    load::run(&Plan {
        address: daemon.address,
        request: &load::post(daemon.address, "/relaxed", BODY),
        status: 200,
        connections,
        warm_up: args.warm_up(),
        measured: args.measured(),
    })
}
