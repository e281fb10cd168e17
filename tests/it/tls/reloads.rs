//! Certificates change under load, and nobody notices.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;

use serde_json::json;

use super::Signer;
use super::client::{Client, get};
use crate::harness::{RaisedAtEnd, Setup};

#[test]
fn a_thousand_reloads_under_load_fail_no_request() {
    let daemon = Setup::default().tls().set("log.access", false).start();
    let signer = Signer::new("Own");
    let made: Vec<_> = (0..20).map(|days| signer.server(&["pi.example.org"], 30 + days)).collect();
    let bring = |number: usize| {
        let made = &made[number % made.len()];
        let body = json!({ "certificate": made.chain, "private_key": made.key });
        daemon.done("POST", "/certs", body)["id"].as_str().unwrap().to_owned()
    };
    let mut last = bring(0);
    let (client, at) = (Client::new(&signer.pem(), "http/1.1"), daemon.tls_address());
    let (over, served, kept) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        let _over = RaisedAtEnd(&over);
        for _ in 0..2 {
            // New connections, each of which is shown whatever is in place.
            scope.spawn(|| {
                while !over.load(Relaxed) {
                    let mut stream = client.connect(at, "pi.example.org").unwrap();
                    assert_eq!(get(&mut stream, "pi.example.org", "/hello/you").unwrap(), 200);
                    served.fetch_add(1, Relaxed);
                }
            });
        }
        // One that was there before, and stays.
        scope.spawn(|| {
            let mut stream = client.connect(at, "pi.example.org").unwrap();
            while !over.load(Relaxed) {
                assert_eq!(get(&mut stream, "pi.example.org", "/hello/you").unwrap(), 200);
                kept.fetch_add(1, Relaxed);
            }
        });
        for number in 1..=1000 {
            let id = bring(number);
            if number % made.len() == 0 {
                // The first one again, which ends before the others: those go by hand.
                daemon.done("DELETE", &format!("/certs/{last}"), serde_json::Value::Null);
            }
            last = id;
        }
    });
    let (served, kept) = (served.load(Relaxed), kept.load(Relaxed));
    println!("1000 reloads: {served} new connections and {kept} requests of an old one, none failed");
    assert!(served > 100 && kept > 100, "{served} {kept}");
}
