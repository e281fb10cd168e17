//! TLS as clients meet it: curl, openssl, h2load, testssl, and bytes that no client would send.

mod acme;
mod attacks;
mod client;
mod local;
mod mutual;
mod own;
mod protocols;
mod proxies;
mod reloads;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::harness::{Daemon, Process, Ran, TempDir};

/// Runs a program to its end.
#[track_caller]
pub(crate) fn run(words: &[&str]) -> Ran {
    run_with(words, "")
}

/// The same with something on its standard input.
#[track_caller]
pub(crate) fn run_with(words: &[&str], input: &str) -> Ran {
    use std::io::{Read, Write};
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap_or_else(|why| {
        panic!("{}: {why}; scripts/install-tools installs what the tests need", words[0])
    });
    let mut process = Process(child);
    let mut stdin = process.0.stdin.take().unwrap();
    let input = input.to_owned();
    let feed = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let mut stderr = process.0.stderr.take().unwrap();
    let err = std::thread::spawn(move || {
        let mut text = Vec::new();
        let _ = stderr.read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    });
    let mut out = Vec::new();
    let _ = process.0.stdout.take().unwrap().read_to_end(&mut out);
    feed.join().unwrap();
    let code = process.0.wait().unwrap().code().unwrap_or(-1);
    Ran { code, out: String::from_utf8_lossy(&out).into_owned(), err: err.join().unwrap() }
}

/// The root of a daemon's authority, as it is downloaded.
#[track_caller]
pub(crate) fn root(daemon: &Daemon) -> String {
    let answer = daemon.get("/api/v1/ca.pem");
    assert_eq!(answer.status, 200, "{answer}");
    daemon.dir().file("root.pem", &answer.text())
}

/// curl for `https://{host}{path}`, by which the name leads to the daemon's TLS.
#[track_caller]
pub(crate) fn curl(daemon: &Daemon, host: &str, path: &str, more: &[&str]) -> Ran {
    let at = daemon.tls_address();
    let to = format!("{host}:{}:{}", at.port(), at.ip());
    let url = format!("https://{host}:{}{path}", at.port());
    let mut words = vec!["curl", "-sS", "--max-time", "20", "--resolve", &to, &url];
    words.extend(more);
    run(&words)
}

/// The certificate that a daemon shows to who asks for `host`, in words of openssl.
#[track_caller]
pub(crate) fn shown(at: SocketAddr, host: &str) -> String {
    let at = at.to_string();
    let hello = run(&["openssl", "s_client", "-connect", &at, "-servername", host]);
    run_with(
        &["openssl", "x509", "-noout", "-subject", "-issuer", "-dates", "-serial", "-ext", "subjectAltName"],
        &hello.out,
    )
    .out
}

/// A certificate and its key, made by openssl or another authority than the daemon's.
pub(crate) struct Made {
    pub(crate) chain: String,
    pub(crate) key: String,
}

/// What signs certificates in tests.
pub(crate) struct Signer {
    issuer: rcgen::CertifiedIssuer<'static, rcgen::KeyPair>,
}

impl Signer {
    pub(crate) fn new(name: &str) -> Signer {
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let key = rcgen::KeyPair::generate().unwrap();
        Signer { issuer: rcgen::CertifiedIssuer::self_signed(params, key).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A server's certificate that ends in so many days, which may be over.
    pub(crate) fn server(&self, names: &[&str], days: i64) -> Made {
        self.sign(names, days, rcgen::ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// A client's.
    pub(crate) fn client(&self, name: &str) -> Made {
        self.sign(&[name], 30, rcgen::ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn sign(&self, names: &[&str], days: i64, usage: rcgen::ExtendedKeyUsagePurpose) -> Made {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = rcgen::CertificateParams::new(names).unwrap();
        let now = time::OffsetDateTime::now_utc();
        params.not_before = now - time::Duration::days(40);
        params.not_after = now + time::Duration::days(days);
        params.extended_key_usages = vec![usage];
        let mut number = [1; 16];
        getrandom::fill(&mut number[1..]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&number));
        let key = rcgen::KeyPair::generate().unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        Made { chain: signed.pem(), key: key.serialize_pem() }
    }
}

/// Certificates as the API lists them.
#[track_caller]
pub(crate) fn certs(daemon: &Daemon) -> Vec<Value> {
    daemon.all("/certs")
}

/// Files that hold a private key, and who may read them.
pub(crate) fn key_files(dir: &PathBuf) -> Vec<(PathBuf, u32)> {
    use std::os::unix::fs::PermissionsExt;
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            found.extend(key_files(&path));
        } else if fs::read_to_string(&path)
            .is_ok_and(|text| text.contains("PRIVATE KEY") || text.contains("key_pkcs8"))
        {
            found.push((path.clone(), fs::metadata(&path).unwrap().permissions().mode() & 0o777));
        }
    }
    found
}

/// A network of its own, in which a test may have the ports 80 and 443 and names that lead where it likes.
pub(crate) struct Network {
    helper: Process,
    as_root: bool,
}

impl Network {
    /// With an /etc/hosts that leads these names to an address.
    #[track_caller]
    pub(crate) fn new(dir: &TempDir, hosts: &[(&str, &str)]) -> Network {
        use std::io::{BufRead, BufReader};
        let lines: String = hosts.iter().map(|(name, address)| format!("{address} {name}\n")).collect();
        let file = dir.file("hosts", &format!("127.0.0.1 localhost\n{lines}"));
        let as_root = rustix::process::getuid().is_root();
        let mut command = Command::new("unshare");
        command.args(["--mount", "--net"]);
        if !as_root {
            command.args(["--user", "--map-root-user"]);
        }
        // It ends with its input, and the network with it and those who are in it.
        let script = "ip link set lo up && mount --bind \"$0\" /etc/hosts && echo made && exec cat";
        command.args(["sh", "-c", script, &file]);
        let mut helper = Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(helper.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "made\n", "the network could not be made");
        Network { helper, as_root }
    }

    /// What runs a program in it.
    pub(crate) fn prefix(&self) -> Vec<String> {
        let pid = self.helper.0.id().to_string();
        let mut words = vec!["nsenter".to_owned(), "--mount".into(), "--net".into(), "--target".into(), pid];
        if !self.as_root {
            words.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
        }
        words.push("--".into());
        words
    }

    /// Runs a program in it to its end.
    #[track_caller]
    pub(crate) fn run(&self, words: &[&str]) -> Ran {
        let prefix = self.prefix();
        let all: Vec<&str> = prefix.iter().map(String::as_str).chain(words.iter().copied()).collect();
        run(&all)
    }
}
