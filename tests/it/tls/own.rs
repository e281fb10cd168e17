//! Certificates that the operator brings, by the API and as files.

use std::fs;

use serde_json::{Value, json};

use super::{Signer, certs, curl, shown};
use crate::harness::{Daemon, KEY, Setup, picloud, until};

fn bring(daemon: &Daemon, chain: &str, key: &str) -> crate::http::Answer {
    daemon.api("POST", "/certs", json!({ "certificate": chain, "private_key": key }))
}

#[test]
fn an_own_certificate_is_served_for_its_names() {
    let mut daemon = Setup::default().tls().start();
    let signer = Signer::new("Own");
    let ca = daemon.dir().file("own.pem", &signer.pem());
    let made = signer.server(&["pi.example.org", "*.boat.example.org", "10.9.8.7"], 90);
    let added = bring(&daemon, &made.chain, &made.key);
    assert_eq!(added.status, 201, "{added}");
    let added = added.json();
    assert_eq!(added["names"], json!(["*.boat.example.org", "10.9.8.7", "pi.example.org"]));
    assert_eq!((&added["source"], &added["state"]), (&json!("pem"), &json!("active")));
    assert!(added.get("private_key").is_none() && !added.to_string().contains("PRIVATE"));
    // A name that has its own is not ordered from anybody.
    daemon.done("POST", "/apps/default/domains", json!({ "pattern": "pi.example.org" }));
    assert!(certs(&daemon).iter().all(|cert| cert["source"] != "acme"));
    for _ in 0..2 {
        for host in ["pi.example.org", "a.boat.example.org"] {
            let ran = curl(&daemon, host, "/hello/you", &["--cacert", &ca]);
            assert!(ran.code == 0 && ran.out.contains("you"), "{host}: {}", ran.err);
        }
        // A wildcard stands for one label.
        assert_eq!(curl(&daemon, "a.b.boat.example.org", "/", &["--cacert", &ca]).code, 60);
        daemon.kill_and_start_again();
    }
    // The same by the command line, and a successor replaces it.
    let next = signer.server(&["pi.example.org", "*.boat.example.org", "10.9.8.7"], 120);
    let (chain, key) = (daemon.dir().file("c.pem", &next.chain), daemon.dir().file("k.pem", &next.key));
    let url = daemon.url();
    let env = [("PICLOUD_URL", url.as_str()), ("PICLOUD_API_KEY", KEY)];
    let ran = picloud(&["cert", "add", &chain, "--key", &key], &env);
    assert!(ran.code == 0 && ran.out.contains("pi.example.org"), "{}{}", ran.out, ran.err);
    let brought: Vec<Value> = certs(&daemon).into_iter().filter(|cert| cert["source"] == "pem").collect();
    assert_eq!(brought.len(), 1, "{brought:#?}");
    assert_ne!(brought[0]["id"], added["id"]);
    assert_eq!(fs::read_dir(daemon.data_dir().join("tls/own")).unwrap().count(), 1);
    let ran = picloud(&["cert", "renew", "pi.example.org"], &env);
    assert!(ran.code == 1 && ran.err.contains("cert add"), "{}", ran.err);
    let ran = picloud(&["cert", "rm", brought[0]["id"].as_str().unwrap()], &env);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(curl(&daemon, "pi.example.org", "/", &["--cacert", &ca]).code, 60);
}

#[test]
fn what_cannot_be_served_is_refused_with_the_reason() {
    let daemon = Setup::default().tls().start();
    daemon.done("POST", "/apps", json!({ "slug": "only" }));
    daemon.done("POST", "/apps/only/domains", json!({ "pattern": "pi.example.org" }));
    let all = daemon.all("/apps/default/domains");
    daemon.done("DELETE", &format!("/apps/default/domains/{}", crate::harness::id(&all[0])), Value::Null);
    let (signer, other) = (Signer::new("Own"), Signer::new("Other"));
    let good = signer.server(&["pi.example.org"], 30);
    let over = signer.server(&["pi.example.org"], -3);
    let strange = signer.server(&["pi.example.com"], 30);
    let nameless = signer.server(&[], 30);
    let chained = format!("{}{}", good.chain, other.pem());
    let key = &good.key;
    let cut = &good.chain[..good.chain.len() / 2];
    let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    for (chain, key, why) in [
        ("", key.as_str(), "no certificate"),
        ("nonsense", key, "no certificate"),
        (cut, key, "no PEM"),
        (&good.chain, "", "no private key"),
        (&good.chain, &locked, "no private key"),
        (&good.chain, &strange.key, "another certificate"),
        (&good.chain, &format!("{key}{}", strange.key), "2 private keys"),
        (&over.chain, &over.key, "expired at"),
        (&strange.chain, &strange.key, "no app claims"),
        (&nameless.chain, &nameless.key, "names no host"),
        (&chained, key, "did not sign"),
        (&good.chain.repeat(11), key, "at most 10"),
        (&format!("\u{feff}{}", good.chain), "", "no private key"),
    ] {
        let answer = bring(&daemon, chain, key);
        assert_eq!(answer.status, 422, "{why}: {answer}");
        assert!(answer.error().contains(why), "{why}: {answer}");
        assert!(!answer.text().contains("PRIVATE KEY-----\n"), "{answer}");
    }
    assert_eq!(bring(&daemon, &"x".repeat(2 * 1024 * 1024), "").status, 413);
    assert_eq!(daemon.api("POST", "/certs", json!({})).status, 422);
    assert_eq!(daemon.api("DELETE", "/certs/nobody", Value::Null).status, 404);
    assert_eq!(daemon.api("POST", "/certs/nobody/renew", Value::Null).status, 404);
    assert!(certs(&daemon).iter().all(|cert| cert["source"] != "pem"));
    assert_eq!(bring(&daemon, &good.chain, key).status, 201, "and what is good is taken");
    // In whatever order the parts stand.
    let chained = format!("{}{}{}", good.key, good.chain, signer.pem());
    assert_eq!(bring(&daemon, &chained, "").status, 201);
}

#[test]
fn files_are_watched_and_a_bad_one_changes_nothing() {
    let dir = crate::harness::TempDir::new();
    let signer = Signer::new("Own");
    let live = dir.path().join("live");
    fs::create_dir(&live).unwrap();
    let put = |days| {
        let made = signer.server(&["pi.example.org"], days);
        fs::write(live.join("fullchain.pem"), &made.chain).unwrap();
        fs::write(live.join("privkey.pem"), &made.key).unwrap();
    };
    put(30);
    let daemon = Setup::default().tls().set("tls.files", live.to_str().unwrap()).start();
    let ca = daemon.dir().file("own.pem", &signer.pem());
    assert_eq!(curl(&daemon, "pi.example.org", "/hello/you", &["--cacert", &ca]).code, 0);
    let before = shown(daemon.tls_address(), "pi.example.org");
    fs::write(live.join("fullchain.pem"), "nonsense").unwrap();
    let bad = until("the bad file to be seen", || {
        certs(&daemon).into_iter().find(|cert| cert["source"] == "pem" && cert["last_error"].is_string())
    });
    assert!(bad["last_error"].as_str().unwrap().contains("no certificate"), "{bad}");
    assert_eq!(shown(daemon.tls_address(), "pi.example.org"), before, "what was good is served on");
    put(60);
    until("the new file to be served", || {
        (shown(daemon.tls_address(), "pi.example.org") != before).then_some(())
    });
    assert_eq!(curl(&daemon, "pi.example.org", "/hello/you", &["--cacert", &ca]).code, 0);
    let id = certs(&daemon).iter().find(|cert| cert["source"] == "pem").unwrap()["id"].clone();
    let answer = daemon.api("DELETE", &format!("/certs/{}", id.as_str().unwrap()), Value::Null);
    assert!(answer.status == 409 && answer.error().contains("tls.files"), "{answer}");
}

#[test]
fn a_file_that_is_bad_at_the_start_is_told_and_served_once_it_is_good() {
    let dir = crate::harness::TempDir::new();
    let file = dir.path().join("both.pem");
    let daemon = Setup::default().tls().set("tls.files", file.to_str().unwrap()).start();
    assert!(daemon.log().contains("both.pem is not served: "), "{}", daemon.log());
    assert_eq!(daemon.get("/hello/you").status, 200);
    let signer = Signer::new("Own");
    let ca = daemon.dir().file("own.pem", &signer.pem());
    let made = signer.server(&["pi.example.org"], 30);
    fs::write(&file, format!("{}{}", made.key, made.chain)).unwrap();
    until("the file to be served", || {
        (curl(&daemon, "pi.example.org", "/hello/you", &["--cacert", &ca]).code == 0).then_some(())
    });
}

#[test]
fn an_end_that_is_near_is_told_everywhere() {
    let daemon = Setup::default().tls().start();
    assert_eq!(daemon.get("/api/v1/ready").json()["certificates"], "ok");
    let made = Signer::new("Own").server(&["pi.example.org"], 13);
    bring(&daemon, &made.chain, &made.key);
    let ready = daemon.get("/api/v1/ready").json();
    assert!(ready["certificates"][0].as_str().unwrap().contains("pi.example.org ends at"), "{ready}");
    assert_eq!(ready["ready"], true, "it is served all the same");
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    let line = metrics.lines().find(|line| {
        line.starts_with("picloud_certificate_expires_timestamp_seconds{name=\"pi.example.org\"")
    });
    assert!(line.is_some(), "{metrics}");
    until("the event", || daemon.log().contains("a certificate ends soon").then_some(()));
}

#[test]
fn a_domain_says_where_its_certificate_comes_from() {
    let daemon = Setup::default().tls().start();
    let signer = Signer::new("Own");
    let ca = daemon.dir().file("own.pem", &signer.pem());
    let made = signer.server(&["pi.lan"], 30);
    bring(&daemon, &made.chain, &made.key);
    let path = "/apps/default/domains";
    let domain = daemon.done("POST", path, json!({ "pattern": "pi.lan" }));
    assert_eq!(domain["tls"], "auto");
    let path = format!("{path}/{}", crate::harness::id(&domain));
    let local = super::root(&daemon);
    for (source, by_own, by_local) in [("auto", 0, 60), ("pem", 0, 60), ("local", 60, 0), ("none", 35, 35)] {
        assert_eq!(daemon.done("PATCH", &path, json!({ "tls": source }))["tls"], source);
        let code = |ca: &str| curl(&daemon, "pi.lan", "/hello/you", &["--cacert", ca]).code;
        assert_eq!((code(&ca), code(&local)), (by_own, by_local), "{source}");
    }
    for (pattern, source) in [("*", "acme"), ("10.0.0.9", "acme"), ("pi.example.org", "local")] {
        let answer =
            daemon.api("POST", "/apps/default/domains", json!({ "pattern": pattern, "tls": source }));
        assert!(answer.status == 422 && answer.error().starts_with("tls: "), "{pattern} {source}: {answer}");
    }
}
