//! Deploying and validating source files.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{ID, TempFile, list, reply, served};

#[test]
fn deploy_creates_script_and_route() {
    let file = TempFile::new("new.rhai", "42");
    let file = file.path();
    let script = json!({"id": ID, "name": "hello", "active_version": 1, "access": "public", "source": "42"});
    let route = json!({"id": ID, "method": "GET", "path": "/hello/{name}", "host": null, "dispatch_mode": "sync", "access": "public"});
    let answers = vec![
        list(json!([])),
        reply(201, script),
        list(json!([])),
        reply(201, route),
        list(json!([{"pattern": "*"}])),
    ];
    let (ran, seen) = served(
        answers,
        &["deploy", file, "--name", "hello", "--route", "get /hello/{name}", "--timeout", "7"],
    );
    assert_eq!(ran.code, ExitCode::SUCCESS, "{}", ran.err);
    assert!(
        ran.out.starts_with("script hello: created, version 1\nroute GET /hello/{name}: created, sync\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("/hello/name\n  curl http://127.0.0.1:"), "{}", ran.out);
    let body: Value = serde_json::from_str(&seen[1].body).unwrap();
    assert_eq!(body, json!({"name": "hello", "source": "42", "timeout_seconds": 7}));
    let body: Value = serde_json::from_str(&seen[3].body).unwrap();
    assert_eq!(
        body,
        json!({"method": "GET", "path": "/hello/{name}", "script_id": ID, "dispatch_mode": "sync"})
    );
}

#[test]
fn deploy_changes_only_what_differs() {
    let file = TempFile::new("same.rhai", "42");
    let file = file.path();
    let script = |source: &str| json!({"id": ID, "name": "hello", "active_version": 3, "access": "public", "source": source});
    let route = json!({"id": ID, "script_id": ID, "method": "GET", "path": "/x", "host": null, "dispatch_mode": "async"});
    let found = || list(json!([{"id": ID, "name": "hello"}]));
    let domains = || list(json!([{"pattern": "shop.local"}]));
    let args = ["deploy", file, "--name", "hello", "--route", "GET /x", "--async"];

    let answers = vec![found(), reply(200, script("42")), list(json!([route])), domains()];
    let (ran, seen) = served(answers, &args);
    assert!(
        ran.out.contains("script hello: unchanged, version 3\nroute GET /x: unchanged, async\n"),
        "{}",
        ran.out
    );
    assert!(ran.out.contains("curl -H 'host: shop.local'"), "{}", ran.out);
    assert!(seen.iter().all(|seen| seen.line.starts_with("GET ")));

    let answers =
        vec![found(), reply(200, script("41")), reply(200, script("42")), list(json!([route])), domains()];
    let (ran, seen) = served(answers, &args);
    assert!(ran.out.starts_with("script hello: updated, version 3\n"), "{}", ran.out);
    assert_eq!(
        (seen[2].line.split(' ').next(), seen[2].body.as_str()),
        (Some("PATCH"), "{\"source\":\"42\"}")
    );
}

#[test]
fn a_source_that_does_not_compile_is_shown() {
    let file = TempFile::new("bad.rhai", "let x = );\n");
    let file = file.path();
    let refusal = reply(422, json!({"error": "Unexpected ')'", "line": 1, "column": 9}));
    let (ran, _) = served(vec![refusal], &["validate", file]);
    assert_eq!(ran.code, ExitCode::FAILURE);
    let shown = format!("picloud: {file}:1:9: Unexpected ')'\n   1 | let x = );\n     |         ^\n");
    assert_eq!(ran.err, shown);
    let (ran, _) = served(vec![reply(200, json!({"valid": true}))], &["validate", file]);
    assert_eq!((ran.code, ran.out), (ExitCode::SUCCESS, format!("{file} is valid\n")));
}
