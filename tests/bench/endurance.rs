//! A store that took millions of executions: do the file, the commits and the memory stay as they were?
//!
//! The real daemon at its defaults is kept busy, mostly with relaxed calls because they are fastest, with strict
//! and async ones among them. At each tenth of the way it comes to rest and is looked at. The first tenth fills
//! the execution log up to its bound, so the last is held against the second.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::Outcome;
use crate::args::Args;
use crate::daemon::{BODY, Daemon};
use crate::load::{self, Load, Plan};
use crate::numbers::{float, per};
use crate::rounds::{REST, SUCCESSES};

/// Connections that keep the daemon busy.
const CONNECTIONS: usize = 32;
/// Blocks of stat(2).
const BLOCK_BYTES: u64 = 512;

/// The daemon after so many executions.
pub(crate) struct Tenth {
    pub(crate) executions: u64,
    /// Executions each second since the one before.
    pub(crate) rate: f64,
    pub(crate) file_bytes: f64,
    /// Bytes of its blocks on the disk.
    pub(crate) used_bytes: f64,
    pub(crate) log_bytes: f64,
    pub(crate) resident_bytes: f64,
    /// Bytes written for each execution since the one before.
    pub(crate) written_bytes: f64,
    /// The median time of a strict call that is alone: a durable commit and its run.
    pub(crate) commit_ms: f64,
    /// The mean time of a sync in those calls.
    pub(crate) sync_ms: f64,
}

/// Keeps one daemon busy until it took them all.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Vec<Tenth>> {
    let dir = dir.join("endurance");
    let daemon = Daemon::start(&dir, &args.environment)?;
    daemon.furnish()?;
    let file = dir.join("data").join("picloud.redb");
    let mut tenths = Vec::new();
    for number in 1..=10 {
        let tenth = tenth(args, &daemon, &file, args.executions() / 10 * number)?;
        eprintln!("endurance: {} executions, {:.0}/s", tenth.executions, tenth.rate);
        tenths.push(tenth);
    }
    daemon.stop()?;
    Ok(tenths)
}

/// Goes on until `target` executions have ended, and looks at the daemon at rest.
fn tenth(args: &Args, daemon: &Daemon, file: &Path, target: u64) -> Outcome<Tenth> {
    let (before, began) = (daemon.metrics()?, Instant::now());
    let slice = Duration::from_millis(if args.is_quick() { 20 } else { 1_000 });
    while daemon.metrics()?.value(SUCCESSES)? < target {
        load(daemon, "/relaxed", 200, CONNECTIONS, slice)?;
        load(daemon, "/strict", 200, CONNECTIONS, slice / 10)?;
        load(daemon, "/async", 202, CONNECTIONS, slice / 10)?;
        daemon.drain()?;
        daemon.forget_log()?;
    }
    let seconds = began.elapsed().as_secs_f64();
    thread::sleep(REST);
    let after = daemon.metrics()?;
    let ran = after.since(&before, SUCCESSES)?;
    let alone = load(daemon, "/strict", 200, 1, slice)?;
    let probed = daemon.metrics()?;
    let syncs = probed.since(&after, "card_fsyncs_total")?;
    let stat = fs::metadata(file)?;
    Ok(Tenth {
        executions: after.value(SUCCESSES)?,
        rate: float(ran) / seconds,
        file_bytes: float(stat.len()),
        used_bytes: float(stat.blocks() * BLOCK_BYTES),
        log_bytes: float(after.value("execution_log_bytes")?),
        resident_bytes: float(after.value("resident_memory_bytes")?),
        written_bytes: per(float(after.since(&before, "card_written_bytes_total")?), ran),
        commit_ms: alone.latencies.percentile(50).as_secs_f64() * 1e3,
        sync_ms: per(float(probed.since(&after, "card_fsync_microseconds_total")?) / 1e3, syncs),
    })
}

/// Load for so long; anything but good answers is an error, for then the figures are not those of executions.
fn load(daemon: &Daemon, path: &str, status: u16, connections: usize, measured: Duration) -> Outcome<Load> {
    let load = load::run(&Plan {
        address: daemon.address,
        request: &load::post(daemon.address, path, BODY),
        status,
        connections,
        warm_up: Duration::ZERO,
        measured,
    })?;
    if load.errors.is_empty() { Ok(load) } else { Err(format!("POST {path}: {:?}", load.errors).into()) }
}
