//! Management that takes only clients with a certificate.

use super::{Signer, curl, root};
use crate::harness::{KEY, Setup, TempDir, picloud};

#[test]
fn management_takes_only_clients_with_a_certificate() {
    let dir = TempDir::new();
    let (signer, other) = (Signer::new("Clients"), Signer::new("Others"));
    let authorities = dir.file("clients.pem", &signer.pem());
    let daemon = Setup::default().tls().set("management.client_ca_file", &authorities).start();
    let ca = root(&daemon);
    let both = |signer: &Signer, file: &str| {
        let made = signer.client("operator");
        dir.file(file, &format!("{}{}", made.chain, made.key))
    };
    let (good, bad) = (both(&signer, "good.pem"), both(&other, "bad.pem"));
    let bearer = format!("authorization: Bearer {KEY}");
    let ask = |path: &str, cert: Option<&str>| {
        let mut more = vec!["--cacert", &ca, "-H", &bearer, "-o", "/dev/null", "-w", "%{http_code}"];
        more.extend(cert.into_iter().flat_map(|cert| ["--cert", cert]));
        for version in ["--http1.1", "--http2", "--tls-max"] {
            let mut more = more.clone();
            more.push(version);
            more.extend((version == "--tls-max").then_some("1.2"));
            let ran = curl(&daemon, "localhost", path, &more);
            if version == "--tls-max" {
                return (ran.code, ran.out);
            }
        }
        unreachable!()
    };
    assert_eq!(ask("/api/v1/apps", Some(&good)), (0, "200".into()));
    assert_eq!(ask("/api/v1/apps", None), (0, "403".into()));
    let (code, out) = ask("/api/v1/apps", Some(&bad));
    assert!(code != 0 && out != "200", "{code} {out}");
    // The data plane and what needs no key are open to all.
    assert_eq!(ask("/hello/you", None), (0, "200".into()));
    assert_eq!(ask("/api/v1/health", None), (0, "200".into()));
    let clear = daemon.request("GET", "/api/v1/apps").key(KEY).send();
    assert!(clear.status == 403 && clear.error().contains("client_ca_file"), "{clear}");
    // The key is asked for all the same.
    let ran = curl(
        &daemon,
        "localhost",
        "/api/v1/apps",
        &["--cacert", &ca, "--cert", &good, "-w", "%{http_code}", "-o", "/dev/null"],
    );
    assert_eq!(ran.out, "401");
    let url = format!("https://localhost:{}", daemon.tls_address().port());
    let env = [("PICLOUD_API_KEY", KEY), ("PICLOUD_URL", url.as_str()), ("PICLOUD_CA_FILE", ca.as_str())];
    let ran = picloud(&["app", "ls", "--client-cert", &good], &env);
    assert!(ran.code == 0 && ran.out.contains("default"), "{}{}", ran.out, ran.err);
    assert_eq!(picloud(&["app", "ls"], &env).code, 1);
}

#[test]
fn authorities_that_are_none_are_refused_at_the_start() {
    let dir = TempDir::new();
    let none = dir.file("none.pem", "nonsense");
    let data = dir.path().join("data");
    let words = [
        "serve",
        "--listen",
        "127.0.0.1:0",
        "--listen-tls",
        "127.0.0.1:0",
        "--data-dir",
        data.to_str().unwrap(),
    ];
    let ran = picloud(&[&words[..3], &words[5..]].concat(), &[("PICLOUD_MANAGEMENT_CLIENT_CA_FILE", &none)]);
    assert!(ran.code == 1 && ran.err.contains("set tls.listen"), "{}", ran.err);
    for (file, why) in [(none.as_str(), "no certificate"), ("/nowhere.pem", "No such file")] {
        let ran = picloud(&words, &[("PICLOUD_MANAGEMENT_CLIENT_CA_FILE", file)]);
        assert!(ran.code == 1 && ran.err.contains("client_ca_file") && ran.err.contains(why), "{}", ran.err);
    }
}
