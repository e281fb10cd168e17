//! Certificates from a real ACME server, Caddy's, in a network where the names are ours: it issues, renews, refuses and
//! goes away.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::Network;
use crate::clock::Clock;
use crate::harness::{KEY, Process, Ran, Setup, TempDir, until};

/// The address of the device; the server is at 127.0.0.1.
const DEVICE: &str = "127.0.0.7";

struct World {
    network: Network,
    dir: TempDir,
    server: Option<Process>,
    /// Its directory.
    url: &'static str,
}

fn tool(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin").join(name)
}

impl World {
    /// A server whose certificates live so long.
    fn new(lifetime: &str) -> World {
        let dir = TempDir::new();
        let names = ["pi.example.test", "a.wild.example.test", "b.wild.example.test", "auto.example.org"];
        let mut hosts: Vec<(&str, &str)> = names.iter().map(|name| (*name, DEVICE)).collect();
        hosts.push(("elsewhere.example.test", "127.0.0.99"));
        let network = Network::new(&dir, &hosts);
        let store = dir.path().join("store");
        dir.file(
            "Caddyfile",
            &format!(
                "{{\n storage file_system {}\n admin off\n skip_install_trust\n auto_https disable_redirects\n http_port 10080\n https_port 14000\n}}\n\
                 https://127.0.0.1:14000 {{\n bind 127.0.0.1\n tls internal\n acme_server {{\n  lifetime {lifetime}\n }}\n}}\n",
                store.display()
            ),
        );
        let url = "https://127.0.0.1:14000/acme/local/directory";
        let mut world = World { network, dir, server: None, url };
        world.open();
        world
    }

    fn root(&self) -> String {
        self.dir.path().join("store/pki/authorities/local/root.crt").to_str().unwrap().to_owned()
    }

    /// Starts the server.
    fn open(&mut self) {
        let prefix = self.network.prefix();
        let mut command = Command::new(&prefix[0]);
        command.args(&prefix[1..]).arg(tool("caddy")).args(["run", "--adapter", "caddyfile", "--config"]);
        command.arg(self.dir.path().join("Caddyfile")).env("HOME", self.dir.path());
        let log = fs::File::create(self.dir.path().join("caddy.log")).unwrap();
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        self.server = Some(Process(child.expect("scripts/install-tools installs Caddy")));
        let ca = self.root();
        until("the ACME server", || {
            let ran = self.network.run(&["curl", "-sf", "--cacert", &ca, self.url]);
            (ran.code == 0).then_some(())
        });
    }

    /// A device that gets its certificates there.
    fn device(&self, setup: Setup) -> Device<'_> {
        let setup = setup
            .by(&self.network.prefix())
            .data_in(self.dir.path().join("data"))
            .listen(&format!("{DEVICE}:80"))
            .set_first("tls.listen", format!("{DEVICE}:443"))
            .set("cron.clock", "trusted")
            .set("acme.directory", self.url)
            .set_first("acme.ca_file", self.root())
            .set("acme.contact", "me@example.org");
        Device { daemon: setup.start(), world: self }
    }
}

/// A daemon that only those in its network reach.
struct Device<'a> {
    daemon: crate::harness::Daemon,
    world: &'a World,
}

impl Device<'_> {
    #[track_caller]
    fn picloud(&self, words: &[&str]) -> Ran {
        let url = format!("http://{DEVICE}");
        let env = format!("PICLOUD_API_KEY={KEY}");
        let mut all = vec!["env", &env, crate::harness::PICLOUD, "--url", &url];
        all.extend(words);
        self.world.network.run(&all)
    }

    #[track_caller]
    fn claim(&self, pattern: &str, source: &str) {
        let ran = self.picloud(&["domain", "add", pattern, "--tls", source]);
        assert_eq!(ran.code, 0, "{}", ran.err);
    }

    #[track_caller]
    fn certs(&self) -> Vec<Value> {
        let ran = self.picloud(&["--json", "cert", "ls"]);
        let list: Value = serde_json::from_str(&ran.out).unwrap_or_else(|_| panic!("{}{}", ran.out, ran.err));
        list["items"].as_array().unwrap().clone()
    }

    /// The certificate of a name, once it is as wanted.
    #[track_caller]
    fn cert_once(&self, name: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        until(&format!("the certificate of {name}"), || {
            self.certs().into_iter().find(|cert| cert["name"] == name && wanted(cert))
        })
    }

    /// Whether a client that trusts the server reaches a name.
    fn is_verified(&self, name: &str) -> bool {
        let url = format!("https://{name}/hello/you");
        let ran = self.world.network.run(&[
            "curl",
            "-sS",
            "--max-time",
            "30",
            "--cacert",
            &self.world.root(),
            &url,
        ]);
        ran.code == 0 && ran.out.contains("\"hello\":\"you\"")
    }
}

fn is_active(cert: &Value) -> bool {
    cert["state"] == "active"
}

#[test]
fn names_are_issued_on_claim_and_on_demand() {
    let world = World::new("12h");
    let mut device = world.device(Setup::default());
    device.claim("pi.example.test", "acme");
    let cert = device.cert_once("pi.example.test", is_active);
    assert_eq!((&cert["source"], &cert["names"]), (&json!("acme"), &json!(["pi.example.test"])));
    assert!(device.is_verified("pi.example.test"));
    // A public name that says nothing, and leads to this device.
    device.claim("auto.example.org", "auto");
    device.cert_once("auto.example.org", is_active);
    assert!(device.is_verified("auto.example.org"));
    // Below a wildcard only when somebody asks, who then waits for it; and nothing that nobody claims.
    device.claim("*.wild.example.test", "acme");
    assert!(device.is_verified("a.wild.example.test"));
    assert!(!device.is_verified("elsewhere.example.test"));
    let names: Vec<Value> = device
        .certs()
        .into_iter()
        .filter(|cert| cert["source"] == "acme")
        .map(|cert| cert["name"].clone())
        .collect();
    assert_eq!(names, ["a.wild.example.test", "auto.example.org", "pi.example.test"]);
    // Who comes in the clear is sent on now, to port 443, but for the challenges.
    let ran = world.network.run(&["curl", "-si", "http://pi.example.test/a?b=c"]);
    assert!(
        ran.out.starts_with("HTTP/1.1 308") && ran.out.contains("location: https://pi.example.test/a?b=c\r"),
        "{}",
        ran.out
    );
    let files = super::key_files(&world.dir.path().join("data/tls"));
    assert!(files.len() >= 4 && files.iter().all(|(_, mode)| *mode == 0o600), "{files:?}");
    let log = device.daemon.log();
    assert!(!log.contains("PRIVATE") && !log.contains("key_pkcs8"), "{log}");
    // What nobody claims any more is neither renewed nor served, and may be removed.
    let ran = device.picloud(&["domain", "rm", "auto.example.org"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    device.cert_once("auto.example.org", |cert| cert["state"] == "unused");
    assert!(!device.is_verified("auto.example.org"));
    let ran = device.picloud(&["cert", "rm", "auto.example.org"]);
    assert!(
        ran.code == 0 && device.certs().iter().all(|cert| cert["name"] != "auto.example.org"),
        "{}",
        ran.err
    );
    // After a crash all are there, and none is ordered again.
    device.daemon.kill_and_start_again();
    assert!(device.is_verified("a.wild.example.test") && device.is_verified("pi.example.test"));
    assert!(!device.daemon.log().rsplit("ready on").next().unwrap().contains("was issued"));
}

#[test]
fn a_certificate_is_renewed_when_a_third_of_its_time_is_left() {
    let world = World::new("12h");
    let (clock, setup) = Clock::new(0, Setup::default());
    let device = world.device(setup);
    device.claim("pi.example.test", "acme");
    let first = device.cert_once("pi.example.test", is_active);
    let renewed = |cert: &Value| cert["serial"] != first["serial"] && cert["not_after"].is_string();
    clock.set(6 * 3600);
    let ran = device.picloud(&["domain", "add", "wake.lan"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(device.cert_once("pi.example.test", is_active)["serial"], first["serial"], "half is left");
    clock.set(8 * 3600 + 600);
    device.claim("wake-again.lan", "auto");
    device.cert_once("pi.example.test", renewed);
    assert!(device.is_verified("pi.example.test"));
    // By hand, as often as the limits allow; then the reason, and when.
    for _ in 0..3 {
        let serial = device.cert_once("pi.example.test", |_| true)["serial"].clone();
        let ran = device.picloud(&["cert", "renew", "pi.example.test"]);
        if ran.code != 0 {
            assert!(ran.err.contains("within a"), "{}", ran.err);
            return;
        }
        device.cert_once("pi.example.test", |cert| cert["serial"] != serial);
    }
    let ran = device.picloud(&["cert", "renew", "pi.example.test"]);
    assert!(ran.code == 1 && ran.err.contains("within a"), "{}{}", ran.out, ran.err);
}

#[test]
fn what_the_server_refuses_is_told_and_not_asked_for_at_once() {
    let world = World::new("12h");
    let device = world.device(Setup::default());
    // It leads to another machine, where nobody answers the challenge.
    device.claim("elsewhere.example.test", "acme");
    let cert = device.cert_once("elsewhere.example.test", |cert| cert["state"] == "failing");
    assert!(cert["last_error"].as_str().unwrap().contains("refused"), "{cert}");
    assert!(cert["next_attempt_at"].is_string(), "{cert}");
    for number in 0..3 {
        device.claim(&format!("wake-{number}.lan"), "auto");
    }
    let orders = device.daemon.log().matches("could not be had").count();
    assert_eq!(orders, 1, "{}", device.daemon.log());
    // Others are not held up, and the name is served as well as can be.
    device.claim("pi.example.test", "acme");
    device.cert_once("pi.example.test", is_active);
    let shown = world.network.run(&[
        "curl",
        "-sk",
        "--resolve",
        &format!("elsewhere.example.test:443:{DEVICE}"),
        "https://elsewhere.example.test/hello/you",
    ]);
    assert!(shown.out.contains("you"), "{}", shown.err);
    // It is in the clear, too: nobody is sent to a certificate that is not there.
    let clear = world.network.run(&[
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "-H",
        "host: elsewhere.example.test",
        &format!("http://{DEVICE}/hello/you"),
    ]);
    assert_eq!(clear.out, "200");
}

#[test]
fn a_server_that_goes_away_takes_nothing_with_it() {
    let mut world = World::new("12h");
    let (clock, setup) = Clock::new(0, Setup::default());
    {
        let device = world.device(setup.clone());
        device.claim("pi.example.test", "acme");
        device.cert_once("pi.example.test", is_active);
    }
    // It stops answering in the middle: what is there is served on, long after its end.
    world.server.as_ref().unwrap().signal("STOP");
    {
        let mut device = world.device(setup.clone());
        device.claim("b.wild.example.test", "acme");
        assert!(device.is_verified("pi.example.test"));
        clock.set(40 * 3600);
        device.claim("wake.lan", "auto");
        let expired = device.cert_once("pi.example.test", |cert| cert["state"] == "expired");
        assert!(expired["not_after"].is_string());
        let shown = device.world.network.run(&["curl", "-sk", "https://pi.example.test/hello/you"]);
        assert!(shown.out.contains("you"), "{}", shown.err);
        assert!(device.picloud(&["status"]).out.contains("pi.example.test ended at"));
        // A crash in the middle of an order.
        device.daemon.kill();
    }
    clock.set(0);
    world.server = None;
    {
        let device = world.device(setup.clone());
        assert!(device.is_verified("pi.example.test"));
        let gone = device.cert_once("b.wild.example.test", |cert| cert["state"] != "active");
        assert!(gone["not_after"].is_null());
    }
    world.open();
    let device = world.device(setup);
    // It waits its time; a person need not.
    until("the order", || {
        (device.picloud(&["cert", "renew", "b.wild.example.test"]).code == 0).then_some(())
    });
    device.cert_once("b.wild.example.test", is_active);
    assert!(device.is_verified("b.wild.example.test"));
}

#[test]
fn the_clear_port_proves_a_name_where_tls_has_another() {
    let world = World::new("12h");
    let device = world.device(Setup::default().set("tls.listen", format!("{DEVICE}:8443")));
    device.claim("pi.example.test", "acme");
    device.cert_once("pi.example.test", is_active);
    let url = "https://pi.example.test:8443/hello/you";
    let ran = world.network.run(&["curl", "-sS", "--cacert", &world.root(), url]);
    assert!(ran.out.contains("you"), "{}", ran.err);
    // Who comes in the clear is sent to that port, and a challenge that is not open is anybody's path.
    let ran = world.network.run(&["curl", "-si", "http://pi.example.test/x"]);
    assert!(ran.out.contains("location: https://pi.example.test:8443/x"), "{}", ran.out);
    let token = "http://localhost/.well-known/acme-challenge/nobody";
    let to = format!("localhost:80:{DEVICE}");
    let ran = world.network.run(&["curl", "-s", "--resolve", &to, token]);
    assert!(ran.out.contains("no route matches"), "{}", ran.out);
}

#[test]
fn a_wildcard_orders_only_what_leads_here() {
    let world = World::new("12h");
    let device = world.device(Setup::default());
    device.claim("*.example.test", "acme");
    let ask = |name: &str| {
        let to = format!("{name}:443:{DEVICE}");
        let url = format!("https://{name}/");
        world.network.run(&["curl", "-sk", "--resolve", &to, &url]).code
    };
    // A name that nobody knows is not ordered, however often somebody asks; the handshake goes on without it.
    for _ in 0..3 {
        assert_eq!(ask("unknown.example.test"), 0);
    }
    assert!(!device.daemon.log().contains("could not be had"), "{}", device.daemon.log());
    assert!(device.is_verified("pi.example.test"));
}

/// Let's Encrypt's own test server, which wants an account that was made elsewhere, refuses one nonce in twenty, and
/// answers when it likes.
fn pebble(mac_key: &str) -> (World, String) {
    let dir = TempDir::new();
    let network = Network::new(&dir, &[("pi.example.test", DEVICE)]);
    let signer = super::Signer::new("Pebble");
    let made = signer.server(&["127.0.0.1"], 30);
    let (chain, key) = (dir.file("pebble.pem", &made.chain), dir.file("pebble.key", &made.key));
    let ca = dir.file("pebble-ca.pem", &signer.pem());
    let config = json!({ "pebble": {
        "listenAddress": "127.0.0.1:14000", "managementListenAddress": "127.0.0.1:15000",
        "certificate": chain, "privateKey": key, "httpPort": 80, "tlsPort": 443, "ocspResponderURL": "",
        "externalAccountBindingRequired": true, "externalAccountMACKeys": { "kid-1": mac_key },
    }});
    let config = dir.file("pebble.json", &config.to_string());
    let prefix = network.prefix();
    let mut command = Command::new(&prefix[0]);
    command.args(&prefix[1..]).args(["pebble", "-config", &config]);
    let log = fs::File::create(dir.path().join("pebble.log")).unwrap();
    let child = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    let world = World { network, dir, server: Some(Process(child)), url: "https://127.0.0.1:14000/dir" };
    until("Pebble", || {
        (world.network.run(&["curl", "-sf", "--cacert", &ca, world.url]).code == 0).then_some(())
    });
    (world, ca)
}

#[test]
fn an_account_that_was_made_elsewhere_is_bound() {
    const KEY: &str = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W";
    let (world, ca) = pebble(KEY);
    let setup = Setup::default().set("acme.ca_file", &ca);
    {
        let device = world.device(setup.clone());
        device.claim("pi.example.test", "acme");
        let cert = device.cert_once("pi.example.test", |cert| cert["state"] == "failing");
        assert!(cert["last_error"].as_str().unwrap().contains("externalAccountRequired"), "{cert}");
    }
    let (file, wrong) = (world.dir.file("eab.key", &format!("{KEY}\n")), world.dir.file("wrong.key", "AAAA"));
    let setup = setup.set("acme.eab_key_id", "kid-1");
    {
        let device = world.device(setup.clone().set("acme.eab_key_file", &wrong));
        assert_eq!(device.picloud(&["cert", "renew", "pi.example.test"]).code, 0);
        let refused =
            |cert: &Value| cert["last_error"].as_str().is_some_and(|error| !error.contains("Required"));
        device.cert_once("pi.example.test", refused);
    }
    let device = world.device(setup.set("acme.eab_key_file", &file));
    assert_eq!(device.picloud(&["cert", "renew", "pi.example.test"]).code, 0);
    device.cert_once("pi.example.test", |cert| {
        // Three nonces in a row may be refused; then a person asks once more.
        let is_unlucky = cert["last_error"].as_str().is_some_and(|error| error.contains("badNonce"));
        if is_unlucky {
            device.picloud(&["cert", "renew", "pi.example.test"]);
        }
        is_active(cert)
    });
    let log = device.daemon.log();
    assert!(!log.contains(KEY) && !log.contains("AAAA"), "{log}");
    let root = world.network.run(&["curl", "-s", "--cacert", &ca, "https://127.0.0.1:15000/roots/0"]).out;
    let root = world.dir.file("issued-by.pem", &root);
    let ran = world.network.run(&["curl", "-sS", "--cacert", &root, "https://pi.example.test/hello/you"]);
    assert!(ran.out.contains("you"), "{}", ran.err);
}

#[test]
fn orders_wait_for_the_clock() {
    let world = World::new("12h");
    let run = TempDir::new();
    fs::create_dir_all(run.path().join("systemd/timesync")).unwrap();
    // Nobody keeps the clock of this machine, as far as the daemon sees.
    let device = world.device(Setup::default());
    drop(device);
    let mut prefix = world.network.prefix();
    prefix.extend(
        ["unshare", "--mount", "sh", "-c", "mount --bind \"$0\" /run && exec \"$@\""].map(str::to_owned),
    );
    prefix.push(run.path().to_str().unwrap().to_owned());
    let setup = Setup::default()
        .by(&prefix)
        .data_in(world.dir.path().join("data"))
        .listen(&format!("{DEVICE}:80"))
        .set("tls.listen", format!("{DEVICE}:443"))
        .set("cron.clock", "synchronised")
        .set("acme.directory", "https://127.0.0.1:14000/acme/local/directory")
        .set("acme.ca_file", world.root());
    let device = Device { daemon: setup.start(), world: &world };
    device.claim("pi.example.test", "acme");
    device.cert_once("pi.example.test", |cert| cert["state"] == "pending");
    let ran = device.picloud(&["cert", "renew", "pi.example.test"]);
    assert!(ran.code == 1 && ran.err.contains("synchronised"), "{}", ran.err);
    fs::write(run.path().join("systemd/timesync/synchronized"), "").unwrap();
    device.claim("wake.lan", "auto");
    device.cert_once("pi.example.test", is_active);
    assert!(device.is_verified("pi.example.test"));
}
