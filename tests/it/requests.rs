//! What of a request reaches its script: method, headers, query, parameters.

use serde_json::{Value, json};

use crate::harness::Daemon;

/// A daemon whose every path answers with a field of the request.
fn echoing(field: &str, paths: &[&str]) -> Daemon {
    let daemon = Daemon::start();
    let script = daemon.script(&format!("request.{field}"));
    for path in paths {
        daemon.route("ANY", path, &script, json!({}));
    }
    daemon
}

#[test]
fn headers_are_lower_case_visible_and_single() {
    let daemon = echoing("headers", &["/x"]);
    let mut connection = daemon.connect();
    connection.send(
        b"GET /x HTTP/1.1\r\nHost: Pi.test\r\nX-Upper: Kept As Is\r\nx-latin: caf\xe9\r\nx-utf: \xc3\xbc\r\n\
          x-twice: 1\r\nX-Twice: 2\r\nx-mixed: good\r\nx-mixed: b\xe4d\r\nx-empty:\r\nx-spaces:   a  b  \r\n\r\n",
    );
    let seen = connection.answer().unwrap().json();
    let wanted = json!({
        "host": "Pi.test", "x-upper": "Kept As Is", "x-twice": "2", "x-mixed": "good", "x-empty": "", "x-spaces": "a  b",
    });
    assert_eq!(seen, wanted);
}

#[test]
fn the_query_is_split_to_the_letter() {
    let daemon = echoing("query", &["/x"]);
    for (query, seen) in [
        ("", json!({})),
        ("?", json!({})),
        ("?a=1&b=2", json!({ "a": "1", "b": "2" })),
        ("?a=1&a=2", json!({ "a": "2" })),
        ("?a", json!({ "a": "" })),
        ("?a=", json!({ "a": "" })),
        ("?a=b=c", json!({ "a": "b=c" })),
        ("?=v", json!({ "": "v" })),
        ("?&&a=1&", json!({ "a": "1" })),
        ("?a=1+2&b+c=d", json!({ "a": "1+2", "b+c": "d" })),
        ("?a=%C3%BC%20%2B%26", json!({ "a": "ü +&" })),
        ("?a%3Db=1", json!({ "a=b": "1" })),
        ("?a=%ff", json!({ "a": "" })),
        ("?a=%zz&b=%4", json!({ "a": "%zz", "b": "%4" })),
        ("?a=1;b=2", json!({ "a": "1;b=2" })),
        ("?a[]=1&a[]=2", json!({ "a[]": "2" })),
        ("?a=/x?y", json!({ "a": "/x?y" })),
    ] {
        let answer = daemon.get(&format!("/x{query}"));
        assert_eq!((answer.status, answer.json()), (200, seen), "{query}");
    }
}

#[test]
fn parameters_and_rest_are_decoded() {
    let daemon = Daemon::start();
    let script = daemon.script("[request.params, request.rest, request.path]");
    for path in ["/a/{x}", "/a/{x}/{y}", "/files/{*path}", "/user/{id}/files/{*path}"] {
        daemon.route("GET", path, &script, json!({}));
    }
    for (path, params, rest) in [
        ("/a/1", json!({ "x": "1" }), ""),
        ("/a/caf%C3%A9", json!({ "x": "café" }), ""),
        ("/a/b%2Fc", json!({ "x": "b/c" }), ""),
        ("/a/100%25", json!({ "x": "100%" }), ""),
        ("/a/%zz", json!({ "x": "%zz" }), ""),
        ("/a/a+b", json!({ "x": "a+b" }), ""),
        ("/a/1/2", json!({ "x": "1", "y": "2" }), ""),
        ("/files/a/b.txt", json!({}), "a/b.txt"),
        ("/files/a%20b/c", json!({}), "a b/c"),
        ("/files/", json!({}), ""),
        ("/user/7/files/x/y", json!({ "id": "7" }), "x/y"),
    ] {
        let answer = daemon.get(&format!("{path}?q=1"));
        assert_eq!((answer.status, answer.json()), (200, json!([params, rest, path])), "{path}");
    }
    for path in ["/a/", "/a", "/files", "/a/1/2/3", "/A/1"] {
        let answer = daemon.get(path);
        assert_eq!(answer.status, 404, "{path}: {answer}");
    }
}

#[test]
fn literals_beat_parameters_beat_rest_and_methods_beat_any() {
    let daemon = Daemon::start();
    for (method, path) in [
        ("ANY", "/{*all}"),
        ("ANY", "/a/{x}"),
        ("GET", "/a/{x}"),
        ("ANY", "/a/b"),
        ("GET", "/a/{x}/c"),
        ("POST", "/a/b/{*rest}"),
        ("GET", "/caf%C3%A9"),
    ] {
        let script = daemon.script(&format!("\"{method} {path}\""));
        daemon.route(method, path, &script, json!({}));
    }
    for (method, path, route) in [
        ("GET", "/a/b", "ANY /a/b"),
        ("GET", "/a/z", "GET /a/{x}"),
        ("POST", "/a/z", "ANY /a/{x}"),
        ("GET", "/a/b/c", "GET /a/{x}/c"),
        ("POST", "/a/b/c", "POST /a/b/{*rest}"),
        ("GET", "/a/b/d", "ANY /{*all}"),
        ("GET", "/%61/b", "ANY /a/b"),
        ("GET", "/caf%c3%a9", "GET /caf%C3%A9"),
        ("DELETE", "/", "ANY /{*all}"),
        ("GET", "//", "ANY /{*all}"),
    ] {
        let answer = daemon.request(method, path).send();
        assert_eq!((answer.status, answer.json()), (200, json!(route)), "{method} {path}");
    }
}

#[test]
fn any_method_that_is_a_token_is_served() {
    let daemon = echoing("method", &["/x"]);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "BREW", "PROPFIND", "M-SEARCH"] {
        assert_eq!(daemon.request(method, "/x").send().json(), method);
    }
    let head = daemon.request("HEAD", "/x").send();
    assert_eq!((head.status, head.header("content-length")), (200, Some("6")), "{head}");
    let script = daemon.script("1");
    daemon.route("BREW", "/pot", &script, json!({}));
    assert_eq!(daemon.request("BREW", "/pot").send().status, 200);
    for (method, path) in [("GET", "/pot"), ("HEAD", "/pot"), ("OPTIONS", "/pot")] {
        assert_eq!(
            daemon.request(method, path).send().status,
            404,
            "{method}: nothing is answered for a script"
        );
    }
}

#[test]
fn the_request_id_is_the_clients_or_ours() {
    let daemon = Daemon::start();
    daemon.serve("/x", "ctx.request_id");
    let own = daemon.get("/x");
    assert_eq!(own.json(), own.execution_id());
    let sent = daemon.request("GET", "/x").header("x-request-id", "mine-1").send();
    assert_eq!(sent.json(), "mine-1");
    assert_eq!(daemon.execution(&sent.execution_id())["request_id"], "mine-1");
    let long = "x".repeat(129);
    assert_ne!(daemon.request("GET", "/x").header("x-request-id", &long).send().json(), Value::from(long));
}

#[test]
fn a_raw_body_is_the_scripts_however_many_bytes_it_has() {
    let daemon = Daemon::start();
    let script = daemon.script("#{ bytes: request.body.len(), last: request.body[request.body.len() - 1] }");
    daemon.route("POST", "/raw", &script, json!({ "body": "raw" }));
    let answer = daemon.request("POST", "/raw").body(vec![7_u8; 200_000]).send();
    assert_eq!((answer.status, answer.text()), (200, "{\"bytes\":200000,\"last\":7}".to_owned()));
}

#[test]
fn a_request_has_one_host() {
    let daemon = Daemon::start();
    daemon.serve("/x", "request.headers.host");
    let twice = b"GET /x HTTP/1.1\r\nHost: a.org\r\nHost: b.org\r\n\r\n";
    let mut connection = daemon.connect();
    connection.send(twice);
    let answer = connection.answer().unwrap();
    assert_eq!((answer.status, answer.error()), (400, "bad request: more than one Host header".to_owned()));
}
