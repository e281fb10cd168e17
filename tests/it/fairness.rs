//! One app beside another: what the one may take, and that the other still gets its own.

use std::io::Write;
use std::net::{TcpListener, TcpStream};

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, id, picloud, until};
use crate::http::Answer;

/// Works until its time is over, or until somebody cancels it.
const LOOP: &str = "let n = 0; loop { n += 1; }";

/// A daemon with a second app, whose host is `other.test`.
fn two_apps(setup: Setup) -> Daemon {
    let daemon = setup.start();
    daemon.done("POST", "/apps", json!({ "slug": "other" }));
    daemon.done("POST", "/apps/other/domains", json!({ "pattern": "other.test" }));
    daemon
}

/// A script of the second app behind a route.
#[track_caller]
fn serve_other(daemon: &Daemon, path: &str, source: &str, mode: &str) -> String {
    let body = json!({ "name": format!("at {path}"), "source": source, "timeout_seconds": 60 });
    let script = id(&daemon.done("POST", "/apps/other/scripts", body));
    let route = json!({ "method": "ANY", "path": path, "script_id": script, "dispatch_mode": mode });
    daemon.done("POST", "/apps/other/routes", route);
    script
}

/// A script that never ends by itself, behind a sync route of the first app.
fn serve_endless(daemon: &Daemon, path: &str) {
    let fields = json!({ "timeout_seconds": 60, "sandbox": { "max_operations": 100_000_000 } });
    let script = daemon.script_with(LOOP, fields);
    daemon.route("ANY", path, &script, json!({}));
}

fn post_other(daemon: &Daemon, path: &str) -> Answer {
    daemon.request("POST", path).host("other.test").send()
}

fn running(daemon: &Daemon) -> usize {
    daemon.all("/executions?status=running").len()
}

#[track_caller]
fn metric(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("picloud_{name} ")));
    line.unwrap_or_else(|| panic!("no metric {name}")).parse().unwrap()
}

#[track_caller]
fn limit(daemon: &Daemon, app: &str, limits: Value) {
    daemon.done("PATCH", &format!("/apps/{app}"), json!({ "limits": limits }));
}

#[test]
fn who_waits_for_a_slow_server_holds_up_nobody() {
    let daemon = two_apps(Setup::default().set("scripts.threads", 2).set("egress.calls_max", 8));
    daemon.done("PATCH", "/apps/other", json!({ "egress": { "networks": ["127.0.0.1"] } }));
    let slow = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", slow.local_addr().unwrap());
    serve_other(&daemon, "/slow", &format!("http::get({url:?}).status"), "async");
    daemon.serve("/quick", "1");
    serve_other(&daemon, "/quick", "2", "sync");
    let ids: Vec<String> = (0..6).map(|_| post_other(&daemon, "/slow").execution_id()).collect();
    until("six calls", || (metric(&daemon, "executor_aside") == 6).then_some(()));
    // Three times as many as may run, and both apps are served at once.
    assert_eq!((daemon.get("/quick").text(), post_other(&daemon, "/quick").text()), ("1".into(), "2".into()));
    // More would take what is left for others: they wait for their turn, on a bench.
    let seventh = post_other(&daemon, "/slow").execution_id();
    until("the seventh run", || (daemon.execution(&seventh)["status"] == "running").then_some(()));
    assert_eq!((metric(&daemon, "executor_aside"), daemon.get("/quick").status), (6, 200));
    daemon.done("PATCH", "/apps/default", json!({ "egress": { "networks": ["127.0.0.1"] } }));
    daemon.serve("/own", &format!("http::get({url:?}, #{{ timeout: 0.05 }})"));
    assert!(daemon.get("/own").error().contains("no answer within"), "there is room for its call");
    let mut calls: Vec<TcpStream> = (0..7).map(|_| slow.accept().unwrap().0).collect();
    let answer = |call: &mut TcpStream| {
        call.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
    };
    calls.iter_mut().for_each(answer);
    // The eighth that connects is the seventh of the slow ones.
    answer(&mut slow.accept().unwrap().0);
    for id in ids.iter().chain([&seventh]) {
        assert_eq!(daemon.ended(id)["response_body"], "204");
    }
    let left = || metric(&daemon, "executor_aside") + metric(&daemon, "executor_running");
    until("the benches to be free", || (left() == 0).then_some(()));
}

#[test]
fn an_app_that_loops_leaves_benches_to_another() {
    let daemon = two_apps(Setup::default().set("scripts.threads", 4));
    serve_endless(&daemon, "/loop");
    serve_other(&daemon, "/quick", "1", "sync");
    let loops: Vec<_> = (0..8).map(|_| daemon.request("GET", "/loop").begin()).collect();
    until("three loops to run", || (running(&daemon) == 3).then_some(()));
    until("them to be heavy", || (metric(&daemon, "executor_heavy") == 3).then_some(()));
    for _ in 0..20 {
        assert_eq!(post_other(&daemon, "/quick").text(), "1");
    }
    assert_eq!(running(&daemon), 3, "the other loops wait for those of their own app");
    assert_eq!(metric(&daemon, "executor_queue"), 5);
    assert_eq!(daemon.api("GET", "/ready", Value::Null).status, 200, "runs within their time are no fault");
    drop(loops);
}

#[test]
fn runs_that_share_a_core_all_come_to_their_end() {
    let daemon = two_apps(Setup::default().set("scripts.threads", 4));
    let work = "let n = 0; while n < 200_000 { n += 1; } n";
    let script = daemon.script_with(work, json!({ "timeout_seconds": 60 }));
    daemon.route("ANY", "/work", &script, json!({}));
    daemon
        .serve("/naps", "for i in 0..3 { let n = 0; while n < 50_000 { n += 1; } sleep(0.02); } \"rested\"");
    serve_other(&daemon, "/work", work, "sync");
    let mut calls: Vec<_> = ["/work", "/naps", "/work", "/naps"]
        .iter()
        .map(|path| daemon.request("GET", path).begin())
        .chain((0..3).map(|_| daemon.request("GET", "/work").host("other.test").begin()))
        .collect();
    for call in &mut calls {
        let answer = call.answer().unwrap();
        assert!(["200000", "\"rested\""].contains(&answer.text().as_str()), "{answer}");
    }
    until("no run to be heavy", || (metric(&daemon, "executor_heavy") == 0).then_some(()));
}

#[test]
fn a_heavy_run_that_waits_for_its_turn_can_be_cancelled_and_drained() {
    let mut daemon = Setup::default().set("scripts.threads", 4).set("server.drain_grace_seconds", 1).start();
    serve_endless(&daemon, "/loop");
    let mut loops: Vec<_> = (0..3).map(|_| daemon.request("GET", "/loop").begin()).collect();
    until("three heavy runs", || (metric(&daemon, "executor_heavy") == 3).then_some(()));
    let ids: Vec<String> = daemon.all("/executions?status=running").iter().map(id).collect();
    for id in &ids[..2] {
        daemon.done("POST", &format!("/executions/{id}/cancel"), Value::Null);
    }
    until("one to be left", || (metric(&daemon, "executor_heavy") == 1).then_some(()));
    daemon.process.signal("TERM");
    let mut statuses: Vec<u16> = loops.iter_mut().map(|call| call.answer().unwrap().status).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [500, 500, 503]);
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0));
}

/// How nice each bench is, lowest first.
fn niceness(daemon: &Daemon) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", daemon.process.0.id())).unwrap();
    // A thread may end while it is looked at.
    let stats = tasks.filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok());
    let mut nice: Vec<i32> = stats
        .filter_map(|stat| {
            let (name, rest) = stat.rsplit_once(") ")?;
            name.contains("(bench-").then(|| rest.split(' ').nth(16).unwrap().parse().unwrap())
        })
        .collect();
    nice.sort_unstable();
    nice
}

#[test]
fn a_heavy_run_that_nobody_waits_for_is_nice_and_its_bench_is_not() {
    let daemon = Setup::default().set("scripts.threads", 4).start();
    serve_endless(&daemon, "/loop");
    let fields = json!({ "timeout_seconds": 60, "sandbox": { "max_operations": 100_000_000 } });
    let script = daemon.script_with(LOOP, fields);
    daemon.route("ANY", "/later", &script, json!({ "dispatch_mode": "async" }));
    let usual = niceness(&daemon);
    let waited_for = daemon.request("GET", "/loop").begin();
    until("a heavy run", || (metric(&daemon, "executor_heavy") == 1).then_some(()));
    assert_eq!(niceness(&daemon), usual, "somebody waits for it");
    let id = daemon.request("GET", "/later").send().execution_id();
    let expected = (usual[0] + 10).min(19);
    until("the second to be heavy", || (metric(&daemon, "executor_heavy") == 2).then_some(()));
    until("one nice bench", || (niceness(&daemon).last() == Some(&expected)).then_some(()));
    daemon.done("POST", &format!("/executions/{id}/cancel"), Value::Null);
    until("a fresh thread in its place", || (niceness(&daemon) == usual).then_some(()));
    drop(waited_for);
}

#[test]
fn concurrency_is_the_apps_to_set() {
    let daemon = two_apps(Setup::default().set("scripts.threads", 4));
    let script = daemon.script_with("sleep(50); 1", json!({ "timeout_seconds": 60 }));
    daemon.route("GET", "/long", &script, json!({}));
    limit(&daemon, "default", json!({ "concurrency": 1 }));
    let mut calls = vec![daemon.request("GET", "/long").begin(), daemon.request("GET", "/long").begin()];
    // Each run is in the queue for a moment, the first as well.
    let both = || (running(&daemon), metric(&daemon, "executor_queue"));
    until("the first to run and the second to wait", || (both() == (1, 1)).then_some(()));
    limit(&daemon, "default", json!({ "concurrency": 4 }));
    // What was set is looked at when a run begins: the one under way began under the old limit.
    let first = id(&daemon.all("/executions?status=running")[0]);
    daemon.done("POST", &format!("/executions/{first}/cancel"), Value::Null);
    calls.extend((0..3).map(|_| daemon.request("GET", "/long").begin()));
    until("all benches to be taken", || (running(&daemon) == 4).then_some(()));
}

#[test]
fn the_waiting_room_has_seats_for_others() {
    let daemon = two_apps(Setup::default().set("scripts.threads", 2).set("scripts.queue_max", 8));
    let script = daemon.script_with("sleep(50); 1", json!({ "timeout_seconds": 60 }));
    daemon.route("GET", "/long", &script, json!({}));
    serve_other(&daemon, "/quick", "1", "sync");
    limit(&daemon, "default", json!({ "concurrency": 1 }));
    let first = daemon.request("GET", "/long").begin();
    until("the first to run", || (running(&daemon) == 1).then_some(()));
    let waiting: Vec<_> = (0..7).map(|_| daemon.request("GET", "/long").begin()).collect();
    until("seven to wait", || (metric(&daemon, "executor_queue") == 7).then_some(()));
    let refused = daemon.get("/long");
    assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
    assert_eq!(refused.error(), "too many runs of this app are waiting");
    assert_eq!(refused.json()["reason"], "overloaded");
    assert_eq!(metric(&daemon, "executor_app_overloaded_total"), 1);
    assert_eq!(post_other(&daemon, "/quick").text(), "1");
    drop((first, waiting));
}

#[test]
fn a_flood_of_rows_does_not_delay_another_apps_row() {
    let daemon = two_apps(Setup::default().set("scripts.threads", 4).set("apps.queue_rows", 2_000));
    daemon.serve_async("/flood", "sleep(50)");
    serve_other(&daemon, "/one", "1", "async");
    for _ in 0..300 {
        daemon.accepted("/flood", "");
    }
    let accepted = post_other(&daemon, "/one");
    assert_eq!(accepted.status, 202, "{accepted}");
    assert_eq!(daemon.ended(accepted.json()["execution_id"].as_str().unwrap())["status"], "success");
    let ended = daemon.all("/executions?status=success").len();
    assert_eq!(ended, 1, "the flood is still under way");
    assert!(metric(&daemon, "dispatcher_ready") > 0, "more rows than one app has claimed");
}

#[test]
fn a_full_queue_is_full_for_its_app_only() {
    let mut daemon =
        two_apps(Setup::default().set("apps.queue_rows", 3).set("outbox.backoff_base_ms", 3_600_000));
    daemon.serve_async("/fails", "throw 1");
    daemon.serve_async("/ends", "1");
    daemon.serve("/now", "1");
    serve_other(&daemon, "/fails", "throw 1", "async");
    let waiting: Vec<String> = (0..3).map(|_| daemon.accepted("/fails", "")).collect();
    for id in &waiting {
        daemon.execution_once(id, "retrying");
    }
    let full = |daemon: &Daemon| {
        let refused = daemon.post("/ends", "");
        let said = "the app has 3 rows of queued work and may have 3: wait until some have ended, cancel some, or raise its limit queue_rows";
        assert_eq!((refused.status, refused.header("retry-after")), (503, Some("1")), "{refused}");
        assert_eq!(refused.json(), json!({ "error": said, "reason": "queue_full" }));
    };
    full(&daemon);
    assert_eq!(metric(&daemon, "queue_full_refusals_total"), 1);
    assert_eq!(daemon.post("/now", "").text(), "1", "who waits is not queued work");
    assert_eq!(post_other(&daemon, "/fails").status, 202, "another app has its own");
    daemon.kill_and_start_again();
    full(&daemon);
    daemon.done("POST", &format!("/executions/{}/cancel", waiting[0]), Value::Null);
    daemon.ended(&waiting[0]);
    let next = until("room for one", || {
        let answer = daemon.post("/ends", "");
        (answer.status == 202).then(|| answer.execution_id())
    });
    assert_eq!(daemon.ended(&next)["status"], "success");
    limit(&daemon, "default", json!({ "queue_rows": 0 }));
    let closed = daemon.post("/ends", "");
    assert_eq!((closed.status, &closed.json()["reason"]), (503, &json!("queue_full")), "{closed}");
    limit(&daemon, "default", json!({ "queue_rows": 4 }));
    until("a higher limit to count", || (daemon.post("/ends", "").status == 202).then_some(()));
}

#[test]
fn a_redriven_letter_counts_as_queued_work() {
    let daemon = Setup::default().set("apps.queue_rows", 1).set("outbox.backoff_base_ms", 3_600_000).start();
    daemon.serve_async("/dies", "if ctx.attempt == 1 && ctx.request.body == () { fail(\"no\") } throw 1");
    let dead = daemon.ended(&daemon.accepted("/dies", ""))["dead_letter_id"].as_str().unwrap().to_owned();
    let waiting = until("room for one", || {
        let answer = daemon.post("/dies", "1");
        (answer.status == 202).then(|| answer.execution_id())
    });
    daemon.execution_once(&waiting, "retrying");
    daemon.done("POST", &format!("/dead-letters/{dead}/redrive"), json!({}));
    until("the letter to die again", || (daemon.all("/dead-letters").len() == 1).then_some(()));
    assert_eq!(daemon.post("/dies", "1").json()["reason"], "queue_full", "one still waits");
}

#[test]
fn requests_a_second_are_counted_by_app() {
    let daemon = two_apps(Setup::default());
    let script = daemon.serve("/x", "1");
    serve_other(&daemon, "/x", "2", "sync");
    let locked = daemon.script_with("1", json!({ "access": "key" }));
    daemon.route("ANY", "/locked", &locked, json!({}));
    limit(&daemon, "default", json!({ "requests_per_second": 1 }));
    assert_eq!(daemon.get("/locked").status, 401, "who has no key uses nothing up");
    assert_eq!(daemon.get("/x").text(), "1");
    let refused = until("one too many", || Some(daemon.get("/x")).filter(|answer| answer.status != 200));
    assert_eq!((refused.status, refused.header("retry-after")), (429, Some("1")), "{refused}");
    let said = "this app takes 1 requests a second; slow down, or raise its limit";
    assert_eq!(refused.json(), json!({ "error": said, "reason": "rate_limited" }));
    until("direct calls to be counted too", || {
        (daemon.post(&format!("/api/execute/{script}"), "").status == 429).then_some(())
    });
    assert!(metric(&daemon, "http_rate_limited_total") >= 2);
    for _ in 0..5 {
        assert_eq!(post_other(&daemon, "/x").text(), "2", "another app has its own");
    }
    limit(&daemon, "default", json!({ "requests_per_second": 0 }));
    for _ in 0..5 {
        assert_eq!(daemon.get("/x").text(), "1", "0 is any number");
    }
}

#[test]
fn limits_are_kept_and_checked() {
    let mut daemon =
        Setup::default().set("apps.kv_bytes_max", 100_000_000).set("outbox.rows_max", 50).start();
    let none =
        json!({ "concurrency": null, "requests_per_second": null, "kv_bytes": null, "queue_rows": null });
    let limits = |daemon: &Daemon| daemon.done("GET", "/apps/default", Value::Null)["limits"].clone();
    assert_eq!(limits(&daemon), none);
    let made = daemon.done("POST", "/apps", json!({ "slug": "made", "limits": { "concurrency": 2 } }));
    assert_eq!(made["limits"]["concurrency"], 2);
    limit(&daemon, "default", json!({ "queue_rows": 7, "kv_bytes": 0 }));
    for (wrong, field) in [
        (json!({ "concurrency": 0 }), "limits.concurrency"),
        (json!({ "requests_per_second": 1_000_001 }), "limits.requests_per_second"),
        (json!({ "kv_bytes": 100_000_001 }), "limits.kv_bytes"),
        (json!({ "queue_rows": 51 }), "limits.queue_rows"),
    ] {
        let answer = daemon.api("PATCH", "/apps/default", json!({ "limits": wrong }));
        assert_eq!((answer.status, &answer.json()["field"]), (422, &json!(field)), "{answer}");
        let answer = daemon.api("POST", "/apps", json!({ "slug": "no", "limits": wrong }));
        assert_eq!(answer.status, 422, "{answer}");
    }
    assert_eq!(daemon.api("PATCH", "/apps/default", json!({ "limits": { "rows": 1 } })).status, 422);
    daemon.kill_and_start_again();
    let kept = limits(&daemon);
    assert_eq!(
        (&kept["queue_rows"], &kept["kv_bytes"], &kept["concurrency"]),
        (&json!(7), &json!(0), &Value::Null)
    );
}

#[test]
fn limits_are_set_on_the_command_line() {
    let daemon = Daemon::start();
    let url = daemon.url();
    let env = [("PICLOUD_URL", url.as_str()), ("PICLOUD_API_KEY", crate::harness::KEY)];
    let run = |args: &[&str]| picloud(args, &env);
    let set = run(&["app", "update", "default", "--concurrency", "2", "--queue-rows", "9"]);
    assert_eq!((set.code, set.out.as_str()), (0, "updated app default\n"), "{}", set.err);
    assert!(run(&["app", "show", "default"]).out.contains("concurrency=2 queue_rows=9"));
    let cleared = run(&["app", "update", "default", "--concurrency", "default", "--name", "Mine"]);
    assert_eq!(cleared.code, 0, "{}", cleared.err);
    let shown = run(&["app", "show", "default"]).out;
    assert!(
        shown.contains("Mine") && shown.contains("queue_rows=9") && !shown.contains("concurrency"),
        "{shown}"
    );
    assert_ne!(run(&["app", "update", "default"]).code, 0, "nothing to change");
    assert_ne!(run(&["app", "update", "default", "--kv-bytes", "many"]).code, 0);
    assert!(run(&["app", "update", "default", "--concurrency", "0"]).err.contains("limits.concurrency"));
}
