//! Backups: what is in them, which of them stay, and where they go.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{Cursor, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;

use picloud::store::backup;
use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, Setup, TempDir, id, picloud, until};

fn shelf(daemon: &Daemon) -> PathBuf {
    daemon.data_dir().join("backups")
}

/// The files in a directory, by name.
fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// Makes a backup and gives what the daemon says of it.
#[track_caller]
pub(crate) fn make(daemon: &Daemon) -> Value {
    let made = daemon.api("POST", "/backups", json!({}));
    assert_eq!(made.status, 201, "{made}");
    made.json()
}

/// The bytes of a backup.
#[track_caller]
pub(crate) fn download(daemon: &Daemon, backup: &Value) -> Vec<u8> {
    let answer = daemon.api("GET", &format!("/backups/{}/download", id(backup)), Value::Null);
    assert_eq!(answer.status, 200, "{:?}", answer.headers);
    answer.body
}

/// A JSON string that compresses to so many bytes, and not further.
fn noise(count: usize) -> String {
    let mut bytes = vec![0; count];
    File::open("/dev/urandom").unwrap().read_exact(&mut bytes).unwrap();
    format!("\"{}\"", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Whether this is a backup, as far as can be told without a store; its manifest.
#[track_caller]
fn sound(bytes: &[u8]) -> backup::Manifest {
    let raw = zstd::decode_all(bytes).unwrap();
    let manifest = backup::check(&mut Cursor::new(bytes)).unwrap();
    assert_eq!(u64::try_from(raw.len()).unwrap(), manifest.raw_bytes);
    manifest
}

#[test]
fn a_backup_is_a_file_that_other_tools_understand() {
    let daemon = Daemon::start();
    daemon.serve_async("/dies", "fail(\"for good\")");
    daemon.ended(&daemon.accepted("/dies", "1"));
    let made = make(&daemon);
    assert_eq!((&made["schema"], &made["tables"]["apps"]), (&json!(picloud::store::SCHEMA), &json!(1)));
    assert_eq!((&made["tables"]["dead_letters"], &made["copy"]), (&json!(1), &Value::Null));
    let path = shelf(&daemon).join(made["file"].as_str().unwrap());
    let file = fs::metadata(&path).unwrap();
    assert_eq!((file.permissions().mode() & 0o777, json!(file.len())), (0o600, made["bytes"].clone()));
    let name = made["file"].as_str().unwrap();
    let hash_file = path.with_file_name(format!("{name}.sha256"));
    let line = format!("{} *{name}\n", made["sha256"].as_str().unwrap());
    assert_eq!(fs::read_to_string(&hash_file).unwrap(), line);
    let mut sha256sum = Command::new("sha256sum");
    sha256sum.args(["--check", "--strict"]).arg(&hash_file).current_dir(shelf(&daemon));
    assert!(sha256sum.output().unwrap().status.success());
    let manifest = sound(&fs::read(&path).unwrap());
    assert_eq!((manifest.id.to_string(), json!(manifest.tables)), (id(&made), made["tables"].clone()));
    assert_eq!(names(&shelf(&daemon)).len(), 2, "nothing partial is left");
    assert_eq!(fs::metadata(shelf(&daemon)).unwrap().permissions().mode() & 0o777, 0o700);
}

#[test]
fn backups_are_listed_handed_out_and_removed() {
    let daemon = Daemon::start();
    let made: Vec<Value> = (0..3).map(|_| make(&daemon)).collect();
    let listed = daemon.all("/backups?limit=2");
    assert_eq!(listed, made.iter().rev().cloned().collect::<Vec<_>>(), "newest first");
    let path = format!("/backups/{}", id(&made[1]));
    assert_eq!(daemon.done("GET", &path, Value::Null), made[1]);
    let answer = daemon.api("GET", &format!("{path}/download"), Value::Null);
    assert_eq!(answer.header("content-type"), Some("application/zstd"));
    assert_eq!(answer.header("content-length"), Some(made[1]["bytes"].to_string().as_str()));
    let name = format!("attachment; filename=\"{}\"", made[1]["file"].as_str().unwrap());
    assert_eq!(answer.header("content-disposition"), Some(name.as_str()));
    let digest = answer.header("repr-digest").unwrap();
    let coded = digest.strip_prefix("sha-256=:").and_then(|rest| rest.strip_suffix(':')).unwrap();
    assert_eq!(coded.len(), 44, "{digest}");
    sound(&answer.body);
    daemon.done("DELETE", &path, Value::Null);
    assert_eq!(daemon.all("/backups").len(), 2);
    for (method, path, status) in [
        ("GET", path.clone(), 404),
        ("GET", format!("{path}/download"), 404),
        ("DELETE", path.clone(), 404),
        ("GET", "/backups/x".into(), 400),
        ("PATCH", "/backups".into(), 405),
        ("PUT", path, 405),
        ("POST", "/export".into(), 405),
        ("GET", "/backups?limit=0".into(), 422),
        ("GET", "/backups?cursor=x".into(), 422),
        ("GET", "/backups/a/b/c".into(), 404),
    ] {
        assert_eq!(daemon.api(method, &path, Value::Null).status, status, "{method} {path}");
    }
    assert_eq!(daemon.api("POST", "/backups", json!({ "name": "x" })).status, 422);
    for path in ["/api/v1/backups", "/api/v1/export", "/api/v1/restore"] {
        assert_eq!(daemon.get(path).status, 401, "{path}");
    }
}

#[test]
fn an_export_is_a_backup_that_never_was_on_the_card() {
    let daemon = Daemon::start();
    let answer = daemon.api("GET", "/export", Value::Null);
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/zstd")));
    let disposition = answer.header("content-disposition").unwrap();
    assert!(disposition.contains(".picloud.zst\""), "{disposition}");
    sound(&answer.body);
    assert!(!shelf(&daemon).exists());
}

#[test]
fn as_many_stay_as_are_wanted() {
    let daemon = Setup::default().set("backups.keep", 2).start();
    let made: Vec<Value> = (0..4).map(|_| make(&daemon)).collect();
    assert_eq!(daemon.all("/backups"), [made[3].clone(), made[2].clone()]);
    assert_eq!(names(&shelf(&daemon)).len(), 4, "each has its hash");
    // A file of somebody else is left alone, and is no backup.
    fs::write(shelf(&daemon).join("picloud-notes.txt"), "mine").unwrap();
    fs::write(shelf(&daemon).join("picloud-x.picloud.zst"), "mine").unwrap();
    make(&daemon);
    assert_eq!((daemon.all("/backups").len(), names(&shelf(&daemon)).len()), (2, 6));
}

#[test]
fn bytes_are_bounded_but_the_newest_stays() {
    let daemon = Setup::default().set("backups.bytes_max", 1024 * 1024).start();
    daemon.serve_async("/dies", "fail(\"for good\")");
    for _ in 0..3 {
        daemon.ended(&daemon.accepted("/dies", &noise(450_000)));
    }
    make(&daemon);
    let last = make(&daemon);
    assert!(last["bytes"].as_u64().unwrap() > 1024 * 1024, "{last}");
    assert_eq!(daemon.all("/backups"), [last]);
}

#[test]
fn what_an_interrupted_backup_left_goes() {
    let mut daemon = Daemon::start();
    make(&daemon);
    let whole = names(&shelf(&daemon));
    let leave = |daemon: &Daemon| {
        for name in ["picloud-20260101T000000Z-00000000.picloud.zst.partial", "picloud-1.picloud.zst.sha256"]
        {
            fs::write(shelf(daemon).join(name), "x").unwrap();
        }
    };
    leave(&daemon);
    daemon.kill_and_start_again();
    until("the next start to tidy up", || (names(&shelf(&daemon)) == whole).then_some(()));
    leave(&daemon);
    make(&daemon);
    let left = names(&shelf(&daemon));
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(whole.is_subset(&left));
}

/// Each pair of calls keeps an invariant; whatever instant a backup is of, it holds there.
#[test]
fn a_backup_under_load_holds_all_that_was_accepted_before_it() {
    let daemon = Daemon::start();
    daemon.serve_async("/quick", "request.body");
    daemon.serve_async("/dies", "fail(\"for good\")");
    daemon.serve_async("/again", "throw \"later\"");
    let stop = AtomicBool::new(false);
    let (before, bytes) = thread::scope(|scope| {
        let paths = ["/quick", "/dies", "/again"];
        let writers = paths.map(|path| {
            let (daemon, stop) = (&daemon, &stop);
            scope.spawn(move || {
                while !stop.load(Relaxed) {
                    daemon.accepted(path, "1");
                }
            })
        });
        let before: Vec<String> = (0..150).map(|n| daemon.accepted(paths[n % 3], "2")).collect();
        let made = make(&daemon);
        let bytes = download(&daemon, &made);
        stop.store(true, Relaxed);
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        (before, bytes)
    });
    sound(&bytes);
    let other = Daemon::start();
    let answer = other.request("POST", "/api/v1/restore").key(KEY).header("content-type", "application/zstd");
    assert_eq!(answer.body(&bytes).send().status, 202);
    until("the restored store", || {
        let report = other.done("GET", "/restore", Value::Null);
        (report["state"] == "served").then_some(())
    });
    for execution in before {
        // A row, a record or a dead letter: none of them is unknown.
        let found = other.api("GET", &format!("/executions/{execution}"), Value::Null);
        assert_eq!(found.status, 200, "{execution}: {found}");
    }
}

#[test]
fn only_one_is_made_at_a_time_and_neither_hurts_the_other() {
    let daemon = Daemon::start();
    let statuses: Vec<u16> = thread::scope(|scope| {
        let calls: Vec<_> =
            (0..6).map(|_| scope.spawn(|| daemon.api("POST", "/backups", json!({})).status)).collect();
        calls.into_iter().map(|call| call.join().unwrap()).collect()
    });
    let made = statuses.iter().filter(|status| **status == 201).count();
    assert!(made >= 1 && statuses.iter().all(|status| [201, 409].contains(status)), "{statuses:?}");
    assert_eq!(daemon.all("/backups").len(), made);
}

#[test]
fn a_scheduled_backup_comes_by_itself_but_not_before_its_time() {
    let setup = || Setup::default().set("backups.start_delay_seconds", 0);
    let mut daemon = setup().set("backups.interval_hours", 1).start();
    until("the first backup", || daemon.all("/backups").pop());
    until("the line in the log", || daemon.log().contains("a scheduled backup was made").then_some(()));
    // The newest is young: the next start waits. What is asked for afterwards comes later than what would be due.
    daemon.stop_and_start_again();
    for _ in 0..20 {
        daemon.get("/hello/you");
    }
    make(&daemon);
    assert_eq!(daemon.all("/backups").len(), 2);
    assert_eq!(daemon.log().matches("a scheduled backup was made").count(), 1);
}

/// A file system of its own at a path, as a stick has one; `None` where this machine lets nobody mount.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: &Path, size: &str) -> Option<Mounted> {
        fs::create_dir_all(path).unwrap();
        let options = format!("size={size}");
        let done =
            Command::new("mount").args(["-t", "tmpfs", "-o", &options, "picloud-test"]).arg(path).output();
        if done.is_ok_and(|done| done.status.success()) {
            return Some(Mounted(path.to_owned()));
        }
        eprintln!("NOT TESTED: this machine lets nobody mount a file system");
        None
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn each_backup_is_copied_to_a_mounted_stick_and_never_to_the_card() {
    let dir = TempDir::new();
    let stick = dir.path().join("stick");
    fs::create_dir_all(&stick).unwrap();
    let target = stick.join("picloud");
    let daemon =
        Setup::default().set("backups.copy_to", target.display()).set("backups.keep", 2).start_in(dir);
    let lonely = make(&daemon);
    let why = lonely["copy"]["error"].as_str().unwrap();
    assert!(why.contains("nothing is mounted at") && why.contains("stick"), "{why}");
    assert_eq!((&lonely["copy"]["ok"], &daemon.all("/backups")[0]["copy"]), (&json!(false), &lonely["copy"]));
    assert!(daemon.log().contains("a backup was not copied"));
    assert!(names(&stick).is_empty(), "the card is not filled");
    let Some(mounted) = Mounted::at(&stick, "16m") else { return };
    assert_ne!(fs::metadata(&stick).unwrap().dev(), fs::metadata(daemon.data_dir()).unwrap().dev());
    let made: Vec<Value> = (0..3).map(|_| make(&daemon)).collect();
    let last = &made[2];
    assert_eq!(last["copy"], json!({ "path": target.display().to_string(), "ok": true, "error": null }));
    assert_eq!(names(&target), names(&shelf(&daemon)), "the same ones stay");
    let name = last["file"].as_str().unwrap();
    assert_eq!(fs::read(target.join(name)).unwrap(), download(&daemon, last));
    drop(mounted);
    let without = make(&daemon);
    assert_eq!(without["copy"]["ok"], false, "the stick was pulled");
    assert!(names(&stick).is_empty());
}

#[test]
fn a_full_card_is_said_and_an_export_still_works() {
    let dir = TempDir::new();
    let place = dir.path().join("small");
    let Some(_mounted) = Mounted::at(&place, "8m") else { return };
    let daemon = Setup::default().set("backups.directory", place.display()).start_in(dir);
    let refused = daemon.api("POST", "/backups", json!({}));
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (503, Some("storage_full")), "{refused}");
    assert!(refused.error().contains("the card is full"), "{refused}");
    assert!(names(&place).is_empty());
    sound(&daemon.api("GET", "/export", Value::Null).body);
}

#[test]
fn the_command_line_makes_lists_brings_and_removes_backups() {
    let daemon = Daemon::start();
    let dir = TempDir::new();
    let run = |args: &[&str]| {
        let ran = picloud(args, &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", KEY)]);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    };
    assert!(run(&["backup", "ls"]).contains("no backups yet"));
    let said = run(&["backup"]);
    let backup = daemon.all("/backups").pop().unwrap();
    assert!(said.contains(&id(&backup)) && said.contains(backup["file"].as_str().unwrap()), "{said}");
    assert!(run(&["backup", "ls"]).contains(&id(&backup)));
    assert_eq!(
        serde_json::from_str::<Value>(&run(&["backup", "show", &id(&backup), "--json"])).unwrap(),
        backup
    );
    for (name, args) in [("one", &["backup", "download", &id(&backup)][..]), ("two", &["backup", "--to"])] {
        let file = dir.path().join(name).to_str().unwrap().to_owned();
        let said = run(&[args, &[&file]].concat());
        assert!(said.contains(&file) && said.contains("sound"), "{said}");
        sound(&fs::read(&file).unwrap());
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(run(&["restore", "--check", &file]).contains("sound"));
        // Again, over what is there.
        run(&[args, &[&file]].concat());
    }
    assert_eq!(names(dir.path()), BTreeSet::from(["one".to_owned(), "two".to_owned()]));
    run(&["backup", "rm", &id(&backup)]);
    assert!(daemon.all("/backups").is_empty());
}

#[test]
fn a_card_that_gets_full_half_way_leaves_nothing_behind() {
    let dir = TempDir::new();
    let place = dir.path().join("small");
    let Some(_mounted) = Mounted::at(&place, "40m") else { return };
    let setup = Setup::default().set("backups.directory", place.display());
    // 27 MiB, an eighth of that and a reserve of nothing stay free.
    let daemon = setup.set("store.space_low_bytes", 27 << 20).set("store.reserve_bytes", 0).start_in(dir);
    daemon.serve_async("/dies", "fail(\"for good\")");
    for _ in 0..6 {
        daemon.ended(&daemon.accepted("/dies", &noise(2_000_000)));
    }
    let refused = daemon.api("POST", "/backups", json!({}));
    assert_eq!((refused.status, refused.json()["reason"].as_str()), (503, Some("storage_full")), "{refused}");
    assert!(names(&place).is_empty(), "{:?}", names(&place));
}
