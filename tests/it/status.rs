//! Which outcome is which status, over a route and directly: sections 1.2 to 1.4 of the contract.

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, until};
use crate::http::Answer;

/// Runs a source over a relaxed route, a strict one and directly.
#[track_caller]
fn three_ways(daemon: &Daemon, source: &str, fields: Value) -> [Answer; 3] {
    let script = daemon.script_with(source, fields);
    let path = format!("/{script}");
    daemon.route("ANY", &path, &script, json!({}));
    [daemon.get(&path), daemon.post(&path, ""), daemon.post(&format!("/api/execute/{script}"), "")]
}

/// The status and the headers that a source's answer has, wherever it was asked.
#[track_caller]
fn answers(daemon: &Daemon, source: &str, status: u16, content_type: &str, body: &str) {
    for answer in three_ways(daemon, source, json!({})) {
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{source}: {answer}");
        assert_eq!(answer.header("content-type"), Some(content_type), "{source}");
        let execution = daemon.execution(&answer.execution_id());
        assert_eq!(execution["response_code"], status, "{execution:#}");
    }
}

/// The status and the message that a source fails with, wherever it was asked.
#[track_caller]
fn fails(daemon: &Daemon, source: &str, fields: Value, status: u16, reason: &str, error: &str) {
    for answer in three_ways(daemon, source, fields.clone()) {
        assert_eq!(answer.status, status, "{source}: {answer}");
        let (body, id) = (answer.json(), answer.execution_id());
        assert_eq!(body, json!({ "error": error, "reason": reason, "execution_id": id }), "{source}");
        assert_eq!(answer.header("content-type"), Some("application/json"));
        let whose = (status >= 500).then_some("script");
        assert_eq!(answer.header("x-error-source"), whose, "{source}: {answer}");
        assert_eq!(answer.header("retry-after"), None, "{source}: {answer}");
        assert_eq!(daemon.execution(&id)["error"], error, "{source}");
    }
}

#[test]
fn success_is_the_scripts_own_answer() {
    let daemon = Daemon::start();
    let json = "application/json";
    answers(&daemon, "", 200, json, "null");
    answers(&daemon, "42", 200, json, "42");
    answers(&daemon, "4.5", 200, json, "4.5");
    answers(&daemon, "\"ü\"", 200, json, "\"ü\"");
    answers(&daemon, "[1, (), true]", 200, json, "[1,null,true]");
    answers(&daemon, "#{ b: 1, a: #{} }", 200, json, r#"{"a":{},"b":1}"#);
    answers(&daemon, "#{ body: 1 }", 200, json, r#"{"body":1}"#);
    answers(&daemon, "#{ status_code: 201 }", 201, json, "null");
    answers(&daemon, "#{ status_code: 404, body: \"no\" }", 404, json, "\"no\"");
    answers(&daemon, "#{ status_code: 500, body: () }", 500, json, "null");
    answers(&daemon, "#{ status_code: 999 }", 999, json, "null");
    answers(&daemon, "return #{ status_code: 302, headers: #{ location: \"/\" } };", 302, json, "null");
}

#[test]
fn content_types_decide_how_a_body_is_sent() {
    let daemon = Daemon::start();
    let with = |kind: &str, body: &str| {
        format!("#{{ status_code: 200, headers: #{{ \"Content-Type\": \"{kind}\" }}, body: {body} }}")
    };
    for (kind, body, sent) in [
        ("text/html; charset=utf-8", "\"<b>ü</b>\"", "<b>ü</b>"),
        ("text/plain", "#{ a: 1 }", r#"{"a":1}"#),
        ("text/plain", "()", "null"),
        ("application/octet-stream", "blob(3, 65)", "AAA"),
        ("application/json", "\"x\"", "\"x\""),
        ("application/problem+json", "\"x\"", "\"x\""),
        ("Application/JSON; charset=utf-8", "\"x\"", "\"x\""),
    ] {
        answers(&daemon, &with(kind, body), 200, kind, sent);
    }
}

#[test]
fn headers_that_http_cannot_say_are_skipped() {
    let daemon = Daemon::start();
    daemon.serve(
        "/x",
        r#"#{ status_code: 200, headers: #{ "x-good": 1, "bad name": "x", "x-bad": "a\nb", "x-unit": (),
            "set-cookie": ["a=1", "b=2"], "content-length": "7", "transfer-encoding": "chunked",
            "connection": "close", "x-execution-id": "mine" } }"#,
    );
    let answer = daemon.get("/x");
    let of = |name: &str| {
        let named = answer.headers.iter().filter(|(key, _)| key == name);
        named.map(|(_, value)| value.as_str()).collect::<Vec<_>>()
    };
    assert_eq!((answer.status, answer.text().as_str()), (200, "null"));
    assert_eq!(of("x-good"), ["1"]);
    assert_eq!(of("set-cookie"), ["a=1", "b=2"]);
    assert_eq!(of("content-length"), ["4"]);
    for skipped in ["bad name", "x-bad", "x-unit", "transfer-encoding", "connection"] {
        assert!(of(skipped).is_empty(), "{skipped}: {answer}");
    }
    assert_eq!(daemon.execution(&answer.execution_id())["status"], "success");
    assert_eq!(of("x-execution-id").len(), 1, "a script cannot claim another execution");
}

#[test]
fn each_fault_has_its_status() {
    let daemon = Daemon::start();
    let none = || json!({});
    fails(&daemon, "throw \"no\"", none(), 502, "runtime", "Runtime error: no (line 1, position 1)");
    fails(
        &daemon,
        "throw #{ code: 7 }",
        none(),
        502,
        "runtime",
        r#"Runtime error: {"code":7} (line 1, position 1)"#,
    );
    fails(&daemon, "\n  fail(\"for good\")", none(), 502, "runtime", "for good (line 2, position 3)");
    fails(&daemon, "nope(1)", none(), 502, "runtime", "Function not found: nope (i64) (line 1, position 1)");
    fails(
        &daemon,
        "fn f(n) { f(n + 1) } f(0)",
        none(),
        502,
        "runtime",
        "functions call each other deeper than 32 levels (line 1, position 22)",
    );
    let budget = "the script used up its 10000 operations";
    for source in ["loop {}", "try { loop {} } catch { 1 }"] {
        let script = daemon.script_with(source, json!({ "sandbox": { "max_operations": 10_000 } }));
        let answer = daemon.post(&format!("/api/execute/{script}"), "");
        assert_eq!((answer.status, answer.header("x-error-source")), (507, Some("script")), "{answer}");
        assert!(answer.error().starts_with(budget), "{answer}");
        assert_eq!(answer.json()["reason"], "operations");
        assert_eq!(daemon.execution(&answer.execution_id())["status"], "budget_exceeded");
    }
    for (source, why) in [
        ("|| 1", "the value returned holds a closure, which has no JSON form"),
        ("#{ status_code: \"200\" }", "status_code is 200; it must be an integer from 0 to 65535"),
        ("#{ status_code: 200.0 }", "status_code is 200.0; it must be an integer from 0 to 65535"),
        ("#{ status_code: -1 }", "status_code is -1; it must be an integer from 0 to 65535"),
        ("#{ status_code: 65536 }", "status_code is 65536; it must be an integer from 0 to 65535"),
        ("#{ status_code: 200, headers: [1] }", "headers is a array; it must be a map"),
        ("#{ status_code: 200, headers: \"x\" }", "headers is a string; it must be a map"),
    ] {
        fails(&daemon, source, none(), 422, "validation", why);
    }
}

#[test]
fn a_status_outside_of_http_is_500() {
    let daemon = Daemon::start();
    for code in [0, 99, 1000, 65535] {
        for answer in three_ways(&daemon, &format!("#{{ status_code: {code} }}"), json!({})) {
            assert_eq!(answer.status, 500, "{code}: {answer}");
            assert!(answer.error().contains(&code.to_string()), "{answer}");
            let execution = daemon.execution(&answer.execution_id());
            assert_eq!(execution["response_code"], code, "{execution:#}");
        }
    }
}

#[test]
fn a_script_out_of_time_is_504() {
    let daemon = Daemon::start();
    let script = daemon.script_with("sleep(30)", json!({ "timeout_seconds": 1 }));
    daemon.route("GET", "/slow", &script, json!({}));
    for answer in [daemon.get("/slow"), daemon.post(&format!("/api/execute/{script}"), "")] {
        assert_eq!((answer.status, answer.header("x-error-source")), (504, Some("script")), "{answer}");
        assert_eq!(answer.json()["reason"], "timeout");
        assert!(answer.error().starts_with("the script was out of time after 1"), "{answer}");
        let execution = daemon.execution(&answer.execution_id());
        assert_eq!((&execution["status"], &execution["response_code"]), (&json!("timeout"), &Value::Null));
    }
}

#[test]
fn without_a_free_bench_calls_wait_then_are_refused() {
    let daemon = Setup::default().set("scripts.threads", 2).set("scripts.queue_max", 1).start();
    let long = daemon.script_with("sleep(20)", json!({ "timeout_seconds": 30 }));
    daemon.route("GET", "/long", &long, json!({}));
    let quick = daemon.script_with("1", json!({ "timeout_seconds": 1 }));
    daemon.route("ANY", "/quick", &quick, json!({}));
    let mut held = Vec::new();
    for taken in 1..=2 {
        // One by one: a call that no bench has taken yet fills the queue.
        held.push(daemon.request("GET", "/long").begin());
        until("a bench to be taken", || {
            let running = daemon.done("GET", "/executions?status=running", Value::Null);
            (running["items"].as_array()?.len() == taken).then_some(())
        });
    }
    let mut waiting = daemon.request("POST", "/quick").begin();
    until("a third call to wait", || {
        let metrics = daemon.api("GET", "/metrics", Value::Null).text();
        metrics.contains("\npicloud_executor_queue 1\n").then_some(())
    });
    for refused in
        [daemon.get("/quick"), daemon.post("/quick", ""), daemon.post(&format!("/api/execute/{quick}"), "")]
    {
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
        assert_eq!(refused.header("x-error-source"), Some("platform"), "{refused}");
        let (body, id) = (refused.json(), refused.execution_id());
        assert_eq!(
            body,
            json!({ "error": "too many runs are waiting", "reason": "overloaded", "execution_id": id })
        );
    }
    let late = waiting.answer().unwrap();
    assert_eq!((late.status, late.error().as_str()), (504, "request timed out"), "{late}");
    let late = late.execution_id();
    // Whether it still runs or is given up is a race with the bench that comes free; that it ends is not.
    let record = until("the record of the call that nobody waits for", || {
        daemon.done("POST", &format!("/executions/{}/cancel", first_running(&daemon)?), Value::Null);
        let record = daemon.execution(&late);
        record.get("delivery").is_some().then_some(record)
    });
    assert_eq!(record["delivery"], "abandoned", "{record:#}");
}

fn first_running(daemon: &Daemon) -> Option<String> {
    let running = daemon.done("GET", "/executions?status=running", Value::Null);
    running["items"][0]["id"].as_str().map(str::to_owned)
}

#[test]
fn a_full_outbox_refuses_what_must_be_durable() {
    let daemon = Setup::default().set("outbox.rows_max", 1).start();
    daemon.serve_async("/later", "sleep(20)");
    daemon.serve("/now", "1");
    let id = daemon.accepted("/later", "");
    daemon.execution_once(&id, "running");
    for path in ["/later", "/now"] {
        let refused = daemon.post(path, "");
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
        assert!(refused.error().starts_with("the outbox is full: 1 rows"), "{refused}");
    }
    assert_eq!(daemon.get("/now").text(), "1", "a relaxed call needs no place");
}

#[test]
fn a_cancelled_call_is_500() {
    let daemon = Daemon::start();
    daemon.serve("/long", "sleep(4)");
    let mut call = daemon.request("GET", "/long").begin();
    let id = until("the call to run", || first_running(&daemon));
    assert_eq!(daemon.done("POST", &format!("/executions/{id}/cancel"), Value::Null)["cancelled"], true);
    let answer = call.answer().unwrap();
    assert_eq!((answer.status, answer.header("x-error-source")), (500, Some("platform")), "{answer}");
    assert_eq!(answer.json()["reason"], "cancelled");
}

#[test]
fn an_async_call_is_202_with_the_way_to_its_end() {
    let daemon = Daemon::start();
    daemon.serve_async("/later", "#{ status_code: 404, body: request.body }");
    let answer = daemon.post("/later", "7");
    assert_eq!((answer.status, answer.header("content-type")), (202, Some("application/json")), "{answer}");
    let (body, id) = (answer.json(), answer.execution_id());
    assert_eq!(body["execution_id"], id.as_str());
    let accepted_at: jiff::Timestamp = body["accepted_at"].as_str().unwrap().parse().unwrap();
    assert!(jiff::Timestamp::now().duration_since(accepted_at).abs().as_secs() < 60, "{body}");
    assert_eq!(answer.header("location"), Some(format!("/api/v1/executions/{id}").as_str()));
    let end = daemon.ended(&id);
    let seen = (&end["status"], &end["response_code"], &end["response_body"], &end["delivery"]);
    assert_eq!(seen, (&json!("success"), &json!(404), &json!("7"), &json!("none")), "{end:#}");
}

#[test]
fn a_content_type_that_is_none_is_json() {
    let daemon = Daemon::start();
    for (headers, kind, body) in [
        ("#{ \"content-type\": \"text/plain\\r\\nx: y\" }", "application/json", "\"hi\""),
        ("#{ \"content-type\": [\"text/plain\", \"text/html\"] }", "text/html", "hi"),
        ("#{ \"content-type\": \"text/plain\" }", "text/plain", "hi"),
    ] {
        let script = daemon.script(&format!("#{{ status_code: 200, headers: {headers}, body: \"hi\" }}"));
        let answer = daemon.post(&format!("/api/execute/{script}"), "");
        let kinds: Vec<&str> = answer
            .headers
            .iter()
            .filter(|(name, _)| name == "content-type")
            .map(|(_, v)| v.as_str())
            .collect();
        assert_eq!((kinds, answer.text().as_str()), (vec![kind], body), "{headers}");
    }
}
