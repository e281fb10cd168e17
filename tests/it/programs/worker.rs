//! A queue of orders, a worker who fails some of them, and who hears of it.

use serde_json::{Value, json};

use crate::cli::Desk;
use crate::harness::until;

const ORDER: &str = r#"
    let order = request.body;
    respond(202, #{ job: queue::send("orders", order, #{ key: order.id, max_attempts: 3 }) })
"#;

const WORKER: &str = r#"
    let order = ctx.event.payload;
    kv::incr("attempts/" + order.id);
    log::info(`order ${order.id}, attempt ${ctx.attempt}`);
    if order.sheets > 100 { fail(`no paper for ${order.id}`) }
    if order.jams >= ctx.attempt { retry_after(0); throw "the printer is jammed"; }
    kv::set("printed/" + order.id, ctx.attempt);
"#;

const HANDLER: &str = r#"
    let dead = ctx.event;
    kv::set("failed/" + dead.payload.id, #{ reason: dead.reason, error: dead.error, attempts: dead.attempts });
"#;

/// A worker with more paper, who takes failures back.
const MENDED: &str = r#"
    let order = ctx.event.payload;
    kv::delete("failed/" + order.id);
    kv::set("printed/" + order.id, "at last");
"#;

fn desk() -> Desk {
    let desk = Desk::new();
    desk.deploys("order", ORDER, &["POST /orders"]);
    desk.deploys("worker", WORKER, &[]);
    desk.deploys("handler", HANDLER, &[]);
    desk.triggers("worker", &["--queue", "orders"]);
    desk.triggers("handler", &["--dead-letters", "--of-script", "worker"]);
    desk
}

#[track_caller]
fn order(desk: &Desk, order: Value) -> String {
    let answer = desk.daemon.post("/orders", &order.to_string());
    assert_eq!(answer.status, 202, "{answer}");
    answer.json()["job"].as_str().unwrap().to_owned()
}

#[test]
fn failures_are_tried_again_told_and_mended() {
    let mut desk = desk();
    let jobs: Vec<String> = [
        json!({ "id": "easy", "sheets": 1, "jams": 0 }),
        json!({ "id": "jammed", "sheets": 1, "jams": 2 }),
        json!({ "id": "broken", "sheets": 1, "jams": 9 }),
        json!({ "id": "huge", "sheets": 1000, "jams": 0 }),
    ]
    .map(|wish| order(&desk, wish))
    .into();
    desk.value_once("failed/broken", |_| true);
    desk.value_once("failed/huge", |_| true);
    desk.waits_for_all_work();
    assert_eq!(desk.values("printed/"), [("easy".into(), json!(1)), ("jammed".into(), json!(3))]);
    // An attempt that failed took its own count back.
    assert_eq!(desk.values("attempts/"), [("easy".into(), json!(1)), ("jammed".into(), json!(1))]);
    for (id, reason, error, attempts) in
        [("broken", "attempts", "the printer is jammed", 3), ("huge", "permanent", "no paper for huge", 1)]
    {
        let failed = desk.value_once(&format!("failed/{id}"), |_| true);
        assert_eq!((&failed["reason"], &failed["attempts"]), (&json!(reason), &json!(attempts)), "{failed}");
        assert!(failed["error"].as_str().unwrap().contains(error), "{failed}");
    }
    let shown = desk.does(&["executions", "show", &jobs[1]]);
    assert!(shown.contains("success") && shown.contains("order jammed, attempt 3"), "{shown}");
    let letters = desk.does(&["dead-letters", "ls", "--script", "worker"]);
    assert!(letters.contains("permanent") && letters.contains("attempts"), "{letters}");

    desk.deploys("worker", MENDED, &[]);
    desk.daemon.kill_and_start_again();
    desk.does(&["dead-letters", "redrive", "--all", "--script", "worker"]);
    desk.value_once("printed/broken", |value| value == "at last");
    desk.value_once("printed/huge", |value| value == "at last");
    until("no dead letters", || desk.daemon.all("/dead-letters").is_empty().then_some(()));
    assert!(desk.values("failed/").is_empty());
}

#[test]
fn an_order_is_taken_once_until_it_is_over() {
    let desk = desk();
    let trigger = desk.json(&["trigger", "ls"])["items"].as_array().unwrap().clone();
    let trigger = trigger.iter().find(|trigger| trigger["kind"] == "queue").unwrap()["id"].as_str().unwrap();
    desk.does(&["trigger", "pause", trigger]);
    let wish = json!({ "id": "same", "sheets": 1, "jams": 0 });
    let jobs = [wish.clone(), wish.clone(), wish.clone()].map(|wish| order(&desk, wish));
    assert!(jobs.iter().all(|job| *job == jobs[0]), "{jobs:?}");
    assert_eq!(desk.daemon.all("/outbox").len(), 1);
    desk.does(&["trigger", "resume", trigger]);
    desk.daemon.ended(&jobs[0]);
    let later = order(&desk, wish);
    assert_ne!(later, jobs[0]);
    desk.daemon.ended(&later);
    assert_eq!(desk.values("attempts/"), [("same".into(), json!(2))]);
}
