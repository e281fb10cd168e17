//! The first minute: from an empty directory, HTTPS on every name of the local network, verified by the root that the
//! device hands out.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use super::{certs, curl, key_files, root, run, run_with, shown};
use crate::clock::Clock;
use crate::harness::{Daemon, KEY, Setup, picloud};

#[test]
fn from_an_empty_directory_every_local_name_is_verified_with_the_downloaded_root() {
    let daemon = Setup::default().tls().set("tls.host_name", "picloud-ab12").start();
    let ca = root(&daemon);
    for host in ["localhost", "127.0.0.1", "picloud-ab12", "picloud-ab12.local", "pi.lan", "pi.home.arpa"] {
        for version in ["--http1.1", "--http2"] {
            let ran = curl(&daemon, host, "/hello/you", &["--cacert", &ca, version]);
            assert!(
                ran.code == 0 && ran.out.contains("\"hello\":\"you\""),
                "{host} {version}: {}{}",
                ran.out,
                ran.err
            );
        }
    }
    // Who does not trust it is told so, and so is who asks for a name that it must not sign for.
    assert_eq!(curl(&daemon, "localhost", "/", &[]).code, 60);
    assert_eq!(curl(&daemon, "pi.example.org", "/", &["--cacert", &ca]).code, 60);
    assert!(curl(&daemon, "pi.example.org", "/hello/you", &["-k"]).out.contains("you"));
    let files = key_files(&daemon.data_dir());
    assert!(!files.is_empty() && files.iter().all(|(_, mode)| *mode == 0o600), "{files:?}");
    let log = daemon.log();
    assert!(!log.contains("PRIVATE KEY"), "{log}");
}

#[test]
fn the_root_signs_for_the_local_network_only() {
    let daemon = Setup::default().tls().set("tls.host_name", "picloud-ab12").start();
    let ca = root(&daemon);
    let text = run(&["openssl", "x509", "-in", &ca, "-noout", "-text"]).out;
    for part in [
        "CA:TRUE, pathlen:0",
        "Name Constraints: critical",
        "DNS:local\n",
        "DNS:home.arpa",
        "DNS:picloud-ab12",
        "IP:192.168.0.0/255.255.0.0",
    ] {
        assert!(text.contains(part), "{part} is missing:\n{text}");
    }
    // A certificate that its stolen key signs for another name is of no use to anybody.
    let authority = daemon.data_dir().join("tls/authority.pem");
    let authority = authority.to_str().unwrap();
    for (name, good) in [("evil.lan", true), ("evil.example.org", false)] {
        let key = daemon.dir().path().join("evil.key");
        let key = key.to_str().unwrap();
        let request = run(&[
            "openssl",
            "req",
            "-new",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            key,
            "-subj",
            "/",
            "-addext",
            &format!("subjectAltName=DNS:{name}"),
        ]);
        let request = daemon.dir().file("evil.csr", &request.out);
        let signed = run(&[
            "openssl",
            "x509",
            "-req",
            "-in",
            &request,
            "-CA",
            authority,
            "-CAkey",
            authority,
            "-copy_extensions",
            "copyall",
            "-days",
            "5",
        ]);
        let signed = daemon.dir().file("evil.pem", &signed.out);
        let verified = run(&["openssl", "verify", "-CAfile", &ca, &signed]);
        assert_eq!(verified.code == 0, good, "{name}: {}{}", verified.out, verified.err);
    }
}

#[test]
fn a_restart_keeps_the_root_and_a_replacement_is_another() {
    let mut daemon = Setup::default().tls().start();
    let before = daemon.get("/api/v1/ca.pem").text();
    daemon.kill_and_start_again();
    assert_eq!(daemon.get("/api/v1/ca.pem").text(), before);
    let replaced = daemon.done("POST", "/ca/replace", json!({}));
    let after = daemon.get("/api/v1/ca.pem").text();
    assert_ne!(after, before);
    assert_eq!(replaced["fingerprint"], daemon.get("/api/v1/ca").json()["fingerprint"]);
    let ca = root(&daemon);
    assert_eq!(curl(&daemon, "localhost", "/", &["--cacert", &ca]).code, 0);
    // One that is damaged is not silently replaced.
    daemon.process.signal("TERM");
    daemon.process.wait("the daemon");
    let file = daemon.data_dir().join("tls/authority.pem");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, &text[..text.len() / 2]).unwrap();
    let data = daemon.data_dir();
    let ran = picloud(
        &[
            "serve",
            "--listen",
            "127.0.0.1:0",
            "--listen-tls",
            "127.0.0.1:0",
            "--data-dir",
            data.to_str().unwrap(),
        ],
        &[],
    );
    assert!(
        ran.code == 1 && ran.err.contains("authority.pem") && ran.err.contains("put it back"),
        "{}",
        ran.err
    );
}

#[test]
fn the_root_comes_in_the_forms_that_systems_take() {
    let daemon = Setup::default().tls().start();
    let page = daemon.request("GET", "/api/v1/ca").header("accept", "text/html,*/*").send();
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    let told = daemon.get("/api/v1/ca").json();
    let hex = told["fingerprint"].as_str().unwrap().to_uppercase();
    let pairs: Vec<&str> = hex.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap()).collect();
    for part in ["Windows", "macOS", "iPhone", "Android", "Linux", "Firefox", &pairs.join(":")] {
        assert!(page.text().contains(part), "{part}");
    }
    assert!(!page.text().contains("{{"), "{}", page.text());
    let ca = root(&daemon);
    let print = run(&["openssl", "x509", "-in", &ca, "-noout", "-fingerprint", "-sha256"]).out;
    assert!(print.contains(&pairs.join(":")), "{print}");
    let crt = daemon.get("/api/v1/ca.crt");
    assert_eq!(crt.header("content-type"), Some("application/x-x509-ca-cert"));
    let file = daemon.dir().path().join("root.crt");
    fs::write(&file, &crt.body).unwrap();
    let same = run(&["openssl", "x509", "-inform", "DER", "-in", file.to_str().unwrap()]).out;
    assert_eq!(same.trim(), fs::read_to_string(&ca).unwrap().trim());
    let list = daemon.dir().path().join("list.crl");
    fs::write(&list, daemon.get("/api/v1/ca.crl").body).unwrap();
    let read = run(&[
        "openssl",
        "crl",
        "-inform",
        "DER",
        "-in",
        list.to_str().unwrap(),
        "-noout",
        "-text",
        "-CAfile",
        &ca,
    ]);
    assert!(
        read.err.contains("verify OK") && read.out.contains("No Revoked Certificates"),
        "{}{}",
        read.out,
        read.err
    );
    let profile = daemon.get("/api/v1/ca.mobileconfig").text();
    let parsed = run_with(
        &[
            "python3",
            "-c",
            "import plistlib,sys; p=plistlib.loads(sys.stdin.buffer.read()); sys.stdout.buffer.write(p['PayloadContent'][0]['PayloadContent'])",
        ],
        &profile,
    );
    assert_eq!(parsed.code, 0, "{}", parsed.err);
    assert!(!profile.contains("{{"));
    // No form has the key, and the command line gives the same.
    for path in ["/api/v1/ca", "/api/v1/ca.pem", "/api/v1/ca.mobileconfig"] {
        assert!(!daemon.get(path).text().contains("PRIVATE KEY"));
    }
    let saved = daemon.dir().path().join("saved.pem");
    let url = daemon.url();
    let ran = picloud(
        &["cert", "ca", "--output", saved.to_str().unwrap()],
        &[("PICLOUD_URL", &url), ("PICLOUD_API_KEY", KEY)],
    );
    assert!(ran.code == 0 && ran.out.contains(&pairs.join(":")), "{}{}", ran.out, ran.err);
    assert_eq!(fs::read_to_string(saved).unwrap(), told["certificate"].as_str().unwrap());
}

#[test]
fn the_command_line_comes_by_https() {
    let daemon = Setup::default().tls().start();
    let (ca, url) = (root(&daemon), format!("https://localhost:{}", daemon.tls_address().port()));
    let ran = picloud(&["app", "ls", "--url", &url, "--ca-file", &ca], &[("PICLOUD_API_KEY", KEY)]);
    assert!(ran.code == 0 && ran.out.contains("default"), "{}{}", ran.out, ran.err);
    let ran = picloud(&["app", "ls", "--url", &url], &[("PICLOUD_API_KEY", KEY)]);
    assert!(ran.code == 1 && ran.err.contains("cannot reach"), "{}", ran.err);
    let ran = picloud(&["cert", "ls", "--url", &url, "--ca-file", &ca], &[("PICLOUD_API_KEY", KEY)]);
    assert!(ran.out.contains("localhost") && ran.out.contains("local"), "{}", ran.out);
}

/// What Chromium shows of a page; `home` has the roots that it trusts.
fn chromium(home: &Path, url: &str) -> String {
    let home_is = format!("HOME={}", home.display());
    let profile = format!("--user-data-dir={}", home.join("profile").display());
    let quiet =
        ["--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic"];
    let mut words =
        vec!["timeout", "60", "env", &home_is, "chromium", "--headless", "--no-sandbox", "--disable-gpu"];
    words.extend(quiet);
    words.extend(["--no-first-run", &profile, "--dump-dom", url]);
    run(&words).out
}

#[test]
fn a_browser_shows_no_warning_once_the_root_is_installed() {
    let daemon = Setup::default().tls().start();
    let ca = root(&daemon);
    let home = daemon.dir().path().join("home");
    let database = home.join(".pki/nssdb");
    fs::create_dir_all(&database).unwrap();
    let database = format!("sql:{}", database.display());
    assert_eq!(run(&["certutil", "-d", &database, "-N", "--empty-password"]).code, 0);
    let port = daemon.tls_address().port();
    let url = |host: &str| format!("https://{host}:{port}/hello/you");
    assert!(!chromium(&home, &url("localhost")).contains("\"hello\":\"you\""), "it is not trusted yet");
    // As the page says.
    let added = run(&["certutil", "-d", &database, "-A", "-t", "C,,", "-n", "picloud", "-i", &ca]);
    assert_eq!(added.code, 0, "{}", added.err);
    for host in ["localhost", "127.0.0.1", "pi.localhost"] {
        let shown = chromium(&home, &url(host));
        assert!(shown.contains("\"hello\":\"you\""), "{host}: {shown}");
    }
    let page = chromium(&home, &format!("{}/api/v1/ca", daemon.url()));
    assert!(page.contains("<h1>Trust this PiCloud</h1>"), "{page}");
}

const YEAR: i64 = 365 * 24 * 3600;

#[test]
fn a_wrong_clock_breaks_nothing() {
    // Long before this program was made, and some years ahead of everybody else.
    for off in [-50 * YEAR, -YEAR / 2] {
        let (_clock, setup) = Clock::new(off, Setup::default().tls().set("cron.clock", "synchronised"));
        let daemon = setup.start();
        let ca = root(&daemon);
        let ran = curl(&daemon, "localhost", "/hello/you", &["--cacert", &ca]);
        assert_eq!(
            ran.code,
            0,
            "a clock that is {off} s off: {}\n{}",
            ran.err,
            shown(daemon.tls_address(), "localhost")
        );
    }
}

#[test]
fn a_leaf_is_renewed_when_the_clock_moves() {
    let (clock, setup) = Clock::new(0, Setup::default().tls().set("cron.clock", "trusted"));
    let daemon = setup.start();
    let serial = |daemon: &Daemon| {
        let text = shown(daemon.tls_address(), "localhost");
        text.lines().find(|line| line.starts_with("serial=")).unwrap_or_else(|| panic!("{text}")).to_owned()
    };
    let first = serial(&daemon);
    assert_eq!(serial(&daemon), first);
    clock.set(4 * 24 * 3600);
    assert_eq!(serial(&daemon), first, "a third of its time is left");
    clock.set(5 * 24 * 3600);
    let second = serial(&daemon);
    assert_ne!(second, first);
    clock.set(-5 * YEAR);
    assert_ne!(serial(&daemon), second, "a clock that went back");
    daemon.done("POST", "/certs/localhost/renew", Value::Null);
    assert!(certs(&daemon).iter().any(|cert| cert["id"] == "localhost" && cert["source"] == "local"));
}

#[test]
fn without_tls_there_are_no_certificates() {
    let daemon = Daemon::start();
    for path in ["/certs", "/ca", "/ca.pem"] {
        let answer = daemon.api("GET", path, Value::Null);
        assert_eq!(answer.status, 409, "{answer}");
        assert!(answer.error().contains("tls.listen"), "{answer}");
    }
    assert!(!daemon.data_dir().join("tls").exists());
}
