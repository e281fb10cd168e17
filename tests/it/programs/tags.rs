//! A counter for each tag of a collection of documents, kept by a trigger on their values: whoever changes a document,
//! and whatever breaks off, the counters are those of the documents that there are.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};

use crate::cli::Desk;
use crate::harness::{Daemon, RaisedAtEnd, until};

/// Takes from each tag that a document had, and gives to each that it has. In whatever order two changes are counted,
/// their sum is the same.
const COUNT: &str = r#"
    fn add(document, by) {
        if document == () { return; }
        for tag in document.tags { kv::incr("tag/" + tag, by); }
    }
    add(ctx.event.old, -1);
    add(ctx.event.new, 1);
"#;

const WRITE: &str = r#"
    let wish = request.body;
    if wish.tags == () { return kv::delete("doc/" + request.params.id); }
    kv::set("doc/" + request.params.id, #{ tags: wish.tags });
    if "throw" in wish { throw "changed its mind"; }
    true
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    desk.deploys("count", COUNT, &[]);
    desk.deploys("write", WRITE, &["POST /docs/{id}"]);
    desk.triggers("count", &["--kv", "doc/"]);
    desk
}

/// The counters, without those that came to nothing.
fn counters(desk: &Desk) -> BTreeMap<String, i64> {
    let counters = desk.values("tag/").into_iter();
    counters.map(|(tag, count)| (tag, count.as_i64().unwrap())).filter(|(_, count)| *count != 0).collect()
}

/// What the counters should be.
fn counted(desk: &Desk) -> BTreeMap<String, i64> {
    let mut counts = BTreeMap::new();
    for (_, document) in desk.values("doc/") {
        for tag in document["tags"].as_array().unwrap() {
            *counts.entry(tag.as_str().unwrap().to_owned()).or_default() += 1;
        }
    }
    counts
}

#[test]
fn scripts_people_and_imports_are_counted_alike() {
    let desk = desk();
    let write = |id: &str, body: Value| desk.daemon.post(&format!("/docs/{id}"), &body.to_string());
    assert_eq!(write("1", json!({ "tags": ["red", "large"] })).status, 200);
    assert_eq!(write("2", json!({ "tags": ["red", "red"] })).status, 200);
    assert_eq!(write("2", json!({ "tags": ["red", "blue"] })).status, 200);
    assert_eq!(write("3", json!({ "tags": ["none"] })).status, 200);
    assert_eq!(write("3", json!({})).text(), "true", "it was there to be deleted");
    assert_eq!(write("3", json!({})).text(), "false");
    assert_eq!(write("4", json!({ "tags": ["lost"], "throw": 1 })).status, 502);
    desk.does(&["kv", "set", "doc/5", r#"{"tags": ["blue"]}"#]);
    desk.does(&["kv", "set", "doc/6", r#"{"tags": ["small"]}"#]);
    desk.does(&["kv", "rm", "doc/6"]);
    desk.does(&["kv", "set", "other/7", r#"{"tags": ["red"]}"#]);
    let file = desk.file("documents.jsonl", r#"{"key": "doc/8", "value": {"tags": ["small", "blue"]}}"#);
    desk.does(&["kv", "import", &file]);
    desk.daemon.done("PUT", "/apps/default/kv/doc/5", json!({ "value": { "tags": [] } }));
    desk.waits_for_all_work();
    let expected = [("blue", 2), ("large", 1), ("red", 2), ("small", 1)];
    assert_eq!(counters(&desk), expected.map(|(tag, count)| (tag.to_owned(), count)).into());
    assert_eq!(counted(&desk), counters(&desk));
    assert!(desk.daemon.all("/dead-letters").is_empty());
    let depths = desk.daemon.all("/executions?limit=500");
    let depths: Vec<&Value> =
        depths.iter().filter(|run| run["kind"] == "kv").map(|run| &run["script_name"]).collect();
    assert!(depths.iter().all(|name| **name == "count") && depths.len() == 10, "{depths:?}");
}

/// Changes documents over and over, as worker `worker`, until the daemon is gone.
fn write_until_gone(daemon: &Daemon, worker: usize, round: usize, answered: &AtomicUsize, over: &AtomicBool) {
    for step in 0.. {
        let (id, tag) = ((worker * 3 + step) % 5, (step + round) % 3);
        let tags = json!({ "tags": [format!("t{tag}"), format!("w{worker}")] });
        let body = if step % 4 == 3 { json!({}) } else { tags };
        let request = daemon.request("POST", &format!("/docs/{id}")).header("connection", "close");
        match request.body(body.to_string()).send_to_mortal() {
            Some(answer) => assert_eq!(answer.status, 200, "{answer}"),
            None => break,
        }
        answered.fetch_add(1, Relaxed);
        if over.load(Relaxed) {
            break;
        }
    }
}

#[test]
fn kills_in_the_middle_leave_no_counter_wrong() {
    let mut desk = desk();
    for round in 0..3 {
        let (answered, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        thread::scope(|scope| {
            let _raised = RaisedAtEnd(&over);
            let (daemon, answered, over) = (&desk.daemon, &answered, &over);
            for worker in 0..4 {
                scope.spawn(move || write_until_gone(daemon, worker, round, answered, over));
            }
            until("some changes", || (answered.load(Relaxed) >= 40).then_some(()));
            daemon.process.signal("KILL");
        });
        desk.daemon.process.wait("the killed daemon");
        desk.daemon.start_again();
        desk.does(&["kv", "set", "doc/by-hand", &json!({ "tags": [format!("t{round}")] }).to_string()]);
        desk.waits_for_all_work();
        assert!(!counted(&desk).is_empty());
        assert_eq!(counters(&desk), counted(&desk), "after kill {round}");
    }
    assert!(desk.daemon.all("/dead-letters").is_empty());
}
