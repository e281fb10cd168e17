//! Work that nobody waits for: it runs, it is tried again, and it can be followed and cancelled.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, until};

/// A daemon that tries again almost at once, three times in all.
fn hasty() -> Daemon {
    let setup = Setup::default().set("outbox.backoff_base_ms", 1).set("outbox.backoff_factor", 1);
    setup.set("outbox.attempts_max", 3).start()
}

/// The errors of a dead letter's attempts.
fn attempts(daemon: &Daemon, execution: &Value) -> Vec<(String, String)> {
    let letter = format!("/dead-letters/{}", execution["dead_letter_id"].as_str().unwrap());
    let letter = daemon.done("GET", &letter, Value::Null);
    let text = |attempt: &Value, field: &str| attempt[field].as_str().unwrap().to_owned();
    let mut list = Vec::new();
    for attempt in letter["attempts"].as_array().unwrap() {
        assert!(text(attempt, "at").parse::<jiff::Timestamp>().is_ok(), "{attempt}");
        list.push((text(attempt, "status"), text(attempt, "error")));
    }
    list
}

#[test]
fn what_fails_is_tried_again_until_it_succeeds() {
    let daemon = hasty();
    daemon.serve_async("/x", "if ctx.attempt < 3 { throw `attempt ${ctx.attempt}` } ctx.attempt");
    let id = daemon.accepted("/x", "");
    let end = daemon.ended(&id);
    let seen =
        (&end["status"], &end["attempt"], &end["response_body"], &end["dead_letter_id"], &end["error"]);
    assert_eq!(seen, (&json!("success"), &json!(3), &json!("3"), &Value::Null, &Value::Null), "{end:#}");
    assert_eq!((&end["id"], &end["sync"]), (&json!(id), &json!(false)));
    assert!(daemon.all("/dead-letters").is_empty() && daemon.all("/outbox").is_empty());
}

#[test]
fn what_goes_on_failing_is_dead() {
    let daemon = hasty();
    daemon.serve_async("/x", "throw `attempt ${ctx.attempt}`");
    let end = daemon.ended(&daemon.accepted("/x", ""));
    assert_eq!((&end["status"], &end["attempt"]), (&json!("error"), &json!(3)), "{end:#}");
    let said = |n: u8| ("error".to_owned(), format!("Runtime error: attempt {n} (line 1, position 1)"));
    assert_eq!(attempts(&daemon, &end), [said(1), said(2), said(3)]);
}

#[test]
fn a_permanent_failure_is_dead_at_once() {
    let daemon = hasty();
    for (source, status, reason, error) in [
        ("fail(\"no use\")", "error", "permanent", "no use (line 1, position 1)"),
        ("retry_after(1); fail(\"no use\")", "error", "permanent", "no use (line 1, position 17)"),
        ("loop {}", "budget_exceeded", "permanent", "the script used up its 5000000 operations"),
        ("|| 1", "error", "permanent", "the value returned holds a closure, which has no JSON form"),
        (
            "fn f() { let s = \"\"; s.pad(260000, \"x\"); let t = s + \"\"; t += \"y\"; f(); } f()",
            "budget_exceeded",
            "permanent",
            "the script used up its 16777216 bytes of memory",
        ),
    ] {
        let path = format!("/{}", daemon.all("/apps/default/scripts").len());
        daemon.serve_async(&path, source);
        let end = daemon.ended(&daemon.accepted(&path, ""));
        assert_eq!((&end["status"], &end["attempt"]), (&json!(status), &json!(1)), "{source}: {end:#}");
        let letter = daemon.done(
            "GET",
            &format!("/dead-letters/{}", end["dead_letter_id"].as_str().unwrap()),
            Value::Null,
        );
        assert_eq!(letter["reason"], reason, "{source}");
        let list = attempts(&daemon, &end);
        assert!(list.len() == 1 && list[0].0 == status && list[0].1.starts_with(error), "{source}: {list:?}");
    }
}

#[test]
fn a_timeout_is_tried_again() {
    let daemon = hasty();
    let script = daemon.script_with("if ctx.attempt == 1 { sleep(30) } 1", json!({ "timeout_seconds": 1 }));
    daemon.route("POST", "/x", &script, json!({ "dispatch_mode": "async" }));
    let end = daemon.ended(&daemon.accepted("/x", ""));
    assert_eq!((&end["status"], &end["attempt"]), (&json!("success"), &json!(2)), "{end:#}");
}

#[test]
fn a_script_may_say_when_to_try_again() {
    let daemon = Setup::default().set("outbox.backoff_base_ms", 3_600_000).start();
    daemon.serve_async("/x", "if ctx.attempt == 1 { retry_after(2); throw \"later\" } 1");
    let id = daemon.accepted("/x", "");
    let row = daemon.execution_once(&id, "retrying");
    let instant = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let wait = instant(&row["due_at"]).duration_since(instant(&row["errors"][0]["at"]));
    assert_eq!(wait.as_millis(), 2000, "{row:#}");
    assert_eq!((&row["attempts"], &row["attempt"]), (&json!(1), &json!(2)), "{row:#}");
    let end = daemon.ended(&id);
    assert_eq!((&end["status"], &end["attempt"]), (&json!("success"), &json!(2)), "{end:#}");
    assert!(instant(&end["finished_at"]) >= instant(&row["due_at"]));
}

#[test]
fn backoff_is_within_its_bounds() {
    let daemon = Setup::default().set("outbox.backoff_base_ms", 60_000).start();
    daemon.serve_async("/x", "throw 1");
    for _ in 0..5 {
        let row = daemon.execution_once(&daemon.accepted("/x", ""), "retrying");
        let instant = |value: &Value| value.as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
        let wait = instant(&row["due_at"]).duration_since(instant(&row["errors"][0]["at"]));
        assert!((0..=60).contains(&wait.as_secs()), "{row:#}");
    }
}

#[test]
fn an_accepted_row_survives_a_crash_and_ends_once() {
    let mut daemon = Daemon::start();
    // The relaxed route tells how often the async script ran: its record is the only trace.
    daemon.serve_async("/x", "request.body");
    let ids: Vec<String> = (0..20).map(|n| daemon.accepted("/x", &n.to_string())).collect();
    daemon.kill_and_start_again();
    for (n, id) in ids.iter().enumerate() {
        let end = daemon.ended(id);
        assert_eq!(
            (&end["status"], &end["response_body"]),
            (&json!("success"), &json!(n.to_string())),
            "{end:#}"
        );
    }
    let records = daemon.all("/executions");
    for id in &ids {
        assert_eq!(records.iter().filter(|record| record["id"] == id.as_str()).count(), 1, "{id}");
    }
    assert!(daemon.all("/outbox").is_empty());
}

#[test]
fn one_can_wait_for_the_end() {
    let daemon = Setup::default().set("scripts.threads", 2).start();
    daemon.serve_async("/x", "sleep(1); 1");
    let id = daemon.accepted("/x", "");
    let now = daemon.execution(&id);
    assert!(["queued", "running"].iter().any(|status| now["status"] == *status), "{now:#}");
    let began = std::time::Instant::now();
    let later = daemon.done("GET", &format!("/executions/{id}?wait=30"), Value::Null);
    assert_eq!(later["status"], "success");
    assert!(
        began.elapsed() < Duration::from_secs(15),
        "it answers when the end comes, not when the time is over"
    );
    // Of two benches one takes no async work, so that the second row waits for the first.
    daemon.serve_async("/first", "sleep(1)");
    daemon.serve_async("/second", "sleep(30)");
    let first = daemon.accepted("/first", "");
    daemon.execution_once(&first, "running");
    let second = daemon.accepted("/second", "");
    let not_yet = daemon.done("GET", &format!("/executions/{second}?wait=3"), Value::Null);
    assert_eq!(not_yet["status"], "running", "it says how things are after the wait, not before it");
}

/// Cancels an execution of this status and checks what remains of it.
#[track_caller]
fn cancel(daemon: &Daemon, id: &str, status: &str) {
    daemon.execution_once(id, status);
    let answer = daemon.done("POST", &format!("/executions/{id}/cancel"), Value::Null);
    assert_eq!(answer, json!({ "id": id, "cancelled": true }));
    let end = daemon.ended(id);
    assert_eq!(
        (&end["status"], &end["dead_letter_id"]),
        (&json!("error"), &Value::Null),
        "{status}: {end:#}"
    );
    assert!(end["error"].as_str().unwrap().contains("cancelled"), "{end:#}");
    let again = daemon.api("POST", &format!("/executions/{id}/cancel"), Value::Null);
    assert_eq!((again.status, again.error().as_str()), (409, "the execution has ended"), "{status}");
}

#[test]
fn work_can_be_cancelled_wherever_it_is() {
    let daemon = Setup::default().set("scripts.threads", 2).set("outbox.backoff_base_ms", 3_600_000).start();
    daemon.serve_async("/long", "sleep(50)");
    daemon.serve_async("/bad", "throw 1");
    cancel(&daemon, &daemon.accepted("/bad", ""), "retrying");
    // One bench of two is kept for those who wait, so that the second row is queued.
    let (running, queued) = (daemon.accepted("/long", ""), daemon.accepted("/long", ""));
    daemon.execution_once(&running, "running");
    cancel(&daemon, &queued, "queued");
    cancel(&daemon, &running, "running");
    assert!(daemon.all("/outbox").is_empty());
    daemon.serve_async("/x", "1");
    assert_eq!(daemon.ended(&daemon.accepted("/x", ""))["status"], "success", "the bench is free again");
}

#[test]
fn the_outbox_shows_what_is_under_way() {
    let daemon = Setup::default().set("outbox.backoff_base_ms", 3_600_000).start();
    let (long, bad) = (daemon.serve_async("/long", "sleep(50)"), daemon.serve_async("/bad", "throw \"why\""));
    let (running, retrying) = (daemon.accepted("/long", ""), daemon.accepted("/bad", ""));
    daemon.execution_once(&running, "running");
    daemon.execution_once(&retrying, "retrying");
    let rows = daemon.all("/outbox");
    let seen: Vec<(&Value, &Value, &Value)> =
        rows.iter().map(|row| (&row["id"], &row["status"], &row["script_id"])).collect();
    let wanted =
        [(json!(retrying), json!("retrying"), json!(bad)), (json!(running), json!("running"), json!(long))];
    assert_eq!(seen, wanted.each_ref().map(|(id, status, script)| (id, status, script)));
    assert_eq!(rows[0]["errors"][0]["error"], "Runtime error: why (line 1, position 1)");
    assert_eq!(daemon.all(&format!("/outbox?script={bad}")).len(), 1);
    assert_eq!(daemon.all("/executions?status=retrying").len(), 1);
}

#[test]
fn sync_work_is_not_kept_waiting_by_async_work() {
    let daemon = Setup::default().set("scripts.threads", 2).start();
    daemon.serve_async("/long", "sleep(50)");
    daemon.serve("/quick", "1");
    for _ in 0..4 {
        daemon.accepted("/long", "");
    }
    until("one to run", || (daemon.all("/executions?status=running").len() == 1).then_some(()));
    for _ in 0..5 {
        assert_eq!(daemon.get("/quick").text(), "1");
    }
}

#[test]
fn the_source_is_that_of_the_run_and_the_name_that_of_the_call() {
    let daemon = Setup::default().set("outbox.backoff_base_ms", 3_600_000).start();
    let script = daemon.serve_async("/x", "retry_after(1); throw 1");
    let name = daemon.done("GET", &format!("/apps/default/scripts/{script}"), Value::Null)["name"].clone();
    let id = daemon.accepted("/x", "");
    daemon.execution_once(&id, "retrying");
    let change = json!({ "name": "renamed", "source": "[ctx.script_name, 2]" });
    daemon.done("PATCH", &format!("/apps/default/scripts/{script}"), change);
    let end = daemon.ended(&id);
    assert_eq!(end["response_body"], json!([name, 2]).to_string(), "{end:#}");
    assert_eq!((&end["script_version"], &end["script_name"]), (&json!(2), &name));
}
