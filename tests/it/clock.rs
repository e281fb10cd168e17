//! A wall clock that steps, or was never set: nothing runs twice, or never, or is forgotten because of it.
//!
//! The daemon is the real one; libfaketime answers it when it asks for the wall clock, and leaves the monotonic
//! one alone, as a step of a system's clock does.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, TempDir, until};

const HOUR: i64 = 3600;

/// A daemon's wall clock.
pub(crate) struct Clock {
    file: PathBuf,
    _dir: TempDir,
}

impl Clock {
    /// A daemon's set-up under a clock that is `off` seconds off.
    pub(crate) fn new(off: i64, setup: Setup) -> (Clock, Setup) {
        let dir = TempDir::new();
        let clock = Clock { file: dir.path().join("clock"), _dir: dir };
        clock.set(off);
        let setup = setup
            .env("LD_PRELOAD", libfaketime().to_str().unwrap())
            .env("FAKETIME_TIMESTAMP_FILE", clock.file.to_str().unwrap())
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        (clock, setup)
    }

    /// Steps to `off` seconds from the true time.
    pub(crate) fn set(&self, off: i64) {
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{off:+}")).unwrap();
        fs::rename(new, &self.file).unwrap();
    }
}

fn libfaketime() -> PathBuf {
    let found = fs::read_dir("/usr/lib").unwrap().map(|entry| entry.unwrap().path());
    let mut found = found.map(|dir| dir.join("faketime/libfaketimeMT.so.1")).filter(|path| path.exists());
    found.next().expect("libfaketime is installed by scripts/install-tools")
}

/// Seconds from the true time to ten minutes after the epoch.
fn to_1970() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    600 - i64::try_from(now).unwrap()
}

fn created_in(record: &Value) -> i32 {
    record["created_at"].as_str().unwrap()[..4].parse().unwrap()
}

/// Ends at its third attempt, each a moment after the one before.
const THIRD: &str = "if ctx.attempt < 3 { retry_after(1); throw ctx.attempt } ctx.attempt";

#[track_caller]
fn check_step(from: i64, to: i64) {
    let (clock, setup) = Clock::new(from, Setup::default());
    let daemon = setup.start();
    daemon.serve_async("/third", THIRD);
    let script = daemon.script_with("sleep(1); 1", json!({ "timeout_seconds": 30 }));
    daemon.route("POST", "/slow", &script, json!({}));
    let before = daemon.get("/hello/1").execution_id();
    let id = daemon.accepted("/third", "");
    daemon.execution_once(&id, "retrying");
    let mut slow = daemon.request("POST", "/slow").begin();
    until("the slow call to run", || daemon.all("/executions?status=running").first().map(|_| ()));
    clock.set(to);
    // It was under way when the clock stepped, and is neither cut nor forgotten.
    assert_eq!(slow.answer().unwrap().status, 200);
    let end = daemon.ended(&id);
    assert_eq!((&end["status"], &end["attempt"]), (&json!("success"), &json!(3)), "{end:#}");
    let after = daemon.get("/hello/2").execution_id();
    assert!(after > id && id > before, "{before} {id} {after}");
    let records = daemon.all("/executions");
    for id in [&before, &id, &after] {
        assert_eq!(records.iter().filter(|record| record["id"] == id.as_str()).count(), 1, "{records:#?}");
    }
    assert_eq!(crate::harness::id(&records[0]), after, "the newest is first");
    assert!(daemon.all("/outbox").is_empty() && daemon.all("/dead-letters").is_empty());
}

#[test]
fn a_step_of_the_clock_changes_nothing() {
    // The age limit is six hours.
    for (from, to) in [(0, 10 * HOUR), (10 * HOUR, 0), (0, to_1970()), (to_1970(), 0)] {
        check_step(from, to);
    }
}

#[test]
fn a_boot_in_1970_finds_its_work_and_its_log() {
    let (clock, setup) = Clock::new(0, Setup::default());
    let mut daemon = setup.start();
    daemon.serve_async("/third", THIRD);
    let before = daemon.get("/hello/1").execution_id();
    let waiting = daemon.accepted("/third", "");
    daemon.execution_once(&waiting, "retrying");
    daemon.stop_and_start_again();
    daemon.kill();
    clock.set(to_1970());
    daemon.start_again();
    let end = daemon.ended(&waiting);
    assert_eq!((&end["status"], &end["attempt"]), (&json!("success"), &json!(3)), "{end:#}");
    let then = daemon.get("/hello/2").execution_id();
    assert!(then > waiting && created_in(&daemon.execution(&then)) == 1970);
    assert_eq!(crate::harness::id(&daemon.all("/executions")[0]), then);
    // The network comes up, and the clock is set; then there is another boot.
    clock.set(0);
    let after = daemon.get("/hello/3").execution_id();
    assert!(after > then && created_in(&daemon.execution(&after)) > 1970);
    daemon.stop_and_start_again();
    let found: Vec<String> = daemon.all("/executions").iter().map(crate::harness::id).collect();
    for id in [&before, &waiting, &then, &after] {
        assert_eq!(found.iter().filter(|found| *found == id).count(), 1, "{id} of {found:?}");
    }
}

#[test]
fn work_accepted_in_1970_is_not_too_old_afterwards() {
    let (clock, setup) = Clock::new(to_1970(), Setup::default());
    let mut daemon = setup.start();
    daemon.serve_async("/third", THIRD);
    let id = daemon.accepted("/third", "");
    daemon.execution_once(&id, "retrying");
    daemon.kill();
    clock.set(0);
    daemon.start_again();
    let end = daemon.ended(&id);
    assert_eq!((&end["status"], &end["attempt"]), (&json!("success"), &json!(3)), "{end:#}");
    assert_eq!(created_in(&end), 1970);
}

#[test]
fn a_clock_years_ahead_forgets_no_records() {
    let (clock, setup) = Clock::new(0, Setup::default().set("executions.age_max_days", 1));
    let mut daemon = setup.start();
    daemon.serve_async("/dies", "fail(1)");
    let old = daemon.get("/hello/1").execution_id();
    let died = daemon.accepted("/dies", "");
    daemon.ended(&died);
    clock.set(70 * 365 * 24 * HOUR);
    let ahead = daemon.get("/hello/2").execution_id();
    assert!(created_in(&daemon.execution(&ahead)) > 2090);
    daemon.stop_and_start_again();
    clock.set(0);
    daemon.get("/hello/3");
    daemon.stop_and_start_again();
    for id in [&old, &died, &ahead] {
        assert!(daemon.all("/executions").iter().any(|record| record["id"] == id.as_str()), "{id}");
    }
    assert_eq!(daemon.all("/dead-letters").len(), 1);
}

/// What a test relies on: the library is there, and the daemon hears it.
#[test]
fn the_daemon_hears_the_clock_of_these_tests() {
    assert!(Path::new(&libfaketime()).exists());
    let (clock, setup) = Clock::new(-to_1970(), Setup::default());
    let daemon: Daemon = setup.start();
    let id = daemon.get("/hello/1").execution_id();
    assert!(created_in(&daemon.execution(&id)) > 2070);
    clock.set(0);
    let id = daemon.get("/hello/1").execution_id();
    assert!(created_in(&daemon.execution(&id)) < 2070);
}
