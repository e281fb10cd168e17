//! The execution log: one record for each execution, whatever came of it.

use serde_json::{Value, json};

use crate::harness::{Daemon, id, until};

#[test]
fn a_record_says_everything() {
    let daemon = Daemon::start();
    let script = daemon
        .script_with("print(\"hi\"); #{ status_code: 201, body: request.body }", json!({ "name": "s" }));
    let app = id(&daemon.done("GET", "/apps/default", Value::Null));
    let route = daemon.route("POST", "/x", &script, json!({}));
    let request =
        daemon.request("POST", "/x?q=1").header("x-request-id", "r-1").header("x-a", "b").body("[1]");
    let id = request.send().execution_id();
    let record = daemon.execution(&id);
    for (field, value) in [
        ("id", json!(id)),
        ("execution_id", json!(id)),
        ("app_id", json!(app)),
        ("script_id", json!(script)),
        ("script_name", json!("s")),
        ("script_version", json!(1)),
        ("route_id", json!(route)),
        ("request_id", json!("r-1")),
        ("request_method", json!("POST")),
        ("request_path", json!("/x")),
        ("request_body", json!("[1]")),
        ("response_code", json!(201)),
        ("response_body", json!("[1]")),
        ("status", json!("success")),
        ("error", Value::Null),
        ("attempt", json!(1)),
        ("kind", json!("http")),
        ("sync", json!(true)),
        ("delivery", json!("delivered")),
        ("dead_letter_id", Value::Null),
        ("trigger_depth", json!(0)),
        ("root_execution_id", json!(id)),
    ] {
        assert_eq!(record[field], value, "{field}: {record:#}");
    }
    assert_eq!(record["script_logs"][0]["message"], "hi");
    assert_eq!(
        (&record["request_headers"]["x-a"], &record["request_headers"]["content-length"]),
        (&json!("b"), &json!("3"))
    );
    for measured in ["duration_ms", "queue_wait_ms", "operations", "peak_bytes"] {
        assert!(record[measured].as_f64().unwrap() > 0.0, "{measured}: {record:#}");
    }
    let instant = |field: &str| record[field].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    assert!(instant("created_at") <= instant("finished_at"));
    assert_eq!(
        daemon.done("GET", "/executions?limit=1", Value::Null)["items"][0],
        record,
        "the list says the same"
    );
}

#[test]
fn secrets_are_redacted_and_bodies_capped() {
    let daemon = Daemon::start();
    let source = "let s = \"\"; s.pad(100000, \"y\"); #{ status_code: 200, headers: #{ \"content-type\": \"text/plain\" }, body: s }";
    daemon.serve("/x", source);
    let body = format!("\"{}\"", "z".repeat(100_000));
    let request =
        daemon.request("POST", "/x").header("authorization", "Bearer s3cret").header("cookie", "c=s3cret");
    let answer = request.header("proxy-authorization", "s3cret").header("x-other", "plain").body(body).send();
    assert_eq!((answer.status, answer.body.len()), (200, 100_000));
    let record = daemon.execution(&answer.execution_id());
    let headers = &record["request_headers"];
    for name in ["authorization", "cookie", "proxy-authorization"] {
        assert_eq!(headers[name], "[redacted]", "{name}");
    }
    assert_eq!(headers["x-other"], "plain");
    assert!(!record.to_string().contains("s3cret"));
    for field in ["request_body", "response_body"] {
        assert_eq!(record[field].as_str().map(str::len), Some(64 * 1024), "{field}");
    }
}

#[test]
fn the_status_of_a_routed_call_is_that_of_its_answer() {
    let daemon = Daemon::start();
    for (code, status) in [
        (200, "success"),
        (204, "success"),
        (302, "success"),
        (399, "success"),
        (400, "error"),
        (404, "error"),
        (500, "error"),
    ] {
        let path = format!("/{code}");
        let script = daemon.serve(&path, &format!("#{{ status_code: {code} }}"));
        let record = daemon.execution(&daemon.get(&path).execution_id());
        assert_eq!((&record["status"], &record["response_code"]), (&json!(status), &json!(code)));
        let direct = daemon.post(&format!("/api/execute/{script}"), "").execution_id();
        assert_eq!(
            daemon.execution(&direct)["status"],
            "success",
            "a direct call succeeds by ending without a fault"
        );
    }
}

#[test]
fn who_leaves_is_served_to_the_end() {
    let daemon = Daemon::start();
    let source = "sleep(0.6); print(\"done\"); 1";
    let script = daemon.serve("/x", source);
    let direct = format!("/api/execute/{script}");
    for (method, path) in [("GET", "/x"), ("POST", "/x"), ("POST", &direct)] {
        let connection = daemon.request(method, path).begin();
        let id = until("the call to run", || {
            let running = daemon.done("GET", "/executions?status=running", Value::Null);
            let found = running["items"][0]["id"].as_str().map(str::to_owned);
            let metrics = || daemon.api("GET", "/metrics", Value::Null).text();
            // A direct call has no row to be listed by.
            found.or_else(|| {
                (path == direct && metrics().contains("\npicloud_executor_running 1\n")).then(String::new)
            })
        });
        drop(connection);
        let record = until("the record of the call that was left", || {
            let newest = daemon.done("GET", "/executions?limit=1", Value::Null)["items"][0].clone();
            let is_it = newest["delivery"] == "abandoned"
                && newest["request_path"] == path
                && newest["request_method"] == method;
            is_it.then_some(newest)
        });
        assert_eq!(
            (&record["status"], &record["script_logs"][0]["message"]),
            (&json!("success"), &json!("done"))
        );
        assert!(id.is_empty() || record["id"] == id.as_str());
    }
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    assert!(metrics.contains("\npicloud_inbox_abandoned_total 3\n"), "{metrics}");
    assert!(metrics.contains("\npicloud_inbox_waiting 0\n"), "{metrics}");
}

#[test]
fn lists_are_filtered() {
    let daemon = Daemon::start();
    let (good, bad) = (daemon.serve("/good", "1"), daemon.serve("/bad", "throw 1"));
    let good_id = daemon.get("/good").execution_id();
    let good_at =
        daemon.execution(&good_id)["created_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let mid = until("a later millisecond", || {
        let now = jiff::Timestamp::from_millisecond(jiff::Timestamp::now().as_millisecond()).unwrap();
        (now > good_at).then_some(now)
    });
    let bad_id = daemon.get("/bad").execution_id();
    for (filter, found) in [
        ("", vec![&bad_id, &good_id]),
        ("?status=success", vec![&good_id]),
        ("?status=error", vec![&bad_id]),
        ("?status=timeout", vec![]),
        ("?status=queued", vec![]),
        (&format!("?script={good}"), vec![&good_id]),
        (&format!("?script={bad}&status=success"), vec![]),
        ("?app=default", vec![&bad_id, &good_id]),
        (&format!("?since={mid}"), vec![&bad_id]),
        ("?since=2999-01-01T00:00:00Z", vec![]),
    ] {
        let ids: Vec<String> = daemon.all(&format!("/executions{filter}")).iter().map(id).collect();
        assert_eq!(ids.iter().collect::<Vec<_>>(), found, "{filter}");
    }
    for (query, status, says) in [
        ("?status=lost", 422, "status"),
        ("?since=yesterday", 422, "since"),
        ("?limit=0", 422, "limit"),
        ("?limit=501", 422, "limit"),
        ("?limit=x", 422, "limit"),
        ("?cursor=x", 422, "cursor"),
        ("?app=nope", 404, "app not found: nope"),
        ("?script=nope", 404, "script not found: nope"),
    ] {
        let answer = daemon.api("GET", &format!("/executions{query}"), Value::Null);
        assert_eq!(answer.status, status, "{query}: {answer}");
        assert!(answer.error().contains(says), "{query}: {answer}");
    }
}

#[test]
fn an_unknown_execution_is_404() {
    let daemon = Daemon::start();
    let unknown = "0192e4a0-7e5b-7000-8000-000000000000";
    for (path, status, says) in [
        (format!("/executions/{unknown}"), 404, "execution not found: "),
        ("/executions/x".to_owned(), 400, "\"x\" is not an execution id"),
        (format!("/executions/{unknown}?wait=61"), 422, "at most 60 seconds"),
        (format!("/executions/{unknown}?wait=-1"), 422, "wait"),
    ] {
        let answer = daemon.api("GET", &path, Value::Null);
        assert_eq!(answer.status, status, "{answer}");
        assert!(answer.error().contains(says), "{answer}");
    }
    let cancel = daemon.api("POST", &format!("/executions/{unknown}/cancel"), Value::Null);
    assert_eq!(cancel.status, 404);
}
