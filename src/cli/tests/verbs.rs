//! The other verbs, each against the answers it asks for.

use std::process::ExitCode;

use serde_json::{Value, json};

use super::{ID, answer, list, reply, served};

#[test]
fn calls_print_the_answer_and_keep_the_key() {
    let ok = answer(200, "application/json", "{\"a\":1}");
    let (ran, seen) = served(
        vec![ok.clone()],
        &["call", "post", "/a b?x=1", "--host", "shop.local", "-d", "{}", "-H", "X-A: b"],
    );
    assert_eq!((ran.code, ran.out.as_str()), (ExitCode::SUCCESS, "{\"a\":1}\n"));
    assert_eq!((seen[0].line.as_str(), seen[0].body.as_str()), ("POST /a%20b?x=1 HTTP/1.1", "{}"));
    assert!(seen[0].head.contains("host: shop.local") && seen[0].head.contains("x-a: b"), "{}", seen[0].head);
    assert_eq!(seen[0].head.matches("host:").count(), 1);
    assert!(seen[0].head.contains("content-type: application/json") && !seen[0].head.contains("pc_secret"));

    let (ran, seen) = served(vec![answer(502, "application/json", "{}")], &["call", ID, "--with-key", "-i"]);
    assert_eq!(ran.code, ExitCode::FAILURE);
    assert!(
        ran.out.starts_with("HTTP/1.1 502 Bad Gateway\n") && ran.out.ends_with("\n\n{}\n"),
        "{}",
        ran.out
    );
    assert_eq!(seen[0].line, format!("POST /api/execute/{ID} HTTP/1.1"));
    assert!(seen[0].head.contains("pc_secret"));

    let (ran, _) = served(vec![answer(302, "text/plain", "")], &["call", "/old", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&ran.out).unwrap()["status"], 302);
}

#[test]
fn a_new_secret_is_shown_once_and_alone() {
    let key = reply(201, json!({"id": ID, "name": "ci", "secret": "pc_new"}));
    let (ran, seen) = served(vec![key], &["key", "add", "ci"]);
    assert_eq!((ran.out.as_str(), seen[0].body.as_str()), ("pc_new\n", "{\"name\":\"ci\"}"));
    assert!(ran.err.contains("shown this once"));
}

#[test]
fn logs_are_listed_and_followed() {
    let line = |text: &str| json!({"at": "2026-01-31T07:00:00.5Z", "level": "warn", "script_name": "s", "message": text});
    let (ran, seen) = served(vec![list(json!([line("new"), line("old")]))], &["logs", "-q", "a b"]);
    let messages: Vec<_> = ran.out.lines().filter_map(|line| line.split("  ").last()).collect();
    assert_eq!(messages, ["old", "new"]);
    assert_eq!(seen[0].line, "GET /api/v1/logs?q=a%20b&limit=100 HTTP/1.1");

    let events = format!(": hello\n\ndata: {}\n\ndata: {}\n\n", line("1"), line("2"));
    let (ran, _) = served(vec![answer(200, "text/event-stream", &events)], &["logs", "-f", "--json"]);
    let lines: Vec<Value> = ran.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines, [line("1"), line("2")]);
    assert_eq!((ran.code, ran.err.contains("the log ended")), (ExitCode::FAILURE, true));
}

#[test]
fn dead_letters_are_redriven_and_purged() {
    let (ran, seen) =
        served(vec![reply(200, json!({"count": 3}))], &["dead-letters", "redrive", "--all", "--app", "shop"]);
    assert_eq!(ran.out, "3 dead letters run again\n");
    assert_eq!(seen[0].body, "{\"app\":\"shop\",\"version\":\"active\"}");
    let (ran, seen) = served(
        vec![reply(202, json!({"execution_id": "e"}))],
        &["dead-letters", "redrive", ID, "--version", "original"],
    );
    assert_eq!(ran.out, format!("dead letter {ID} runs again as execution e\n"));
    assert_eq!(seen[0].body, "{\"version\":\"original\"}");
    let (ran, seen) = served(vec![reply(200, json!({"count": 1}))], &["dead-letters", "purge", "--yes"]);
    assert_eq!((ran.out.as_str(), seen[0].body.as_str()), ("purged 1\n", "{}"));
}

#[test]
fn executions_are_listed_with_and_without_the_verb() {
    for args in [
        &["executions", "--status", "budget_exceeded"][..],
        &["executions", "--json", "ls", "--status", "budget_exceeded"],
    ] {
        let (ran, seen) = served(vec![list(json!([]))], args);
        assert_eq!(ran.code, ExitCode::SUCCESS, "{}", ran.err);
        assert_eq!(seen[0].line, "GET /api/v1/executions?status=budget_exceeded&limit=50 HTTP/1.1");
    }
    let running = reply(200, json!({"id": ID, "status": "running"}));
    let ended = reply(
        200,
        json!({"id": ID, "status": "success", "script_logs": [{"offset_ms": 1, "level": "info", "message": "hi"}]}),
    );
    let (ran, seen) = served(vec![running, ended], &["executions", "show", ID, "--wait", "50"]);
    assert!(ran.out.contains("+1 ms  info  hi"), "{}", ran.out);
    assert_eq!(seen[0].line, format!("GET /api/v1/executions/{ID}?wait=50 HTTP/1.1"));
}

#[test]
fn status_fails_unless_ready() {
    let answers = |status, ready| {
        vec![
            reply(200, json!({"version": "0.1.0"})),
            reply(200, json!({"status": "ok"})),
            reply(status, json!({"ready": ready})),
            reply(401, json!({"error": "no valid api key"})),
        ]
    };
    let (ran, _) = served(answers(200, true), &["status"]);
    assert!(ran.out.contains("version  0.1.0\nhealth   ok\nready    yes"), "{}", ran.out);
    assert!(ran.err.contains("PICLOUD_API_KEY"), "{}", ran.err);
    let (ran, _) = served(answers(503, false), &["status"]);
    assert_eq!(ran.code, ExitCode::FAILURE);
}

#[test]
fn status_says_what_the_card_takes() {
    let card = json!({
        "total_bytes_written": 1_240_000_000, "bytes_per_day": 310_000_000, "measured_seconds": 86_400,
        "endurance_tbw": 20, "years_left": 176.4, "fsyncs": 12, "mean_sync_ms": 14.96, "commits": 15,
        "write_amplification": 3.12,
    });
    let status = |budget: Value| {
        let device = json!({
            "resident_bytes": 21_000_000,
            "store": {"file_bytes": 8_000_000, "execution_log_bytes": 1_200_000},
            "card": card, "budget": budget, "outbox": {"rows": 2, "bytes": 512},
            "dead_letters": {"rows": 1, "bytes": 300, "dropped": 0},
            "executions": {"success": 7, "error": 1, "timeout": 1, "budget_exceeded": 1},
        });
        let one = || reply(200, json!({"version": "0.1.0", "status": "ok", "ready": true}));
        served(vec![one(), one(), one(), reply(200, device)], &["status"]).0.out
    };
    for (budget, line) in [
        (json!({"bytes_per_day": 0, "over": false}), "budget        none"),
        (
            json!({"bytes_per_day": 500_000_000, "over": false, "left_bytes": 60_000_000}),
            "budget        500 MB a day, 60 MB left now",
        ),
        (
            json!({"bytes_per_day": 500_000_000, "over": true, "left_bytes": 0, "flush_interval_ms": 10_000}),
            "budget        500 MB a day, EXCEEDED: relaxed calls are flushed every 10.0 s, the log is kept shorter",
        ),
    ] {
        let out = status(budget);
        for line in [
            "executions    7 succeeded, 3 failed since the start",
            "outbox        2 rows, 512 B",
            "dead letters  1, 300 B",
            "memory        21 MB",
            "store         8.0 MB, of it 1.2 MB log",
            "card          1.2 GB written, 310 MB a day; a card of 20 TBW lasts 176 years at this rate",
            "syncs         12 of 15.0 ms, 15 commits since the start; 3.1 bytes written for each byte kept",
            line,
        ] {
            assert!(out.lines().any(|told| told == line), "{line:?} is not in:\n{out}");
        }
    }
}

#[test]
fn a_match_takes_a_url_apart() {
    let route = json!({"id": ID, "script_id": ID, "method": "GET", "path": "/{x}"});
    let found = reply(200, json!({"matched": true, "route": route, "params": {"x": "y"}, "rest": ""}));
    let (ran, seen) = served(vec![found], &["route", "match", "get", "http://a.local:80/y?z=1"]);
    assert!(ran.out.starts_with("route      GET /{x}\n"), "{} {}", ran.out, ran.err);
    assert_eq!(seen[0].body, "{\"host\":\"a.local:80\",\"method\":\"GET\",\"path\":\"/y\"}");
    let (ran, _) = served(
        vec![reply(200, json!({"matched": false, "error": "no route matches GET /"}))],
        &["route", "match", "GET", "/"],
    );
    assert_eq!((ran.code, ran.err.as_str()), (ExitCode::FAILURE, "picloud: no route matches GET /\n"));
}
