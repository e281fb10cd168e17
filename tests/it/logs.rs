//! What scripts wrote, as lines: backwards from now, or as they come.

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY};
use crate::http::Connection;

/// Follows the log; only returns once the daemon listens.
fn tail(daemon: &Daemon, query: &str) -> Connection {
    let mut connection = daemon.request("GET", &format!("/api/v1/logs/tail{query}")).key(KEY).begin();
    let head = connection.head().unwrap();
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/event-stream")), "{head}");
    connection
}

/// The data of the next event.
#[track_caller]
fn event(tail: &mut Connection) -> Value {
    loop {
        let line = tail.line().expect("the stream goes on");
        if let Some(data) = line.strip_prefix("data: ") {
            let mut fields: Value = serde_json::from_str(data).unwrap();
            assert!(fields["at"].as_str().unwrap().parse::<jiff::Timestamp>().is_ok());
            return fields.as_object_mut().map(|fields| fields["message"].take()).unwrap();
        }
    }
}

#[test]
fn lines_say_where_they_come_from() {
    let daemon = Daemon::start();
    let script = daemon.script_with("log::warn(\"careful\"); throw \"no\"", json!({ "name": "s" }));
    daemon.route("GET", "/x", &script, json!({}));
    let execution = daemon.get("/x").execution_id();
    let lines = daemon.all("/logs");
    let app = &daemon.done("GET", "/apps/default", Value::Null)["id"];
    for (line, level, message) in
        [(&lines[0], "error", "Runtime error: no (line 1, position 23)"), (&lines[1], "warn", "careful")]
    {
        let seen = (&line["level"], &line["message"], &line["execution_id"]);
        assert_eq!(seen, (&json!(level), &json!(message), &json!(execution)));
        assert_eq!(
            (&line["script_id"], &line["script_name"], &line["app_id"]),
            (&json!(script), &json!("s"), app)
        );
    }
    assert_eq!(lines.len(), 2);
}

#[test]
fn lines_are_filtered() {
    let daemon = Daemon::start();
    let one = daemon.serve("/one", "print(\"one fish\")");
    daemon.serve("/two", "print(\"two fish\")");
    daemon.get("/one");
    daemon.get("/two");
    for (query, count) in [
        ("", 2),
        ("?q=fish", 2),
        ("?q=one+f", 1),
        ("?q=bird", 0),
        (&format!("?script={one}"), 1),
        ("?app=default&q=two", 1),
    ] {
        assert_eq!(daemon.all(&format!("/logs{query}")).len(), count, "{query}");
    }
    assert_eq!(daemon.api("GET", "/logs?app=nope", Value::Null).status, 404);
    assert_eq!(daemon.api("GET", "/logs/tail?script=nope", Value::Null).status, 404);
    assert_eq!(daemon.request("GET", "/api/v1/logs/tail").send().status, 401);
}

#[test]
fn lines_come_as_they_are_written() {
    let daemon = Daemon::start();
    let one = daemon
        .serve("/one", "print(\"one \" + request.query.n); if request.query.n == \"3\" { throw \"bad\" }");
    daemon.serve("/two", "print(\"two\")");
    let (mut all, mut some, mut words) =
        (tail(&daemon, ""), tail(&daemon, &format!("?script={one}")), tail(&daemon, "?q=two"));
    daemon.get("/one?n=1");
    daemon.get("/two");
    daemon.post("/one?n=3", "");
    for message in ["one 1", "two", "one 3", "Runtime error: bad (line 1, position 62)"] {
        assert_eq!(event(&mut all), message);
    }
    for message in ["one 1", "one 3"] {
        assert_eq!(event(&mut some), message);
    }
    assert_eq!(event(&mut words), "two");
    drop((some, words));
    daemon.get("/one?n=4");
    assert_eq!(event(&mut all), "one 4", "others may leave");
}

#[test]
fn many_lines_are_bounded() {
    let daemon = Daemon::start();
    daemon.serve("/x", "for i in 0..2000 { print(i) }");
    let record = daemon.execution(&daemon.get("/x").execution_id());
    let lines = record["script_logs"].as_array().unwrap();
    assert_eq!(lines.len(), 1001);
    assert_eq!((&lines[999]["message"], &lines[1000]["level"]), (&json!("999"), &json!("warn")));
    assert_eq!(lines[1000]["message"], "1000 more lines were dropped: the log is full");
}
