//! Schedules: they strike in time, once, and only by a clock that is right.

use std::collections::BTreeSet;
use std::fs;

use serde_json::{Value, json};

use crate::clock::Clock;
use crate::harness::{Daemon, Setup, TempDir, id, until};

const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// Answers with what it was told.
const TELL: &str = "#{ event: ctx.event, depth: ctx.trigger_depth, own_root: ctx.root_execution_id == ctx.execution_id, invocation: ctx.invocation }";

impl Daemon {
    /// A schedule of app `default` that runs this script.
    #[track_caller]
    fn cron(&self, script: &str, schedule: &str, mut fields: Value) -> String {
        fields["kind"] = json!("cron");
        fields["script_id"] = json!(script);
        fields["schedule"] = json!(schedule);
        id(&self.done("POST", "/apps/default/triggers", fields))
    }

    /// What runs of this script answered, the latest first.
    #[track_caller]
    fn told(&self, script: &str) -> Vec<Value> {
        let records = self.all(&format!("/executions?script={script}&status=success"));
        let body = |record: &Value| serde_json::from_str(record["response_body"].as_str().unwrap()).unwrap();
        records.iter().map(|record| body(&self.execution(&id(record)))).collect()
    }

    #[track_caller]
    fn told_once(&self, script: &str, count: usize) -> Vec<Value> {
        until(&format!("{count} runs"), || Some(self.told(script)).filter(|told| told.len() >= count))
    }

    #[track_caller]
    fn trigger(&self, trigger: &str, rest: &str) -> String {
        format!("/apps/default/triggers/{trigger}{rest}")
    }
}

fn ticks(told: &[Value]) -> BTreeSet<i64> {
    told.iter().map(|told| told["event"]["scheduled_unix_ms"].as_i64().unwrap()).collect()
}

#[test]
fn a_schedule_strikes_each_second_once_and_stops_when_it_is_paused() {
    let daemon = Daemon::start();
    let script = daemon.script(TELL);
    let trigger = daemon.cron(&script, "* * * * * *", json!({ "timezone": "asia/kolkata" }));
    let told = daemon.told_once(&script, 3);
    assert_eq!(ticks(&told).len(), told.len(), "no tick twice: {told:#?}");
    for told in &told {
        let (event, at) = (&told["event"], told["event"]["scheduled_at"].as_str().unwrap());
        assert_eq!((&event["kind"], &event["trigger_id"]), (&json!("cron"), &json!(trigger)));
        assert!(at.ends_with("+05:30") && event["scheduled_unix_ms"].as_i64().unwrap() % 1000 == 0, "{at}");
        assert_eq!(
            (&told["depth"], &told["own_root"], &told["invocation"]),
            (&json!(1), &json!(true), &json!("cron"))
        );
    }
    let shown = daemon.done("GET", &daemon.trigger(&trigger, ""), Value::Null);
    assert_eq!((&shown["timezone"], &shown["overlap"]), (&json!("Asia/Kolkata"), &json!("skip")));
    assert!(shown["last_at"].is_string() && shown["next_at"].as_str() > shown["last_at"].as_str(), "{shown}");

    let paused = daemon.done("POST", &daemon.trigger(&trigger, "/pause"), Value::Null);
    assert_eq!((&paused["enabled"], &paused["next_at"]), (&json!(false), &Value::Null));
    until("the last run", || daemon.all("/outbox").is_empty().then_some(()));
    let (before, witness) = (daemon.told(&script).len(), daemon.script(TELL));
    daemon.cron(&witness, "* * * * * *", json!({}));
    daemon.told_once(&witness, 3);
    assert_eq!(daemon.told(&script).len(), before);

    let since = before + 1;
    daemon.done("POST", &daemon.trigger(&trigger, "/resume"), Value::Null);
    let told = daemon.told_once(&script, since);
    assert_eq!(ticks(&told).len(), told.len(), "no tick twice: {told:#?}");
    // Ticks during the pause were not missed: nobody wanted them.
    assert!(!daemon.log().contains("were missed"), "{}", daemon.log());
}

#[test]
fn a_person_runs_a_trigger_now() {
    let daemon = Daemon::start();
    let script = daemon.script(TELL);
    let trigger = daemon.cron(&script, "@yearly", json!({}));
    let run = daemon.api("POST", &daemon.trigger(&trigger, "/run"), Value::Null);
    assert_eq!(run.status, 202, "{run}");
    let end = daemon.ended(run.json()["execution_id"].as_str().unwrap());
    assert_eq!((&end["status"], &end["kind"]), (&json!("success"), &json!("cron")));
    assert_eq!(daemon.told(&script)[0]["event"]["manual"], true);
    let shown = daemon.done("GET", &daemon.trigger(&trigger, ""), Value::Null);
    assert_eq!(shown["last_at"], Value::Null, "that was no tick: {shown}");

    daemon.done("PATCH", &daemon.trigger(&trigger, ""), json!({ "enabled": false }));
    let refused = daemon.api("POST", &daemon.trigger(&trigger, "/run"), Value::Null);
    assert!(refused.status == 409 && refused.text().contains("resume"), "{refused}");
    daemon.done("POST", &daemon.trigger(&trigger, "/resume"), Value::Null);
    daemon.done("DELETE", &format!("/apps/default/scripts/{script}"), Value::Null);
    let gone = daemon.api("POST", &daemon.trigger(&trigger, "/run"), Value::Null);
    assert!(gone.status == 409 && gone.text().contains("gone"), "{gone}");
}

/// A schedule of each second whose runs take longer.
fn slow(overlap: &str) -> (Daemon, String) {
    let daemon = Daemon::start();
    let script = daemon.script("sleep(3); 1");
    daemon.cron(&script, "* * * * * *", json!({ "overlap": overlap }));
    (daemon, script)
}

#[track_caller]
fn running(daemon: &Daemon, script: &str) -> usize {
    daemon.all(&format!("/executions?script={script}&status=running")).len()
}

#[test]
fn a_tick_during_a_run_is_left_out() {
    let (daemon, script) = slow("skip");
    let overlapped = || {
        assert!(running(&daemon, &script) <= 1 && daemon.all("/outbox").len() <= 1);
        daemon.done("GET", "/status", Value::Null)["cron"]["overlapped"].as_u64().filter(|ticks| *ticks >= 4)
    };
    until("ticks that were left out", overlapped);
    assert!(daemon.log().contains("a tick was left out"), "{}", daemon.log());
    let ended = daemon.all(&format!("/executions?script={script}&status=success")).len();
    assert!(ended >= 1, "it ran in between");
}

#[test]
fn a_tick_during_a_run_waits_for_its_end() {
    let (daemon, script) = slow("queue");
    let queued = || {
        assert!(running(&daemon, &script) <= 1);
        let ended = daemon.all(&format!("/executions?script={script}&status=success")).len();
        (ended >= 2 && daemon.all("/outbox").len() >= 3).then_some(())
    };
    until("ticks that wait", queued);
}

#[test]
fn a_tick_during_a_run_runs_beside_it() {
    let (daemon, script) = slow("parallel");
    until("two at once", || (running(&daemon, &script) >= 2).then_some(()));
}

/// A line that strikes once a day, about half a day from now.
fn daily() -> String {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    format!("0 {} * * *", (i64::try_from(now).unwrap() + DAY / 2).rem_euclid(DAY) / HOUR)
}

#[test]
fn ticks_missed_while_the_device_was_off() {
    let (clock, setup) = Clock::new(0, Setup::default());
    let mut daemon = setup.start();
    let line = daily();
    let scripts = ["skip", "once", "all"].map(|catch_up| {
        let script = daemon.script(TELL);
        daemon.cron(&script, &line, json!({ "catch_up": catch_up }));
        script
    });
    let missed = |daemon: &Daemon, counts: [&[u64]; 3]| {
        let told = until("what is caught up with", || {
            let told = scripts.each_ref().map(|script| daemon.told(script));
            let counted = told.each_ref().map(Vec::len);
            (counted == counts.map(<[u64]>::len)).then_some(told)
        });
        for (told, counts) in told.iter().zip(counts) {
            let of = |told: &Value| told["event"]["missed"].as_u64().unwrap();
            assert_eq!(told.iter().rev().map(of).collect::<Vec<_>>(), counts);
        }
    };
    daemon.stop_and_start_again();
    missed(&daemon, [&[], &[], &[]]);
    daemon.process.signal("TERM");
    daemon.process.wait("the daemon");
    clock.set(3 * DAY);
    daemon.start_again();
    missed(&daemon, [&[], &[3], &[1, 1, 1]]);
    until("the line about those not run", || daemon.log().contains("missed=3 not_run=3").then_some(()));
    // None of them is run again, nor told of.
    let lines = daemon.log().matches("ticks of a schedule were missed").count();
    daemon.kill_and_start_again();
    let witness = daemon.script(TELL);
    daemon.cron(&witness, "* * * * * *", json!({}));
    daemon.told_once(&witness, 2);
    missed(&daemon, [&[], &[3], &[1, 1, 1]]);
    assert_eq!(daemon.log().matches("ticks of a schedule were missed").count(), lines);
    // A clock that is set forward while it runs is like a device that was off; one that is set back is nothing.
    clock.set(5 * DAY);
    missed(&daemon, [&[], &[3, 2], &[1, 1, 1, 1, 1]]);
    clock.set(5 * DAY - 20 * HOUR);
    until("the clock to be seen", || daemon.log().contains("the clock was set seconds=-").then_some(()));
    daemon.kill_and_start_again();
    missed(&daemon, [&[], &[3, 2], &[1, 1, 1, 1, 1]]);
}

#[test]
fn a_schedule_does_not_wait_for_a_clock_that_was_years_ahead() {
    let (clock, setup) = Clock::new(10 * 365 * DAY, Setup::default());
    let mut daemon = setup.start();
    let script = daemon.script(TELL);
    daemon.cron(&script, "* * * * * *", json!({}));
    daemon.told_once(&script, 1);
    clock.set(0);
    let ahead = daemon.told(&script).len();
    daemon.told_once(&script, ahead + 2);
    daemon.kill();
    clock.set(10 * 365 * DAY);
    daemon.start_again();
    let before = daemon.told(&script).len();
    daemon.told_once(&script, before + 2);
}

#[test]
fn schedules_wait_for_a_synchronised_clock_and_nothing_else_does() {
    let run = TempDir::new();
    let root = rustix::process::getuid().is_root();
    let mut prefix = vec!["unshare", "--mount"];
    prefix.extend(if root { &[][..] } else { &["--user", "--map-root-user"] });
    let bind = "mount --bind \"$0\" /run && exec \"$@\"";
    prefix.extend(["sh", "-c", bind, run.path().to_str().unwrap()]);
    let prefix: Vec<String> = prefix.into_iter().map(str::to_owned).collect();
    let mut daemon = Setup::default().set("cron.clock", "synchronised").by(&prefix).start();
    let (ticking, starting) = (daemon.script(TELL), daemon.script(TELL));
    daemon.cron(&ticking, "* * * * * *", json!({}));
    let startup = json!({ "kind": "startup", "script_id": starting });
    daemon.done("POST", "/apps/default/triggers", startup);
    daemon.stop_and_start_again();
    daemon.told_once(&starting, 1);
    let clock = |daemon: &Daemon| daemon.done("GET", "/status", Value::Null)["clock"].clone();
    assert_eq!(clock(&daemon), json!({ "synchronised": false, "cron_waiting": true }));
    assert_eq!(daemon.get("/api/v1/ready").json()["clock"]["cron_waiting"], true);
    assert!(daemon.log().contains("wait until the clock is synchronised"), "{}", daemon.log());
    assert_eq!((daemon.get("/hello/you").status, daemon.told(&ticking).len()), (200, 0));
    let timesync = run.path().join("systemd/timesync");
    fs::create_dir_all(&timesync).unwrap();
    fs::write(timesync.join("synchronized"), "").unwrap();
    daemon.told_once(&ticking, 2);
    assert_eq!(clock(&daemon), json!({ "synchronised": true, "cron_waiting": false }));
}

#[test]
fn many_schedules_strike_at_once_and_none_is_lost() {
    let daemon = Daemon::start();
    let script = daemon.script("1");
    for _ in 0..100 {
        daemon.cron(&script, "*/5 * * * * *", json!({ "overlap": "parallel" }));
    }
    let run = || daemon.done("GET", "/status", Value::Null)["cron"]["ticks"].as_u64().unwrap();
    let before = run();
    until("two rounds", || (run() >= before + 200).then_some(()));
    until("their ends", || {
        let ended = daemon.all(&format!("/executions?script={script}&status=success")).len();
        (u64::try_from(ended).unwrap() >= 200).then_some(())
    });
    assert!(daemon.all("/dead-letters").is_empty());
}

#[test]
fn no_tick_is_lost_or_struck_twice_by_a_crash() {
    let mut daemon = Daemon::start();
    let script = daemon.script(TELL);
    let trigger = daemon.cron(&script, "* * * * * *", json!({ "catch_up": "all", "overlap": "queue" }));
    for round in 1..4 {
        daemon.told_once(&script, round);
        daemon.kill_and_start_again();
    }
    daemon.told_once(&script, 6);
    daemon.done("POST", &daemon.trigger(&trigger, "/pause"), Value::Null);
    daemon.done("DELETE", &daemon.trigger(&trigger, ""), Value::Null);
    until("the last run", || daemon.all("/outbox").is_empty().then_some(()));
    let told = daemon.told(&script);
    let ticks = ticks(&told);
    assert_eq!(ticks.len(), told.len(), "no tick has two runs: {told:#?}");
    let (first, last) = (ticks.first().unwrap(), ticks.last().unwrap());
    let seconds = usize::try_from((last - first) / 1000).unwrap() + 1;
    assert_eq!(ticks.len(), seconds, "each second has one: {ticks:?}");
}
