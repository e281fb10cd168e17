//! Old files: a store of every schema that was ever released opens, and holds what it held.
//!
//! The fixtures in `tests/fixtures` were written by the release that had their schema. To add the one of a new
//! schema: `cargo test --test it -- --ignored write_the_fixture_of_this_schema`.

use std::fs;
use std::path::{Path, PathBuf};

use picloud::store::SCHEMA;
use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, Setup, TempDir};

fn fixture(schema: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/schema-{schema}.redb.zst"))
}

fn setup() -> Setup {
    // What failed when the fixture was written fails again, and must still wait when the file is looked at.
    Setup::default().set("outbox.backoff_base_ms", 3_600_000).set("outbox.backoff_max_seconds", 86_400)
}

/// Everything that a store can hold.
fn furnish(daemon: &Daemon) {
    daemon.done("POST", "/apps", json!({ "slug": "boat", "name": "The boat" }));
    daemon.done("POST", "/apps/boat/domains", json!({ "pattern": "*.boat.example" }));
    daemon.done("POST", "/keys", json!({ "name": "a key" }));
    daemon.done("POST", "/users", json!({ "email": "ada@example.org", "password": "correct horse" }));
    let script = daemon.script_with("1", json!({ "timeout_seconds": 7 }));
    for source in ["2", "3"] {
        daemon.done("PATCH", &format!("/apps/default/scripts/{script}"), json!({ "source": source }));
    }
    daemon.done("POST", &format!("/apps/default/scripts/{script}/rollback"), json!({ "version": 2 }));
    daemon.route("GET", "/two/{x}", &script, json!({ "durability": "strict", "access": "key" }));
    for number in 0..5 {
        assert_eq!(daemon.get(&format!("/hello/{number}")).status, 200);
    }
    daemon.serve_async("/dies", "fail(\"for good\")");
    daemon.serve_async("/waits", "throw \"later\"");
    for path in ["/dies", "/dies"] {
        daemon.ended(&daemon.accepted(path, "[1, 2]"));
    }
    for body in ["{\"n\": 1}", "\"text\"", "null"] {
        let id = daemon.accepted("/waits", body);
        daemon.execution_once(&id, "retrying");
    }
}

#[test]
#[ignore = "writes the fixture of the schema that this source has"]
fn write_the_fixture_of_this_schema() {
    let mut daemon = setup().start();
    furnish(&daemon);
    daemon.process.signal("TERM");
    daemon.process.wait("the daemon");
    let file = fs::read(daemon.data_dir().join("picloud.redb")).unwrap();
    let packed = zstd::encode_all(file.as_slice(), 19).unwrap();
    fs::write(fixture(SCHEMA), packed).unwrap();
}

#[track_caller]
fn check(schema: u32) {
    let dir = TempDir::new();
    fs::create_dir_all(dir.path().join("data")).unwrap();
    let packed = fs::read(fixture(schema)).unwrap();
    fs::write(dir.path().join("data/picloud.redb"), zstd::decode_all(packed.as_slice()).unwrap()).unwrap();
    let mut daemon = setup().start_in(dir);
    for _ in 0..2 {
        let slugs: Vec<Value> = daemon.all("/apps").into_iter().map(|app| app["slug"].clone()).collect();
        assert_eq!(slugs, ["boat", "default"]);
        assert_eq!(daemon.all("/apps/boat/domains")[0]["pattern"], "*.boat.example");
        assert!(daemon.all("/keys").iter().any(|key| key["name"] == "a key"));
        let users: Vec<Value> = daemon.all("/users").into_iter().map(|user| user["email"].clone()).collect();
        assert_eq!(users, if schema < 5 { vec![] } else { vec![json!("ada@example.org")] });
        let scripts = daemon.all("/apps/default/scripts");
        let script = scripts.iter().find(|script| script["timeout_seconds"] == 7).unwrap();
        let path = format!("/apps/default/scripts/{}", crate::harness::id(script));
        let script = daemon.done("GET", &path, Value::Null);
        assert_eq!((&script["source"], &script["active_version"]), (&json!("2"), &json!(2)));
        assert_eq!(daemon.all(&format!("{path}/versions")).len(), 3);
        let answer = daemon.request("GET", "/two/x").key(KEY).send();
        assert_eq!((answer.status, answer.text().as_str()), (200, "2"));
        assert_eq!(daemon.get("/two/x").status, 401);
        let letters = daemon.all("/dead-letters");
        assert_eq!(letters.len(), 2);
        let for_good = |error: &Value| error.as_str().is_some_and(|text| text.starts_with("for good"));
        assert!(letters.iter().all(|letter| for_good(&letter["attempts"][0]["error"])), "{letters:#?}");
        let records = daemon.all("/executions?status=error");
        assert_eq!(records.iter().filter(|record| for_good(&record["error"])).count(), 2);
        assert!(daemon.all("/executions?status=success").len() >= 5);
        // A call of a moment ago runs once more after the kill, and may not be over.
        let mut waiting = daemon.all("/outbox");
        waiting.retain(|row| row["sync"] == false);
        assert_eq!(waiting.len(), 3, "{waiting:#?}");
        assert!(waiting.iter().all(|row| row["attempts"].as_u64() >= Some(1)), "{waiting:#?}");
        daemon.kill_and_start_again();
    }
    let letter = crate::harness::id(&daemon.all("/dead-letters")[0]);
    daemon.done("POST", &format!("/dead-letters/{letter}/redrive"), json!({ "version": "active" }));
}

#[test]
fn a_copy_is_put_aside_before_the_schema_changes() {
    let dir = TempDir::new();
    fs::create_dir_all(dir.path().join("data")).unwrap();
    let old = zstd::decode_all(fs::read(fixture(1)).unwrap().as_slice()).unwrap();
    fs::write(dir.path().join("data/picloud.redb"), &old).unwrap();
    let mut daemon = setup().start_in(dir);
    let copy = daemon.data_dir().join("picloud.redb.schema-1");
    daemon.stop_and_start_again();
    let kept = fs::read(&copy).unwrap();
    // Whoever goes back starts the older release on it; this one can only do the step once more.
    let again = TempDir::new();
    fs::create_dir_all(again.path().join("data")).unwrap();
    fs::write(again.path().join("data/picloud.redb"), &kept).unwrap();
    let second = setup().start_in(again);
    assert_eq!(second.all("/dead-letters").len(), 2);
    assert!(second.data_dir().join("picloud.redb.schema-1").exists());
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}

#[test]
fn a_store_of_every_schema_opens() {
    (1..=SCHEMA).for_each(check);
}
