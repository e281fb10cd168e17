//! Many callers at once: each gets its own answer, once.

use std::collections::HashSet;
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Daemon, Setup, until};
use crate::http::Connection;

const CONNECTIONS: usize = 200;
const CALLS_EACH: usize = 5;

/// Sends all calls over all connections and checks that each answer is its caller's.
fn storm(daemon: &Daemon, method: &'static str) -> HashSet<String> {
    let address = daemon.address;
    let call = move |connection: usize| {
        let mut guest = Connection::open(address);
        let mut seen = Vec::new();
        for call in 0..CALLS_EACH {
            let unique = connection * CALLS_EACH + call;
            let request = crate::http::Request::new(address, method, &format!("/echo/{unique}"));
            guest.send(request.body(format!("[{unique}]")).bytes());
            let answer = guest.answer().expect("every call is answered");
            assert_eq!(
                answer.json(),
                json!([unique.to_string(), [unique], answer.execution_id()]),
                "{answer}"
            );
            seen.push(answer.execution_id());
        }
        seen
    };
    let callers: Vec<_> = (0..CONNECTIONS).map(|n| thread::spawn(move || call(n))).collect();
    callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect()
}

#[test]
fn a_thousand_calls_have_a_thousand_answers() {
    let daemon = Setup::default().set("log.access", false).start();
    let script = daemon
        .script_with("[request.params.id, request.body, ctx.execution_id]", json!({ "timeout_seconds": 60 }));
    daemon.route("ANY", "/echo/{id}", &script, json!({}));
    let total = CONNECTIONS * CALLS_EACH;
    for (method, calls) in [("GET", total), ("POST", 2 * total)] {
        assert_eq!(storm(&daemon, method).len(), total, "{method}: no execution answered twice");
        let records = daemon.all(&format!("/executions?script={script}&limit=500"));
        let ids: HashSet<&str> = records.iter().map(|record| record["id"].as_str().unwrap()).collect();
        assert_eq!((records.len(), ids.len()), (calls, calls), "{method}: each has one record");
        let delivered = |record: &&Value| record["delivery"] == "delivered" && record["status"] == "success";
        assert_eq!(records.iter().filter(delivered).count(), calls, "{method}");
    }
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    for line in ["picloud_inbox_waiting 0", "picloud_inbox_abandoned_total 0", "picloud_outbox_rows 0"] {
        assert!(metrics.lines().any(|said| said == line), "{line}:\n{metrics}");
    }
}

#[test]
fn a_flood_of_async_work_is_done() {
    let daemon = Setup::default().set("log.access", false).start();
    let script = daemon.serve_async("/x", "request.body");
    let address = daemon.address;
    let flood = move |first: usize| {
        let mut guest = Connection::open(address);
        for n in first..first + 50 {
            guest.send(crate::http::Request::new(address, "POST", "/x").body(n.to_string()).bytes());
            assert_eq!(guest.answer().unwrap().status, 202);
        }
    };
    let callers: Vec<_> = (0..8).map(|n| thread::spawn(move || flood(n * 50))).collect();
    callers.into_iter().for_each(|caller| caller.join().unwrap());
    until("the outbox to be empty", || daemon.all("/outbox").is_empty().then_some(()));
    let records = daemon.all(&format!("/executions?script={script}&limit=500"));
    let answers: HashSet<&str> =
        records.iter().map(|record| record["response_body"].as_str().unwrap()).collect();
    assert_eq!((records.len(), answers.len()), (400, 400));
}

#[test]
fn the_set_up_may_change_under_load() {
    let daemon = Setup::default().set("log.access", false).start();
    let script = daemon.serve("/x", "1");
    let address = daemon.address;
    let caller = thread::spawn(move || {
        let mut guest = Connection::open(address);
        let mut last = 0;
        while last < 20 {
            guest.send(crate::http::Request::new(address, "GET", "/x").bytes());
            let answer = guest.answer().unwrap();
            let now = answer.json().as_u64().unwrap_or_else(|| panic!("{answer}"));
            assert!(now >= last, "an old version after a newer one");
            last = now;
        }
    });
    for version in 2..=20 {
        daemon.done(
            "PATCH",
            &format!("/apps/default/scripts/{script}"),
            json!({ "source": version.to_string() }),
        );
        assert_eq!(daemon.get("/x").text(), version.to_string(), "a change that was answered is in force");
    }
    caller.join().unwrap();
}

#[test]
fn every_bench_is_used() {
    let daemon = Setup::default().set("scripts.threads", 8).set("apps.concurrency", 8).start();
    let script = daemon.script_with("sleep(2); 1", json!({ "timeout_seconds": 60 }));
    daemon.route("ANY", "/slow", &script, json!({}));
    daemon.route("POST", "/later", &script, json!({ "dispatch_mode": "async" }));
    for method in ["GET", "POST"] {
        let began = std::time::Instant::now();
        let mut calls: Vec<_> = (0..8).map(|_| daemon.request(method, "/slow").begin()).collect();
        for call in &mut calls {
            assert_eq!(call.answer().unwrap().text(), "1");
        }
        assert!(
            began.elapsed().as_secs_f64() < 3.9,
            "{method}: some call waited for another: {:?}",
            began.elapsed()
        );
    }
    let began = std::time::Instant::now();
    let ids: Vec<String> = (0..7).map(|_| daemon.accepted("/later", "")).collect();
    for id in ids {
        assert_eq!(daemon.ended(&id)["status"], "success");
    }
    assert!(began.elapsed().as_secs_f64() < 3.9, "some row waited for another: {:?}", began.elapsed());
}

#[test]
fn waiting_for_the_lane_costs_nothing() {
    let daemon = Setup::default().set("scripts.threads", 2).start();
    daemon.serve_async("/long", "sleep(50)");
    let running = daemon.accepted("/long", "");
    daemon.execution_once(&running, "running");
    let queued = daemon.accepted("/long", "");
    // Hundredths of a second of the processor, by proc_pid_stat(5): its 14th and 15th field.
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.process.0.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    };
    let before = ticks();
    let still = daemon.done("GET", &format!("/executions/{queued}?wait=2"), Value::Null);
    assert_eq!(still["status"], "queued", "one bench of two is kept for those who wait");
    assert!(ticks() - before < 60, "{} ticks of 200 were burnt", ticks() - before);
}

#[test]
fn short_runs_do_not_wait_for_long_ones_while_a_bench_is_free() {
    let cores = thread::available_parallelism().unwrap().get();
    let daemon = Setup::default().set("scripts.threads", cores + 6).start();
    daemon.serve("/long", "sleep(4); 1");
    daemon.serve("/short", "1");
    let mut sleepers: Vec<Connection> = (0..cores).map(|_| daemon.request("POST", "/long").begin()).collect();
    until("all cores are taken", || (daemon.all("/executions?status=running").len() == cores).then_some(()));
    for _ in 0..20 {
        let pair = [daemon.request("POST", "/short").begin(), daemon.request("POST", "/short").begin()];
        for mut call in pair {
            assert_eq!(call.answer().unwrap().status, 200);
        }
    }
    let running = daemon.all("/executions?status=running").len();
    assert_eq!(running, cores, "the long runs were to be still under way");
    for sleeper in &mut sleepers {
        assert_eq!(sleeper.answer().unwrap().status, 200);
    }
}
