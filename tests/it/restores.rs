//! Restores: everything is checked first, then the house reopens with what was restored.

use std::fs;
use std::path::PathBuf;
use std::thread;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

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

pub(crate) fn slugs(daemon: &Daemon) -> Vec<String> {
    daemon.all("/apps").iter().map(|app| app["slug"].as_str().unwrap().to_owned()).collect()
}

pub(crate) fn app(daemon: &Daemon, slug: &str) {
    daemon.done("POST", "/apps", json!({ "slug": slug, "name": slug }));
}

pub(crate) fn old_store(daemon: &Daemon) -> PathBuf {
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
    // Its record is in memory only, as of now.
    let greeted = daemon.get("/hello/you").execution_id();
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
    assert_eq!(daemon.execution(&greeted)["status"], "success");
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
fn what_is_accepted_after_a_restore_was_answered_stays() {
    let daemon = Daemon::start();
    daemon.serve_async("/work", "1");
    let backup = make(&daemon);
    for round in 0..8 {
        daemon.done("POST", "/restore", json!({ "backup_id": backup["id"] }));
        // At once, while the old store may still be there: accepted for good, or refused and worth another try.
        let answers: Vec<Answer> = (0..4).map(|_| daemon.post("/work", "1")).collect();
        ended(&daemon);
        for answer in answers {
            match answer.status {
                202 => {
                    let id = answer.json()["execution_id"].as_str().unwrap().to_owned();
                    assert_eq!(daemon.ended(&id)["status"], "success", "round {round}");
                }
                503 => assert_eq!(answer.json()["reason"], "reopening", "{answer}"),
                _ => panic!("{answer}"),
            }
        }
    }
}

#[test]
fn a_restore_follows_no_link_out_of_the_data_directory() {
    let dir = TempDir::new();
    let victim = dir.file("victim", "untouched");
    let data = dir.path().join("data");
    fs::create_dir(&data).unwrap();
    for name in ["picloud.lock", "restore.json.partial"] {
        let link = data.join(name);
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let (backup, other) = (dir.path().join("backup"), Daemon::start());
        fs::write(&backup, download(&other, &make(&other))).unwrap();
        let args = ["restore", "--data-dir", data.to_str().unwrap(), backup.to_str().unwrap()];
        let ran = picloud(&args, &[]);
        assert_eq!(ran.code, i32::from(name == "picloud.lock"), "{name}: {}", ran.err);
        assert_eq!(fs::read_to_string(&victim).unwrap(), "untouched", "{name}");
        let _ = fs::remove_file(&link);
    }
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
fn the_command_line_restores() {
    let daemon = Daemon::start();
    let dir = TempDir::new();
    let run = |args: &[&str]| picloud(args, &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", KEY)]);
    let backup = make(&daemon);
    let file = dir.path().join("b.picloud.zst").to_str().unwrap().to_owned();
    let made = run(&["backup", "--to", &file]);
    assert_eq!(made.code, 0, "{}", made.err);
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

/// The shell lines of the README's section about backups, block by block.
fn readme() -> Vec<&'static str> {
    let (_, after) = include_str!("../../README.md").split_once("### Backup and restore").unwrap();
    let (section, _) = after.split_once("\n##").unwrap();
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

/// A backup whose hashes are right, but not what they are of.
fn forge(good: &[u8], change: impl FnOnce(&mut Vec<u8>, &mut Value)) -> Vec<u8> {
    let hash = |bytes: &[u8]| Sha256::digest(bytes).to_vec();
    let mut payload = zstd::decode_all(good).unwrap();
    let (rest, length) = good[..good.len() - 8].split_last_chunk::<4>().unwrap();
    let text = &rest[..rest.len() - 32];
    let text = &text[text.len() - usize::try_from(u32::from_le_bytes(*length)).unwrap()..];
    let mut manifest: Value = serde_json::from_slice(text).unwrap();
    manifest["raw_bytes"] = json!(null);
    change(&mut payload, &mut manifest);
    let frame = zstd::encode_all(payload.as_slice(), 3).unwrap();
    if manifest["raw_bytes"].is_null() {
        manifest["raw_bytes"] = json!(payload.len());
    }
    manifest["frame_bytes"] = json!(frame.len());
    manifest["frame_sha256"] =
        json!(hash(&frame).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    let text = manifest.to_string().into_bytes();
    let length = u32::try_from(text.len()).unwrap();
    let head = [0x184D_2A50_u32.to_le_bytes(), (length + 44).to_le_bytes()].concat();
    [frame, head, text.clone(), hash(&text), length.to_le_bytes().to_vec(), b"PICLOUDB".to_vec()].concat()
}

/// Replaces the first of these texts in a payload by one as long.
fn swap(payload: &mut [u8], from: &str, to: &str) {
    let at = payload.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
    payload[at..at + from.len()].copy_from_slice(to.as_bytes());
}

#[test]
fn what_was_forged_is_refused_by_what_it_holds() {
    let daemon = Daemon::start();
    let good = download(&daemon, &make(&daemon));
    app(&daemon, "later");
    let check = |says: &str, forged: Vec<u8>| {
        let answer = upload(&daemon, &forged);
        assert_eq!(answer.status, 422, "{says}: {answer}");
        assert!(answer.error().contains(says), "{says} is not in {answer}");
    };
    let newer = picloud::store::SCHEMA + 1;
    let of_newer = |payload: &mut Vec<u8>, manifest: &mut Value| {
        payload[17..21].copy_from_slice(&newer.to_le_bytes());
        manifest["schema"] = json!(newer);
    };
    check("with a newer PiCloud", forge(&good, of_newer));
    check("schema", forge(&good, |_, manifest| manifest["schema"] = json!(1)));
    let renamed = |payload: &mut Vec<u8>, manifest: &mut Value| {
        swap(payload, "dead_letters", "read_letters");
        let tables = manifest["tables"].as_object_mut().unwrap();
        let rows = tables.remove("dead_letters").unwrap();
        tables.insert("read_letters".into(), rows);
    };
    check("read_letters", forge(&good, renamed));
    check("as many rows", forge(&good, |_, manifest| manifest["tables"]["apps"] = json!(2)));
    check("damaged app", forge(&good, |payload, _| swap(payload, "default", "DEFAULT")));
    check("more rows than", forge(&good, |_, manifest| manifest["raw_bytes"] = json!(u64::MAX)));
    check("end of what the manifest", forge(&good, |_, manifest| manifest["raw_bytes"] = json!(1000)));
    check("manifest", forge(&good, |_, manifest| manifest["id"] = json!("x")));
    assert_eq!(slugs(&daemon), ["later", "default"]);
    assert_eq!(
        upload(&daemon, &forge(&good, |_, _| {})).status,
        202,
        "it is the forger's change that is refused"
    );
    assert_eq!(ended(&daemon)["state"], "served");
}

#[test]
fn what_the_card_has_taken_is_not_restored() {
    let daemon = Daemon::start();
    let backup = make(&daemon);
    let total =
        || daemon.done("GET", "/status", Value::Null)["card"]["total_bytes_written"].as_u64().unwrap();
    for number in 0..10 {
        app(&daemon, &format!("app-{number}"));
    }
    let before = total();
    daemon.done("POST", "/restore", json!({ "backup_id": backup["id"] }));
    ended(&daemon);
    assert!(total() >= before, "{} after {before}", total());
}
