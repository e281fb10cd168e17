//! Versions, protocols, sessions, redirects: what clients of all kinds agree on with the daemon.

use serde_json::json;

use super::{Signer, curl, root, run, run_with};
use crate::harness::{Daemon, Setup};

fn s_client(daemon: &Daemon, ca: &str, more: &[&str]) -> String {
    let at = daemon.tls_address().to_string();
    let mut words = vec!["openssl", "s_client", "-connect", &at, "-servername", "localhost", "-CAfile", ca];
    words.extend(more);
    let ran = run(&words);
    format!("{}{}", ran.out, ran.err)
}

#[test]
fn two_versions_are_spoken_and_no_older_one() {
    let daemon = Setup::default().tls().start();
    let ca = root(&daemon);
    for (version, word) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
        let said = s_client(&daemon, &ca, &[version]);
        assert!(
            said.contains(&format!("New, {word}")) && said.contains("Verify return code: 0 (ok)"),
            "{said}"
        );
    }
    for version in ["-tls1", "-tls1_1"] {
        let said = s_client(&daemon, &ca, &[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(
            said.contains("alert protocol version") || said.contains("alert handshake failure"),
            "{said}"
        );
    }
    // No key exchange without forward secrecy, no cipher without authentication.
    for cipher in ["AES128-SHA", "AES256-GCM-SHA384", "ECDHE-ECDSA-AES128-SHA", "NULL"] {
        let said = s_client(&daemon, &ca, &["-tls1_2", "-cipher", &format!("{cipher}:@SECLEVEL=0")]);
        assert!(!said.contains("New, TLS"), "{cipher}: {said}");
    }
}

#[test]
fn protocols_are_agreed_on() {
    let daemon = Setup::default().tls().start();
    let ca = root(&daemon);
    for (offer, chosen) in [("h2,http/1.1", "h2"), ("http/1.1", "http/1.1"), ("http/1.1,h2", "h2")] {
        let said = s_client(&daemon, &ca, &["-alpn", offer]);
        assert!(said.contains(&format!("ALPN protocol: {chosen}\n")), "{said}");
    }
    // Nobody who offers only what we do not speak is served as if they did (RFC 7301 3.2).
    let said = s_client(&daemon, &ca, &["-alpn", "spdy/1"]);
    assert!(said.contains("no application protocol"), "{said}");
    let said = s_client(&daemon, &ca, &["-alpn", "acme-tls/1"]);
    assert!(!said.contains("New, TLS"), "there is no open challenge: {said}");
}

#[test]
fn sessions_are_resumed_over_both_versions_and_a_new_certificate() {
    let daemon = Setup::default().tls().start();
    let ca = root(&daemon);
    let at = daemon.tls_address().to_string();
    for version in ["-tls1_2", "-tls1_3"] {
        let session = daemon.dir().path().join(format!("session{version}"));
        let session = session.to_str().unwrap();
        let words =
            ["openssl", "s_client", "-connect", &at, "-servername", "localhost", "-CAfile", &ca, version];
        // An answer is read, so that the tickets of TLS 1.3 are, too.
        let ask = "GET / HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        let first = run_with(&[&words[..], &["-sess_out", session, "-ign_eof"]].concat(), ask);
        assert!(first.out.contains("New, TLS"), "{}", first.out);
        daemon.done("POST", "/certs/localhost/renew", json!({}));
        let second = run_with(&[&words[..], &["-sess_in", session, "-ign_eof"]].concat(), ask);
        assert!(second.out.contains("Reused, TLS"), "{version}: {}", second.out);
    }
    let metrics = daemon.api("GET", "/metrics", serde_json::Value::Null).text();
    assert!(metrics.contains("picloud_tls_resumed_total 2"), "{metrics}");
}

#[test]
fn requests_are_the_same_over_http2() {
    let daemon = Setup::default().tls().start();
    daemon.serve("/echo/{x}", "#{ h: request.headers, b: request.body, q: request.query, m: request.method, p: request.params, c: run::client() }");
    let ca = root(&daemon);
    let ask = |version: &str| {
        let more = ["--cacert", &ca, version, "-H", "cookie: a=1; b=2", "-H", "x-a: 1", "-d", "{\"n\":1}"];
        let ran = curl(&daemon, "localhost", "/echo/7?q=1", &more);
        assert_eq!(ran.code, 0, "{}", ran.err);
        serde_json::from_str::<serde_json::Value>(&ran.out).unwrap()
    };
    let (old, new) = (ask("--http1.1"), ask("--http2"));
    assert_eq!(old, new);
    assert_eq!(
        (&new["h"]["cookie"], &new["b"]["n"], &new["c"]),
        (&json!("a=1; b=2"), &json!(1), &json!("127.0.0.1"))
    );
    let at = daemon.tls_address();
    assert_eq!(new["h"]["host"], format!("localhost:{}", at.port()));
    // A large body either way, and a head that is too large.
    let large = daemon.dir().file("large", &format!("\"{}\"", "x".repeat(3_000_000)));
    daemon.route(
        "POST",
        "/large",
        &daemon.script_with("request.body.len()", json!({ "sandbox": { "max_string_bytes": 4_000_000 } })),
        json!({}),
    );
    let ran = curl(
        &daemon,
        "localhost",
        "/large",
        &["--cacert", &ca, "--http2", "--data-binary", &format!("@{large}")],
    );
    assert_eq!(ran.out, "3000000", "{}", ran.err);
    let big = format!("x-big: {}", "y".repeat(60_000));
    let ran = curl(
        &daemon,
        "localhost",
        "/hello/you",
        &["--cacert", &ca, "--http2", "-H", &big, "-w", "%{http_code}", "-o", "/dev/null"],
    );
    assert!(ran.code != 0 || ran.out == "431", "{} {}", ran.code, ran.out);
    assert_eq!(curl(&daemon, "localhost", "/hello/you", &["--cacert", &ca, "--http2"]).code, 0);
}

/// A body that nobody wants does not cost its client the answer.
#[test]
fn a_refusal_over_http2_comes_also_to_who_still_sends() {
    let daemon = Setup::default().tls().start();
    let ca = root(&daemon);
    for bytes in [40_000, 3_000_000] {
        let body = daemon.dir().file("body", &"x".repeat(bytes));
        let body = format!("@{body}");
        for (path, status) in [("/api/v1/scripts", "401"), ("/nowhere", "404")] {
            let more =
                ["--cacert", &ca, "--http2", "-w", " %{http_code} %{http_version}", "--data-binary", &body];
            let ran = curl(&daemon, "localhost", path, &more);
            assert_eq!(ran.code, 0, "{path}, {bytes} bytes: {}{}", ran.out, ran.err);
            assert!(
                ran.out.contains("\"error\"") && ran.out.ends_with(&format!(" {status} 2")),
                "{}",
                ran.out
            );
        }
    }
}

#[test]
fn who_takes_the_wrong_door_is_told() {
    let daemon = Setup::default().tls().start();
    let answer = crate::http::Request::new(daemon.tls_address(), "GET", "/").send();
    assert!(answer.status == 400 && answer.error().contains("https://"), "{answer}");
    let at = daemon.address.to_string();
    let ran = run(&["curl", "-sk", "--max-time", "5", &format!("https://{at}/")]);
    assert_eq!(ran.code, 35, "{}", ran.err);
}

#[test]
fn many_streams_and_connections_lose_nothing() {
    let daemon = Setup::default().tls().start();
    let url = format!("https://{}/hello/you", daemon.tls_address());
    for more in [&["-c", "8", "-m", "32"][..], &["-c", "32", "--h1"]] {
        let mut words = vec!["h2load", "-n", "4000"];
        words.extend(more);
        words.push(&url);
        let ran = run(&words);
        assert!(ran.out.contains("4000 succeeded, 0 failed, 0 errored, 0 timeout"), "{}{}", ran.out, ran.err);
    }
}

#[test]
fn who_comes_in_the_clear_is_sent_to_tls_where_there_is_a_certificate() {
    let daemon = Setup::default().tls().set("tls.hsts_max_age_seconds", 31_536_000).start();
    let made = Signer::new("Own").server(&["pi.example.org", "off.example.org"], 30);
    daemon.done("POST", "/certs", json!({ "certificate": made.chain, "private_key": made.key }));
    daemon.done("POST", "/apps/default/domains", json!({ "pattern": "off.example.org", "tls": "none" }));
    daemon.done("POST", "/apps/default/domains", json!({ "pattern": "pi.lan", "tls": "local" }));
    let port = daemon.tls_address().port();
    for (host, target, to) in [
        ("pi.example.org", "/a/b?c=d&e=%20f", Some("/a/b?c=d&e=%20f")),
        ("PI.Example.org.:8080", "/", Some("/")),
        ("pi.example.org", "/api/v1/version", Some("/api/v1/version")),
        ("pi.lan", "/hello/you", Some("/hello/you")),
        // Nobody is sent to where there is no certificate, or none that clients know.
        ("other.example.org", "/hello/you", None),
        ("off.example.org", "/hello/you", None),
        ("localhost", "/hello/you", None),
        ("127.0.0.1", "/hello/you", None),
    ] {
        let answer = daemon.request("POST", target).host(host).body("{}").send();
        let bare = host.split(':').next().unwrap().trim_end_matches('.').to_lowercase();
        let wanted = to.map(|to| format!("https://{bare}:{port}{to}"));
        assert_eq!(answer.header("location").map(str::to_owned), wanted, "{host}{target}: {answer}");
        assert_eq!(answer.status == 308, to.is_some(), "{host}{target}: {answer}");
        assert_eq!(answer.header("strict-transport-security"), None, "only by TLS: {answer}");
    }
    for (host, wanted) in [("pi.example.org", true), ("localhost", false)] {
        let ran = curl(&daemon, host, "/hello/you", &["-k", "-i", "--http1.1"]);
        assert_eq!(ran.out.contains("strict-transport-security: max-age=31536000"), wanted, "{}", ran.out);
    }
    let star = daemon.request("OPTIONS", "*").host("pi.example.org").send();
    assert_eq!(star.header("location"), Some(format!("https://pi.example.org:{port}/").as_str()));
    let two = daemon.request("GET", "/").host("pi.example.org").header("host", "other").send();
    assert_eq!((two.status, two.header("location")), (400, None), "{two}");
    let daemon = Setup::default().tls().set("tls.redirect", false).start();
    daemon.done("POST", "/certs", json!({ "certificate": made.chain, "private_key": made.key }));
    assert_eq!(daemon.request("GET", "/hello/you").host("pi.example.org").send().status, 200);
}

fn at_root(daemon: &Daemon) -> String {
    let routes = daemon.all("/apps/default/routes");
    crate::harness::id(routes.iter().find(|route| route["path"] == "/").unwrap())
}

#[test]
fn testssl_finds_nothing_of_weight() {
    let daemon = Setup::default().tls().set("tls.hsts_max_age_seconds", 31_536_000).start();
    daemon.done("POST", "/apps/default/domains", json!({ "pattern": "localhost", "tls": "local" }));
    // What an answer says besides is the script's business.
    daemon.done("DELETE", &format!("/apps/default/routes/{}", at_root(&daemon)), serde_json::Value::Null);
    daemon.serve("/", "respond(200, \"hello\", #{ \"x-content-type-options\": \"nosniff\", \"content-type\": \"text/plain\" })");
    let ca = root(&daemon);
    let found = daemon.dir().path().join("found.json");
    let at = format!("localhost:{}", daemon.tls_address().port());
    let words = [
        "env",
        "DAYS2WARN1=3",
        "DAYS2WARN2=2",
        "testssl",
        "--quiet",
        "--color",
        "0",
        "--ip",
        "127.0.0.1",
        "--nodns",
        "none",
        "--warnings",
        "off",
        "--add-ca",
        &ca,
        "--jsonfile",
        found.to_str().unwrap(),
        &at,
    ];
    let ran = run(&words);
    let text = std::fs::read_to_string(&found).unwrap_or_else(|why| panic!("{why}: {}{}", ran.out, ran.err));
    let findings: Vec<serde_json::Value> = serde_json::from_str(&text).unwrap();
    let grade = findings.iter().find(|finding| finding["id"] == "overall_grade");
    println!(
        "testssl: {} findings, grade {}",
        findings.len(),
        grade.map_or("none".into(), |grade| grade["finding"].to_string())
    );
    assert!(findings.len() > 100, "{text}");
    let heavy: Vec<_> = findings
        .iter()
        .filter(|finding| {
            ["MEDIUM", "HIGH", "CRITICAL", "FATAL"].iter().any(|severity| finding["severity"] == *severity)
        })
        .collect();
    assert!(heavy.is_empty(), "{heavy:#?}");
}
