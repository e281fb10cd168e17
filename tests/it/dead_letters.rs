//! Dead letters: listed, read, run again, purged.

use serde_json::{Value, json};

use crate::harness::{Daemon, id};

/// An async script that fails for good, and the dead letter of one call.
fn dead(daemon: &Daemon, path: &str, body: &str) -> (String, Value) {
    let script = daemon.serve_async(path, "fail(\"broken\")");
    (script, letter(daemon, path, body))
}

fn letter(daemon: &Daemon, path: &str, body: &str) -> Value {
    let end = daemon.ended(&daemon.accepted(path, body));
    daemon.done("GET", &format!("/dead-letters/{}", end["dead_letter_id"].as_str().unwrap()), Value::Null)
}

fn repair(daemon: &Daemon, script: &str) {
    daemon.done("PATCH", &format!("/apps/default/scripts/{script}"), json!({ "source": "request.body" }));
}

#[test]
fn a_letter_keeps_what_was_asked_and_why_it_failed() {
    let daemon = Daemon::start();
    let script = daemon.script_with("fail(\"broken\")", json!({ "name": "s" }));
    let route = daemon.route("POST", "/x", &script, json!({ "dispatch_mode": "async" }));
    let request = daemon
        .request("POST", "/x?q=1")
        .header("authorization", "Bearer s3cret")
        .header("x-a", "b")
        .body("[1]");
    let execution = request.send().execution_id();
    let end = daemon.ended(&execution);
    let letters = daemon.all("/dead-letters");
    assert_eq!(letters.len(), 1);
    let letter = &letters[0];
    for (field, value) in [
        ("id", end["dead_letter_id"].clone()),
        ("execution_id", json!(execution)),
        ("script_id", json!(script)),
        ("script_name", json!("s")),
        ("script_version", json!(1)),
        ("route_id", json!(route)),
        ("kind", json!("http")),
        ("reason", json!("permanent")),
        ("root_execution_id", json!(execution)),
        ("redriven_from", Value::Null),
    ] {
        assert_eq!(letter[field], value, "{field}: {letter:#}");
    }
    let request = &letter["request"];
    assert_eq!(
        (&request["method"], &request["path"], &request["query"]),
        (&json!("POST"), &json!("/x"), &json!("q=1"))
    );
    assert_eq!((&request["headers"]["x-a"], &request["body"]), (&json!("b"), &json!("[1]")));
    assert!(!letter.to_string().contains("s3cret"), "{letter:#}");
    assert_eq!(letter["attempts"].as_array().map(Vec::len), Some(1));
    let mut fields: Vec<&str> =
        letter["attempts"][0].as_object().unwrap().keys().map(String::as_str).collect();
    fields.sort_unstable();
    assert_eq!(fields, ["at", "error", "status"]);
    let read = daemon.done("GET", &format!("/dead-letters/{}", id(letter)), Value::Null);
    assert_eq!(read, *letter);
}

#[test]
fn a_letter_is_run_again_in_the_version_that_is_wanted() {
    let daemon = Daemon::start();
    let (script, first) = dead(&daemon, "/x", "[7]");
    repair(&daemon, &script);
    let original = daemon.api(
        "POST",
        &format!("/dead-letters/{}/redrive", id(&first)),
        json!({ "version": "original" }),
    );
    assert_eq!(original.status, 202, "{original}");
    let execution = original.json()["execution_id"].as_str().unwrap().to_owned();
    assert_ne!(first["execution_id"], execution.as_str(), "it is a new execution");
    let end = daemon.ended(&execution);
    assert_eq!((&end["status"], &end["script_version"]), (&json!("error"), &json!(1)), "{end:#}");
    let letters = daemon.all("/dead-letters");
    assert_eq!(letters.len(), 1, "the old letter is gone, and a new one has come");
    let second = &letters[0];
    assert_eq!((&second["redriven_from"], &second["request"]["body"]), (&first["id"], &json!("[7]")));
    let active = daemon.done("POST", &format!("/dead-letters/{}/redrive", id(second)), json!({}));
    let end = daemon.ended(active["execution_id"].as_str().unwrap());
    let seen = (&end["status"], &end["response_body"], &end["script_version"]);
    assert_eq!(seen, (&json!("success"), &json!("[7]"), &json!(2)), "{end:#}");
    assert_eq!(end["attempt"], 1, "its attempts are counted anew");
    assert!(daemon.all("/dead-letters").is_empty());
    let gone = daemon.api("POST", &format!("/dead-letters/{}/redrive", id(second)), json!({}));
    assert_eq!(gone.status, 404, "{gone}");
}

#[test]
fn letters_are_purged_one_by_one() {
    let daemon = Daemon::start();
    let (_, letter) = dead(&daemon, "/x", "");
    let path = format!("/dead-letters/{}", id(&letter));
    assert_eq!(daemon.api("DELETE", &path, Value::Null).status, 204);
    for (method, path) in
        [("GET", path.clone()), ("DELETE", path.clone()), ("POST", format!("{path}/redrive"))]
    {
        let answer = daemon.api(method, &path, if method == "POST" { json!({}) } else { Value::Null });
        assert_eq!(answer.status, 404, "{method}: {answer}");
        assert!(answer.error().starts_with("dead letter not found: "), "{answer}");
    }
    assert_eq!(daemon.api("GET", "/dead-letters/x", Value::Null).status, 400);
    let wrong = daemon.api("POST", &format!("{path}/redrive"), json!({ "version": "newest" }));
    assert_eq!(wrong.status, 422, "{wrong}");
    assert!(wrong.error().contains("version"), "{wrong}");
}

#[test]
fn many_letters_are_run_again_or_purged_at_once() {
    let daemon = Daemon::start();
    let (one, _) = dead(&daemon, "/one", "1");
    let (two, _) = dead(&daemon, "/two", "2");
    for _ in 0..3 {
        letter(&daemon, "/one", "1");
    }
    assert_eq!(daemon.all(&format!("/dead-letters?script={one}")).len(), 4);
    assert_eq!(daemon.all(&format!("/dead-letters?script={two}")).len(), 1);
    repair(&daemon, &one);
    let answer = daemon.done("POST", "/dead-letters/redrive", json!({ "script": one }));
    assert_eq!(answer["count"], 4, "{answer}");
    let success = || daemon.all(&format!("/executions?script={one}&status=success"));
    crate::harness::until("all four to succeed", || (success().len() == 4).then_some(()));
    let left = daemon.all("/dead-letters");
    assert_eq!(left.iter().map(|letter| &letter["script_id"]).collect::<Vec<_>>(), [&json!(two)]);
    let answer = daemon.done("POST", "/dead-letters/purge", json!({ "app": "default", "script": one }));
    assert_eq!(answer["count"], 0);
    assert_eq!(daemon.done("POST", "/dead-letters/purge", json!({}))["count"], 1);
    assert!(daemon.all("/dead-letters").is_empty());
    assert_eq!(daemon.api("POST", "/dead-letters/purge", json!({ "scirpt": one })).status, 422);
    assert_eq!(daemon.api("POST", "/dead-letters/redrive", json!({ "app": "nope" })).status, 404);
}

#[test]
fn a_letter_whose_script_is_gone_stays() {
    let daemon = Daemon::start();
    let (script, letter) = dead(&daemon, "/x", "");
    daemon.done("DELETE", &format!("/apps/default/scripts/{script}"), Value::Null);
    let one = daemon.api("POST", &format!("/dead-letters/{}/redrive", id(&letter)), json!({}));
    assert_eq!((one.status, one.error()), (409, format!("script not found: {script}")));
    let all = daemon.done("POST", "/dead-letters/redrive", json!({}));
    assert_eq!((&all["count"], &all["skipped"]), (&json!(0), &json!(1)));
    assert_eq!(daemon.all("/dead-letters").len(), 1);
}

#[test]
fn letters_survive_a_crash() {
    let mut daemon = Daemon::start();
    let (script, letter) = dead(&daemon, "/x", "[1]");
    daemon.kill_and_start_again();
    assert_eq!(daemon.all("/dead-letters"), std::slice::from_ref(&letter));
    repair(&daemon, &script);
    let execution = daemon.done("POST", &format!("/dead-letters/{}/redrive", id(&letter)), json!({}));
    let execution = execution["execution_id"].as_str().unwrap().to_owned();
    daemon.kill_and_start_again();
    assert_eq!(daemon.ended(&execution)["response_body"], "[1]", "a re-drive is durable too");
    assert!(daemon.all("/dead-letters").is_empty());
}
