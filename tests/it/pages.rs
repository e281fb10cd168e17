//! Lists: newest first, page by page, nothing twice and nothing missed.

use std::collections::HashSet;

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup};

/// Reads a list in pages of `limit` and checks that they make the whole list.
#[track_caller]
fn check(daemon: &Daemon, list: &str, count: usize, limit: usize) {
    let joint = if list.contains('?') { '&' } else { '?' };
    let whole = daemon.done("GET", &format!("{list}{joint}limit=500"), Value::Null);
    let whole = whole["items"].as_array().unwrap();
    assert_eq!(whole.len(), count, "{list}");
    let (mut paged, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = daemon.done("GET", &format!("{list}{joint}limit={limit}&cursor={cursor}"), Value::Null);
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= limit, "{list}: {}", items.len());
        paged.extend(items.iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => {
                assert_eq!(items.len(), limit, "{list}: a page before the last is full");
                assert_ne!(next, cursor, "{list} goes on for ever");
                next.clone_into(&mut cursor);
            }
            None => break,
        }
    }
    assert_eq!(paged, *whole, "{list} in pages of {limit}");
    if let Some(Value::String(_)) = whole[0].get("id") {
        let ids: HashSet<&str> = whole.iter().map(|item| item["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), count, "{list}");
        let ages: Vec<&str> = whole.iter().map(|item| item["created_at"].as_str().unwrap()).collect();
        assert!(ages.is_sorted_by(|a, b| a >= b), "{list}: newest first: {ages:?}");
    }
}

#[test]
fn lists_of_the_set_up() {
    let daemon = Daemon::start();
    for n in 0..6 {
        let app = daemon.done("POST", "/apps", json!({ "slug": format!("app-{n}") }));
        daemon.done("POST", "/apps/default/domains", json!({ "pattern": format!("a{n}.test") }));
        let script = daemon.script("1");
        daemon.route("GET", &format!("/{n}"), &script, json!({}));
        daemon.done("POST", "/keys", json!({ "name": format!("key {n}") }));
        assert_eq!(daemon.all("/apps")[0], app, "newest first");
    }
    for limit in [1, 2, 3, 7, 100] {
        check(&daemon, "/apps", 7, limit);
        check(&daemon, "/apps/default/domains", 7, limit);
        check(&daemon, "/apps/default/scripts", 7, limit);
        check(&daemon, "/apps/default/routes", 8, limit);
        check(&daemon, "/keys", 7, limit);
    }
}

#[test]
fn lists_of_what_happened() {
    let daemon = Setup::default().set("outbox.backoff_base_ms", 3_600_000).start();
    daemon.serve("/log", "print(1); print(2); print(3)");
    daemon.serve_async("/dead", "fail(1)");
    daemon.serve_async("/retry", "throw 1");
    for _ in 0..5 {
        daemon.get("/log");
        daemon.ended(&daemon.accepted("/dead", ""));
        daemon.execution_once(&daemon.accepted("/retry", ""), "retrying");
    }
    for limit in [1, 2, 4, 5, 6, 100] {
        check(&daemon, "/executions?status=success", 5, limit);
        check(&daemon, "/executions?status=error", 5, limit);
        check(&daemon, "/executions?status=retrying", 5, limit);
        check(&daemon, "/outbox", 5, limit);
        check(&daemon, "/dead-letters", 5, limit);
    }
    let whole = daemon.done("GET", "/executions?limit=500", Value::Null)["items"].as_array().unwrap().clone();
    for limit in [1, 4, 5, 7, 15] {
        let paged = daemon.all(&format!("/executions?limit={limit}"));
        assert_eq!(paged, whole, "what is under way comes first, then what ended, in pages of {limit}");
    }
}

#[test]
fn lines_of_the_log() {
    let daemon = Daemon::start();
    daemon.serve(
        "/log",
        "print(request.query.n + \"a\"); print(request.query.n + \"b\"); throw request.query.n + \"c\"",
    );
    for n in 0..4 {
        daemon.get(&format!("/log?n={n}"));
    }
    let text =
        |line: &Value| line["message"].as_str().unwrap().replace("Runtime error: ", "")[..2].to_owned();
    let whole: Vec<String> = daemon.all("/logs?limit=500").iter().map(text).collect();
    assert_eq!(whole, ["3c", "3b", "3a", "2c", "2b", "2a", "1c", "1b", "1a", "0c", "0b", "0a"]);
    for limit in [1, 2, 3, 5, 11, 12, 13] {
        let paged: Vec<String> = daemon.all(&format!("/logs?limit={limit}")).iter().map(text).collect();
        assert_eq!(paged, whole, "in pages of {limit}");
    }
}

#[test]
fn a_page_has_a_most_and_a_cursor_a_form() {
    let daemon = Setup::default().set("management.page_limit_max", 5).start();
    for n in 0..6 {
        daemon.done("POST", "/apps", json!({ "slug": format!("app-{n}") }));
    }
    assert_eq!(daemon.done("GET", "/apps", Value::Null)["items"].as_array().map(Vec::len), Some(5));
    for list in ["/apps", "/keys", "/executions", "/outbox", "/dead-letters", "/logs"] {
        for query in ["limit=0", "limit=6", "limit=x", "limit=-1", "cursor=x", "cursor=log:x", "cursor=row:x"]
        {
            let answer = daemon.api("GET", &format!("{list}?{query}"), Value::Null);
            let field = query.split('=').next().unwrap();
            assert_eq!(
                (answer.status, answer.json()["field"].as_str()),
                (422, Some(field)),
                "{list}?{query}: {answer}"
            );
        }
    }
}

#[test]
fn removing_an_item_does_not_upset_a_reader() {
    let daemon = Daemon::start();
    for n in 0..4 {
        daemon.done("POST", "/apps", json!({ "slug": format!("app-{n}") }));
    }
    let first = daemon.done("GET", "/apps?limit=2", Value::Null);
    daemon.done("DELETE", "/apps/app-2", Value::Null);
    let cursor = first["next_cursor"].as_str().unwrap();
    let second = daemon.done("GET", &format!("/apps?limit=2&cursor={cursor}"), Value::Null);
    let slugs: Vec<&Value> = second["items"].as_array().unwrap().iter().map(|app| &app["slug"]).collect();
    assert_eq!(slugs, ["app-1", "app-0"], "the cursor may name an item that is gone");
}
