//! Those who mean harm: slow handshakes, streams that are opened and reset, hellos that are none.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

use super::client::{Client, get};
use super::{curl, root};
use crate::harness::{Daemon, Setup, until};

fn metric(daemon: &Daemon, name: &str) -> u64 {
    let text = daemon.api("GET", "/metrics", Value::Null).text();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name))
        .unwrap_or_else(|| panic!("no {name} in {text}"));
    line.trim().parse().unwrap()
}

#[test]
fn slow_handshakes_keep_nobody_out() {
    let setup = Setup::default().tls().set("tls.handshakes_max", 16).set("tls.handshake_timeout_seconds", 2);
    let daemon = setup.set("server.connections_max", 8).start();
    let (ca, at) = (root(&daemon), daemon.tls_address());
    let mut slow: Vec<TcpStream> = (0..64).map(|_| TcpStream::connect(at).unwrap()).collect();
    for (number, stream) in slow.iter_mut().enumerate() {
        // Some say nothing at all, some the beginning of a record.
        if number % 2 == 0 {
            let _ = stream.write_all(&[22, 3, 1, 2, 0, 1]);
        }
    }
    until("all to be at the door", || {
        let all = metric(&daemon, "picloud_tls_handshakes_waiting")
            + metric(&daemon, "picloud_tls_handshakes_total{outcome=\"evicted\"}");
        (all >= 64).then_some(())
    });
    assert!(metric(&daemon, "picloud_tls_handshakes_waiting") <= 16);
    // There are more of them than places in the house, and than seats at the door.
    for _ in 0..5 {
        assert_eq!(curl(&daemon, "localhost", "/hello/you", &["--cacert", &ca]).code, 0);
    }
    until("the last to be sent away", || {
        (metric(&daemon, "picloud_tls_handshakes_waiting") == 0).then_some(())
    });
    assert!(metric(&daemon, "picloud_tls_handshakes_total{outcome=\"timed_out\"}") >= 8);
    for stream in &mut slow {
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut byte = [0];
        assert!(matches!(stream.read(&mut byte), Ok(0) | Err(_)), "it was let go");
    }
}

/// An HTTP/2 frame (RFC 9113 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// `GET /hello/you` in the static table of RFC 7541, with a literal path and authority.
fn head() -> Vec<u8> {
    let mut block = vec![0x82, 0x87];
    for (index, text) in [(0x04, "/hello/you"), (0x01, "localhost")] {
        block.push(index);
        block.push(u8::try_from(text.len()).unwrap());
        block.extend(text.as_bytes());
    }
    block
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[test]
fn streams_that_are_opened_and_reset_end_their_connection() {
    let daemon = Setup::default().tls().start();
    let root = daemon.get("/api/v1/ca.pem").text();
    let client = Client::new(&root, "h2");
    let before = metric(&daemon, "picloud_executions_total{status=\"success\"}");
    let mut stream = client.connect(daemon.tls_address(), "localhost").unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[])].concat()).unwrap();
    let mut sent = 0;
    // CVE-2023-44487: as many as the client likes, were there no bound.
    let ended = (0..20_000_u32).find_map(|number| {
        let id = 2 * number + 1;
        let pair = [frame(1, 5, id, &head()), frame(3, 0, id, &8_u32.to_be_bytes())].concat();
        sent += 1;
        stream.write_all(&pair).and_then(|()| stream.flush()).err()
    });
    assert!(ended.is_some(), "{sent} streams were opened and reset");
    let ran = metric(&daemon, "picloud_executions_total{status=\"success\"}") - before;
    assert!(ran < 1000, "{ran} of {sent} were run");
    assert_eq!(daemon.get("/hello/you").status, 200);
}

#[test]
fn a_head_that_never_ends_ends_its_connection() {
    let daemon = Setup::default().tls().start();
    let client = Client::new(&daemon.get("/api/v1/ca.pem").text(), "h2");
    let mut stream = client.connect(daemon.tls_address(), "localhost").unwrap();
    stream.write_all(&[PREFACE, &frame(4, 0, 0, &[]), &frame(1, 1, 1, &head())].concat()).unwrap();
    // CVE-2024-27316: CONTINUATION frames without an end.
    let more: Vec<u8> = (0..100).flat_map(|_| [&[0x00, 1, b'a', 100][..], &[b'b'; 100]].concat()).collect();
    let ended = (0..10_000)
        .find_map(|_| stream.write_all(&frame(9, 0, 1, &more)).and_then(|()| stream.flush()).err());
    assert!(ended.is_some());
    assert_eq!(daemon.get("/hello/you").status, 200);
}

#[test]
fn idle_and_stalled_http2_connections_are_let_go() {
    let setup =
        Setup::default().tls().set("server.header_timeout_seconds", 1).set("server.write_timeout_seconds", 1);
    let daemon = setup.start();
    daemon.serve("/large", "let s = \"0123456789\"; for i in 0..14 { s += s; } s");
    let client = Client::new(&daemon.get("/api/v1/ca.pem").text(), "h2");
    let idle = client.connect(daemon.tls_address(), "localhost").unwrap();
    // A window of nothing: the answer can never go out.
    let mut stalled = client.connect(daemon.tls_address(), "localhost").unwrap();
    let settings = frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let mut block = vec![0x82, 0x87, 0x04, 6];
    block.extend(b"/large");
    block.extend([0x01, 9]);
    block.extend(b"localhost");
    stalled.write_all(&[PREFACE, &settings, &frame(1, 5, 1, &block)].concat()).unwrap();
    for mut stream in [idle, stalled] {
        let mut bytes = [0; 4096];
        // Ends once the daemon closes it; the socket's own patience is longer than the test's.
        while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
    }
    until("both to be gone", || (metric(&daemon, "picloud_http_connections ") <= 1).then_some(()));
}

/// A hello that openssl's successors would send, as the bytes of its record.
fn hello() -> Vec<u8> {
    use std::sync::Arc;
    let config =
        rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
    let name = "localhost".try_into().unwrap();
    let mut connection = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).unwrap();
    bytes
}

/// Numbers by chance, the same in every run (Marsaglia's xorshift64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % u64::try_from(end).unwrap()).unwrap()
    }
}

/// One step away from a good hello, or a few.
fn mutated(good: &[u8], chance: &mut Chance) -> Vec<u8> {
    let mut bytes = good.to_vec();
    for _ in 0..=chance.below(4) {
        let at = chance.below(bytes.len());
        match chance.below(5) {
            0 => bytes[at] ^= 1 << chance.below(8),
            1 => bytes[at] = [0, 1, 0x7f, 0x80, 0xff][chance.below(5)],
            2 => bytes.truncate(at.max(1)),
            3 => drop(bytes.splice(at..at, vec![0xff; chance.below(300)])),
            _ => drop(bytes.drain(at..(at + chance.below(20)).min(bytes.len()))),
        }
        if bytes.is_empty() {
            bytes.push(22);
        }
    }
    // Half of them with a length that fits, so that more than the record is read.
    if chance.below(2) == 0 && bytes.len() > 9 {
        let record = u16::try_from(bytes.len() - 5).unwrap_or(u16::MAX).to_be_bytes();
        bytes[3..5].copy_from_slice(&record);
        let body = u32::try_from(bytes.len() - 9).unwrap().to_be_bytes();
        bytes[6..9].copy_from_slice(&body[1..]);
    }
    bytes
}

#[test]
fn no_hello_whatever_its_bytes_does_harm() {
    let daemon = Setup::default().tls().set("tls.handshake_timeout_seconds", 5).start();
    let (ca, at) = (root(&daemon), daemon.tls_address());
    let (good, mut chance) = (hello(), Chance(0x9e37_79b9_7f4a_7c15));
    for _ in 0..3000 {
        let mut stream = TcpStream::connect(at).unwrap();
        let _ = stream.write_all(&mutated(&good, &mut chance));
        // What is cut is not waited for; the rest is answered, with an alert or more.
        let _ = stream.shutdown(std::net::Shutdown::Write);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut answer = [0; 512];
        let _ = stream.read(&mut answer);
    }
    assert_eq!(curl(&daemon, "localhost", "/hello/you", &["--cacert", &ca]).code, 0);
    assert!(metric(&daemon, "picloud_tls_handshakes_total{outcome=\"failed\"}") > 1000);
    let log = daemon.log();
    assert!(!log.contains("panicked"), "{log}");
    let mut stream =
        Client::new(&daemon.get("/api/v1/ca.pem").text(), "http/1.1").connect(at, "localhost").unwrap();
    assert_eq!(get(&mut stream, "localhost", "/hello/you").unwrap(), 200);
}
