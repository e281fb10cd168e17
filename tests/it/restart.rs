//! The process dies: what was accepted goes on, what took it down does not.

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, until};

fn durable_commits(daemon: &Daemon) -> u64 {
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("picloud_store_durable_commits_total "));
    line.unwrap().parse().unwrap()
}

#[test]
fn async_rows_in_flight_run_again() {
    let mut daemon =
        Setup::default().set("outbox.backoff_base_ms", 3_600_000).set("scripts.threads", 2).start();
    daemon.serve_async("/x", "if ctx.attempt == 1 { sleep(50) } ctx.attempt");
    daemon.serve_async("/bad", "if ctx.attempt == 1 { retry_after(3); throw 1 } ctx.attempt");
    let retrying = daemon.accepted("/bad", "");
    daemon.execution_once(&retrying, "retrying");
    let running = daemon.accepted("/x", "");
    daemon.execution_once(&running, "running");
    let queued = daemon.accepted("/bad", "");
    assert_eq!(daemon.execution(&queued)["status"], "queued");
    daemon.kill_and_start_again();
    for (id, attempt) in [(&running, 2), (&queued, 2), (&retrying, 2)] {
        let end = daemon.ended(id);
        assert_eq!((&end["status"], &end["attempt"]), (&json!("success"), &json!(attempt)), "{end:#}");
    }
    assert!(daemon.all("/outbox").is_empty() && daemon.all("/dead-letters").is_empty());
}

#[test]
fn a_sync_row_runs_once_more_and_finds_nobody() {
    let mut daemon = Daemon::start();
    let script = daemon.script_with(
        "if ctx.attempt == 1 { sleep(50) } print(ctx.attempt); 1",
        json!({ "timeout_seconds": 60 }),
    );
    daemon.route("ANY", "/x", &script, json!({}));
    let mut waiting = daemon.request("POST", "/x").begin();
    let id = until("the call to run", || {
        let running = daemon.all("/executions?status=running");
        running.first().map(|row| row["id"].as_str().unwrap().to_owned())
    });
    daemon.kill();
    assert!(waiting.answer().is_none());
    daemon.start_again();
    let end = daemon.ended(&id);
    let seen = (&end["status"], &end["delivery"], &end["sync"], &end["script_logs"][0]["message"]);
    assert_eq!(seen, (&json!("success"), &json!("abandoned"), &json!(true), &json!("2")), "{end:#}");
    daemon.stop_and_start_again();
    assert_eq!(daemon.all("/executions").iter().filter(|record| record["id"] == id.as_str()).count(), 1);
    assert!(daemon.all("/outbox").is_empty());
}

#[test]
fn a_sync_row_that_takes_the_house_down_twice_is_given_up() {
    let mut daemon = Daemon::start();
    let script = daemon.script_with("sleep(50)", json!({ "timeout_seconds": 60 }));
    daemon.route("POST", "/x", &script, json!({}));
    let _waiting = daemon.request("POST", "/x").begin();
    let running = |daemon: &Daemon| daemon.all("/executions?status=running").first().map(crate::harness::id);
    let id = until("the call to run", || running(&daemon));
    daemon.kill_and_start_again();
    assert_eq!(until("the row to run once more", || running(&daemon)), id);
    daemon.kill_and_start_again();
    let end = daemon.ended(&id);
    let seen = (&end["status"], &end["delivery"], &end["dead_letter_id"]);
    assert_eq!(seen, (&json!("error"), &json!("abandoned"), &Value::Null), "{end:#}");
    assert_eq!(end["error"], "PiCloud went down 2 times while this ran");
    assert!(daemon.all("/outbox").is_empty() && daemon.all("/dead-letters").is_empty());
}

#[test]
fn a_script_that_takes_the_house_down_is_dead_and_its_neighbours_live() {
    let mut daemon = Setup::default().set("outbox.crashes_max", 3).start();
    daemon.serve_async("/poison", "sleep(50)");
    daemon.serve_async("/innocent", "if ctx.attempt == 1 { sleep(50) } ctx.attempt");
    let poison = daemon.accepted("/poison", "[1]");
    let innocent = daemon.accepted("/innocent", "");
    daemon.execution_once(&innocent, "running");
    let mut kills = 0;
    let end = until("the poison to be dead", || {
        let found = daemon.execution(&poison);
        match found["status"].as_str().unwrap() {
            "running" => {
                kills += 1;
                daemon.kill_and_start_again();
                None
            }
            "error" => Some(found),
            _ => None,
        }
    });
    assert_eq!(kills, 3);
    let letter = daemon.done(
        "GET",
        &format!("/dead-letters/{}", end["dead_letter_id"].as_str().unwrap()),
        Value::Null,
    );
    assert_eq!(
        (&letter["reason"], &letter["request"]["body"]),
        (&json!("crash"), &json!("[1]")),
        "{letter:#}"
    );
    let last = letter["attempts"].as_array().unwrap().last().unwrap();
    assert_eq!(last["error"], "PiCloud went down 3 times while this ran");
    let survivor = daemon.ended(&innocent);
    assert_eq!(
        (&survivor["status"], &survivor["response_body"]),
        (&json!("success"), &json!("2")),
        "{survivor:#}"
    );
    daemon.stop_and_start_again();
    assert_eq!(daemon.all("/dead-letters").len(), 1, "it stays dead");
    assert!(daemon.all("/outbox").is_empty());
    assert_eq!(daemon.get("/hello/you").status, 200);
}

#[test]
fn the_set_up_survives_every_crash() {
    let mut daemon = Daemon::start();
    let script = daemon.serve("/x", "1");
    let key = daemon.done("POST", "/keys", json!({ "name": "k" }));
    daemon.kill_and_start_again();
    assert_eq!(daemon.get("/x").text(), "1");
    daemon.done("PATCH", &format!("/apps/default/scripts/{script}"), json!({ "source": "2" }));
    daemon.kill_and_start_again();
    assert_eq!(daemon.get("/x").text(), "2");
    let with_key = daemon.request("GET", "/api/v1/apps").key(key["secret"].as_str().unwrap()).send();
    assert_eq!(with_key.status, 200);
    daemon.done("DELETE", &format!("/keys/{}", crate::harness::id(&key)), Value::Null);
    daemon.done("DELETE", &format!("/apps/default/scripts/{script}"), Value::Null);
    daemon.kill_and_start_again();
    assert_eq!(daemon.get("/x").error(), format!("script not found: {script}"));
    let with_key = daemon.request("GET", "/api/v1/apps").key(key["secret"].as_str().unwrap()).send();
    assert_eq!(with_key.status, 401);
}

#[test]
fn records_of_relaxed_calls_last_after_a_flush() {
    let mut daemon = Setup::default().set("store.flush_interval_ms", 50).start();
    daemon.serve("/x", "1");
    let id = daemon.get("/x").execution_id();
    let before = durable_commits(&daemon);
    until("the flush", || (durable_commits(&daemon) > before).then_some(()));
    daemon.kill_and_start_again();
    assert_eq!(daemon.execution(&id)["status"], "success");
}

#[test]
fn a_relaxed_row_is_on_the_card_before_long() {
    let mut daemon = Setup::default().set("store.flush_interval_ms", 50).start();
    let source = "if ctx.attempt == 1 { sleep(50) } ctx.attempt";
    let script = daemon.script_with(source, json!({ "timeout_seconds": 60 }));
    daemon.route("ANY", "/x", &script, json!({ "durability": "relaxed" }));
    for method in ["GET", "POST"] {
        let before = durable_commits(&daemon);
        let _waiting = daemon.request(method, "/x").begin();
        until("the flush", || (durable_commits(&daemon) > before).then_some(()));
        daemon.kill_and_start_again();
        let record = until("the record of the run that was repeated", || {
            daemon
                .all("/executions?status=success")
                .into_iter()
                .find(|record| record["request_method"] == method)
        });
        assert_eq!((&record["response_body"], &record["delivery"]), (&json!("2"), &json!("abandoned")));
    }
}
