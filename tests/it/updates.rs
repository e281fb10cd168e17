//! Updates of the appliance, end to end: the real daemon and the real helpers on a directory that is the device. Only its
//! block devices are files, and U-Boot is these lines here.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use picloud::device::{Slot, State};
use picloud::store::SCHEMA;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, PICLOUD, Process, Ran, Setup, TempDir, picloud, until};

mod probation;

const SLOT_BYTES: usize = 12 * 1024 * 1024;
const BUILD: &str = "2026-11-27T00:00:00Z";

/// Bytes of a slot's file system that tell the seed.
fn system(seed: u8) -> Vec<u8> {
    let mut bytes = vec![0; SLOT_BYTES];
    let mut state = u32::from(seed);
    for byte in bytes.iter_mut().take(5 * 1024 * 1024) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    bytes[SLOT_BYTES - 1] = seed;
    bytes
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

/// The appliance, as far as it is a computer: its card, what U-Boot and the kernel say, what the image says.
pub(crate) struct Device {
    pub(crate) daemon: Daemon,
    root: PathBuf,
    listen: SocketAddr,
}

impl Device {
    /// One that was set up from a card with 1.0.0 in slot A.
    pub(crate) fn new() -> Device {
        let dir = TempDir::new();
        let root = dir.path().to_owned();
        for below in ["usr/lib/picloud/update-keys", "proc/net", "run/picloud-device", "data/picloud"] {
            fs::create_dir_all(root.join(below)).unwrap();
        }
        fs::write(root.join("disk"), vec![0; 6 * 1024 * 1024]).unwrap();
        fs::write(root.join("disk2"), system(1)).unwrap();
        fs::write(root.join("disk3"), vec![0; SLOT_BYTES]).unwrap();
        fs::write(root.join("proc/net/route"), "Iface\tDestination\neth0\t00000000\t0102A8C0\n").unwrap();
        let pair = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap();
        fs::write(root.join("key.pem"), pem("PRIVATE KEY", pair.as_ref())).unwrap();
        let public = Ed25519KeyPair::from_pkcs8(pair.as_ref()).unwrap();
        let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        let spki = [prefix.as_slice(), public.public_key().as_ref()].concat();
        fs::write(root.join("usr/lib/picloud/update-keys/now.pem"), pem("PUBLIC KEY", &spki)).unwrap();
        State::default().write(&root.join("disk")).unwrap();
        // It keeps its address over restarts, as a device does.
        let listen = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        boot_into(&root, Slot::A, None);
        let setup = Setup::default().set("device.root", root.display()).listen(&listen.to_string());
        let daemon = setup.data_in(root.join("data/picloud")).start_in(dir);
        let device = Device { daemon, root, listen };
        assert_eq!(device.helper(&["settle"]).code, 0);
        device
    }

    pub(crate) fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// Runs a helper, as systemd does.
    fn helper(&self, args: &[&str]) -> Ran {
        let root = self.root.to_str().unwrap().to_owned();
        let url = format!("http://{}", self.listen);
        let args: Vec<&str> = ["device", "--root", &root].iter().chain(args).copied().collect();
        picloud(&args, &[("PICLOUD_URL", &url), ("PICLOUD_API_KEY", KEY)])
    }

    /// An update of this version, with the system of the seed.
    pub(crate) fn bundle(&self, version: &str, seed: u8, schema: u32) -> PathBuf {
        let (slot, facts) = (self.path("slot.ext4"), self.path("new.json"));
        fs::write(&slot, system(seed)).unwrap();
        fs::write(&facts, image(version).to_string()).unwrap();
        let (key, out) = (self.path("key.pem"), self.path(&format!("{version}.update")));
        let schema = schema.to_string();
        let mut args = vec!["bundle", "--level", "1", "--schema", &schema];
        let files = [("--slot", &slot), ("--image", &facts), ("--key", &key), ("--out", &out)];
        args.extend(files.iter().flat_map(|(flag, path)| [*flag, path.to_str().unwrap()]));
        let made = self.helper(&args);
        assert_eq!(made.code, 0, "{}", made.err);
        out
    }

    fn state(&self) -> (Slot, Option<Slot>, u32) {
        let state = State::read(&self.path("disk")).unwrap();
        (state.slot, state.pending, state.tries)
    }

    fn holds(&self, partition: &str, seed: u8) -> bool {
        fs::read(self.path(partition)).unwrap() == system(seed)
    }

    pub(crate) fn standing(&self) -> Value {
        self.daemon.done("GET", "/updates", Value::Null)
    }

    pub(crate) fn request(&self) -> PathBuf {
        self.path("data/picloud/device/update.bundle")
    }

    /// Takes an update in, without root's part.
    pub(crate) fn upload(&self, bundle: &Path) -> crate::http::Answer {
        let request = self.daemon.request("POST", "/api/v1/updates").key(KEY);
        request.header("content-type", "application/octet-stream").body(fs::read(bundle).unwrap()).send()
    }

    /// Takes an update in and installs it.
    #[track_caller]
    fn install(&self, bundle: &Path) {
        let answer = self.upload(bundle);
        assert_eq!((answer.status, &answer.json()["phase"]), (202, &json!("waiting")), "{answer}");
        let installed = self.helper(&["install"]);
        assert_eq!(installed.code, 0, "{}", installed.err);
    }

    /// Power off and on: U-Boot chooses (it counts the tries of what is pending), and the run directory is empty. What
    /// boots does no more than that.
    fn power_cycle(&mut self) -> Slot {
        self.daemon.kill();
        let mut state = State::read(&self.path("disk")).unwrap();
        let was_pending = state.pending.filter(|_| state.tries > 0);
        match was_pending {
            Some(_) => state.tries -= 1,
            None => state.pending = None,
        }
        state.write(&self.path("disk")).unwrap();
        let slot = was_pending.unwrap_or(state.slot);
        boot_into(&self.root, slot, was_pending);
        slot
    }

    /// What boots after that: what was left is put right, then comes the daemon.
    #[track_caller]
    fn start(&mut self) -> Ran {
        let settled = self.helper(&["settle"]);
        self.daemon.start_again();
        settled
    }
}

fn image(version: &str) -> Value {
    json!({ "compatible": "picloud-test", "version": version, "build": BUILD, "slot_bytes": SLOT_BYTES })
}

/// The system of a slot runs: A has 1.0.0, and B 1.1.0.
fn boot_into(root: &Path, slot: Slot, pending: Option<Slot>) {
    let pending = pending.map(|slot| slot.to_string()).unwrap_or_default();
    let line = format!("quiet picloud.slot={slot} picloud.pending={pending} panic=10\n");
    fs::write(root.join("proc/cmdline"), line).unwrap();
    let version = if slot == Slot::A { "1.0.0" } else { "1.1.0" };
    fs::write(root.join("usr/lib/picloud/image.json"), image(version).to_string()).unwrap();
    fs::remove_dir_all(root.join("run/picloud-device")).unwrap();
    fs::create_dir_all(root.join("run/picloud-device")).unwrap();
    let disk = format!("{}\n", root.join("disk").display());
    fs::write(root.join("run/picloud-device/disk"), disk).unwrap();
}

#[test]
fn an_update_is_written_tried_and_kept_and_the_client_waits_for_that() {
    let mut device = Device::new();
    let bundle = device.bundle("1.1.0", 2, SCHEMA);
    let url = format!("http://{}", device.listen);
    let waiting = {
        let (bundle, url) = (bundle.to_str().unwrap().to_owned(), url.clone());
        thread::spawn(move || {
            picloud(&["update", &bundle], &[("PICLOUD_URL", &url), ("PICLOUD_API_KEY", KEY)])
        })
    };
    until("the request", || device.request().exists().then_some(()));
    assert_eq!(device.standing()["phase"], "waiting");
    let installed = device.helper(&["install"]);
    assert_eq!(installed.code, 0, "{}", installed.err);
    assert!(device.holds("disk3", 2) && device.holds("disk2", 1), "B has the new system, A is as it was");
    assert_eq!(device.state(), (Slot::A, Some(Slot::B), 3));
    assert!(!device.request().exists());
    let standing = device.standing();
    assert_eq!((&standing["phase"], &standing["version"]), (&json!("rebooting"), &json!("1.0.0")));
    let told = fs::metadata(device.path("run/picloud-device/update.json")).unwrap();
    assert_eq!(told.permissions().mode() & 0o777, 0o644, "everybody may read it");
    let copy = device.path("data/update/before.picloud.zst");
    assert_eq!(picloud(&["restore", "--check", copy.to_str().unwrap()], &[]).code, 0);
    assert_eq!(fs::metadata(&copy).unwrap().permissions().mode() & 0o777, 0o600);
    // Until it has proved itself there is no room for another.
    let other = device.upload(&bundle);
    assert_eq!(other.status, 409, "{other}");
    assert_ne!(device.helper(&["install", bundle.to_str().unwrap()]).code, 0);

    assert_eq!(device.power_cycle(), Slot::B);
    device.start();
    let standing = device.standing();
    assert_eq!((&standing["phase"], &standing["slot"]), (&json!("probation"), &json!("B")));
    assert_eq!((&standing["version"], &standing["pending"]), (&json!("1.1.0"), &json!("B")));
    let healthy = device.helper(&["health", "--wait", "20"]);
    assert_eq!(healthy.code, 0, "{}", healthy.err);
    assert_eq!(device.state(), (Slot::B, None, 0));
    let ran = waiting.join().unwrap();
    assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("update to 1.1.0") && ran.out.contains("is done: slot B runs"), "{}", ran.out);
    assert!(ran.err.contains("sent 100 %"), "{}", ran.err);

    // It is asked once.
    assert_eq!(device.helper(&["health"]).out, "nothing is on probation\n");
    assert_eq!(device.standing()["phase"], "done");

    // What was confirmed stays so, and says so.
    assert_eq!(device.power_cycle(), Slot::B);
    device.start();
    assert_eq!(device.helper(&["health"]).out, "nothing is on probation\n");
    let said = picloud(&["update", "--status"], &[("PICLOUD_URL", &url), ("PICLOUD_API_KEY", KEY)]).out;
    assert!(said.contains("1.1.0 (2026-11-27T00:00:00Z) runs in slot B"), "{said}");
    assert!(said.contains("no update is under way") && said.contains("is done"), "{said}");
    assert!(!copy.exists(), "what is not needed any more goes");
    // And the next one goes into the other slot.
    device.install(&device.bundle("1.2.0", 3, SCHEMA));
    assert!(device.holds("disk2", 3) && device.holds("disk3", 2));
    assert_eq!(device.state(), (Slot::B, Some(Slot::A), 3));
}

/// Killed at any instant, the slot that runs is as it was, and what was asked for can be done again.
#[test]
fn a_helper_that_is_killed_leaves_what_runs() {
    let device = Device::new();
    let bundle = device.bundle("1.1.0", 2, SCHEMA);
    assert_eq!(device.upload(&bundle).status, 202);
    let mut cut_while = Vec::new();
    let mut delay_ms = 1;
    while device.state().1.is_none() {
        let mut helper = Command::new(PICLOUD);
        helper.args(["device", "install", "--root"]).arg(&device.root).env_clear();
        helper.env("PICLOUD_URL", device.daemon.url()).env("PICLOUD_API_KEY", KEY);
        let helper = helper.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut helper = Process(helper);
        thread::sleep(Duration::from_millis(delay_ms));
        helper.signal_if_alive("KILL");
        helper.wait("the helper");
        delay_ms += 23;
        assert!(device.holds("disk2", 1), "the slot that runs was touched");
        assert_eq!(device.state().0, Slot::A);
        if device.state().1.is_none() {
            let phase = device.standing()["phase"].as_str().unwrap().to_owned();
            assert_eq!(phase, "waiting", "the request is still there");
            let told = fs::read(device.path("run/picloud-device/update.json")).unwrap();
            let told: Value = serde_json::from_slice(&told).expect("it is written whole");
            cut_while.push(told["phase"].as_str().unwrap().to_owned());
        }
    }
    assert!(device.holds("disk3", 2), "what U-Boot is told of is complete");
    assert!(cut_while.iter().any(|phase| phase == "writing"), "{cut_while:?}");
}

/// Between the helper's beginning and its first word, what an earlier update came to is not told as its end.
#[test]
fn a_helper_that_has_said_nothing_yet_is_waited_for() {
    let device = Device::new();
    for phase in ["idle", "done", "failed", "rolled_back"] {
        let told = json!({
            "phase": phase, "slot": "A", "pending": null, "version": "0.9.0", "build": null, "bytes": 0,
            "bytes_total": 0, "error": null, "at": "2026-11-27T00:00:00.000Z",
        });
        fs::write(device.path("run/picloud-device/update.json"), told.to_string()).unwrap();
        // The lock of the phase before may live on in a child of another test, until that has begun its program.
        until(phase, || (device.standing()["phase"] == phase).then_some(()));
        let lock = fs::File::create(device.path("run/picloud-device/update.lock")).unwrap();
        lock.lock().unwrap();
        assert_eq!(device.standing()["phase"], "waiting", "after {phase}");
    }
}

#[test]
fn root_trusts_nothing_that_the_daemon_left() {
    let device = Device::new();
    let good = device.bundle("1.1.0", 2, SCHEMA);
    let mut changed = fs::read(&good).unwrap();
    let middle = changed.len() / 2;
    changed[middle] ^= 1;
    fs::create_dir_all(device.path("data/picloud/device")).unwrap();
    let older = device.bundle("0.9.0", 3, SCHEMA);
    for (bundle, says) in [
        (changed, "damaged"),
        (b"nonsense".to_vec(), "no tar archive"),
        (fs::read(&older).unwrap(), "older than 1.0.0"),
    ] {
        fs::write(device.request(), bundle).unwrap();
        let refused = device.helper(&["install"]);
        assert!(refused.code == 1 && refused.err.contains(says), "{}", refused.err);
        assert!(!device.request().exists(), "it would fail again");
        let standing = device.standing();
        assert_eq!(standing["phase"], "failed");
        assert!(standing["error"].as_str().unwrap().contains(says), "{standing}");
        assert_eq!(device.state(), (Slot::A, None, 0));
    }
    // Not even where the file is.
    std::os::unix::fs::symlink(&good, device.request()).unwrap();
    assert_eq!(device.helper(&["install"]).code, 1);
    assert!(
        device.holds("disk3", 0) || fs::read(device.path("disk3")).unwrap().iter().all(|byte| *byte == 0)
    );
    // What the daemon was told about it counts.
    fs::write(device.request(), fs::read(&older).unwrap()).unwrap();
    fs::write(device.path("data/picloud/device/update.json"), "{\"force\":true}").unwrap();
    assert_eq!(device.helper(&["install"]).code, 0);
    assert_eq!(fs::read_dir(device.path("data/picloud/device")).unwrap().count(), 0, "both are gone");
}

#[test]
fn what_is_brought_is_checked_before_it_is_kept() {
    let device = Device::new();
    let good = device.bundle("1.1.0", 2, SCHEMA);
    let older = device.bundle("0.9.0", 3, SCHEMA);
    let bytes = fs::read(&good).unwrap();
    for (body, status, says) in [
        (&b"nonsense"[..], 422, "no tar archive"),
        (&bytes[..bytes.len() - 600_000], 422, "cut off in slot.ext4.zst"),
        (&fs::read(&older).unwrap(), 422, "older than 1.0.0"),
        (&vec![0; SLOT_BYTES + 9 * 1024 * 1024], 413, "none for this device has"),
    ] {
        let request = device.daemon.request("POST", "/api/v1/updates").key(KEY);
        let answer = request.header("content-type", "application/octet-stream").body(body).send();
        assert_eq!(answer.status, status, "{answer}");
        assert!(answer.error().contains(says), "{answer}");
        let left = fs::read_dir(device.path("data/picloud/device")).map_or(0, Iterator::count);
        assert_eq!(left, 0, "nothing of it is left");
    }
    assert_eq!(device.daemon.get("/api/v1/updates").status, 401);
    assert_eq!(device.daemon.api("PUT", "/updates", json!({})).status, 405);
    assert_eq!(device.upload(&good).status, 202);
    let again = device.upload(&good);
    assert!(again.status == 409 && again.error().contains("waits to be installed"), "{again}");
    assert_eq!(device.daemon.api("DELETE", "/updates", Value::Null).status, 204);
    assert!(!device.request().exists());
    assert_eq!(device.daemon.api("DELETE", "/updates", Value::Null).status, 404);
    assert_eq!(device.standing()["phase"], "idle");
    let forced = device.daemon.request("POST", "/api/v1/updates?force=true").key(KEY);
    let forced = forced.header("content-type", "application/octet-stream").body(fs::read(&older).unwrap());
    assert_eq!(forced.send().status, 202);
    assert_eq!(device.helper(&["install"]).code, 0, "that it is forced is passed on");
    assert!(device.holds("disk3", 3));
}

/// A server for one file, as often as it is asked; with a redirect before it.
fn file_server(bytes: Vec<u8>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut head = [0; 2048];
            let count = stream.read(&mut head).unwrap_or(0);
            let asked = String::from_utf8_lossy(&head[..count]).into_owned();
            let answer = match asked.split_whitespace().nth(1) {
                Some("/latest") => {
                    b"HTTP/1.1 302 Found\r\nlocation: /file\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
                        .to_vec()
                }
                Some("/file") => {
                    let head = format!(
                        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                        bytes.len()
                    );
                    [head.into_bytes(), bytes.clone()].concat()
                }
                _ => b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_vec(),
            };
            let _ = stream.write_all(&answer);
        }
    });
    format!("http://{address}")
}

#[test]
fn the_device_fetches_an_update_by_itself() {
    let device = Device::new();
    let server = file_server(fs::read(device.bundle("1.1.0", 2, SCHEMA)).unwrap());
    for (url, says) in [("ftp://host/x", "no URL that begins with"), ("nonsense", "no URL that begins with")]
    {
        let answer = device.daemon.api("POST", "/updates", json!({ "url": url }));
        assert!(answer.status == 415 || answer.status == 422, "{answer}: {says}");
    }
    let post = |body: Value| {
        let request = device.daemon.request("POST", "/api/v1/updates").key(KEY);
        request.header("content-type", "application/json").body(body.to_string()).send()
    };
    let answer = post(json!({ "url": "ftp://host/x" }));
    assert!(answer.status == 422 && answer.error().contains("begins with http://"), "{answer}");
    assert_eq!(post(json!({ "url": format!("{server}/nowhere?token=secret") })).status, 202);
    let failed =
        until("the failure", || Some(device.standing()).filter(|standing| standing["phase"] == "failed"));
    let why = failed["error"].as_str().unwrap();
    assert!(why.contains("404") && why.contains("/nowhere") && !why.contains("secret"), "{why}");
    let url = format!("{server}/latest");
    let ran = device.daemon.cli(&["update", &url, "--no-wait"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    until("the update", || (device.standing()["phase"] == "waiting").then_some(()));
    assert_eq!(device.helper(&["install"]).code, 0);
    assert!(device.holds("disk3", 2));
}

/// Lets the store look as if a newer version had brought it to its schema.
fn bring_to_next_schema(device: &Device) {
    let meta: redb::TableDefinition<'_, &str, &[u8]> = redb::TableDefinition::new("meta");
    let store = redb::Database::open(device.path("data/picloud/picloud.redb")).unwrap();
    let change = store.begin_write().unwrap();
    let next = (SCHEMA + 1).to_le_bytes();
    assert!(change.open_table(meta).unwrap().insert("schema", next.as_slice()).unwrap().is_some());
    change.commit().unwrap();
}

/// The newer version changed the data; the older one gets those that it can read, from the copy of the update or from
/// the one that the newer version made.
#[test]
fn data_go_back_with_the_slot() {
    for has_copy in [false, true] {
        let mut device = Device::new();
        device.daemon.serve("/mine", "\"here\"");
        device.install(&device.bundle("1.1.0", 2, SCHEMA + 1));
        assert_eq!(device.power_cycle(), Slot::B);
        assert_eq!(device.helper(&["settle"]).code, 0);
        if has_copy {
            let aside = format!("{}.schema-{SCHEMA}", device.path("data/picloud/picloud.redb").display());
            fs::copy(device.path("data/picloud/picloud.redb"), aside).unwrap();
        }
        bring_to_next_schema(&device);
        while device.power_cycle() == Slot::B {}
        let settled = device.start();
        assert_eq!(settled.code, 0, "{}", settled.err);
        assert_eq!(device.daemon.get("/mine").text(), "\"here\"", "copy: {has_copy}");
        let report = device.standing()["reports"][0].clone();
        let store = report["store"].as_str().unwrap();
        assert!(store.contains(&format!("schema {}", SCHEMA + 1)), "{store}");
        assert_eq!(store.contains("since the first start of the newer version"), has_copy, "{store}");
        assert!(report["message"].as_str().unwrap().contains("started 1 times"), "{report}");
    }
}

#[test]
fn reports_are_kept_and_bounded() {
    let mut device = Device::new();
    for _ in 0..11 {
        device.install(&device.bundle("1.1.0", 2, SCHEMA));
        device.daemon.kill();
        boot_into(&device.root, Slot::A, Some(Slot::B));
        let settled = device.start();
        assert_eq!(settled.code, 0, "{}", settled.err);
    }
    let reports = device.standing()["reports"].as_array().unwrap().clone();
    assert_eq!(reports.len(), 10);
    let last: Value =
        serde_json::from_slice(&fs::read(device.path("data/update/report.json")).unwrap()).unwrap();
    assert_eq!(reports[0], last);
    // Damaged records stop no boot.
    fs::write(device.path("data/update/reports.json"), "{").unwrap();
    fs::write(device.path("data/update/before.json"), "{").unwrap();
    fs::write(device.path("disk"), vec![9; 6 * 1024 * 1024]).unwrap();
    device.power_cycle();
    let settled = device.start();
    assert_eq!(settled.code, 0, "{}", settled.err);
    assert_eq!(device.standing()["reports"], json!([]));
}

#[test]
fn health_is_a_write_that_is_on_the_card() {
    let daemon = Daemon::start();
    daemon.serve("/mine", "1");
    let syncs = || daemon.done("GET", "/status", Value::Null)["card"]["fsyncs"].as_u64().unwrap();
    let before = syncs();
    let said = daemon.done("POST", "/health", json!({}));
    assert!(syncs() > before, "nothing was written");
    assert_eq!(said["status"], "ok");
    assert!(said["commit_ms"].as_f64().unwrap() > 0.0, "{said}");
    assert_eq!(said["routes"], json!(daemon.all("/apps/default/routes").len()));
    assert_eq!(said["scripts"], json!(daemon.all("/apps/default/scripts").len()));
    assert_eq!(daemon.post("/api/v1/health", "{}").status, 401);
    assert_eq!(daemon.get("/api/v1/health").status, 200);
}

#[test]
fn a_computer_that_is_no_appliance_says_so() {
    let dir = TempDir::new();
    let root = dir.path().to_owned();
    let daemon = Setup::default().set("device.root", root.display()).start_in(dir);
    for (method, path, body) in [
        ("GET", "/updates", Value::Null),
        ("POST", "/updates", json!("x")),
        ("DELETE", "/updates", Value::Null),
        ("GET", "/factory-reset", Value::Null),
        ("POST", "/factory-reset", json!({ "confirm": "x" })),
    ] {
        let answer = daemon.api(method, path, body);
        assert_eq!(answer.status, 409, "{method} {path}: {answer}");
        assert!(answer.error().contains("update the package picloud instead"), "{answer}");
    }
    for args in [&["update", "x.update"][..], &["factory-reset", "--yes"]] {
        let ran = daemon.cli(args);
        assert!(ran.code == 1 && ran.err.contains("not booted from a PiCloud card image"), "{}", ran.err);
    }
    let root = root.to_str().unwrap();
    for verb in ["install", "settle", "health", "confirm", "reset", "state"] {
        assert_eq!(picloud(&["device", "--root", root, verb], &[]).code, 1, "{verb}");
    }
}

#[test]
fn a_factory_reset_is_asked_for_by_name_and_left_to_root() {
    let device = Device::new();
    let request = device.path("data/picloud/device/factory-reset");
    let refused = device.daemon.api("POST", "/factory-reset", json!({ "confirm": "another" }));
    assert_eq!(refused.status, 422, "{refused}");
    assert!(!request.exists());
    let nobody = device.helper(&["reset"]);
    assert!(nobody.code == 1 && nobody.err.contains("nobody asked"), "{}", nobody.err);
    assert_eq!(device.daemon.cli(&["factory-reset"]).code, 64, "it is not done without a question");
    let ran = device.daemon.cli(&["factory-reset", "--yes"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(request.exists());
    assert_eq!(device.helper(&["reset"]).code, 0);
    assert!(device.path("data/.factory-reset").exists() && !request.exists());
}
