//! A messenger whose world is one server, for tests: whatever name is looked up is a listener of this process.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;

use super::resolve::Lookup;
use super::{ChainKey, Messenger, Net, Rules, Settings, tls};
use crate::model::Egress;

/// Bounds that no test runs into by chance.
pub(super) fn settings(roots: Option<Vec<u8>>) -> Settings {
    Settings { calls_max: 8, answer_bytes_max: 1024 * 1024, connect_time_max: Duration::from_secs(9), roots }
}

/// A messenger that looks names up by `lookup`, under one set of rules.
pub(super) fn messenger_by(settings: Settings, lookup: Lookup, egress: Egress) -> Messenger {
    let tls = tls::config(settings.roots.as_deref()).unwrap();
    let net = Arc::new(Net { settings, lookup, tls, key: ChainKey::new([7; 32]) });
    Messenger { net, rules: Rules::Fixed(egress), under_way: Arc::default() }
}

/// A messenger to whom every name is a server that answers, over TLS, with what it was asked. Made once.
pub(in crate::script) fn messenger() -> Messenger {
    static MADE: OnceLock<Messenger> = OnceLock::new();
    MADE.get_or_init(|| {
        let (address, roots) = echo();
        let lookup = Lookup::by(move |host, port| {
            Ok(vec![host.parse::<IpAddr>().map_or(address, |ip| SocketAddr::new(ip, port))])
        });
        let egress = serde_json::from_str(r#"{"networks":["127.0.0.0/8"]}"#).unwrap();
        messenger_by(settings(Some(roots)), lookup, egress)
    })
    .clone()
}

/// Starts the server; its address, and its certificate in PEM.
fn echo() -> (SocketAddr, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(["api.example.org".to_owned()]).unwrap();
    let pem = made.cert.pem().into_bytes();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let config = Arc::new(config);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let connection = ServerConnection::new(config.clone()).unwrap();
            thread::spawn(move || answer(StreamOwned::new(connection, socket)));
        }
    });
    (address, pem)
}

fn answer(mut stream: StreamOwned<ServerConnection, TcpStream>) {
    let mut seen = Vec::new();
    let (head, length) = loop {
        let mut chunk = [0; 4096];
        // Whoever refuses our certificate goes away.
        let Ok(count) = stream.read(&mut chunk) else { return };
        seen.extend_from_slice(&chunk[..count]);
        let text = String::from_utf8_lossy(&seen).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = value(head, "content-length").map_or(0, |length| length.parse().unwrap());
            if body.len() >= length {
                break (head.to_owned(), length);
            }
        }
        if count == 0 {
            return;
        }
    };
    let mut words = head.split(' ');
    let (method, path) = (words.next().unwrap(), words.next().unwrap());
    let body = String::from_utf8_lossy(&seen[seen.len() - length..]);
    let said = json!({ "method": method, "path": path, "type": value(&head, "content-type"), "body": body });
    let said = said.to_string();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        said.len()
    );
    let _ = stream.write_all(format!("{head}{said}").as_bytes());
    stream.conn.send_close_notify();
    let _ = stream.flush();
}

fn value<'h>(head: &'h str, name: &str) -> Option<&'h str> {
    head.lines()
        .filter_map(|line| line.split_once(": "))
        .find(|(key, _)| key.eq_ignore_ascii_case(name))
        .map(|(_, v)| v)
}
