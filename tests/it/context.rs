//! What a script is given: `ctx` and `request`, and what it can say.

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, id};

/// Every field of `ctx`, asked for inside a function.
const EVERYTHING: &str = "fn all() { ctx } all()";

#[test]
fn every_field_is_there_over_a_route() {
    let daemon = Daemon::start();
    let script = daemon.script_with(EVERYTHING, json!({ "name": "everything" }));
    let app = id(&daemon.done("GET", "/apps/default", Value::Null));
    daemon.route("POST", "/x/{a}/{*b}", &script, json!({}));
    let answer = daemon.request("POST", "/x/1/2/3?q=4").header("x-h", "5").body("[6]").send();
    let id = answer.execution_id();
    let host = daemon.address.to_string();
    let wanted = json!({
        "execution_id": id, "request_id": id, "script_id": script, "script_name": "everything",
        "invocation": "http", "app_id": app, "principal": null, "trigger_depth": 0, "root_execution_id": id,
        "is_dead_letter_handler": false, "attempt": 1, "event": null,
        "request": {
            "method": "POST", "path": "/x/1/2/3", "headers": { "host": host, "x-h": "5", "content-length": "3" },
            "body": [6], "params": { "a": "1" }, "query": { "q": "4" }, "rest": "2/3",
        },
    });
    assert_eq!((answer.status, answer.json()), (200, wanted));
}

#[test]
fn every_field_is_there_directly() {
    let daemon = Daemon::start();
    let script = daemon.script_with(EVERYTHING, json!({ "name": "everything" }));
    let app = id(&daemon.done("GET", "/apps/default", Value::Null));
    let path = format!("/api/execute/{script}");
    let answer = daemon.request("POST", &format!("{path}?q=4")).body("{\"a\":6}").send();
    let id = answer.execution_id();
    let host = daemon.address.to_string();
    let wanted = json!({
        "execution_id": id, "request_id": id, "script_id": script, "script_name": "everything",
        "invocation": "http", "app_id": app, "principal": null, "trigger_depth": 0, "root_execution_id": id,
        "is_dead_letter_handler": false, "attempt": 1, "event": null,
        "request": {
            "method": "POST", "path": path, "headers": { "host": host, "content-length": "7" },
            "body": { "a": 6 }, "params": {}, "query": {}, "rest": "",
        },
    });
    assert_eq!((answer.status, answer.json()), (200, wanted));
}

#[test]
fn both_names_are_seen_everywhere() {
    let daemon = Daemon::start();
    for (source, seen) in [
        ("request.method", json!("POST")),
        ("ctx.request == request", json!(true)),
        ("fn f() { request.method } f()", json!("POST")),
        ("fn f() { ctx.request.body } f()", json!({ "n": 1 })),
        ("[1, 2].map(|i| i + request.body.n)", json!([2, 3])),
        ("[1].map(|i| [1].map(|j| ctx.request.body.n))", json!([[1]])),
        ("let f = |x| x + ctx.attempt; f.call(1)", json!(2)),
        ("let copy = request; copy.method = \"X\"; copy.method + request.method", json!("XPOST")),
        ("`${request.method}`", json!("POST")),
    ] {
        let script = daemon.script(source);
        let answer = daemon.post(&format!("/api/execute/{script}"), "{\"n\":1}");
        assert_eq!((answer.status, answer.json()), (200, seen), "{source}");
    }
}

#[test]
fn the_principal_is_whose_key_came() {
    let daemon = Daemon::start();
    daemon.serve("/x", "ctx.principal");
    let key = daemon.done("POST", "/keys", json!({ "name": "phone" }));
    let (key_id, secret) = (id(&key), key["secret"].as_str().unwrap());
    let past = json!({ "name": "old", "expires_at": "2020-01-01T00:00:00Z" });
    let expired = daemon.done("POST", "/keys", past)["secret"].as_str().unwrap().to_owned();
    let seen = |value: &str| daemon.request("GET", "/x").header("authorization", value).send().json();
    assert_eq!(seen(&format!("Bearer {secret}")), json!({ "id": key_id, "name": "phone" }));
    assert_eq!(seen(&format!("bearer  {secret}")), json!({ "id": key_id, "name": "phone" }));
    let device = json!({ "id": "00000000-0000-0000-0000-000000000000", "name": "device" });
    assert_eq!(seen(&format!("Bearer {KEY}")), device);
    for nobody in
        ["Bearer wrong", "Bearer", "Bearer ", &format!("Basic {secret}"), &format!("Bearer {expired}")]
    {
        assert_eq!(seen(nobody), Value::Null, "{nobody}: attaches nothing, and is served");
    }
    daemon.done("DELETE", &format!("/keys/{key_id}"), Value::Null);
    assert_eq!(seen(&format!("Bearer {secret}")), Value::Null, "a key that was deleted");
}

#[test]
fn access_may_demand_a_key() {
    let daemon = Daemon::start();
    let (open, locked) = (daemon.script("1"), daemon.script_with("1", json!({ "access": "key" })));
    daemon.route("GET", "/route", &open, json!({ "access": "key" }));
    daemon.route("GET", "/script", &locked, json!({}));
    daemon.route("GET", "/later", &locked, json!({ "dispatch_mode": "async" }));
    for (method, path, status) in [
        ("GET", "/route", 200),
        ("GET", "/script", 200),
        ("GET", "/later", 202),
        ("POST", &format!("/api/execute/{locked}"), 200),
    ] {
        let refused = daemon.request(method, path).send();
        assert_eq!((refused.status, refused.header("www-authenticate")), (401, Some("Bearer")), "{path}");
        assert_eq!(daemon.request(method, path).key(KEY).send().status, status, "{path}");
    }
    assert_eq!(
        daemon.post(&format!("/api/execute/{open}"), "").status,
        200,
        "the route's access is the route's"
    );
}

#[test]
fn scripts_write_to_their_execution() {
    let daemon = Daemon::start();
    let source = "print(\"one\"); fn f() { log::info(#{ a: 2 }) } f(); log::warn(\"three\"); log::error(4); debug(\"five\"); throw 1";
    daemon.serve("/x", source);
    let record = daemon.execution(&daemon.get("/x").execution_id());
    let lines: Vec<(&str, &str)> = record["script_logs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| (line["level"].as_str().unwrap(), line["message"].as_str().unwrap()))
        .collect();
    let levels: Vec<&str> = lines.iter().map(|line| line.0).collect();
    assert_eq!(levels, ["info", "info", "warn", "error", "debug"], "{lines:?}");
    for (line, says) in lines.iter().zip(["one", "2", "three", "4", "five"]) {
        assert!(line.1.contains(says), "{line:?}");
    }
}
