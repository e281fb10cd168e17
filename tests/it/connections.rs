//! The porch: guests that are slow, rude, or in a hurry.

use std::time::{Duration, Instant};

use crate::harness::{Daemon, Setup, until};

#[test]
fn a_connection_serves_one_request_after_the_other() {
    let daemon = Daemon::start();
    daemon.serve("/n/{n}", "request.params.n");
    let mut connection = daemon.connect();
    for n in 0..20 {
        connection.send(daemon.request("GET", &format!("/n/{n}")).bytes());
        assert_eq!(connection.answer().unwrap().json(), n.to_string());
    }
    connection.send("GET /n/x HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert_eq!(connection.answer().unwrap().json(), "x");
    assert!(connection.is_closed());
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let daemon = Daemon::start();
    daemon.serve("/n/{n}", "if request.params.n == \"0\" { sleep(0.3) } request.params.n");
    let mut connection = daemon.connect();
    let requests: Vec<u8> =
        (0..20).flat_map(|n| daemon.request("POST", &format!("/n/{n}")).body("[1]").bytes()).collect();
    connection.send(requests);
    for n in 0..20 {
        assert_eq!(connection.answer().unwrap().json(), n.to_string());
    }
}

#[test]
fn what_is_no_http_is_400_and_the_end() {
    let daemon = Daemon::start();
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 hello over tls\r\n\r\n"[..],
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"G(T / HTTP/1.1\r\nhost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nx y: z\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
    ] {
        let mut connection = daemon.connect();
        connection.send(garbage);
        let what = String::from_utf8_lossy(garbage);
        let status = connection.answer().map(|answer| answer.status);
        assert_eq!(status, Some(400), "{what}");
        assert!(connection.is_closed(), "{what}");
    }
    assert_eq!(daemon.get("/").status, 200, "the house stands");
}

#[test]
fn heads_are_bounded_in_bytes_and_in_count() {
    let daemon = Setup::default().set("server.headers_max", 10).set("server.header_bytes_max", 16384).start();
    let many: String = (0..11).map(|n| format!("x-{n}: 1\r\n")).collect();
    let long = format!("x-long: {}\r\n", "x".repeat(20_000));
    for headers in [many, long] {
        let mut connection = daemon.connect();
        connection.send(format!("GET / HTTP/1.1\r\nhost: x\r\n{headers}\r\n"));
        assert_eq!(connection.answer().map(|answer| answer.status), Some(431));
        assert!(connection.is_closed());
    }
    let mut connection = daemon.connect();
    connection.send(format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(20_000)));
    let status = connection.answer().map(|answer| answer.status);
    assert!(matches!(status, Some(414 | 431)), "{status:?}");
    let allowed = daemon.request("GET", "/").header("x-long", &"x".repeat(10_000)).send();
    assert_eq!(allowed.status, 200);
}

#[test]
fn who_dawdles_over_a_head_is_let_go() {
    let daemon = Setup::default().set("server.header_timeout_seconds", 1).start();
    let mut silent = daemon.connect();
    let mut slow = daemon.connect();
    slow.send("GET / HTTP/1.1\r\nhost: x\r\n");
    let mut dripping = daemon.connect();
    let began = Instant::now();
    let end = until("the dripping client to be let go", || {
        // Each byte comes in time; the whole head does not.
        dripping.send("x");
        let mut byte = [0];
        dripping.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        dripping.stream.peek(&mut byte).is_ok().then(Instant::now)
    });
    assert!(end - began < Duration::from_secs(15));
    for connection in [&mut silent, &mut slow] {
        while connection.answer().is_some_and(|answer| answer.status == 408) {}
        assert!(connection.is_closed());
    }
    assert_eq!(daemon.get("/").status, 200);
}

#[test]
fn who_never_reads_its_answer_is_let_go() {
    let daemon = Setup::default().set("server.write_timeout_seconds", 1).start();
    let source = r#"let s = "x"; s.pad(200000, "x"); #{ status_code: 200, headers: #{ "content-type": "text/plain" }, body: s }"#;
    daemon.serve("/big", source);
    let metric = || {
        let metrics = daemon.api("GET", "/metrics", serde_json::Value::Null).text();
        let line = metrics.lines().find_map(|line| line.strip_prefix("picloud_http_connections "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let mut greedy = daemon.connect();
    let requests: Vec<u8> = (0..100).flat_map(|_| daemon.request("GET", "/big").bytes()).collect();
    greedy.send(requests);
    until("the answers to stand in the way", || (metric() == 2).then_some(()));
    until("the greedy client to be let go", || (metric() == 1).then_some(()));
    assert_eq!(daemon.get("/").status, 200);
    drop(greedy);
}

#[test]
fn a_full_house_lets_guests_wait_outside() {
    let daemon = Setup::default().set("server.connections_max", 2).start();
    let (first, second) = (daemon.connect(), daemon.connect());
    let mut third = daemon.request("GET", "/").begin();
    third.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(third.stream.peek(&mut [0]).is_err(), "there is no room yet");
    third.stream.set_read_timeout(Some(crate::harness::PATIENCE)).unwrap();
    drop(first);
    assert_eq!(third.answer().unwrap().status, 200);
    drop(second);
}

#[test]
fn expect_continue_is_honoured() {
    let daemon = Daemon::start();
    daemon.serve("/x", "request.body");
    let mut connection = daemon.connect();
    connection.send("POST /x HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(connection.head().unwrap().status, 100);
    connection.send("7");
    assert_eq!(connection.answer().unwrap().text(), "7");
}
