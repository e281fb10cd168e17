//! The daemon is asked to stop: who is in is served, nobody else gets in, and nothing accepted is lost.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::{Daemon, Setup, until};

fn running(daemon: &Daemon) -> usize {
    daemon.all("/executions?status=running").len()
}

/// Sends SIGTERM and waits until it is heeded.
#[track_caller]
fn terminate(daemon: &Daemon) {
    daemon.process.signal("TERM");
    until("the daemon to stop accepting", || daemon.log().contains("stopping").then_some(()));
}

#[test]
fn requests_in_flight_are_finished() {
    let mut daemon = Daemon::start();
    daemon.serve("/slow", "sleep(1.5); \"done\"");
    let mut calls: Vec<_> = ["GET", "POST"].map(|method| daemon.request(method, "/slow").begin()).into();
    let mut idle = daemon.connect();
    idle.send(daemon.request("GET", "/hello/you").bytes());
    assert_eq!(idle.answer().unwrap().status, 200);
    let mut half = daemon.connect();
    half.send("POST /slow HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n[");
    until("both to run", || (running(&daemon) == 2).then_some(()));
    terminate(&daemon);
    half.send("1]");
    calls.push(half);
    assert!(idle.is_closed(), "a connection without a request is closed");
    until("new connections to be refused", || TcpStream::connect(daemon.address).is_err().then_some(()));
    for call in &mut calls {
        let answer = call.answer().expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "\"done\""));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(call.is_closed());
    }
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0));
    until("the last line", || daemon.log().ends_with("stopped").then_some(()));
}

#[test]
fn a_daemon_that_stops_is_not_ready() {
    let mut daemon = Daemon::start();
    daemon.serve("/slow", "sleep(2); 1");
    let mut slow = daemon.request("GET", "/slow").begin();
    // Its head has begun, so this connection is not idle when the end comes.
    let mut open = daemon.connect();
    open.send("GET /api/v1/ready HTTP/1.1\r\nhost: x\r\n");
    assert_eq!(daemon.request("GET", "/api/v1/ready").send().json()["ready"], true);
    until("the call to run", || (running(&daemon) == 1).then_some(()));
    terminate(&daemon);
    open.send("\r\n");
    let answer = open.answer().expect("who has begun to ask is answered");
    assert_eq!((answer.status, &answer.json()["draining"]), (503, &json!(true)), "{answer}");
    assert_eq!(slow.answer().unwrap().status, 200);
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0));
}

#[test]
fn at_the_end_of_the_grace_waiters_get_503_and_rows_stay() {
    let mut daemon = Setup::default().set("server.drain_grace_seconds", 1).start();
    let script = daemon.script_with("sleep(50)", json!({ "timeout_seconds": 60 }));
    daemon.route("POST", "/now", &script, json!({}));
    daemon.route("POST", "/later", &script, json!({ "dispatch_mode": "async" }));
    let mut waiting = daemon.request("POST", "/now").body("1").begin();
    let id = daemon.accepted("/later", "1");
    until("both to run", || (running(&daemon) == 2).then_some(()));
    let began = Instant::now();
    daemon.process.signal("TERM");
    let answer = waiting.answer().expect("the one who waits is told");
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer}");
    assert_eq!(
        (answer.header("x-error-source"), &answer.json()["reason"]),
        (Some("platform"), &json!("stopping"))
    );
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0));
    assert!(began.elapsed() < Duration::from_secs(15), "the grace is a second");
    daemon.start_again();
    for (id, attempts) in [(&answer.execution_id(), 1), (&id, 0)] {
        // A sync row has one more run after this one; being cut is no attempt of an async row.
        let row = daemon.execution_once(id, "running");
        assert_eq!(row["attempts"], attempts, "{row:#}");
    }
}

#[test]
fn a_row_that_was_cut_runs_after_the_restart() {
    let mut daemon = Setup::default().set("server.drain_grace_seconds", 0).start();
    let script = daemon.serve_async("/later", "sleep(50)");
    let id = daemon.accepted("/later", "[1]");
    daemon.execution_once(&id, "running");
    daemon.done("PATCH", &format!("/apps/default/scripts/{script}"), json!({ "source": "request.body" }));
    daemon.stop_and_start_again();
    let end = daemon.ended(&id);
    let seen = (&end["status"], &end["attempt"], &end["response_body"]);
    assert_eq!(seen, (&json!("success"), &json!(1), &json!("[1]")), "{end:#}");
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut daemon = Daemon::start();
    let script = daemon.script_with("sleep(50)", json!({ "timeout_seconds": 60 }));
    daemon.route("GET", "/slow", &script, json!({}));
    let _slow = daemon.request("GET", "/slow").begin();
    until("the call to run", || (running(&daemon) == 1).then_some(()));
    terminate(&daemon);
    assert!(daemon.process.0.try_wait().unwrap().is_none(), "the grace is 20 s");
    let began = Instant::now();
    // The handler of the second signal is set up just after the first is logged.
    until("the end", || {
        daemon.process.signal_if_alive("INT");
        daemon.process.0.try_wait().unwrap()
    });
    assert!(began.elapsed() < Duration::from_secs(10));
    until("the reason", || daemon.log().contains("at the second signal").then_some(()));
}

#[test]
fn sigint_stops_it_as_sigterm_does() {
    let mut daemon = Daemon::start();
    daemon.process.signal("INT");
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0));
}

#[test]
fn what_was_written_before_the_end_is_there_after_it() {
    let mut daemon = Daemon::start();
    let ids: Vec<String> = (0..10).map(|_| daemon.get("/hello/you").execution_id()).collect();
    daemon.stop_and_start_again();
    for id in ids {
        assert_eq!(daemon.execution(&id)["status"], "success", "the last relaxed records too");
    }
}

#[test]
fn the_tail_of_the_log_ends_with_the_house() {
    let mut daemon = Daemon::start();
    let mut tail = daemon.request("GET", "/api/v1/logs/tail").key(crate::harness::KEY).begin();
    assert_eq!(tail.head().unwrap().status, 200);
    daemon.process.signal("TERM");
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0), "an endless answer does not keep it");
    while tail.line().is_some() {}
}
