//! How the device says that it is well, and what it counts.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use crate::harness::Daemon;

#[test]
fn health_readiness_and_version_need_no_key() {
    let daemon = Daemon::start();
    let ask = |path: &str| daemon.get(&format!("/api/v1{path}"));
    assert_eq!((ask("/health").status, ask("/health").json()), (200, json!({ "status": "ok" })));
    let ready = ask("/ready");
    assert_eq!(
        (ready.status, &ready.json()["ready"], &ready.json()["draining"]),
        (200, &json!(true), &json!(false))
    );
    let version = ask("/version").json();
    assert_eq!(
        (&version["name"], &version["version"]),
        (&json!("picloud"), &json!(env!("CARGO_PKG_VERSION")))
    );
    assert_eq!(version["schema"], picloud::store::SCHEMA);
    assert_eq!(
        daemon.request("GET", "/api/v1/health").host("other.test").send().status,
        200,
        "on every host"
    );
}

/// Reads the Prometheus text format, version 0.0.4, strictly: samples by name and labels.
fn parse(text: &str) -> HashMap<String, f64> {
    let mut samples = HashMap::new();
    let (mut declared, mut current) = (HashSet::new(), String::new());
    assert!(text.ends_with('\n'));
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a help text");
            assert!(!help.is_empty() && declared.insert(name.to_owned()), "{name} is described once");
            name.clone_into(&mut current);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert_eq!(name, current, "a type follows its help");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
        } else {
            let (name, value) = line.rsplit_once(' ').expect("a sample");
            let bare = name.split('{').next().unwrap();
            assert_eq!(bare, current, "a sample stands below its own head");
            assert!(bare.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
            if let Some(labels) = name.strip_prefix(bare).filter(|labels| !labels.is_empty()) {
                let inner =
                    labels.strip_prefix('{').and_then(|labels| labels.strip_suffix("\"}")).expect(line);
                assert!(inner.split_once("=\"").is_some_and(|(label, _)| !label.is_empty()), "{line}");
            }
            let value: f64 = value.parse().unwrap_or_else(|why| panic!("{line}: {why}"));
            assert!(samples.insert(name.to_owned(), value).is_none(), "{name} stands twice");
        }
    }
    samples
}

#[test]
fn metrics_are_prometheus_text_and_count() {
    let daemon = Daemon::start();
    let read = || {
        let answer = daemon.api("GET", "/metrics", Value::Null);
        assert_eq!(answer.header("content-type"), Some("text/plain; version=0.0.4; charset=utf-8"));
        parse(&answer.text())
    };
    daemon.serve("/good", "1");
    daemon.serve("/bad", "throw 1");
    daemon.serve_async("/dead", "fail(1)");
    let before = read();
    for _ in 0..3 {
        daemon.get("/good");
        daemon.get("/bad");
    }
    daemon.ended(&daemon.accepted("/dead", ""));
    let after = read();
    let grown = |name: &str| after[name] - before[name];
    assert_eq!(grown("picloud_executions_total{status=\"success\"}"), 3.0);
    assert_eq!(grown("picloud_executions_total{status=\"error\"}"), 4.0);
    assert_eq!(grown("picloud_http_responses_total{class=\"5xx\"}"), 3.0);
    assert_eq!(grown("picloud_dead_letters_total"), 1.0);
    assert_eq!(after["picloud_dead_letters"], 1.0);
    assert_eq!((after["picloud_outbox_rows"], after["picloud_inbox_waiting"]), (0.0, 0.0));
    assert!(grown("picloud_store_durable_commits_total") >= 1.0 && grown("picloud_card_fsyncs_total") >= 1.0);
    assert!(after["picloud_resident_memory_bytes"] > 1e6);
}

#[test]
fn ids_sort_by_time() {
    let daemon = Daemon::start();
    let ids: Vec<String> = (0..5).map(|_| daemon.get("/hello/you").execution_id()).collect();
    assert!(ids.is_sorted(), "{ids:?}");
    assert!(ids.iter().all(|id| uuid::Uuid::parse_str(id).unwrap().get_version_num() == 7));
}
