//! Proxies in front of the device: who is believed, and who is not.

use std::io::{Read, Write};
use std::net::TcpStream;

use serde_json::json;

use crate::harness::{Daemon, KEY, Setup, until};

fn with_client(setup: Setup) -> Daemon {
    let daemon = setup.start();
    daemon.serve("/who", "run::client()");
    daemon
}

#[test]
fn a_trusted_proxy_tells_the_client_and_others_do_not() {
    let trusted = with_client(Setup::default().set("proxies.trust", "127.0.0.0/8"));
    let ask = |daemon: &Daemon, forwarded: &str| {
        daemon.request("GET", "/who").header("x-forwarded-for", forwarded).send().json()
    };
    assert_eq!(ask(&trusted, "203.0.113.7"), json!("203.0.113.7"));
    assert_eq!(ask(&trusted, "8.8.8.8, 203.0.113.7"), json!("203.0.113.7"));
    until("the line", || trusted.log().contains("client=203.0.113.7").then_some(()));
    let plain = with_client(Setup::default());
    assert_eq!(ask(&plain, "203.0.113.7"), json!("127.0.0.1"));
    let by_rfc =
        with_client(Setup::default().set("proxies.trust", "127.0.0.1").set("proxies.header", "forwarded"));
    let answer =
        by_rfc.request("GET", "/who").header("forwarded", "for=\"[2001:db8::1]:4711\";proto=https").send();
    assert_eq!(answer.json(), json!("2001:db8::1"));
    // A run that was accepted for later knows it, too.
    let script = trusted.script("kv::set(\"who\", run::client())");
    trusted.route("POST", "/later", &script, json!({ "dispatch_mode": "async" }));
    let answer = trusted.request("POST", "/later").header("x-forwarded-for", "203.0.113.9").send();
    trusted.ended(answer.json()["execution_id"].as_str().unwrap());
    assert_eq!(trusted.done("GET", "/apps/default/kv/who", json!(null))["value"], "203.0.113.9");
}

#[test]
fn management_looks_at_the_real_peer_and_at_the_client() {
    let daemon = Setup::default().set("proxies.trust", "127.0.0.0/8").start();
    let ask = |forwarded: &str| {
        daemon.request("GET", "/api/v1/apps").key(KEY).header("x-forwarded-for", forwarded).send().status
    };
    assert_eq!(ask("192.168.1.9"), 200);
    assert_eq!(ask("203.0.113.7"), 403, "who comes from afar does not get in by way of a near proxy");
    assert_eq!(ask("192.168.1.9, 203.0.113.7"), 403, "nor by what it says itself");
    // Without trust it is only the peer that counts.
    let daemon = Daemon::start();
    let answer =
        daemon.request("GET", "/api/v1/apps").key(KEY).header("x-forwarded-for", "203.0.113.7").send();
    assert_eq!(answer.status, 200);
}

fn raw(daemon: &Daemon, parts: &[&[u8]]) -> String {
    let mut stream = TcpStream::connect(daemon.address).unwrap();
    for part in parts {
        stream.write_all(part).unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let mut text = String::new();
    let _ = stream.read_to_string(&mut text);
    text
}

#[test]
fn the_proxy_protocol_names_the_client_of_a_connection() {
    let setup = Setup::default().set("proxies.trust", "127.0.0.1").set("proxies.protocol", true);
    // The tests' own requests come from elsewhere, and begin as usual.
    let daemon = Setup::default().set("proxies.trust", "127.0.0.2").set("proxies.protocol", true).start();
    assert_eq!(daemon.get("/hello/you").status, 200);
    let daemon = setup.set("server.header_timeout_seconds", 2).start();
    let ask = b"GET /hello/you HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    let one = b"PROXY TCP4 203.0.113.7 192.0.2.1 4711 443\r\n";
    assert!(raw(&daemon, &[one, ask]).starts_with("HTTP/1.1 200"));
    // In pieces, and as one.
    assert!(raw(&daemon, &[&one[..9], &one[9..], ask]).starts_with("HTTP/1.1 200"));
    assert!(raw(&daemon, &[&[&one[..], ask].concat()]).starts_with("HTTP/1.1 200"));
    until("the line", || daemon.log().contains("client=203.0.113.7").then_some(()));
    let mut two = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    two.extend([203, 0, 113, 8, 192, 0, 2, 1, 0x12, 0x67, 1, 0xbb]);
    assert!(raw(&daemon, &[&two, ask]).starts_with("HTTP/1.1 200"));
    until("the line", || daemon.log().contains("client=203.0.113.8").then_some(()));
    // A proxy that speaks for itself, as health checks do.
    assert!(raw(&daemon, &[b"PROXY UNKNOWN\r\n", ask]).starts_with("HTTP/1.1 200"));
    let manage = format!(
        "GET /api/v1/apps HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {KEY}\r\nconnection: close\r\n\r\n"
    );
    assert!(raw(&daemon, &[one, manage.as_bytes()]).starts_with("HTTP/1.1 403"));
    // Whoever should announce somebody and does not is not let in.
    for nonsense in [&ask[..], b"PROXY TCP4 a b c d\r\n", b"PROXY TCP4 203.0.113.7", &[0; 64], &[b'x'; 5000]]
    {
        assert_eq!(raw(&daemon, &[nonsense]), "", "{nonsense:?}");
    }
    assert!(raw(&daemon, &[one, ask]).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_proxy_that_ends_tls_is_not_sent_round_in_circles() {
    let daemon = Setup::default().tls().set("proxies.trust", "127.0.0.1").start();
    daemon.done("POST", "/apps/default/domains", json!({ "pattern": "pi.lan", "tls": "local" }));
    let ask = |proto: &str| {
        let request =
            daemon.request("GET", "/hello/you").host("pi.lan").header("x-forwarded-for", "192.168.1.9");
        request.header("x-forwarded-proto", proto).send().status
    };
    assert_eq!((ask("http"), ask("https")), (308, 200));
}
