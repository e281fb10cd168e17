//! Restores: everything is checked first, and at every instant there is one whole store, the old or the new.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backups::{download, make};
use crate::harness::{Daemon, KEY, Setup, TempDir, picloud, until};
use crate::http::Answer;

/// Uploads a backup to be restored.
#[track_caller]
fn upload(daemon: &Daemon, bytes: &[u8]) -> Answer {
    let request = daemon.request("POST", "/api/v1/restore").key(KEY);
    request.header("content-type", "application/zstd").body(bytes).send()
}

/// What came of the last restore, once something has.
#[track_caller]
fn ended(daemon: &Daemon) -> Value {
    until("the end of the restore", || {
        let report = daemon.done("GET", "/restore", Value::Null);
        ["served", "rolled_back"].iter().any(|state| report["state"] == *state).then_some(report)
    })
}

fn slugs(daemon: &Daemon) -> Vec<String> {
    daemon.all("/apps").iter().map(|app| app["slug"].as_str().unwrap().to_owned()).collect()
}

fn app(daemon: &Daemon, slug: &str) {
    daemon.done("POST", "/apps", json!({ "slug": slug, "name": slug }));
}

fn old_store(daemon: &Daemon) -> PathBuf {
    daemon.data_dir().join("picloud.redb.before-restore")
}

#[test]
fn a_restore_brings_back_what_was_there() {
    let mut daemon = Daemon::start();
    assert_eq!(daemon.done("GET", "/restore", Value::Null)["state"], "none");
    app(&daemon, "kept");
    let script = daemon.serve("/was", "`before ${request.path}`");
    daemon.serve_async("/dies", "fail(\"for good\")");
    let dead = daemon.accepted("/dies", "1");
    daemon.ended(&dead);
    let backup = make(&daemon);
    app(&daemon, "later");
    daemon.done("PATCH", &format!("/apps/default/scripts/{script}"), json!({ "source": "`after`" }));
    let address = daemon.address;
    let accepted = daemon.done("POST", "/restore", json!({ "backup_id": backup["id"] }));
    assert_eq!((&accepted["state"], &accepted["backup"]["id"]), (&json!("restoring"), &backup["id"]));
    let report = ended(&daemon);
    assert_eq!((&report["state"], &report["backup"]["id"]), (&json!("served"), &backup["id"]));
    assert_eq!(slugs(&daemon), ["kept", "default"]);
    assert_eq!(daemon.get("/was").json(), "before /was");
    assert_eq!(daemon.execution(&dead)["status"], "error");
    assert_eq!(daemon.all("/dead-letters").len(), 1);
    assert!(!old_store(&daemon).exists(), "it served");
    assert_eq!(daemon.all("/backups"), [backup], "they are no part of the store");
    daemon.stop_and_start_again();
    assert_eq!(
        (slugs(&daemon).len(), daemon.done("GET", "/restore", Value::Null)["state"].clone()),
        (2, json!("served"))
    );
    assert_ne!(address.port(), 0);
}

#[test]
fn requests_during_the_switch_wait_and_are_answered() {
    let daemon = Daemon::start();
    let backup = make(&daemon);
    let stop = std::sync::atomic::AtomicBool::new(false);
    let answered = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answered = 0;
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        // A connection of its own each: none is refused, none is cut off.
                        assert_eq!(daemon.get("/hello/you").status, 200);
                        answered += 1;
                    }
                    answered
                })
            })
            .collect();
        for _ in 0..3 {
            daemon.done("POST", "/restore", json!({ "backup_id": backup["id"] }));
            until("the next house", || {
                let report = daemon.done("GET", "/restore", Value::Null);
                (report["state"] == "served").then_some(())
            });
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).sum::<u32>()
    });
    assert!(answered > 4, "{answered}");
    assert_eq!(daemon.log().matches("ready on http://").count(), 4);
}

/// Holds what is no backup against a daemon, which must refuse it and go on.
#[track_caller]
fn refused(daemon: &Daemon, what: &str, bytes: &[u8]) {
    let answer = upload(daemon, bytes);
    assert_eq!(answer.status, 422, "{what}: {answer}");
    assert!(!answer.error().is_empty());
}

#[test]
fn what_is_not_sound_is_refused_and_changes_nothing() {
    let daemon = Daemon::start();
    let good = download(&daemon, &make(&daemon));
    app(&daemon, "later");
    refused(&daemon, "nothing", b"");
    refused(&daemon, "garbage", &[0x5A; 100_000]);
    refused(&daemon, "another frame", &zstd::encode_all(&b"hello"[..], 3).unwrap());
    for at in (0..good.len()).step_by((good.len() / 60).max(1)).chain(good.len() - 60..good.len()) {
        let mut flipped = good.clone();
        flipped[at] ^= 1;
        refused(&daemon, &format!("byte {at}"), &flipped);
        refused(&daemon, &format!("cut at {at}"), &good[..at]);
    }
    refused(&daemon, "longer", &[good.as_slice(), b"x"].concat());
    let store = daemon.data_dir();
    let left: Vec<_> = fs::read_dir(&store).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("new")), "{left:?}");
    assert_eq!(slugs(&daemon), ["later", "default"]);
    assert_eq!(daemon.done("GET", "/restore", Value::Null)["state"], "none");
    for (kind, body, status) in [
        ("text/plain", &b"x"[..], 415),
        ("application/json", b"{}", 422),
        ("application/json", b"{\"backup_id\":\"x\"}", 422),
        ("application/json", b"{\"backup_id\":\"00000000-0000-0000-0000-000000000000\"}", 404),
        ("application/json", b"{", 400),
    ] {
        let request = daemon.request("POST", "/api/v1/restore").key(KEY).header("content-type", kind);
        let answer = request.body(body).send();
        assert_eq!(answer.status, status, "{kind}: {answer}");
    }
    assert_eq!(daemon.api("DELETE", "/restore", Value::Null).status, 405);
    // After all that, a good one is still taken.
    assert_eq!(upload(&daemon, &good).status, 202);
    assert_eq!(ended(&daemon)["state"], "served");
    assert_eq!(slugs(&daemon), ["default"]);
}

#[test]
fn a_backup_on_the_shelf_is_held_against_its_hash() {
    let daemon = Daemon::start();
    let backup = make(&daemon);
    let hash = daemon.data_dir().join(format!("backups/{}.sha256", backup["file"].as_str().unwrap()));
    fs::write(&hash, format!("{} *x\n", "0".repeat(64))).unwrap();
    let answer = daemon.api("POST", "/restore", json!({ "backup_id": backup["id"] }));
    assert_eq!(answer.status, 422, "{answer}");
    assert!(answer.error().contains("sha256"), "{answer}");
}

#[test]
fn an_upload_has_a_limit() {
    let daemon = Setup::default().set("backups.upload_bytes_max", 1024 * 1024).start();
    let answer = upload(&daemon, &vec![0; 1024 * 1024 + 1]);
    assert_eq!(answer.status, 413, "{answer}");
    assert_eq!(upload(&daemon, &[0; 1024]).status, 422);
}

#[test]
fn the_keys_that_opened_before_still_open() {
    let daemon = Setup::default().without_device_key().start();
    let secret = fs::read_to_string(daemon.data_dir().join("admin.key")).unwrap().trim().to_owned();
    let other = Daemon::start();
    let foreign = download(&other, &make(&other));
    let with =
        |key: &str, method: &str, path: &str| daemon.request(method, &format!("/api/v1{path}")).key(key);
    let made = with(&secret, "POST", "/keys").body("{\"name\":\"mine\"}").send().json();
    let mine = made["secret"].as_str().unwrap();
    let idle = with(&secret, "POST", "/keys").body("{\"name\":\"idle\"}").send().json();
    let idle = idle["secret"].as_str().unwrap();
    let request = with(mine, "POST", "/restore").header("content-type", "application/octet-stream");
    assert_eq!(request.body(&foreign).send().status, 202);
    until("the restored store", || {
        let report = with(&secret, "GET", "/restore").send();
        assert_eq!(report.status, 200, "the key of the data directory opens");
        (report.json()["state"] == "served").then_some(())
    });
    assert_eq!(with(mine, "GET", "/apps").send().status, 200, "so does the one that asked for it");
    assert_eq!(with(idle, "GET", "/apps").send().status, 401, "the restored store has the keys it had");
    let keys = with(&secret, "GET", "/keys").send().json();
    assert_eq!(keys["items"].as_array().unwrap().len(), 3, "{keys}");
}

#[test]
fn a_revoked_admin_key_stays_revoked() {
    let daemon = Daemon::start();
    let secret = fs::read_to_string(daemon.data_dir().join("admin.key")).unwrap().trim().to_owned();
    daemon.done("POST", "/keys", json!({ "name": "other" }));
    let admin = daemon.all("/keys").into_iter().find(|key| key["name"] == "admin").unwrap();
    daemon.done("DELETE", &format!("/keys/{}", crate::harness::id(&admin)), Value::Null);
    let other = Daemon::start();
    assert_eq!(upload(&daemon, &download(&other, &make(&other))).status, 202);
    assert_eq!(ended(&daemon)["state"], "served");
    assert_eq!(daemon.request("GET", "/api/v1/apps").key(&secret).send().status, 401);
}

/// A data directory in which a restore was cut at some instant.
struct Cut {
    dir: TempDir,
    good: Vec<u8>,
}

impl Cut {
    /// A stopped daemon's directory with an app `old`, and a store with an app `new` beside it.
    fn new() -> Cut {
        let mut daemon = Daemon::start();
        app(&daemon, "new");
        daemon.process.signal("TERM");
        daemon.process.wait("the daemon");
        let new = fs::read(daemon.data_dir().join("picloud.redb")).unwrap();
        let mut daemon = Daemon::start();
        app(&daemon, "old");
        daemon.process.signal("TERM");
        daemon.process.wait("the daemon");
        let dir = TempDir::new();
        let data = dir.path().join("data");
        fs::create_dir_all(&data).unwrap();
        fs::copy(daemon.data_dir().join("picloud.redb"), data.join("picloud.redb")).unwrap();
        Cut { dir, good: new }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join("data").join(name), bytes).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        let data = self.dir.path().join("data");
        fs::rename(data.join(from), data.join(to)).unwrap();
    }

    fn journal(&self, state: &str) {
        let report = json!({ "state": state, "backup": null, "backup_created_at": null, "at": null, "why": null, "had_store": true });
        self.write("restore.json", report.to_string().as_bytes());
    }

    /// Starts on it: the store must be the one with this app, and the report must say so.
    #[track_caller]
    fn check(self, slug: &str, state: &str) {
        let mut daemon = Setup::default().start_in(self.dir);
        for _ in 0..2 {
            assert_eq!(slugs(&daemon), [slug, "default"]);
            assert_eq!(ended_or_none(&daemon), state);
            assert!(!daemon.data_dir().join("picloud.redb.new").exists());
            daemon.kill_and_start_again();
        }
        assert!(!old_store(&daemon).exists() || state == "none");
    }
}

fn ended_or_none(daemon: &Daemon) -> String {
    daemon.done("GET", "/restore", Value::Null)["state"].as_str().unwrap().to_owned()
}

const OLD: &str = "picloud.redb.before-restore";
const NEW: &str = "picloud.redb.new";

#[test]
fn a_cut_at_each_step_leaves_the_old_store_or_the_new() {
    let cut = Cut::new();
    cut.write(NEW, &cut.good[..cut.good.len() / 2]);
    cut.check("old", "none");

    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.check("old", "none");

    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    cut.check("new", "served");

    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    cut.rename("picloud.redb", OLD);
    cut.check("new", "served");

    let cut = Cut::new();
    cut.journal("restoring");
    cut.rename("picloud.redb", OLD);
    cut.write("picloud.redb", &cut.good.clone());
    cut.check("new", "served");

    let cut = Cut::new();
    cut.journal("trial");
    cut.rename("picloud.redb", OLD);
    cut.write("picloud.redb", &cut.good.clone());
    cut.check("old", "rolled_back");

    let cut = Cut::new();
    cut.journal("trial");
    cut.check("old", "rolled_back");

    let cut = Cut::new();
    cut.journal("served");
    cut.rename("picloud.redb", OLD);
    cut.write("picloud.redb", &cut.good.clone());
    cut.check("new", "served");
}

#[test]
fn a_restored_store_that_cannot_be_opened_is_taken_back() {
    let cut = Cut::new();
    let mut broken = cut.good.clone();
    broken[..4096].fill(0x5A);
    cut.write(NEW, &broken);
    cut.journal("restoring");
    let mut daemon = Setup::default().start_in(cut.dir);
    for _ in 0..2 {
        let report = daemon.done("GET", "/restore", Value::Null);
        assert_eq!(report["state"], "rolled_back");
        assert!(report["why"].as_str().unwrap().contains("could not be opened"), "{report}");
        assert_eq!(slugs(&daemon), ["old", "default"]);
        assert!(!old_store(&daemon).exists());
        daemon.kill_and_start_again();
    }
}

/// A request of somebody who may find nobody: only that it is made counts.
fn ask(address: SocketAddr) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(b"GET /hello/you HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// Kills a daemon so long after a restore was asked for; whether it had been accepted.
#[track_caller]
fn kill_during_a_restore(daemon: &mut Daemon, backup: &Value, after: Duration, asks: bool) -> bool {
    let accepted = thread::scope(|scope| {
        let call = scope.spawn(|| {
            let body = json!({ "backup_id": backup["id"] }).to_string();
            let request = daemon.request("POST", "/api/v1/restore").key(KEY).body(body);
            let accepted = request.begin().answer().is_some_and(|answer| answer.status == 202);
            if accepted && asks {
                ask(daemon.address);
            }
            accepted
        });
        thread::sleep(after);
        assert!(daemon.process.signal_if_alive("KILL"));
        call.join().unwrap()
    });
    daemon.process.wait("the killed daemon");
    daemon.start_again();
    accepted
}

#[test]
fn a_restore_survives_kills_at_any_instant() {
    let mut daemon = Daemon::start();
    app(&daemon, "before");
    let backup = make(&daemon);
    for round in 0..12 {
        app(&daemon, &format!("later-{round}"));
        // Later in each round, from before anything is checked to after it served.
        let (after, asks) = (Duration::from_millis(round * round * 4), round % 2 == 0);
        let accepted = kill_during_a_restore(&mut daemon, &backup, after, asks);
        let now = slugs(&daemon);
        let (old, new) = (now.contains(&format!("later-{round}")), now == ["before", "default"]);
        assert!(old != new && now.contains(&"before".to_owned()), "round {round}: {now:?}");
        let state = ended_or_none(&daemon);
        // What was accepted goes on, unless the restored store died on trial, which is then said.
        assert!(!(accepted && old) || state == "rolled_back", "round {round}: {state}");
    }
}

#[test]
fn a_backup_of_an_older_schema_restores() {
    let packed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/schema-1.redb.zst");
    let dir = TempDir::new();
    fs::create_dir_all(dir.path().join("data")).unwrap();
    let store = zstd::decode_all(fs::read(packed).unwrap().as_slice()).unwrap();
    fs::write(dir.path().join("data/picloud.redb"), store).unwrap();
    let old = Setup::default().start_in(dir);
    let bytes = download(&old, &make(&old));
    let daemon = Daemon::start();
    assert_eq!(upload(&daemon, &bytes).status, 202);
    assert_eq!(ended(&daemon)["state"], "served");
    assert_eq!(slugs(&daemon), ["boat", "default"]);
    assert_eq!(daemon.all("/dead-letters").len(), 2);
}

#[test]
fn a_restored_store_that_dies_before_it_served_is_taken_back() {
    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    let mut daemon = Setup::default().start_in(cut.dir);
    // Nobody asked it anything yet. An end in good order is no reason to go back.
    daemon.stop_and_start_again();
    assert!(old_store(&daemon).exists());
    daemon.kill_and_start_again();
    assert_eq!(
        (slugs(&daemon), ended_or_none(&daemon)),
        (vec!["old".into(), "default".into()], "rolled_back".into())
    );
    let why = daemon.done("GET", "/restore", Value::Null)["why"].to_string();
    assert!(why.contains("before the restored store had served"), "{why}");
}

#[test]
fn the_command_line_restores() {
    let daemon = Daemon::start();
    let dir = TempDir::new();
    let run = |args: &[&str]| picloud(args, &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", KEY)]);
    let backup = make(&daemon);
    let file = dir.path().join("b.picloud.zst").to_str().unwrap().to_owned();
    assert_eq!(run(&["backup", "--to", &file]).code, 0);
    for from in [crate::harness::id(&backup), file.clone()] {
        app(&daemon, "later");
        let asked = run(&["restore", &from]);
        assert_eq!((asked.code, slugs(&daemon).len()), (64, 2), "{}", asked.err);
        assert!(asked.err.contains("--yes"), "{}", asked.err);
        let ran = run(&["restore", &from, "--yes"]);
        assert_eq!(ran.code, 0, "{}{}", ran.out, ran.err);
        assert!(ran.out.contains("served"), "{}", ran.out);
        assert_eq!(slugs(&daemon), ["default"]);
    }
    let mut bytes = fs::read(&file).unwrap();
    bytes[40] ^= 1;
    fs::write(&file, bytes).unwrap();
    for args in [&["restore", "--check", &file][..], &["restore", &file, "--yes"]] {
        let ran = run(args);
        assert_eq!(ran.code, 1, "{}", ran.err);
        assert!(ran.err.contains("sha256"), "{}", ran.err);
    }
    assert_eq!(run(&["restore", "/nowhere", "--yes"]).code, 1);
    assert_eq!(slugs(&daemon), ["default"]);
}

#[test]
fn a_store_that_does_not_open_any_more_is_restored_without_a_daemon() {
    let mut daemon = Setup::default().without_device_key().start();
    let data = daemon.data_dir().to_str().unwrap().to_owned();
    let secret = fs::read_to_string(daemon.data_dir().join("admin.key")).unwrap().trim().to_owned();
    let env: &[(&str, &str)] = &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", &secret)];
    let file = daemon.dir().path().join("b.picloud.zst").to_str().unwrap().to_owned();
    let ran = picloud(&["backup", "--to", &file], env);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let args = ["restore", "--data-dir", &data, &file];
    let ran = picloud(&args, &[]);
    assert!(ran.code == 1 && ran.err.contains("in use by another process"), "{}", ran.err);
    daemon.kill();
    let store = daemon.data_dir().join("picloud.redb");
    fs::write(&store, [0x5A; 8192]).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data];
    assert_eq!(picloud(&serve, &[]).code, 1, "it does not start any more");
    fs::write(daemon.dir().path().join("bad"), "x").unwrap();
    let bad = daemon.dir().path().join("bad").to_str().unwrap().to_owned();
    assert_eq!(picloud(&["restore", "--data-dir", &data, &bad], &[]).code, 1);
    let ran = picloud(&args, &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert_eq!(picloud(&args, &[]).code, 1, "one restore after the other");
    daemon.start_again();
    let apps = daemon.request("GET", "/api/v1/apps").key(&secret).send();
    assert_eq!((apps.status, apps.json()["items"][0]["slug"].as_str()), (200, Some("default")));
    assert!(!old_store(&daemon).exists(), "it served");

    let empty = TempDir::new();
    let data = empty.path().join("data").to_str().unwrap().to_owned();
    let ran = picloud(&["restore", "--data-dir", &data, &file], &[]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let mut moved = Setup::default().start_in(empty);
    moved.kill_and_start_again();
    assert_eq!(slugs(&moved), ["default"]);
    assert_eq!(moved.request("GET", "/api/v1/apps").key(&secret).send().status, 200);
}

#[test]
fn a_second_daemon_does_not_touch_a_restore_on_trial() {
    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    let daemon = Setup::default().start_in(cut.dir);
    let data = daemon.data_dir().to_str().unwrap().to_owned();
    let second = picloud(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data], &[]);
    assert!(second.code == 1 && second.err.contains("in use by another process"), "{}", second.err);
    assert_eq!(
        (slugs(&daemon), ended_or_none(&daemon)),
        (vec!["new".into(), "default".into()], "served".into())
    );
}

/// The shell lines of the README's section about backups, block by block.
fn readme() -> Vec<&'static str> {
    let (_, after) = include_str!("../../README.md").split_once("### Backup and restore").unwrap();
    let (section, _) = after.split_once("\n## ").unwrap();
    section.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect()
}

#[test]
fn the_commands_of_the_readme_work_as_they_stand() {
    let blocks = readme();
    assert_eq!(blocks.len(), 2);
    let mut daemon = Setup::default().without_device_key().start();
    let place = daemon.dir().path().to_owned();
    std::os::unix::fs::symlink(daemon.data_dir(), place.join("picloud-data")).unwrap();
    let url = daemon.url();
    let run = |block: &str| {
        let script =
            format!("set -ex\npicloud() {{ {} \"$@\"; }}\nexec 2>&1\n{block}", crate::harness::PICLOUD);
        let mut bash = std::process::Command::new("bash");
        bash.arg("-c").arg(script).current_dir(&place).env_clear().env("PICLOUD_URL", &url);
        let ran = bash.env("PATH", "/usr/bin:/bin").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{said}");
        said
    };
    let said = run(blocks[0]);
    assert_eq!(said.matches("served").count(), 2, "{said}");
    daemon.kill();
    run(blocks[1]);
    daemon.start_again();
    assert_eq!(daemon.get("/hello/you").status, 200);
}
