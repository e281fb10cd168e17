//! TLS: what it takes of our own rate, full handshakes beside Caddy's, and the memory of connections that do nothing.
//!
//! h2load asks, the same way with TLS and without; handshakes are made by the client library of the tests, the same for
//! both servers, which have the same certificate. All of them share the cores.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use rustls::client::Resumption;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use serde_json::json;

use crate::Outcome;
use crate::args::Args;
use crate::daemon::{BODY, Daemon};
use crate::numbers::{float, median};
use crate::process::Process;
use crate::rounds::REST;

/// Connections that ask, as the goal has it.
const CONNECTIONS: &str = "32";
/// Threads that shake hands.
const SHAKERS: usize = 4;
const HOST: &str = "bench.test";

/// What was seen; medians.
pub(crate) struct Tls {
    pub(crate) clear_rate: f64,
    pub(crate) tls_rate: f64,
    pub(crate) ratio: f64,
    /// `None` where Caddy is not there.
    pub(crate) handshakes: Option<Handshakes>,
    pub(crate) bytes_per_connection: f64,
    pub(crate) idle_connections: usize,
}

/// Full handshakes a second.
pub(crate) struct Handshakes {
    pub(crate) ours: f64,
    pub(crate) caddy: f64,
    pub(crate) ratio: f64,
}

/// Measures all of it.
pub(crate) fn run(args: &Args, dir: &Path) -> Outcome<Tls> {
    fs::create_dir_all(dir)?;
    let idle_connections = if args.is_quick() { 100 } else { 2_000 };
    let mut environment = args.environment.clone();
    let places = (idle_connections + 100).to_string();
    for (name, value) in [
        ("TLS_LISTEN", "127.0.0.1:0"),
        ("SERVER_CONNECTIONS_MAX", &places),
        ("SERVER_HEADER_TIMEOUT_SECONDS", "600"),
    ] {
        environment.push((format!("PICLOUD_{name}"), value.to_owned()));
    }
    let daemon = Daemon::start(&dir.join("daemon"), &environment)?;
    daemon.furnish()?;
    let at = daemon.tls_address()?;
    let made = rcgen::generate_simple_self_signed([HOST.to_owned()])?;
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    daemon.post("/api/v1/certs", &json!({ "certificate": chain, "private_key": key }))?;
    let client = client(&chain)?;

    let (mut clear, mut by_tls, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds() {
        let one = h2load(args, dir, &format!("http://{}/relaxed", daemon.address))?;
        thread::sleep(REST);
        let other = h2load(args, dir, &format!("https://{at}/relaxed"))?;
        thread::sleep(REST);
        eprintln!("tls, round {round}: {one:.0}/s in the clear, {other:.0}/s by TLS");
        clear.push(one);
        by_tls.push(other);
        ratios.push(other / one);
    }
    let handshakes = handshakes(args, dir, at, &client, (&chain, &key))?;
    let bytes_per_connection = idle(&daemon, at, &client, idle_connections)?;
    daemon.stop()?;
    Ok(Tls {
        clear_rate: median(clear),
        tls_rate: median(by_tls),
        ratio: median(ratios),
        handshakes,
        bytes_per_connection,
        idle_connections,
    })
}

/// Requests a second over connections that stay, as h2load counts them.
fn h2load(args: &Args, dir: &Path, url: &str) -> Outcome<f64> {
    let body = dir.join("body");
    fs::write(&body, BODY)?;
    let seconds = |time: Duration| time.as_secs().max(1).to_string();
    let mut command = Command::new("h2load");
    command
        .args(["--h1", "-c", CONNECTIONS, "-t", "1", "-H", "content-type: application/json", "-d"])
        .arg(&body);
    command.args(["-D", &seconds(args.measured()), "--warm-up-time", &seconds(args.warm_up()), url]);
    let ran =
        command.output().map_err(|error| format!("h2load: {error}; scripts/install-tools installs it"))?;
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    if !said.contains(" 0 failed, 0 errored, 0 timeout") {
        return Err(format!("h2load {url}: {said}").into());
    }
    let rate =
        said.lines().find_map(|line| line.strip_prefix("finished in ")?.split(' ').nth(1)?.parse().ok());
    Ok(rate.ok_or_else(|| format!("h2load {url} tells no rate: {said}"))?)
}

fn client(root: &str) -> Outcome<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(root.as_bytes())?)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(Arc::new(config))
}

fn shake(at: SocketAddr, client: &Arc<ClientConfig>) -> Outcome<StreamOwned<ClientConnection, TcpStream>> {
    let socket = TcpStream::connect(at)?;
    socket.set_nodelay(true)?;
    let connection = ClientConnection::new(client.clone(), ServerName::try_from(HOST)?)?;
    let mut stream = StreamOwned::new(connection, socket);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock)?;
    }
    Ok(stream)
}

/// Our full handshakes beside Caddy's, in turns.
fn handshakes(
    args: &Args,
    dir: &Path,
    at: SocketAddr,
    client: &Arc<ClientConfig>,
    pair: (&str, &str),
) -> Outcome<Option<Handshakes>> {
    let caddy = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/caddy");
    if !caddy.exists() {
        eprintln!("tls: no handshakes are compared; scripts/install-tools installs Caddy");
        return Ok(None);
    }
    let (process, other) = start_caddy(&caddy, dir, pair, client)?;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 1..=args.rounds() {
        let one = rate(args, at, client)?;
        let two = rate(args, other, client)?;
        eprintln!("tls, round {round}: {one:.0} full handshakes/s, Caddy {two:.0}/s");
        ours.push(one);
        theirs.push(two);
        ratios.push(one / two);
    }
    drop(process);
    Ok(Some(Handshakes { ours: median(ours), caddy: median(theirs), ratio: median(ratios) }))
}

fn start_caddy(
    caddy: &Path,
    dir: &Path,
    (chain, key): (&str, &str),
    client: &Arc<ClientConfig>,
) -> Outcome<(Process, SocketAddr)> {
    // Free a moment ago; nobody else on this machine is looking for one.
    let at = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let (chain_file, key_file, config) = (dir.join("chain.pem"), dir.join("key.pem"), dir.join("Caddyfile"));
    fs::write(&chain_file, chain)?;
    fs::write(&key_file, key)?;
    let text = format!(
        "{{\n admin off\n auto_https off\n storage file_system {}\n}}\nhttps://{HOST}:{} {{\n bind 127.0.0.1\n tls {} {}\n respond \"hello\"\n}}\n",
        dir.join("caddy").display(),
        at.port(),
        chain_file.display(),
        key_file.display()
    );
    fs::write(&config, text)?;
    let mut command = Command::new(caddy);
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&config).env("HOME", dir);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(dir.join("caddy.log"))?);
    let process = Process::spawn(&mut command)?;
    let began = Instant::now();
    while shake(at, client).is_err() {
        if began.elapsed() > Duration::from_secs(20) {
            return Err("Caddy does not become ready".into());
        }
        thread::sleep(Duration::from_millis(50));
    }
    Ok((process, at))
}

/// Full handshakes a second.
fn rate(args: &Args, at: SocketAddr, client: &Arc<ClientConfig>) -> Outcome<f64> {
    let (count, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let shakers: Vec<_> = (0..SHAKERS)
            .map(|_| {
                scope.spawn(|| {
                    while !over.load(Relaxed) {
                        shake(at, client).map_err(|error| error.to_string())?;
                        count.fetch_add(1, Relaxed);
                    }
                    Ok::<_, String>(())
                })
            })
            .collect();
        thread::sleep(args.warm_up());
        let (before, began) = (count.load(Relaxed), Instant::now());
        thread::sleep(args.measured());
        let rate = float(count.load(Relaxed) - before) / began.elapsed().as_secs_f64();
        over.store(true, Relaxed);
        for shaker in shakers {
            shaker.join().map_err(|_| "a client failed")??;
        }
        thread::sleep(REST);
        Ok(rate)
    })
}

/// Bytes of memory for each connection that has asked once and now does nothing.
fn idle(daemon: &Daemon, at: SocketAddr, client: &Arc<ClientConfig>, count: usize) -> Outcome<f64> {
    let before = daemon.metrics()?.value("resident_memory_bytes")?;
    let mut held = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = shake(at, client)?;
        stream.write_all(format!("GET /hello/you HTTP/1.1\r\nhost: {HOST}\r\n\r\n").as_bytes())?;
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer)?;
        if !answer[..read].starts_with(b"HTTP/1.1 200") {
            return Err(format!("an idle connection: {}", String::from_utf8_lossy(&answer[..read])).into());
        }
        held.push(stream);
    }
    let after = daemon.metrics()?.value("resident_memory_bytes")?;
    drop(held);
    Ok(float(after.saturating_sub(before)) / float(u64::try_from(count)?))
}
