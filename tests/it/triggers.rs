//! Triggers: how they are set up, what they make run at the start and after a death, and what a pause holds back.

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, id, picloud, until};

const TRIGGERS: &str = "/apps/default/triggers";

#[track_caller]
fn make(daemon: &Daemon, body: Value) -> String {
    id(&daemon.done("POST", TRIGGERS, body))
}

#[test]
fn each_kind_is_made_shown_changed_and_removed() {
    let daemon = Daemon::start();
    let (script, other) = (daemon.script("1"), daemon.script("2"));
    for (kind, fields, shown, patch) in [
        ("startup", json!({}), json!({ "enabled": true }), json!({ "script_id": other })),
        (
            "kv",
            json!({ "prefix": "tag/", "on": "set" }),
            json!({ "prefix": "tag/", "on": ["set"] }),
            json!({ "on": ["delete", "set"] }),
        ),
        ("kv", json!({}), json!({ "prefix": "", "on": ["set", "delete"] }), json!({ "prefix": "a" })),
        ("queue", json!({ "name": "mail" }), json!({ "queue": "mail" }), json!({ "max_attempts": 3 })),
        (
            "cron",
            json!({ "schedule": "0  7 * * *", "timezone": "Europe/Berlin" }),
            json!({ "schedule": "0 7 * * *", "timezone": "Europe/Berlin", "catch_up": "skip", "overlap": "skip" }),
            json!({ "overlap": "parallel", "catch_up": "all", "schedule": "@hourly" }),
        ),
        (
            "dead_letter",
            json!({ "source_script_id": other }),
            json!({ "source_script_id": other }),
            json!({ "source_script_id": null }),
        ),
    ] {
        let mut body = json!({ "kind": kind, "script_id": script });
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let made = daemon.api("POST", TRIGGERS, body);
        assert_eq!(made.status, 201, "{kind}: {made}");
        let made = made.json();
        assert_eq!((&made["kind"], &made["script_id"]), (&json!(kind), &json!(script)));
        shown
            .as_object()
            .unwrap()
            .iter()
            .for_each(|(name, value)| assert_eq!(&made[name], value, "{kind} {name}"));
        let path = format!("{TRIGGERS}/{}", id(&made));
        assert_eq!(daemon.done("GET", &path, Value::Null), made);
        let changed = daemon.done("PATCH", &path, patch.clone());
        for (name, value) in patch.as_object().unwrap() {
            let value = if name == "on" { &json!(["set", "delete"]) } else { value };
            assert_eq!(&changed[name], value, "{kind} {name}");
        }
        assert_eq!(daemon.all(TRIGGERS), [changed]);
        daemon.done("DELETE", &path, Value::Null);
        assert_eq!(daemon.api("GET", &path, Value::Null).status, 404);
    }
    assert_eq!(daemon.api("PUT", TRIGGERS, json!({})).status, 405);
}

#[test]
fn what_is_wrong_is_named() {
    let daemon = Daemon::start();
    let script = daemon.script("1");
    daemon.done("POST", "/apps", json!({ "slug": "other", "name": "Other" }));
    let foreign = json!({ "name": "theirs", "source": "1" });
    let foreign = id(&daemon.done("POST", "/apps/other/scripts", foreign));
    let cron = |line: &str| json!({ "kind": "cron", "script_id": script, "schedule": line });
    for (body, says) in [
        (json!({ "script_id": script }), "kind: must be kv, cron"),
        (json!({ "kind": "http", "script_id": script }), "kind: must be kv, cron"),
        (json!({ "kind": "moon", "script_id": script }), "kind: "),
        (json!({ "kind": "startup" }), "script_id: is missing"),
        (json!({ "kind": "startup", "script_id": foreign }), "script_id: the app has no script"),
        (json!({ "kind": "startup", "script_id": script, "colour": 1 }), "colour"),
        (
            json!({ "kind": "startup", "script_id": script, "prefix": "a" }),
            "prefix: a trigger of the kind \"startup\"",
        ),
        (json!({ "kind": "cron", "script_id": script }), "schedule: is missing"),
        (
            json!({ "kind": "cron", "script_id": script, "schedule": "@daily", "queue": "q" }),
            "queue: a trigger of",
        ),
        (
            json!({ "kind": "cron", "script_id": script, "schedule": "@daily", "timezone": "Berlin" }),
            "timezone: ",
        ),
        (json!({ "kind": "cron", "script_id": script, "schedule": "@daily", "catch_up": "x" }), "catch_up: "),
        (cron("0 0 30 2 *"), "schedule: \"0 0 30 2 *\" never fires"),
        (cron("soon"), "schedule: is no cron line"),
        (cron("@reboot"), "startup"),
        (json!({ "kind": "kv", "script_id": script, "on": [] }), "on: must name"),
        (json!({ "kind": "kv", "script_id": script, "on": "get" }), "on: "),
        (json!({ "kind": "queue", "script_id": script }), "queue: is missing"),
        (json!({ "kind": "queue", "script_id": script, "queue": "q", "max_attempts": 0 }), "max_attempts: "),
        (
            json!({ "kind": "dead_letter", "script_id": script, "source_script_id": foreign }),
            "source_script_id: ",
        ),
    ] {
        let answer = daemon.api("POST", TRIGGERS, body.clone());
        assert!(
            answer.status == 422 && answer.text().contains(&says.replace('"', "\\\"")),
            "{body}: {answer}"
        );
    }
    assert!(daemon.all(TRIGGERS).is_empty());
    let queue = json!({ "kind": "queue", "script_id": script, "queue": "q" });
    let first = make(&daemon, queue.clone());
    let twin = daemon.api("POST", TRIGGERS, queue);
    assert!(twin.status == 409 && twin.text().contains(&first), "{twin}");
    let path = format!("{TRIGGERS}/{first}");
    assert_eq!(daemon.api("PATCH", &path, json!({ "kind": "kv" })).status, 422);
    assert_eq!(daemon.api("PATCH", &path, json!({ "schedule": "@daily" })).status, 422);
    assert_eq!(daemon.api("GET", &format!("/apps/other/triggers/{first}"), Value::Null).status, 404);
    assert_eq!(daemon.api("GET", &format!("{path}/pause"), Value::Null).status, 405);
}

#[test]
fn each_start_is_told_once() {
    let mut daemon = Daemon::start();
    let script = daemon.script("ctx.event");
    let trigger = make(&daemon, json!({ "kind": "startup", "script_id": script }));
    let paused = daemon.script("1");
    make(&daemon, json!({ "kind": "startup", "script_id": paused, "enabled": false }));
    let runs = |daemon: &Daemon| daemon.all(&format!("/executions?script={script}&status=success"));
    assert!(runs(&daemon).is_empty(), "it had started before");
    for starts in 1..4 {
        if starts == 2 {
            daemon.kill_and_start_again()
        } else {
            daemon.stop_and_start_again()
        }
        let records =
            until("the run of the start", || Some(runs(&daemon)).filter(|records| records.len() == starts));
        let end = daemon.execution(&id(&records[0]));
        let event: Value = serde_json::from_str(end["response_body"].as_str().unwrap()).unwrap();
        assert_eq!(event, json!({ "kind": "startup", "trigger_id": trigger, "reason": "start" }));
        assert_eq!(end["kind"], "startup");
    }
    assert!(daemon.all(&format!("/executions?script={paused}")).is_empty());
}

/// The records of a script's runs that ended so.
#[track_caller]
fn ended(daemon: &Daemon, script: &str, status: &str, count: usize) -> Vec<Value> {
    let found = until(&format!("{count} runs that ended with {status}"), || {
        let records = daemon.all(&format!("/executions?script={script}&status={status}"));
        (records.len() >= count).then_some(records)
    });
    found.iter().map(|record| daemon.execution(&id(record))).collect()
}

#[test]
fn a_dead_letter_is_handled_by_who_asks_for_it() {
    let mut daemon = Daemon::start();
    let told = "#{ event: ctx.event, handler: ctx.is_dead_letter_handler, depth: ctx.trigger_depth, root: ctx.root_execution_id }";
    let [app, own, foreign] = [told; 3].map(|source| daemon.script(source));
    let dies = daemon.serve_async("/dies", "fail(\"no \" + request.body.n)");
    let other = daemon.script("1");
    make(&daemon, json!({ "kind": "dead_letter", "script_id": app }));
    make(&daemon, json!({ "kind": "dead_letter", "script_id": own, "source_script_id": dies }));
    make(&daemon, json!({ "kind": "dead_letter", "script_id": foreign, "source_script_id": other }));
    let execution = daemon.accepted("/dies", "{\"n\":7}");
    for handler in [&app, &own] {
        let record = ended(&daemon, handler, "success", 1).remove(0);
        let body: Value = serde_json::from_str(record["response_body"].as_str().unwrap()).unwrap();
        let (event, letter) = (&body["event"], &daemon.all("/dead-letters")[0]);
        assert_eq!(
            (&body["handler"], &body["depth"], &body["root"]),
            (&json!(true), &json!(1), &json!(execution))
        );
        for (field, value) in [
            ("kind", json!("dead_letter")),
            ("dead_letter_id", letter["id"].clone()),
            ("execution_id", json!(execution)),
            ("script_id", json!(dies)),
            ("reason", json!("permanent")),
            ("attempts", json!(1)),
            ("origin", json!("http")),
            ("payload", json!({ "n": 7 })),
            ("event", Value::Null),
            ("died_at", letter["died_at"].clone()),
        ] {
            assert_eq!(event[field], value, "{field} of {event:#}");
        }
        assert!(event["error"].as_str().unwrap().contains("no 7"), "{event}");
        assert_eq!(record["kind"], "dead_letter");
    }
    daemon.kill_and_start_again();
    // Ends that no flush had taken along are made again.
    until("an empty outbox", || daemon.all("/outbox").is_empty().then_some(()));
    assert!(daemon.all(&format!("/executions?script={foreign}")).is_empty());
    assert_eq!(daemon.all("/dead-letters").len(), 1);
}

#[test]
fn a_handler_that_fails_is_not_handled_in_turn() {
    let daemon = Daemon::start();
    daemon.serve_async("/dies", "fail(1)");
    let handler = daemon.script("fail(\"cannot help\")");
    make(&daemon, json!({ "kind": "dead_letter", "script_id": handler }));
    let first = daemon.accepted("/dies", "");
    let record = ended(&daemon, &handler, "error", 1).remove(0);
    assert!(record["error"].as_str().unwrap().contains("cannot help"), "{record:#}");
    assert_eq!(record["dead_letter_id"], Value::Null);
    let second = daemon.accepted("/dies", "");
    ended(&daemon, &handler, "error", 2);
    let letters = daemon.all("/dead-letters");
    let dead: Vec<&Value> = letters.iter().map(|letter| &letter["execution_id"]).collect();
    assert_eq!(dead, [&json!(second), &json!(first)]);
    assert_eq!(daemon.all(&format!("/executions?script={handler}")).len(), 2);
}

#[test]
fn a_pause_holds_back_what_was_accepted_also_over_a_restart() {
    let mut daemon = Daemon::start();
    let worker = daemon.script("request.body");
    let trigger = make(&daemon, json!({ "kind": "queue", "script_id": worker, "queue": "mail" }));
    daemon.serve("/send", "queue::send(\"mail\", request.body)");
    assert_eq!(daemon.post("/send", "1").status, 200);
    ended(&daemon, &worker, "success", 1);
    let path = format!("{TRIGGERS}/{trigger}");
    daemon.done("POST", &format!("{path}/pause"), Value::Null);
    for n in ["2", "3"] {
        assert_eq!(daemon.post("/send", n).status, 200);
    }
    let witness = daemon.serve_async("/witness", "1");
    for restart in [false, true] {
        if restart {
            daemon.kill_and_start_again();
        }
        daemon.ended(&daemon.accepted("/witness", ""));
        let waiting = daemon.all("/outbox");
        assert_eq!(waiting.len(), 2, "{waiting:#?}");
        assert!(waiting.iter().all(|row| row["trigger_id"] == trigger.as_str()), "{waiting:#?}");
        assert_eq!(daemon.all(&format!("/executions?script={worker}&status=success")).len(), 1);
    }
    daemon.done("PATCH", &path, json!({ "enabled": true }));
    let bodies: Vec<Value> =
        ended(&daemon, &worker, "success", 3).iter().map(|record| record["response_body"].clone()).collect();
    assert!(bodies.contains(&json!("2")) && bodies.contains(&json!("3")), "{bodies:?}");
    assert_eq!(daemon.all(&format!("/executions?script={witness}")).len(), 2);
}

#[test]
fn an_app_takes_its_triggers_along_and_a_script_leaves_them() {
    let mut daemon = Daemon::start();
    daemon.done("POST", "/apps", json!({ "slug": "shop", "name": "Shop" }));
    let script = id(&daemon.done("POST", "/apps/shop/scripts", json!({ "name": "s", "source": "1" })));
    let cron = json!({ "kind": "cron", "script_id": script, "schedule": "* * * * * *" });
    let trigger = id(&daemon.done("POST", "/apps/shop/triggers", cron));
    daemon.done("DELETE", &format!("/apps/shop/scripts/{script}"), Value::Null);
    until("the line about the script", || daemon.log().contains("its script is gone").then_some(()));
    let kept = daemon.done("GET", &format!("/apps/shop/triggers/{trigger}"), Value::Null);
    assert_eq!(kept["script_id"], script.as_str());
    // It can be paused all the same, and given another.
    daemon.done("POST", &format!("/apps/shop/triggers/{trigger}/pause"), Value::Null);
    let other = id(&daemon.done("POST", "/apps/shop/scripts", json!({ "name": "t", "source": "1" })));
    let patch = json!({ "script_id": other, "enabled": true });
    daemon.done("PATCH", &format!("/apps/shop/triggers/{trigger}"), patch);
    ended(&daemon, &other, "success", 1);
    daemon.done("DELETE", "/apps/shop", Value::Null);
    daemon.stop_and_start_again();
    daemon.done("POST", "/apps", json!({ "slug": "shop", "name": "Shop" }));
    assert!(daemon.all("/apps/shop/triggers").is_empty());
}

#[test]
fn the_command_line_does_all_of_it() {
    let daemon = Daemon::start();
    let named = json!({ "name": "report", "source": "ctx.event" });
    daemon.done("POST", "/apps/default/scripts", named);
    let does = |args: &[&str]| {
        let ran = picloud(args, &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", KEY)]);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    };
    let zone = ["--zone", "Europe/Berlin", "--overlap", "queue", "--catch-up", "once"];
    let said = does(&[&["trigger", "add", "--cron", "0 7 * * *", "--script", "report"][..], &zone].concat());
    assert!(said.contains("added cron trigger") && said.contains("strikes next at"), "{said}");
    for (args, kind) in [
        (&["--kv", "tag/", "--on", "set"][..], "kv"),
        (&["--queue", "mail", "--max-attempts", "3"], "queue"),
        (&["--dead-letters", "--of-script", "report"], "dead_letter"),
        (&["--startup", "--paused"], "startup"),
    ] {
        let said = does(&[&["trigger", "add", "--script", "report"][..], args].concat());
        assert!(said.contains(&format!("added {kind} trigger")), "{said}");
    }
    let listed = does(&["trigger", "ls"]);
    for word in ["0 7 * * * Europe/Berlin", "tag/*", "mail", "startup", "report", "NEXT"] {
        assert!(listed.contains(word), "{word} is not in {listed}");
    }
    let cron = daemon.all(TRIGGERS).into_iter().find(|trigger| trigger["kind"] == "cron").unwrap();
    let trigger = id(&cron);
    assert!(does(&["trigger", "pause", &trigger]).contains("paused"));
    assert!(does(&["trigger", "show", &trigger]).contains("0 7 * * *"));
    assert!(does(&["trigger", "resume", &trigger]).contains("resumed"));
    let said = does(&["trigger", "run", &trigger]);
    let execution = said.trim().rsplit(' ').next().unwrap();
    assert_eq!(daemon.ended(execution)["status"], "success");
    assert!(does(&["trigger", "rm", &trigger]).contains("removed"));
    assert_eq!(daemon.all(TRIGGERS).len(), 4);
    let ran = picloud(&["trigger", "add", "--script", "report"], &[("PICLOUD_API_KEY", KEY)]);
    assert_eq!(ran.code, 64, "a trigger has one kind: {}", ran.err);
}
