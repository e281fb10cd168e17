//! The order of the checks: the first that fails answers, and the body is read last.

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, Setup, until};
use crate::http::Request;

/// Largest body that is accepted.
const BODY_MAX: usize = 10 * 1024 * 1024;
const UNKNOWN: &str = "0192e4a0-7e5b-7000-8000-000000000000";

#[track_caller]
fn check(request: &Request, status: u16, error: &str) {
    let answer = request.send();
    assert_eq!((answer.status, answer.json()), (status, json!({ "error": error })), "{answer}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
}

/// A daemon that claims nothing but `known.test`.
fn particular() -> Daemon {
    let daemon = Daemon::start();
    for domain in daemon.all("/apps/default/domains") {
        daemon.done(
            "DELETE",
            &format!("/apps/default/domains/{}", domain["id"].as_str().unwrap()),
            Value::Null,
        );
    }
    daemon.done("POST", "/apps/default/domains", json!({ "pattern": "known.test" }));
    daemon
}

#[test]
fn the_first_check_that_fails_answers() {
    let daemon = particular();
    let script = daemon.script("1");
    daemon.route("POST", "/open", &script, json!({}));
    daemon.route("POST", "/locked", &script, json!({ "access": "key" }));
    let gone = daemon.script("1");
    daemon.route("POST", "/gone", &gone, json!({ "access": "key" }));
    daemon.done("DELETE", &format!("/apps/default/scripts/{gone}"), Value::Null);
    let request = |host: &str, method: &str, path: &str| {
        // Each of them also has a body that is no JSON.
        daemon.request(method, path).host(host).body("{")
    };
    check(&request("other.test", "POST", "/none"), 404, r#"no app claims host "other.test""#);
    check(&request("other.test", "POST", "/open"), 404, r#"no app claims host "other.test""#);
    check(&request("a\"b", "GET", "/"), 404, r#"no app claims host "a\"b""#);
    check(&request("", "GET", "/"), 404, r#"no app claims host """#);
    check(&request("known.test", "POST", "/none"), 404, "no route matches POST /none");
    check(&request("known.test", "GET", "/open"), 404, "no route matches GET /open");
    check(&request("known.test", "POST", "/open/"), 404, "no route matches POST /open/");
    check(&request("known.test", "POST", "/gone?x=1"), 404, &format!("script not found: {gone}"));
    let locked = "this needs an api key: send Authorization: Bearer <key>";
    check(&request("known.test", "POST", "/locked"), 401, locked);
    check(&request("known.test", "POST", "/locked").key("wrong"), 401, locked);
    let bad = "bad request: invalid JSON body: EOF while parsing an object at line 1 column 1";
    check(&request("known.test", "POST", "/locked").key(KEY), 400, bad);
    check(&request("known.test", "POST", "/open"), 400, bad);
    assert_eq!(daemon.request("POST", "/locked").host("known.test").key(KEY).send().text(), "1");
}

#[test]
fn direct_execution_checks_in_its_own_order() {
    let daemon = particular();
    let script = daemon.script("request.path");
    let locked = daemon.script_with("1", json!({ "access": "key" }));
    let request = |method: &str, id: &str| {
        daemon.request(method, &format!("/api/execute/{id}")).host("other.test").body("{")
    };
    check(&request("GET", "nonsense"), 405, "a script is executed with POST");
    check(&request("PUT", &script), 405, "a script is executed with POST");
    check(&request("POST", "nonsense"), 400, r#"bad request: "nonsense" is not a script id"#);
    check(
        &request("POST", &format!("{script}/x")),
        400,
        &format!(r#"bad request: "{script}/x" is not a script id"#),
    );
    check(&request("POST", UNKNOWN), 404, &format!("script not found: {UNKNOWN}"));
    check(&request("POST", &locked), 401, "this needs an api key: send Authorization: Bearer <key>");
    let bad = "bad request: invalid JSON body: EOF while parsing an object at line 1 column 1";
    check(&request("POST", &script), 400, bad);
    assert_eq!(request("GET", &script).send().header("allow"), Some("POST"));
    let answer = daemon.request("POST", &format!("/api/execute/{script}?a=1")).host("other.test").send();
    assert_eq!(answer.json(), format!("/api/execute/{script}"), "it exists on every host, without a query");
}

#[test]
fn a_refused_request_leaves_its_body_unread() {
    let daemon = Daemon::start();
    let mut connection = daemon.connect();
    connection.send("POST /none HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000\r\n\r\n");
    let answer = connection.answer().unwrap();
    assert_eq!((answer.status, answer.error().as_str()), (404, "no route matches POST /none"));
}

#[test]
fn a_body_may_have_ten_mebibytes() {
    let daemon = Daemon::start();
    let script = daemon.script_with("request.method", json!({ "timeout_seconds": 30 }));
    daemon.route("POST", "/x", &script, json!({}));
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let direct = format!("/api/execute/{script}");
    let too_large = "body read failed: length limit exceeded: 10485760 bytes are allowed";
    for path in ["/x", &direct] {
        // A run may hold 16 MiB, which this fits; one string only 256 KiB, which is for the script to notice.
        let answer = daemon.post(path, &text(BODY_MAX));
        assert_ne!((answer.status, answer.status), (400, 413), "{}", answer.status);
        let record = daemon.execution(&answer.execution_id());
        assert_eq!(record["request_body"].as_str().map(str::len), Some(64 * 1024));
    }
    let chunked = |path: &str| {
        let mut connection = daemon.connect();
        connection.send(format!("POST {path} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"));
        connection.send(format!("{:x}\r\n{}\r\n0\r\n\r\n", BODY_MAX + 1, text(BODY_MAX + 1)));
        connection.answer().unwrap()
    };
    let declared = |path: &str| {
        let mut connection = daemon.connect();
        connection
            .send(format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", BODY_MAX + 1));
        connection.answer().unwrap()
    };
    for answer in [chunked("/x"), declared("/x")] {
        assert_eq!((answer.status, answer.error()), (400, format!("bad request: {too_large}")));
    }
    for answer in [chunked(&direct), declared(&direct)] {
        assert_eq!((answer.status, answer.error()), (413, too_large.to_owned()));
    }
}

#[test]
fn a_body_that_breaks_off_is_400() {
    let daemon = Setup::default().set("server.body_timeout_seconds", 1).start();
    daemon.serve("/x", "1");
    for head in ["content-length: 10\r\n\r\n[1,", "transfer-encoding: chunked\r\n\r\n4\r\n[1,2\r\n"] {
        let mut connection = daemon.connect();
        connection.send(format!("POST /x HTTP/1.1\r\nhost: x\r\n{head}"));
        let slow = connection.answer().unwrap();
        let says = "bad request: body read failed: it took longer than 1 seconds";
        assert_eq!((slow.status, slow.error().as_str()), (400, says));

        let mut connection = daemon.connect();
        connection.send(format!("POST /x HTTP/1.1\r\nhost: x\r\n{head}"));
        connection.stream.shutdown(std::net::Shutdown::Write).unwrap();
        if let Some(broken) = connection.answer() {
            assert_eq!(broken.status, 400, "{broken}");
            assert!(broken.error().starts_with("bad request: body read failed: "), "{broken}");
        }
    }
    let mut connection = daemon.connect();
    connection
        .send("POST /x HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n[1]\r\n0\r\n\r\n");
    let broken = connection.answer().unwrap();
    assert_eq!(broken.status, 400, "{broken}");
    assert!(broken.error().starts_with("bad request: body read failed: "), "{broken}");
    let ran = until("the executions", || Some(daemon.all("/executions")));
    assert!(ran.is_empty(), "what was not read was not run: {ran:?}");
}

#[test]
fn json_is_demanded_but_not_of_an_empty_body() {
    let daemon = Daemon::start();
    let script = daemon.serve("/x", "request.body");
    for path in ["/x", &format!("/api/execute/{script}")] {
        for (body, echoed) in [
            ("", json!(null)),
            ("null", json!(null)),
            (" [1, 2.5, \"\\u00fc\", {\"a\": null}] ", json!([1, 2.5, "ü", { "a": null }])),
            ("12345678901234567890", json!(1.234_567_890_123_456_8e19)),
            (r#"{"a":1,"a":2}"#, json!({ "a": 2 })),
        ] {
            let answer = daemon.post(path, body);
            assert_eq!((answer.status, answer.json()), (200, echoed), "{body}");
        }
        for body in ["{", "nul", "[1] x", "\u{feff}1", "'a'", "{\"a\":1,}", "\"\u{1}\"", "NaN", " "] {
            let answer = daemon.post(path, body);
            assert_eq!(answer.status, 400, "{body:?}: {answer}");
            assert!(answer.error().starts_with("bad request: invalid JSON body: "), "{answer}");
        }
        let not_utf8 = daemon.request("POST", path).body(b"\"\xff\"").send();
        assert_eq!(not_utf8.status, 400, "{not_utf8}");
        for depth in [129, 1_000_000] {
            let bomb = daemon.post(path, &"[".repeat(depth));
            assert_eq!(bomb.status, 400, "{bomb}");
            assert!(bomb.error().contains("recursion limit"), "{bomb}");
        }
    }
    assert_eq!(
        daemon.request("POST", "/x").header("content-type", "text/plain").body("x").send().status,
        400
    );
}

#[test]
fn a_route_may_take_other_bodies() {
    let daemon = Daemon::start();
    let script = daemon.script("[type_of(request.body), request.body]");
    daemon.route("POST", "/auto", &script, json!({ "body": "auto" }));
    daemon.route("POST", "/raw", &script, json!({ "body": "raw" }));
    let form = "application/x-www-form-urlencoded";
    for (path, kind, body, seen) in [
        ("/auto", "application/json", &b"{\"a\":1}"[..], json!(["map", { "a": 1 }])),
        ("/auto", "application/problem+json; charset=utf-8", b"[1]", json!(["array", [1]])),
        ("/auto", form, b"a=1+2&b=%C3%BC&a=3&c", json!(["map", { "a": "3", "b": "ü", "c": "" }])),
        ("/auto", form, b"a=1+2", json!(["map", { "a": "1 2" }])),
        ("/auto", "text/plain", "ü".as_bytes(), json!(["string", "ü"])),
        ("/auto", "application/octet-stream", b"\xff\x00", json!(["blob", "/wA="])),
        ("/auto", "", b"{\"a\":1}", json!(["blob", "eyJhIjoxfQ=="])),
        ("/auto", "text/plain", b"", json!(["()", null])),
        ("/raw", "application/json", b"{", json!(["blob", "ew=="])),
        ("/raw", "application/json", b"", json!(["()", null])),
    ] {
        let request = daemon.request("POST", path).body(body);
        let request = if kind.is_empty() { request } else { request.header("content-type", kind) };
        let answer = request.send();
        assert_eq!((answer.status, answer.json()), (200, seen), "{path} {kind}");
    }
    for (kind, body) in [("application/json", &b"{"[..]), ("text/plain", b"\xff")] {
        let answer = daemon.request("POST", "/auto").header("content-type", kind).body(body).send();
        assert_eq!(answer.status, 400, "{kind}: {answer}");
    }
}
