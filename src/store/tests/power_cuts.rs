//! The simulation of power cuts: tens of thousands in each run, from a new seed each time.
//!
//! `scripts/power-cuts` sets what is read from the environment here: a seed to play again, a count of cuts, hours.

use std::env;
use std::io::Write;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::SeqCst};
use std::thread;
use std::time::{Duration, Instant};

use super::history::{self, Report, Shape};
use crate::store::apply::Sabotage;

/// Cuts of a plain test run.
const CUTS: usize = 20_000;
const THREADS: usize = 2;
const SHAPE: Shape = Shape { lives: 5, batches: 30, sabotage: Sabotage::None };

fn setting<T: FromStr>(name: &str) -> Option<T> {
    env::var(name).ok().and_then(|text| text.parse().ok())
}

#[derive(Default)]
struct Tally {
    next: AtomicU64,
    cuts: AtomicUsize,
    histories: AtomicUsize,
    failed: AtomicBool,
}

/// Plays history after history until there is enough. The first failure, if any.
fn play(base: u64, enough: &(dyn Fn(usize) -> bool + Sync), tally: &Tally) -> Option<String> {
    while !enough(tally.cuts.load(SeqCst)) && !tally.failed.load(SeqCst) {
        let seed = base.wrapping_add(tally.next.fetch_add(1, SeqCst));
        match history::run(seed, &SHAPE) {
            Ok(Report { cuts, .. }) => tally.cuts.fetch_add(cuts, SeqCst),
            Err(failure) => {
                tally.failed.store(true, SeqCst);
                return Some(failure.to_string());
            }
        };
        tally.histories.fetch_add(1, SeqCst);
    }
    None
}

#[test]
fn every_cut_leaves_a_state_that_was_promised() {
    let base: u64 =
        setting("PICLOUD_CUTS_SEED").unwrap_or_else(|| uuid::Uuid::now_v7().as_u64_pair().1 >> 32);
    let wanted = setting("PICLOUD_CUTS").unwrap_or(CUTS);
    // A replay is of one history.
    let threads = if wanted == 1 { 1 } else { THREADS };
    let time = setting("PICLOUD_CUTS_HOURS").map(|hours: f64| Duration::from_secs_f64(hours * 3_600.0));
    let began = Instant::now();
    let enough = |cuts: usize| time.map_or(cuts >= wanted, |time| began.elapsed() >= time);
    let tally = Tally::default();
    let failures: Vec<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| play(base, &enough, &tally))).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    let (cuts, histories) = (tally.cuts.load(SeqCst), tally.histories.load(SeqCst));
    let seconds = began.elapsed().as_secs_f64();
    let rate = f64::from(u32::try_from(cuts).unwrap()) / seconds;
    // Past the test harness, which keeps what a test that passes says to itself.
    let _ = writeln!(
        std::io::stderr(),
        "power cuts: {cuts} cuts in {histories} histories, {} failures, base seed {base}, {rate:.0} cuts/s on {threads} threads; replay: scripts/power-cuts --seed {base}",
        failures.len()
    );
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn the_same_seed_is_the_same_history() {
    let shape = Shape { lives: 2, ..SHAPE };
    let (first, second) = (history::run(7, &shape).unwrap(), history::run(7, &shape).unwrap());
    assert_eq!(first, second);
    assert_ne!(first.digest, history::run(8, &shape).unwrap().digest);
}
