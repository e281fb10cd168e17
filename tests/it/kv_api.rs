//! Values over the management API and the command line: what scripts see, and what scripts are told of it.

use std::fs;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, Setup, TempDir, picloud, until};
use crate::http::Answer;

#[track_caller]
fn put(daemon: &Daemon, key: &str, body: Value) -> Answer {
    daemon.api("PUT", &format!("/apps/default/kv/{key}"), body)
}

#[track_caller]
fn get(daemon: &Daemon, key: &str) -> Value {
    daemon.done("GET", &format!("/apps/default/kv/{key}"), Value::Null)
}

#[test]
fn what_the_api_sets_scripts_read_and_the_other_way_round() {
    let mut daemon = Daemon::start();
    daemon.serve("/get/{*key}", "kv::get(request.rest)");
    daemon.serve("/set", "kv::set(\"by/script\", #{ n: 1 }); kv::incr(\"hits\")");
    let made = put(&daemon, "user/7", json!({ "value": { "name": "Ada" } }));
    assert_eq!(made.status, 201, "{made}");
    let entry = made.json();
    assert_eq!((&entry["key"], &entry["value"]["name"]), (&json!("user/7"), &json!("Ada")));
    assert_eq!((entry["expires_at"].is_null(), entry["version"].as_u64() > Some(0)), (true, true), "{entry}");
    assert_eq!(get(&daemon, "user/7"), entry);
    assert_eq!(daemon.get("/get/user/7").json(), json!({ "name": "Ada" }));
    assert_eq!(daemon.post("/set", "null").json(), 1);
    assert_eq!(get(&daemon, "by/script")["value"], json!({ "n": 1 }));
    let again = put(&daemon, "hits", json!({ "value": 41 }));
    assert_eq!(again.status, 200, "{again}");
    assert_eq!(daemon.post("/set", "null").json(), 42);
    daemon.kill_and_start_again();
    assert_eq!(get(&daemon, "user/7"), entry, "accepted is on the card");
    assert_eq!(get(&daemon, "hits")["value"], 42);
    daemon.done("DELETE", "/apps/default/kv/user/7", Value::Null);
    assert_eq!(daemon.get("/get/user/7").json(), Value::Null);
    assert_eq!(daemon.api("GET", "/apps/default/kv/user/7", Value::Null).status, 404);
    assert_eq!(daemon.api("DELETE", "/apps/default/kv/user/7", Value::Null).status, 404);
}

#[test]
fn any_text_may_be_a_key_and_any_json_a_value() {
    let daemon = Daemon::start();
    for (path, key) in [
        ("a", "a"),
        ("a/b//c", "a/b//c"),
        ("with%20blank", "with blank"),
        ("%D0%BA%D0%BB%D1%8E%D1%87", "ключ"),
        ("a%2Fb", "a/b"),
        ("100%25", "100%"),
        ("q%3Fx=y", "q?x=y"),
        ("+", "+"),
    ] {
        assert_eq!(put(&daemon, path, json!({ "value": key })).status, 201, "{path}");
        let found = get(&daemon, path);
        assert_eq!((&found["key"], &found["value"]), (&json!(key), &json!(key)));
    }
    for value in [json!(null), json!(false), json!(-1.5), json!("a \"b\" \n"), json!([1, [2, {}]]), json!({})]
    {
        put(&daemon, "value", json!({ "value": value }));
        assert_eq!(get(&daemon, "value")["value"], value);
    }
}

#[test]
fn what_cannot_be_kept_is_refused_and_changes_nothing() {
    let daemon = Daemon::start();
    let large = "x".repeat(1024 * 1024 - 2);
    assert_eq!(put(&daemon, "large", json!({ "value": large })).status, 201, "a MiB with its quotes");
    for (method, path, body, status, says) in [
        ("PUT", "/a", json!({ "value": format!("{large}x") }), 413, "at most 1048576"),
        ("PUT", "/a", json!({ "value": format!("{large}{large}{large}{large}x") }), 413, ""),
        ("PUT", "/a", json!({}), 422, "missing field `value`"),
        ("PUT", "/a", json!({ "value": 1, "tll": 1 }), 422, "unknown field `tll`"),
        ("PUT", "/a", json!({ "value": 1, "ttl": 0 }), 422, "ttl: must be 1 to"),
        ("PUT", "/a", json!({ "value": 1, "ttl": 400_000_000 }), 422, "ttl: must be 1 to"),
        ("PUT", "/a", json!({ "value": 1, "ttl": -1 }), 422, "ttl"),
        ("PUT", "/a", json!({ "value": 1, "if_version": "x" }), 422, "if_version"),
        ("PUT", "/", json!({ "value": 1 }), 422, "key: is empty"),
        ("PUT", "/a%00b", json!({ "value": 1 }), 422, "key: has a control character"),
        ("PUT", "/a%FF", json!({ "value": 1 }), 422, "key: must be UTF-8"),
        ("PUT", &*format!("/{}", "k".repeat(513)), json!({ "value": 1 }), 422, "at most 512"),
        ("GET", "/a", Value::Null, 404, "value not found: a"),
        ("PATCH", "/a", json!({}), 405, "GET, PUT, DELETE"),
        ("POST", "", json!({}), 405, "GET"),
        ("DELETE", "/a?if_version=x", Value::Null, 422, "if_version"),
        ("GET", "?limit=0", Value::Null, 422, "limit"),
        ("GET", "?prefix=%00", Value::Null, 422, "prefix"),
    ] {
        let answer = daemon.api(method, &format!("/apps/default/kv{path}"), body);
        assert_eq!(answer.status, status, "{method} {path}: {answer}");
        assert!(answer.error().contains(says), "{method} {path}: {answer}");
    }
    assert_eq!(daemon.api("PUT", "/apps/none/kv/a", json!({ "value": 1 })).status, 404);
    assert_eq!(daemon.get("/api/v1/apps/default/kv").status, 401);
    assert_eq!(daemon.all("/apps/default/kv").len(), 1);
}

#[test]
fn versions_keep_writers_from_each_other() {
    let daemon = Daemon::start();
    let path = "/apps/default/kv/lock";
    assert_eq!(put(&daemon, "lock", json!({ "value": 1, "if_version": 7 })).status, 409);
    let first = put(&daemon, "lock", json!({ "value": 1, "if_version": 0 }));
    assert_eq!(first.status, 201, "{first}");
    let taken = put(&daemon, "lock", json!({ "value": 2, "if_version": 0 }));
    assert!(taken.status == 409 && taken.error().contains("has version"), "{taken}");
    let version = first.json()["version"].as_u64().unwrap();
    let second = put(&daemon, "lock", json!({ "value": 2, "if_version": version })).json();
    assert!(second["version"].as_u64().unwrap() > version, "{second}");
    assert_eq!(daemon.api("DELETE", &format!("{path}?if_version={version}"), Value::Null).status, 409);
    let version = second["version"].as_u64().unwrap();
    assert_eq!(daemon.api("DELETE", &format!("{path}?if_version={version}"), Value::Null).status, 204);
    assert_eq!(daemon.api("DELETE", &format!("{path}?if_version={version}"), Value::Null).status, 409);
    // A counter over the API: who lost reads again.
    put(&daemon, "count", json!({ "value": 0 }));
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    until("a turn at the counter", || {
                        let found = get(&daemon, "count");
                        let next = found["value"].as_i64().unwrap() + 1;
                        let body = json!({ "value": next, "if_version": found["version"] });
                        (put(&daemon, "count", body).status == 200).then_some(())
                    });
                }
            });
        }
    });
    assert_eq!(get(&daemon, "count")["value"], 40);
}

#[test]
fn values_expire() {
    let daemon = Daemon::start();
    let made = put(&daemon, "soon", json!({ "value": 1, "ttl": 1 }));
    assert!(made.json()["expires_at"].is_string(), "{made}");
    put(&daemon, "later", json!({ "value": 1, "ttl": 1000 }));
    until("the value to expire", || {
        (daemon.api("GET", "/apps/default/kv/soon", Value::Null).status == 404).then_some(())
    });
    let keys: Vec<_> = daemon.all("/apps/default/kv").iter().map(|item| item["key"].clone()).collect();
    assert_eq!(keys, ["later"]);
    assert_eq!(put(&daemon, "soon", json!({ "value": 2, "if_version": 0 })).status, 201);
}

#[test]
fn lists_go_by_prefix_and_page() {
    let daemon = Daemon::start();
    daemon.serve("/fill", "for n in 0..60 { kv::set(`item/${n}`, n); } kv::set(\"other\", 1);");
    daemon.post("/fill", "null");
    let all = daemon.all("/apps/default/kv?prefix=item/&limit=7");
    let keys: Vec<_> = all.iter().map(|item| item["key"].as_str().unwrap()).collect();
    assert_eq!(keys.len(), 60);
    assert!(keys.is_sorted() && keys.iter().all(|key| key.starts_with("item/")), "{keys:?}");
    assert_eq!(daemon.all("/apps/default/kv?limit=17").len(), 61);
    assert!(daemon.all("/apps/default/kv?prefix=none").is_empty());
    // A page of large values ends early, and the list goes on.
    let large = "x".repeat(1_000_000);
    for number in 0..20 {
        put(&daemon, &format!("large/{number}"), json!({ "value": large }));
    }
    let page = daemon.done("GET", "/apps/default/kv?prefix=large/&limit=500", Value::Null);
    assert!(page["items"].as_array().unwrap().len() < 20 && page["next_cursor"].is_string());
    assert_eq!(daemon.all("/apps/default/kv?prefix=large/").len(), 20);
    daemon.done("POST", "/apps", json!({ "slug": "other" }));
    assert!(daemon.all("/apps/other/kv").is_empty(), "each app has its own");
}

#[test]
fn an_app_that_keeps_as_much_as_it_may_is_told_so() {
    let daemon = Setup::default().set("log.access", false).start();
    let large = "x".repeat(1024 * 1024 - 2);
    let full = (0..80).find_map(|number| {
        let answer = put(&daemon, &format!("n{number}"), json!({ "value": large }));
        (answer.status != 201).then_some(answer)
    });
    let full = full.expect("80 MiB do not fit");
    assert_eq!((full.status, &full.json()["reason"]), (507, &json!("kv_full")), "{full}");
    daemon.done("DELETE", "/apps/default/kv/n0", Value::Null);
    until("the room of the deleted one", || {
        (put(&daemon, "again", json!({ "value": 1 })).status < 300).then_some(())
    });
}

#[test]
fn the_command_line_keeps_values() {
    let daemon = Daemon::start();
    let dir = TempDir::new();
    let run = |args: &[&str]| picloud(args, &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", KEY)]);
    let done = |args: &[&str]| {
        let ran = run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    };
    assert!(done(&["kv", "ls"]).contains("no such values"));
    for (value, printed) in
        [("hello", "\"hello\""), ("{\"a\": [1]}", "{\"a\":[1]}"), ("-5", "-5"), ("true", "true")]
    {
        assert!(done(&["kv", "set", "user/7", value]).starts_with("set value user/7 of app default"));
        assert_eq!(done(&["kv", "get", "user/7"]), format!("{printed}\n"));
    }
    done(&["kv", "set", "user/7", "7", "--text"]);
    let entry: Value = serde_json::from_str(&done(&["kv", "get", "user/7", "--json"])).unwrap();
    assert_eq!(entry["value"], "7");
    let taken = run(&["kv", "set", "user/7", "8", "--if-version", "0"]);
    assert!(taken.code == 1 && taken.err.contains("has version"), "{}", taken.err);
    done(&["kv", "set", "short lived", "1", "--ttl", "1h"]);
    assert!(!get(&daemon, "short%20lived")["expires_at"].is_null());
    assert_eq!(run(&["kv", "set", "x", "1", "--ttl", "soon"]).code, 64);
    let listed = done(&["kv", "list", "--prefix", "user/"]);
    assert!(listed.contains("user/7") && !listed.contains("short lived"), "{listed}");
    let file = dir.path().join("values.jsonl").to_str().unwrap().to_owned();
    done(&["kv", "export", &file]);
    let lines = fs::read_to_string(&file).unwrap();
    assert_eq!(lines.lines().count(), 2, "{lines}");
    assert_eq!(done(&["kv", "export", "-"]), lines);
    done(&["kv", "rm", "user/7"]);
    assert_eq!(run(&["kv", "get", "user/7"]).code, 1);
    let over = "{\"key\":\"over\",\"value\":1,\"expires_at\":\"2020-01-01T00:00:00Z\"}\n";
    fs::write(&file, format!("{lines}\n{over}")).unwrap();
    assert!(done(&["kv", "import", &file]).contains("imported 2 values into app default; 1 had expired"));
    assert_eq!(get(&daemon, "user/7")["value"], "7");
    assert!(!get(&daemon, "short%20lived")["expires_at"].is_null(), "it still expires");
    fs::write(&file, "{\"key\":\"a\",\"value\":1}\nnonsense\n").unwrap();
    let broken = run(&["kv", "import", &file]);
    assert!(broken.code == 1 && broken.err.contains("values.jsonl:2:"), "{}", broken.err);
}

#[test]
fn values_are_in_backups() {
    let daemon = Daemon::start();
    put(&daemon, "stays", json!({ "value": [1, 2] }));
    put(&daemon, "expires", json!({ "value": 1, "ttl": 1000 }));
    let before = daemon.all("/apps/default/kv");
    let backup = crate::backups::make(&daemon);
    put(&daemon, "stays", json!({ "value": 0 }));
    put(&daemon, "later", json!({ "value": 0 }));
    daemon.done("POST", "/restore", json!({ "backup_id": backup["id"] }));
    until("the restored store", || {
        (daemon.done("GET", "/restore", Value::Null)["state"] == "served").then_some(())
    });
    assert_eq!(daemon.all("/apps/default/kv"), before);
    let version = before[1]["version"].as_u64().unwrap();
    let again = put(&daemon, "stays", json!({ "value": 3, "if_version": version }));
    assert!(again.json()["version"].as_u64().unwrap() > version, "{again}");
}
