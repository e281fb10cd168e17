//! The file becomes small again by itself, while the daemon serves.

use std::fs;

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, until};

/// A file of which most is free: dead letters that were purged.
fn bloat(daemon: &Daemon) -> u64 {
    daemon.serve_async("/dies", "fail(\"x\")");
    let body = format!("\"{}\"", "x".repeat(200_000));
    let ids: Vec<String> = (0..100).map(|_| daemon.accepted("/dies", &body)).collect();
    ids.iter().for_each(|id| assert_eq!(daemon.ended(id)["status"], "error"));
    daemon.done("POST", "/dead-letters/purge", json!({}));
    file_bytes(daemon)
}

fn file_bytes(daemon: &Daemon) -> u64 {
    fs::metadata(daemon.data_dir().join("picloud.redb")).unwrap().len()
}

fn compactions(daemon: &Daemon) -> u64 {
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix("picloud_store_compactions_total "));
    line.unwrap().parse().unwrap()
}

#[test]
fn a_file_that_is_mostly_free_becomes_small_and_holds_all_it_held() {
    let mut daemon = Setup::default().set("dead_letters.bytes_max", 256 * 1024 * 1024).start();
    let big = bloat(&daemon);
    assert!(big > 15_000_000, "{big}");
    let before = (daemon.all("/executions"), daemon.all("/apps"), daemon.all("/apps/default/scripts"));
    until("the compaction", || {
        // Who only reads does not keep it from being idle.
        assert_eq!(daemon.api("GET", "/ready", Value::Null).status, 200);
        (compactions(&daemon) == 1).then_some(())
    });
    let small = file_bytes(&daemon);
    assert!(small < big / 4, "{big} bytes became {small}");
    assert!(!daemon.data_dir().join("picloud.redb.compact").exists());
    let after = |daemon: &Daemon| {
        (daemon.all("/executions"), daemon.all("/apps"), daemon.all("/apps/default/scripts"))
    };
    assert_eq!(after(&daemon), before);
    let id = daemon.accepted("/dies", "1");
    assert_eq!(daemon.ended(&id)["status"], "error");
    daemon.kill_and_start_again();
    assert_eq!(daemon.execution(&id)["status"], "error");
    assert_eq!(daemon.all("/dead-letters").len(), 1);
    assert_eq!(daemon.all("/executions").len(), before.0.len() + 1);
}

#[test]
fn what_an_interrupted_compaction_left_is_removed() {
    let mut daemon = Daemon::start();
    daemon.kill();
    let leftover = daemon.data_dir().join("picloud.redb.compact");
    fs::write(&leftover, "half a copy").unwrap();
    daemon.start_again();
    assert!(!leftover.exists());
    assert_eq!(daemon.get("/hello/you").status, 200);
}
