//! What the card takes is counted, told and kept; a write budget makes the store thrifty, and says so.

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, Setup, picloud, until};

fn status(daemon: &Daemon) -> Value {
    daemon.done("GET", "/status", Value::Null)
}

#[track_caller]
fn figure(status: &Value, pointer: &str) -> u64 {
    status.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer} in {status:#}"))
}

#[track_caller]
fn metric(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("picloud_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

#[test]
fn strict_calls_are_counted_as_what_they_cost() {
    let daemon = Daemon::start();
    daemon.serve("/echo", "request.body");
    let before = status(&daemon);
    let calls = 20;
    for _ in 0..calls {
        assert_eq!(daemon.post("/echo", "\"0123456789\"").status, 200);
    }
    let after = status(&daemon);
    let grew = |pointer: &str| figure(&after, pointer) - figure(&before, pointer);
    // One after the other: each is on the card before its script starts, in a commit of its own.
    for pointer in ["/card/fsyncs", "/card/commits", "/card/total_fsyncs", "/card/total_commits"] {
        assert!(grew(pointer) >= calls, "{pointer} grew by {}", grew(pointer));
    }
    assert_eq!(grew("/card/bytes_written"), grew("/card/total_bytes_written"));
    assert_eq!(grew("/card/logical_bytes"), grew("/card/total_logical_bytes"));
    // At least the body of each is kept, and nothing is kept that is not written.
    assert!(grew("/card/logical_bytes") >= calls * 10, "{after:#}");
    assert!(grew("/card/bytes_written") > grew("/card/logical_bytes"), "{before:#}{after:#}");
    let factor = after["card"]["write_amplification"].as_f64().unwrap();
    let (written, kept) = (
        figure(&after, "/card/total_bytes_written") as f64,
        figure(&after, "/card/total_logical_bytes") as f64,
    );
    assert!((factor - written / kept).abs() < 1e-9, "{factor} is not {written} / {kept}");
    assert_eq!(grew("/executions/success"), calls);
    assert!(figure(&after, "/store/file_bytes") > 0);
    assert_eq!(figure(&after, "/card/endurance_tbw"), 20);
    assert!(after["card"]["years_left"].as_f64().unwrap() > 0.0);
    let first = metric(&daemon, "card_fsyncs_total");
    assert!(first >= figure(&after, "/card/fsyncs"));
    assert!(metric(&daemon, "card_lifetime_fsyncs_total") >= first);
    assert_eq!(daemon.api("POST", "/status", json!({})).status, 405);
    assert_eq!(daemon.get("/api/v1/status").status, 401);
}

#[test]
fn totals_go_on_over_restarts() {
    let mut daemon = Daemon::start();
    daemon.serve("/echo", "request.body");
    let mut before = status(&daemon);
    let since = before["card"]["since"].clone();
    for _ in 0..2 {
        for _ in 0..5 {
            assert_eq!(daemon.post("/echo", "1").status, 200);
        }
        let last = status(&daemon);
        daemon.stop_and_start_again();
        let now = status(&daemon);
        for total in ["bytes_written", "logical_bytes", "fsyncs", "commits"] {
            let pointer = format!("/card/total_{total}");
            // The last commit knows all but itself, so what was told before it is in.
            assert!(figure(&now, &pointer) >= figure(&last, &pointer), "{total}: {last:#}{now:#}");
            assert!(figure(&now, &pointer) > figure(&before, &pointer), "{total}");
        }
        assert!(figure(&now, "/card/fsyncs") < figure(&now, "/card/total_fsyncs"));
        assert_eq!(now["card"]["since"], since);
        before = now;
    }
    // A power cut may cost what was not noted, but never what was.
    daemon.kill_and_start_again();
    let now = status(&daemon);
    let noted = figure(&before, "/card/total_fsyncs") - figure(&before, "/card/fsyncs");
    assert!(figure(&now, "/card/total_fsyncs") >= noted);
    assert_eq!(now["card"]["since"], since);
}

#[test]
fn an_exceeded_budget_is_told_and_relaxed_calls_wait_longer() {
    let daemon = Setup::default().set("card.write_budget_bytes_per_day", 1000).start();
    daemon.serve("/echo", "request.body");
    let over = until("the budget to be exceeded", || {
        Some(status(&daemon)).filter(|status| status["budget"]["over"] == true)
    });
    assert_eq!(figure(&over, "/budget/flush_interval_ms"), 10_000);
    assert_eq!((figure(&over, "/budget/bytes_per_day"), figure(&over, "/budget/left_bytes")), (1000, 0));
    assert_eq!(metric(&daemon, "card_over_budget"), 1);
    until("a line about it", || daemon.log().contains("write budget is exceeded").then_some(()));
    // What is promised is kept all the same.
    for _ in 0..5 {
        assert_eq!(daemon.post("/echo", "1").status, 200);
    }
    assert_eq!(daemon.log().matches("write budget is exceeded").count(), 1, "it is said once");
    let ran = picloud(&["status"], &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", KEY)]);
    assert!(ran.out.contains("1.0 kB a day, EXCEEDED"), "{}{}", ran.out, ran.err);
}

#[test]
fn over_its_budget_a_store_flushes_less_often() {
    let [plain, thrifty] = [0, 1].map(|budget| {
        let setup = Setup::default().set("card.write_budget_bytes_per_day", budget);
        let daemon = setup.set("store.flush_interval_ms", 100).start();
        daemon.serve("/hello", "1");
        daemon
    });
    until("the budget to be exceeded", || (status(&thrifty)["budget"]["over"] == true).then_some(()));
    let before = [&plain, &thrifty].map(|daemon| figure(&status(daemon), "/card/fsyncs"));
    let flushes = until("the plain store to flush", || {
        // Both have the same to do at the same time, and are never quiet.
        [&plain, &thrifty].iter().for_each(|daemon| assert_eq!(daemon.get("/hello").status, 200));
        let now = [&plain, &thrifty].map(|daemon| figure(&status(daemon), "/card/fsyncs"));
        Some([now[0] - before[0], now[1] - before[1]]).filter(|[plain, _]| *plain >= 30)
    });
    assert!(flushes[1] < flushes[0] / 2, "{flushes:?}");
}

#[test]
fn without_a_budget_or_within_it_nothing_is_different() {
    for (budget, over_is_told) in [(0, false), (1_000_000_000_000u64, false), (1, true)] {
        let daemon = Setup::default().set("card.write_budget_bytes_per_day", budget).start();
        daemon.serve("/echo", "request.body");
        assert_eq!(daemon.post("/echo", "1").status, 200);
        let now = status(&daemon);
        assert_eq!(now["budget"]["over"], over_is_told, "{budget}: {now:#}");
        let interval = if over_is_told { 10_000 } else { 1_000 };
        assert_eq!(figure(&now, "/budget/flush_interval_ms"), interval);
        assert_eq!(now["budget"]["left_bytes"].is_null(), budget == 0, "{now:#}");
        assert_eq!(metric(&daemon, "card_over_budget"), u64::from(over_is_told));
    }
}

#[test]
fn the_command_line_shows_it() {
    let daemon = Setup::default().set("card.endurance_tbw", 7).start();
    daemon.serve("/echo", "request.body");
    until("a second of operation", || (figure(&status(&daemon), "/card/bytes_per_day") > 0).then_some(()));
    let environment = [("PICLOUD_URL", daemon.url()), ("PICLOUD_API_KEY", KEY.to_owned())];
    let environment = environment.each_ref().map(|(name, value)| (*name, value.as_str()));
    let ran = picloud(&["status"], &environment);
    assert_eq!(ran.code, 0, "{}", ran.err);
    for part in
        [" written, ", "a card of 7 TBW lasts ", "(measured over ", "budget ", "none", "since the start"]
    {
        assert!(ran.out.contains(part), "{part:?} is not in:\n{}", ran.out);
    }
    let ran = picloud(&["status", "--json"], &environment);
    let told: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(figure(&told, "/status/card/endurance_tbw"), 7);
    assert_eq!(told["ready"]["ready"], true);
    let keyless = picloud(&["status"], &environment[..1]);
    assert_eq!(keyless.code, 0, "{}", keyless.err);
    assert!(
        !keyless.out.contains("TBW") && keyless.err.contains("api key"),
        "{}{}",
        keyless.out,
        keyless.err
    );
}
