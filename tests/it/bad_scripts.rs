//! Scripts that take too much, go in circles or ask for nonsense: each ends with a clear answer, leaves nothing behind,
//! and the house stands. What they may call is in `egress`, what they may use up in `limits`.

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, id, until};
use crate::http::Answer;

/// A daemon with a second app, which nothing that happens to the first may bother.
fn house(setup: Setup) -> Daemon {
    let daemon = setup.start();
    daemon.done("POST", "/apps", json!({ "slug": "other" }));
    daemon.done("POST", "/apps/other/domains", json!({ "pattern": "other.test" }));
    let script = json!({ "name": "counts", "source": "kv::incr(\"n\")" });
    let script = id(&daemon.done("POST", "/apps/other/scripts", script));
    let route = json!({ "method": "POST", "path": "/count", "script_id": script });
    daemon.done("POST", "/apps/other/routes", route);
    daemon
}

/// The daemon is ready, serves both apps, and has no fault of its own to report.
#[track_caller]
fn stands(daemon: &Daemon, after: &str) {
    assert_eq!(daemon.get("/api/v1/ready").status, 200, "after {after}");
    assert_eq!(daemon.get("/hello/you").json()["hello"], "you", "after {after}");
    let counted = daemon.request("POST", "/count").host("other.test").send();
    assert!(counted.status == 200 && counted.json().as_i64() > Some(0), "after {after}: {counted}");
    assert!(!daemon.log().contains("ERROR"), "after {after}");
}

fn run(daemon: &Daemon, source: &str) -> Answer {
    let script = daemon.script_with(source, json!({ "timeout_seconds": 30 }));
    daemon.post(&format!("/api/execute/{script}"), "")
}

#[track_caller]
fn queue(daemon: &Daemon, name: &str, script: &str) {
    let trigger = json!({ "kind": "queue", "queue": name, "script_id": script });
    daemon.done("POST", "/apps/default/triggers", trigger);
}

/// All dead letters, once there are so many and all work is over.
#[track_caller]
fn dead(daemon: &Daemon, count: usize) -> Vec<Value> {
    let letters = until("the dead letters", || {
        let letters = daemon.all("/dead-letters?limit=500");
        (letters.len() >= count && daemon.all("/outbox").is_empty()).then_some(letters)
    });
    assert_eq!(letters.len(), count);
    letters
}

#[test]
fn what_wants_too_much_is_told_and_leaves_nothing() {
    let daemon = house(Setup::default());
    queue(&daemon, "mail", &daemon.script("kv::set(\"came\", 1)"));
    let text = "let text = \"\"; text.pad(200_000, \"x\"); ";
    for (source, status, reason, says) in [
        ("for n in 0..50 { kv::set(`big/${n}`, text); }", 502, "runtime", "at most 4194304 bytes"),
        ("let s = text; let a = [s]; a.pad(5, s); kv::set(\"big\", a)", 502, "runtime", ""),
        ("for n in 0..10_000 { kv::set(`n/${n}`, n); }", 502, "runtime", "at most 1000 values"),
        ("kv::set(\"a\", 1); kv::list(\"\", #{ limit: 1_000_000 })", 502, "runtime", "from 1 to 1000"),
        ("kv::set(\"a\", 1); kv::list(\"\", #{ limit: -1 })", 502, "runtime", "from 1 to 1000"),
        (
            "for n in 0..10_000 { queue::send(\"mail\", n); }",
            502,
            "runtime",
            "at most 1000 messages and runs",
        ),
        ("for n in 0..50 { queue::send(\"mail\", text); }", 502, "runtime", "at most 4194304 bytes"),
        ("kv::set(\"a\", 1); kv::set(\"a\\x00b\", 1)", 502, "runtime", "has a control character"),
        ("kv::set(\"a\", 1); kv::get(\"a\\x00b\")", 502, "runtime", "has a control character"),
        ("kv::set(text.sub_string(0, 65_536), 1)", 502, "runtime", "at most 512"),
        ("kv::get(text.sub_string(0, 65_536))", 502, "runtime", "at most 512"),
        ("kv::list(text)", 502, "runtime", "at most 512"),
        ("kv::list(\"\\x00\")", 502, "runtime", "has a control character"),
        ("kv::set(\"\", 1)", 502, "runtime", "is empty"),
        ("kv::set(\"a\", || 1)", 502, "runtime", "closure"),
        ("queue::send(\"mail\", 1, #{ key: text })", 502, "runtime", "a text of 1 to 256 bytes"),
        ("queue::send(text, 1)", 502, "runtime", "name"),
        ("queue::send(\"ma\\x00il\", 1)", 502, "runtime", "name"),
        ("queue::send(\"mail\", 1, #{ delay: 1e300 })", 502, "runtime", "delay must be"),
        ("run::call(text, 1)", 502, "runtime", "has no script"),
        ("let o = #{}; o[text] = 1; queue::send(\"mail\", 1, o)", 502, "runtime", "there is no option"),
        ("run::start(\"ghost\", 1)", 502, "runtime", "has no script"),
        ("kv::set(\"a\", 1); loop { kv::get(\"a\"); }", 507, "operations", "operations"),
        ("kv::set(\"a\", 1); sleep(1000)", 504, "timeout", ""),
    ] {
        let timeout = if status == 504 { 1 } else { 20 };
        let fields = json!({ "timeout_seconds": timeout, "sandbox": { "max_operations": 100_000 } });
        let script = daemon.script_with(&format!("{text}{source}"), fields);
        let answer = daemon.post(&format!("/api/execute/{script}"), "");
        assert_eq!((answer.status, &answer.json()["reason"]), (status, &json!(reason)), "{source}: {answer}");
        assert!(answer.error().contains(says), "{source}: {answer}");
        assert!(answer.body.len() < 2_000, "{source}: an error is no place for all of it");
        stands(&daemon, source);
    }
    assert!(daemon.all("/apps/default/kv").is_empty() && daemon.all("/outbox").is_empty());
    // What a script catches is its own affair: the rest of it counts.
    let caught = run(&daemon, "try { kv::set(\"\", 1); } catch { kv::set(\"b\", 2); } kv::get(\"b\")");
    assert_eq!((caught.status, caught.text()), (200, "2".to_owned()));
    assert_eq!(daemon.all("/apps/default/kv").len(), 1);
}

#[test]
fn answers_of_a_hundred_megabytes_are_not_made() {
    let daemon = house(Setup::default());
    let text = "let text = \"\"; text.pad(250_000, \"x\"); ";
    for (source, status) in [
        // The same text many times over: small for the script, large for who sends it.
        ("let a = []; for n in 0..400 { a.push(#{ n: text }); } a", 502),
        ("let m = #{}; for n in 0..400 { m[`k${n}`] = text; } m", 507),
        ("let s = text; for n in 0..10 { s += s; } s", 502),
        ("let a = [text]; for n in 0..9 { let b = a; a = [b, b]; } a", 502),
        ("template::render(\"{{#a}}{{t}}{{/a}}\", #{ a: [1, 2, 3], t: text })", 502),
    ] {
        let answer = run(&daemon, &format!("{text}{source}"));
        assert_eq!(answer.status, status, "{source}: {answer}");
        assert!(answer.body.len() < 2_000, "{source}");
        stands(&daemon, source);
    }
}

#[test]
fn what_changes_while_it_is_read_stays_whole() {
    let daemon = house(Setup::default());
    for (source, gives) in [
        ("let a = [1, 2, 3]; for x in a { a.push(x); } a", json!([1, 2, 3, 1, 2, 3])),
        ("let a = [1, 2, 3]; for x in a { a.clear(); } a", json!([])),
        (
            "let m = #{ a: 1, b: 2 }; for k in m.keys() { m.remove(k); m[k + k] = 1; } m",
            json!({ "aa": 1, "bb": 1 }),
        ),
        ("let t = \"abc\"; for c in t.chars() { t += c; } t", json!("abcabc")),
        ("let a = [3, 1, 2]; let n = 0; a.sort(|x, y| { n += 1; x - y }); a", json!([1, 2, 3])),
        (
            "for n in 0..9 { kv::set(`p/${n}`, n); } for i in kv::list(\"p/\").items { kv::delete(i.key); kv::set(\"q/\" + i.value, 1); } [kv::list(\"p/\").items.len(), kv::list(\"q/\").items.len()]",
            json!([0, 9]),
        ),
    ] {
        let answer = run(&daemon, source);
        assert_eq!((answer.status, answer.json()), (200, gives), "{source}: {answer}");
        stands(&daemon, source);
    }
}

#[test]
fn many_keys_are_read_in_pages() {
    let daemon = house(Setup::default());
    let fill = "for n in 0..1000 { kv::set(`k/${request.body}/${n}`, n); }";
    daemon.serve("/fill", fill);
    for part in 0..3 {
        assert_eq!(daemon.post("/fill", &part.to_string()).status, 200);
    }
    let all = "let n = 0; let c = (); do { let p = kv::list(\"k/\", #{ limit: 1000, cursor: c }); n += p.items.len(); c = p.cursor; } while c != (); n";
    for (source, gives) in [
        ("kv::list(\"k/\", #{ limit: 1000 }).items.len()", 1000),
        ("kv::list(\"k/\").items.len()", 100),
        (all, 3000),
    ] {
        let answer = run(&daemon, source);
        assert_eq!(answer.text(), gives.to_string(), "{source}");
    }
    stands(&daemon, "reading them");
}

#[test]
fn an_app_that_is_full_takes_no_more_from_scripts() {
    let daemon = house(Setup::default());
    daemon.done("PATCH", "/apps/default", json!({ "limits": { "kv_bytes": 1_000_000 } }));
    let fill =
        "let t = \"\"; t.pad(200_000, \"x\"); kv::set(\"first\", 1); for n in 0..10 { kv::set(`${n}`, t); }";
    let answer = run(&daemon, fill);
    assert!(matches!(answer.status, 502 | 507) && answer.error().contains("1000000"), "{answer}");
    assert!(daemon.all("/apps/default/kv").is_empty());
    stands(&daemon, "it was full");
    assert_eq!(run(&daemon, "kv::set(\"small\", 1)").status, 200);
}

#[test]
fn a_script_that_posts_to_its_own_route_ends() {
    let daemon = house(Setup::default());
    daemon.done("PATCH", "/apps/default", json!({ "egress": { "networks": ["127.0.0.0/8"] } }));
    let url = format!("{}/circle", daemon.url());
    let source = format!(
        "kv::incr(`runs/${{ctx.trigger_depth}}`); let res = http::post({url:?}, 1); #{{ depth: ctx.trigger_depth, below: res.json, status: res.status }}"
    );
    let script = daemon.script_with(&source, json!({ "timeout_seconds": 30 }));
    daemon.route("POST", "/circle", &script, json!({}));
    let answer = daemon.post("/circle", "1");
    assert_eq!(answer.status, 200, "{answer}");
    let (mut run, mut depth) = (answer.json(), 0);
    while run["status"] == 200 {
        assert_eq!(run["depth"], depth);
        (run, depth) = (run["below"].clone(), depth + 1);
    }
    assert_eq!((&run["depth"], depth, &run["status"]), (&json!(8), 8, &json!(502)), "{answer}");
    assert_eq!(run["below"]["reason"], "depth_exceeded", "{answer}");
    stands(&daemon, "a circle of calls");

    let url = format!("{}/spiral", daemon.url());
    let source = format!("kv::set(`spiral/${{ctx.trigger_depth}}`, http::post({url:?}, 1).status)");
    daemon.serve_async("/spiral", &source);
    daemon.accepted("/spiral", "1");
    let letter = &dead(&daemon, 1)[0];
    assert_eq!(
        (&letter["reason"], &letter["trigger_depth"]),
        (&json!("depth_exceeded"), &json!(9)),
        "{letter}"
    );
    let runs = daemon.all("/apps/default/kv?prefix=spiral/");
    assert_eq!(runs.len(), 9, "the first and the eight that it led to: {runs:?}");
    assert!(runs.iter().all(|run| run["value"] == 202), "{runs:?}");
    stands(&daemon, "a spiral of accepted calls");
}

/// A script that sets itself off so many times over each time ends at the same depth by every way.
#[track_caller]
fn check_circle(way: &str, source: &str, runs: i64, letters: usize, begin: impl Fn(&Daemon)) {
    let daemon = house(Setup::default());
    let script = daemon.script_with(source, json!({ "name": "circle" }));
    queue(&daemon, "circle", &script);
    if way.starts_with("kv") {
        let trigger = json!({ "kind": "kv", "prefix": "own/", "script_id": script });
        daemon.done("POST", "/apps/default/triggers", trigger);
    }
    begin(&daemon);
    stands(&daemon, way);
    for letter in dead(&daemon, letters) {
        assert_eq!(letter["reason"], "depth_exceeded", "{way}: {letter}");
    }
    assert_eq!(daemon.done("GET", "/apps/default/kv/runs", Value::Null)["value"], runs, "{way}");
    stands(&daemon, way);
}

#[test]
fn what_sets_itself_off_ends() {
    let send = |daemon: &Daemon| assert_eq!(run(daemon, "queue::send(\"circle\", 1)").status, 200);
    let start = |daemon: &Daemon| assert_eq!(run(daemon, "run::start(\"circle\", 1)").status, 200);
    let set = |daemon: &Daemon| assert_eq!(run(daemon, "kv::set(\"own/first\", 1)").status, 200);
    let by_hand =
        |daemon: &Daemon| drop(daemon.done("PUT", "/apps/default/kv/own/first", json!({ "value": 1 })));
    check_circle("queue", "kv::incr(\"runs\"); queue::send(\"circle\", 1)", 8, 1, send);
    check_circle("run", "kv::incr(\"runs\"); run::start(\"circle\", 1)", 8, 1, start);
    check_circle("kv", "kv::incr(\"runs\"); kv::incr(\"own/count\")", 8, 1, set);
    check_circle("kv by hand", "kv::incr(\"runs\"); kv::incr(\"own/count\")", 8, 1, by_hand);
    // Two for each: 1 + 2 + .. + 128 runs, and 256 that were not.
    check_circle(
        "kv doubling",
        "kv::incr(\"runs\"); kv::incr(\"own/a\"); kv::incr(\"own/b\")",
        255,
        256,
        set,
    );
}
