//! What a script may use, and what becomes of one that wants more.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup};
use crate::http::Answer;

fn run(daemon: &Daemon, source: &str, sandbox: Value) -> Answer {
    let script = daemon.script_with(source, json!({ "sandbox": sandbox, "timeout_seconds": 20 }));
    daemon.post(&format!("/api/execute/{script}"), "")
}

#[test]
fn greedy_scripts_end_and_the_house_stands() {
    let daemon = Daemon::start();
    for (source, status, reason, says) in [
        ("loop {}", 507, "operations", "5000000 operations"),
        ("fn f() { f() } f()", 502, "runtime", "deeper than 32 levels"),
        ("let f = |f| f.call(f); f.call(f)", 502, "runtime", ""),
        ("let s = \"x\"; loop { s += s }", 502, "runtime", "longer than 262144 bytes"),
        ("let s = \"x\"; s.pad(100000000, \"x\")", 502, "runtime", "longer than 262144 bytes"),
        (
            "let s = \"aaaa\"; s.pad(200000, \"a\"); s.replace(\"a\", s)",
            502,
            "runtime",
            "longer than 262144 bytes",
        ),
        ("let a = []; loop { a.push(1) }", 502, "runtime", "more than 10000 items"),
        ("blob(100000000)", 502, "runtime", "more than 10000 items"),
        ("let m = #{}; for i in 0..100000 { m[`k${i}`] = `${i}`; } m", 507, "memory", "memory"),
        (
            "let a = []; for i in 0..99 { let s = \"\"; s.pad(20000, \"x\"); a.push(s) }",
            502,
            "runtime",
            "longer than 262144 bytes",
        ),
        (
            "fn f() { let s = \"\"; s.pad(260000, \"x\"); let t = s + \"\"; t += \"y\"; f(); } f()",
            507,
            "memory",
            "bytes of memory",
        ),
        ("throw #{ deep: [1, #{ a: () }] }", 502, "runtime", r#"{"deep":[1,{"a":null}]}"#),
        ("throw || 1", 502, "runtime", "Runtime error"),
        ("let m = #{}; m.f = || m; m", 422, "validation", "has no JSON form"),
        ("|| 1", 422, "validation", "holds a closure"),
        ("1 / 0", 502, "runtime", "Division by zero"),
        ("9223372036854775807 + 1", 502, "runtime", "overflow"),
    ] {
        let answer = run(&daemon, source, json!({}));
        assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)), "{source}: {answer}");
        assert!(answer.error().contains(says), "{source}: {answer}");
        let record = daemon.execution(&answer.execution_id());
        let ended = if status == 507 { "budget_exceeded" } else { "error" };
        assert_eq!(record["status"], ended, "{source}");
    }
    assert_eq!(daemon.get("/hello/you").json()["hello"], "you");
    assert!(!daemon.log().contains("ERROR"), "a script's failure is not the house's");
}

#[test]
fn what_sleeps_or_matches_for_long_ends_in_time() {
    let daemon = Daemon::start();
    let began = Instant::now();
    for source in ["sleep(1000000)", "try { sleep(1000) } catch { } 1", "[1].for_each(|| sleep(1000))"] {
        let script = daemon.script_with(source, json!({ "timeout_seconds": 1 }));
        let answer = daemon.post(&format!("/api/execute/{script}"), "");
        assert_eq!(answer.status, 504, "{source}: {answer}");
    }
    assert!(began.elapsed() < Duration::from_secs(15));
}

#[test]
fn a_script_may_have_more_or_less() {
    let daemon = Daemon::start();
    for (source, sandbox, status) in [
        ("for i in 0..1000 {}", json!({ "max_operations": 100 }), 507),
        ("for i in 0..1000 {}", json!({}), 200),
        ("let s = \"\"; s.pad(300000, \"x\"); s.len()", json!({}), 502),
        ("let s = \"\"; s.pad(300000, \"x\"); s.len()", json!({ "max_string_bytes": 400_000 }), 200),
        ("let a = []; a.pad(11000, 1); a.len()", json!({}), 502),
        ("let a = []; a.pad(11000, 1); a.len()", json!({ "max_array_items": 20_000 }), 200),
        ("let m = #{ a: 1, b: 2, c: 3 }; m.d = 4; m", json!({ "max_map_entries": 3 }), 502),
        ("fn f(n) { if n == 0 { 0 } else { f(n - 1) } } f(40)", json!({}), 502),
        ("fn f(n) { if n == 0 { 0 } else { f(n - 1) } } f(40)", json!({ "max_call_levels": 60 }), 200),
        (
            "fn f(n) { let s = \"\"; s.pad(4000, \"x\"); if n == 0 { 1 } else { f(n - 1) } } f(30)",
            json!({ "max_memory_bytes": 65_536 }),
            507,
        ),
    ] {
        let answer = run(&daemon, source, sandbox.clone());
        assert_eq!(answer.status, status, "{source} {sandbox}: {answer}");
    }
}

#[test]
fn nobody_may_have_more_than_the_device_gives() {
    let daemon = Setup::default().set("scripts.ceilings.max_operations", 6_000_000).start();
    let script = daemon.script("1");
    for (sandbox, says) in [
        (
            json!({ "max_operations": 6_000_001 }),
            "sandbox.max_operations is 6000001; this device allows 1 to 6000000",
        ),
        (json!({ "max_memory_bytes": 67_108_865 }), "sandbox.max_memory_bytes is 67108865"),
        (json!({ "max_string_bytes": 4_194_305 }), "sandbox.max_string_bytes is 4194305"),
        (json!({ "max_array_items": 100_001 }), "sandbox.max_array_items is 100001"),
        (json!({ "max_map_entries": 50_001 }), "sandbox.max_map_entries is 50001"),
        (json!({ "max_call_levels": 65 }), "sandbox.max_call_levels is 65"),
        (json!({ "max_operations": 0 }), "sandbox.max_operations is 0"),
        (json!({ "max_operations": -1 }), "sandbox.max_operations"),
        (json!({ "max_colours": 1 }), "max_colours"),
    ] {
        let new = json!({ "name": "greedy", "source": "1", "sandbox": sandbox });
        let created = daemon.api("POST", "/apps/default/scripts", new);
        let patched =
            daemon.api("PATCH", &format!("/apps/default/scripts/{script}"), json!({ "sandbox": sandbox }));
        for answer in [created, patched] {
            assert_eq!(answer.status, 422, "{answer}");
            assert!(answer.error().contains(says), "{answer}");
        }
    }
    for (timeout, status) in [(1, 201), (300, 201), (0, 422), (301, 422), (70_000, 422)] {
        let new = json!({ "name": format!("t{timeout}"), "source": "1", "timeout_seconds": timeout });
        let answer = daemon.api("POST", "/apps/default/scripts", new);
        assert_eq!(answer.status, status, "{timeout}: {answer}");
        assert!(status == 201 || answer.error().contains("timeout_seconds"), "{answer}");
    }
}
