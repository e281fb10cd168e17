//! Secrets: scripts of their app can read them, and nothing else of the device tells them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

use serde_json::{Value, json};

use crate::backups::{download, make};
use crate::harness::{Daemon, KEY, Setup, TempDir, picloud, until};
use crate::http::Answer;

/// What no file and no answer of the management API may hold.
const TOKEN: &str = "tok_4f9c-the \"plain\" text";

#[track_caller]
fn set(daemon: &Daemon, name: &str, value: &str) -> Answer {
    daemon.api("PUT", &format!("/apps/default/secrets/{name}"), json!({ "value": value }))
}

/// All of the names, newest first.
fn names(daemon: &Daemon) -> Vec<String> {
    let all = daemon.all("/apps/default/secrets");
    all.iter().map(|secret| secret["name"].as_str().unwrap().to_owned()).collect()
}

/// Bytes hold `text`, as it is or as JSON has it.
fn holds(bytes: &[u8], text: &str) -> bool {
    let quoted = json!(text).to_string();
    let found = |text: &str| bytes.windows(text.len()).any(|window| window == text.as_bytes());
    found(text) || found(quoted.trim_matches('"'))
}

/// All files below a directory.
fn files(directory: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let (directories, mut files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    files.extend(directories.iter().flat_map(|path| self::files(path)));
    files
}

#[test]
fn a_secret_is_set_used_rotated_and_removed() {
    let mut daemon = Daemon::start();
    daemon.serve("/token", "secrets::get(\"token\")");
    let missing = daemon.get("/token");
    assert_eq!(missing.status, 502, "{missing}");
    let what =
        "there is no secret \"token\" in this app; store it with `picloud secret set token --app default`";
    assert!(missing.error().contains(what), "{missing}");
    let made = set(&daemon, "token", TOKEN);
    assert_eq!(made.status, 201, "{made}");
    let fields = made.json();
    assert_eq!((&fields["name"], &fields["usable"]), (&json!("token"), &json!(true)));
    assert_eq!(fields["created_at"], fields["updated_at"]);
    assert_eq!(daemon.get("/token").json(), TOKEN);
    daemon.kill_and_start_again();
    assert_eq!(daemon.get("/token").json(), TOKEN, "what was set survives");
    let rotated = set(&daemon, "token", "another value");
    assert_eq!((rotated.status, &rotated.json()["created_at"]), (200, &fields["created_at"]), "{rotated}");
    assert_eq!(daemon.get("/token").json(), "another value");
    let one = daemon.done("GET", "/apps/default/secrets/token", Value::Null);
    assert_eq!(daemon.all("/apps/default/secrets"), [one]);
    daemon.done("DELETE", "/apps/default/secrets/token", Value::Null);
    assert_eq!(daemon.api("DELETE", "/apps/default/secrets/token", Value::Null).status, 404);
    assert_eq!(daemon.api("GET", "/apps/default/secrets/token", Value::Null).status, 404);
    assert_eq!((daemon.get("/token").status, names(&daemon).len()), (502, 0));
}

#[test]
fn a_script_goes_on_without_a_secret() {
    let daemon = Daemon::start();
    daemon.serve("/default", "secrets::get(\"none\", \"instead\")");
    daemon.serve(
        "/caught",
        "let said = (); try { secrets::get(\"none\") } catch (why) { said = `caught ${why}` } said",
    );
    daemon.serve("/name", "secrets::get(\"a/b\")");
    assert_eq!(daemon.get("/default").json(), "instead");
    let caught = daemon.get("/caught");
    assert!(caught.json().as_str().unwrap().starts_with("caught secrets::get: there is no"), "{caught}");
    let refused = daemon.get("/name");
    assert!(refused.status == 502 && refused.error().contains("the name must be 1 to 128"), "{refused}");
}

#[test]
fn secrets_of_another_app_are_not_there() {
    let daemon = Daemon::start();
    daemon.done("POST", "/apps", json!({ "slug": "other" }));
    daemon.done("PUT", "/apps/other/secrets/token", json!({ "value": TOKEN }));
    daemon.serve("/token", "secrets::get(\"token\", \"none\")");
    assert_eq!(daemon.get("/token").json(), "none");
    assert!(names(&daemon).is_empty());
    assert_eq!(daemon.api("GET", "/apps/default/secrets/token", Value::Null).status, 404);
    assert_eq!(daemon.api("DELETE", "/apps/default/secrets/token", Value::Null).status, 404);
    assert_eq!(make(&daemon)["tables"]["secrets"], 1);
    daemon.done("DELETE", "/apps/other", Value::Null);
    assert_eq!(make(&daemon)["tables"]["secrets"], 0, "they go with their app");
}

#[test]
fn what_cannot_be_a_secret_is_refused() {
    let daemon = Daemon::start();
    let longest = "x".repeat(64 * 1024);
    assert_eq!(set(&daemon, "longest", &longest).status, 201);
    daemon.serve("/longest", "secrets::get(\"longest\").len");
    assert_eq!(daemon.get("/longest").json(), 65_536);
    for (method, path, body, status, says) in [
        ("PUT", "/a", json!({ "value": "" }), 422, "value: is empty"),
        ("PUT", "/a", json!({ "value": format!("{longest}x") }), 422, "at most 65536"),
        ("PUT", "/a", json!({ "value": 7 }), 422, "value: "),
        ("PUT", "/a", json!({}), 422, "missing field"),
        ("PUT", "/a", json!({ "value": "x", "name": "y" }), 422, "unknown field"),
        ("PUT", "/a%20b", json!({ "value": "x" }), 422, "name: must be 1 to 128"),
        ("PUT", &*format!("/{}", "n".repeat(129)), json!({ "value": "x" }), 422, "name: must be"),
        ("GET", "/a", Value::Null, 404, "secret not found: a"),
        ("PATCH", "/a", json!({}), 405, "GET, PUT, DELETE"),
        ("POST", "", json!({}), 405, "GET"),
        ("GET", "/a/b", Value::Null, 404, ""),
        ("GET", "?cursor=x", Value::Null, 422, "cursor"),
    ] {
        let answer = daemon.api(method, &format!("/apps/default/secrets{path}"), body);
        assert_eq!(answer.status, status, "{method} {path}: {answer}");
        assert!(answer.error().contains(says), "{method} {path}: {answer}");
    }
    assert_eq!(daemon.api("PUT", "/apps/none/secrets/a", json!({ "value": "x" })).status, 404);
    assert_eq!(daemon.get("/api/v1/apps/default/secrets").status, 401);
}

#[test]
fn an_app_has_a_thousand_of_them_and_they_are_listed_in_pages() {
    let daemon = Daemon::start();
    thread::scope(|scope| {
        for part in 0..20 {
            let daemon = &daemon;
            scope.spawn(move || {
                for number in 0..50 {
                    let made = set(daemon, &format!("s{}", part * 50 + number), "value");
                    assert_eq!(made.status, 201, "{made}");
                }
            });
        }
    });
    let over = set(&daemon, "one-more", "value");
    assert!(over.status == 409 && over.error().contains("1000 secrets"), "{over}");
    assert_eq!(set(&daemon, "s7", "other").status, 200, "one that is there can be set");
    let all = daemon.all("/apps/default/secrets?limit=300");
    let at = |secret: &Value| secret["created_at"].as_str().unwrap().to_owned();
    assert!(all.is_sorted_by(|one, next| at(one) >= at(next)), "newest first");
    let mut names: Vec<_> = all.iter().map(|secret| secret["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 1000);
    let many: String = (0..101).map(|number| format!("secrets::get(\"m{number}\");")).collect();
    for number in 0..101 {
        daemon.done("DELETE", &format!("/apps/default/secrets/s{number}"), Value::Null);
        set(&daemon, &format!("m{number}"), &format!("a value of its own {number}"));
    }
    daemon.serve("/many", &many);
    let refused = daemon.get("/many");
    assert!(refused.error().contains("at most 100 secrets"), "{refused}");
}

#[test]
fn nothing_that_is_kept_of_a_run_tells_a_secret() {
    let mut daemon = Setup::default().set("log.level", "trace").start();
    set(&daemon, "token", TOKEN);
    set(&daemon, "short", "abc");
    let get = "let token = secrets::get(\"token\"); ";
    daemon.serve(
        "/tells",
        &format!("{get} log::info(token); print(`<${{token}}>`); debug(token); #{{ token: token }}"),
    );
    daemon.serve("/throws", &format!("{get} throw `with ${{token}}`"));
    daemon.serve("/object", &format!("{get} throw #{{ token: token }}"));
    daemon.serve("/short", "log::info(secrets::get(\"short\")); 1");
    daemon.serve("/given", &format!("{get} request.body == token"));
    daemon.serve_async("/dies", &format!("{get} log::error(token); fail(token)"));
    assert_eq!(daemon.get("/tells").json(), json!({ "token": TOKEN }), "its caller gets what it answers");
    for path in ["/throws", "/object"] {
        let failed = daemon.get(path);
        assert!(failed.status == 502 && failed.error().contains("[secret]"), "{failed}");
    }
    daemon.get("/short");
    let given = daemon.request("POST", "/given").header("x-token", TOKEN).body(json!(TOKEN).to_string());
    assert_eq!(given.send().json(), true);
    let dead = daemon.accepted("/dies", "1");
    daemon.ended(&dead);
    let letters = daemon.all("/dead-letters");
    assert_eq!(letters.len(), 1);
    let records = daemon.all("/executions");
    assert!(records.len() >= 6, "{records:#?}");
    let texts = [
        json!(records).to_string(),
        json!(daemon.all("/logs")).to_string(),
        json!(letters).to_string(),
        daemon.execution(&dead).to_string(),
        daemon
            .done("GET", &format!("/dead-letters/{}", crate::harness::id(&letters[0])), Value::Null)
            .to_string(),
        String::from_utf8(daemon.api("GET", "/metrics", Value::Null).body).unwrap(),
        daemon.done("GET", "/status", Value::Null).to_string(),
        json!(daemon.all("/apps/default/secrets")).to_string(),
        daemon.log(),
    ];
    for text in &texts {
        assert!(!holds(text.as_bytes(), TOKEN) && !text.contains("tok_4f9c"), "{text}");
    }
    assert!(texts[0].contains("<[secret]>") && texts[1].contains("<[secret]>"), "{}", texts[0]);
    let told = records.iter().find(|record| record["request_path"] == "/tells").unwrap();
    assert_eq!(told["script_logs"].as_array().unwrap().len(), 3, "no memory is left behind: {told:#}");
    assert!(texts[1].contains("\"abc\""), "what is that short stays");
    let plain = |daemon: &Daemon, answer: Vec<u8>| {
        let raw = zstd::decode_all(answer.as_slice()).unwrap();
        assert!(!holds(&raw, TOKEN), "a backup tells it");
        let key = fs::read(daemon.data_dir().join("device.key")).unwrap();
        raw.windows(key.len()).any(|window| window == key)
    };
    assert!(!plain(&daemon, download(&daemon, &make(&daemon))), "no key goes along unasked");
    assert!(!plain(&daemon, daemon.api("GET", "/export", Value::Null).body));
    assert!(plain(&daemon, daemon.api("GET", "/export?secrets=true", Value::Null).body));
    daemon.stop_and_start_again();
    for file in files(&daemon.data_dir()) {
        assert!(!holds(&fs::read(&file).unwrap(), TOKEN), "{} tells it", file.display());
    }
}

/// Runs the daemon where it must not start, and gives what it said.
#[track_caller]
fn does_not_start(daemon: &Daemon) -> String {
    let data = daemon.data_dir().to_str().unwrap().to_owned();
    let ran = picloud(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data], &[]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    ran.err
}

#[test]
fn the_key_of_the_device_is_made_once_and_missed_when_it_is_gone() {
    let mut daemon = Daemon::start();
    let path = daemon.data_dir().join("device.key");
    let key = fs::read(&path).unwrap();
    assert_eq!((key.len(), fs::metadata(&path).unwrap().permissions().mode() & 0o777), (32, 0o600));
    daemon.kill();
    fs::remove_file(&path).unwrap();
    daemon.start_again();
    assert_ne!(fs::read(&path).unwrap(), key, "nothing was sealed with the first one");
    let key = fs::read(&path).unwrap();
    daemon.serve("/token", "secrets::get(\"token\")");
    set(&daemon, "token", TOKEN);
    daemon.kill();
    fs::remove_file(&path).unwrap();
    let said = does_not_start(&daemon);
    assert!(said.contains("device.key is missing") && said.contains("put it back"), "{said}");
    fs::write(&path, &key[1..]).unwrap();
    assert!(does_not_start(&daemon).contains("fewer than 32 bytes"));
    assert_eq!(fs::read(&path).unwrap(), &key[1..], "it is not written over");
    fs::write(&path, [7; 32]).unwrap();
    daemon.start_again();
    until("the warning about its mode", || daemon.log().contains("can be read by others").then_some(()));
    let foreign = daemon.get("/token");
    assert!(foreign.status == 502 && foreign.error().contains("another device's key"), "{foreign}");
    assert!(
        foreign.error().contains("set it again with `picloud secret set token --app default`"),
        "{foreign}"
    );
    assert_eq!(daemon.done("GET", "/apps/default/secrets/token", Value::Null)["usable"], false);
    daemon.kill();
    fs::write(&path, &key).unwrap();
    daemon.start_again();
    assert_eq!(daemon.get("/token").json(), TOKEN);
}

#[test]
fn the_key_may_come_as_a_credential_of_systemd() {
    let credentials = TempDir::new();
    fs::write(credentials.path().join("device-key"), [9; 32]).unwrap();
    let directory = credentials.path().to_str().unwrap();
    let mut daemon = Setup::default().env("CREDENTIALS_DIRECTORY", directory).start();
    assert!(!daemon.data_dir().join("device.key").exists());
    daemon.serve("/token", "secrets::get(\"token\")");
    set(&daemon, "token", TOKEN);
    daemon.kill_and_start_again();
    assert_eq!(daemon.get("/token").json(), TOKEN);
    daemon.kill();
    fs::write(credentials.path().join("device-key"), [9; 31]).unwrap();
    let data = daemon.data_dir().to_str().unwrap().to_owned();
    let args = ["serve", "--listen", "127.0.0.1:0", "--data-dir", &data];
    let ran = picloud(&args, &[("CREDENTIALS_DIRECTORY", directory)]);
    assert!(ran.code == 1 && ran.err.contains("device-key is no key"), "{}", ran.err);
}

/// Restores a backup on a device and waits until it serves.
#[track_caller]
fn restore(daemon: &Daemon, bytes: &[u8]) {
    let request =
        daemon.request("POST", "/api/v1/restore").key(KEY).header("content-type", "application/zstd");
    let answer = request.body(bytes).send();
    assert_eq!(answer.status, 202, "{answer}");
    until("the restored store", || {
        (daemon.done("GET", "/restore", Value::Null)["state"] == "served").then_some(())
    });
}

/// A device with a secret, and its backups: without the key, and with it.
fn device_with_backups() -> (Daemon, Vec<u8>, Vec<u8>) {
    let daemon = Daemon::start();
    daemon.serve("/token", "secrets::get(\"token\")");
    set(&daemon, "token", TOKEN);
    let without = make(&daemon);
    let with = daemon.done("POST", "/backups", json!({ "secrets": true }));
    assert_eq!((&without["secrets"], &with["secrets"]), (&json!(false), &json!(true)));
    let shelf = daemon.data_dir().join("backups");
    let file = fs::metadata(shelf.join(with["file"].as_str().unwrap())).unwrap();
    assert_eq!(file.permissions().mode() & 0o777, 0o600);
    let (without, with) = (download(&daemon, &without), download(&daemon, &with));
    (daemon, without, with)
}

#[test]
fn without_the_key_a_backup_opens_no_secret_on_another_device() {
    let (daemon, without, _) = device_with_backups();
    let other = Daemon::start();
    restore(&other, &without);
    assert_eq!(other.done("GET", "/apps/default/secrets/token", Value::Null)["usable"], false);
    let foreign = other.get("/token");
    assert!(foreign.status == 502 && foreign.error().contains("another device's key"), "{foreign}");
    set(&other, "token", "set again");
    assert_eq!(other.get("/token").json(), "set again");
    set(&daemon, "token", "changed");
    restore(&daemon, &without);
    assert_eq!(daemon.get("/token").json(), TOKEN, "its own device opens it");
}

#[test]
fn with_the_key_secrets_are_sealed_anew_on_another_device() {
    let (daemon, _, with) = device_with_backups();
    let mut other = Daemon::start();
    let own_key = fs::read(other.data_dir().join("device.key")).unwrap();
    restore(&other, &with);
    assert_eq!(other.get("/token").json(), TOKEN);
    assert_eq!(other.done("GET", "/apps/default/secrets/token", Value::Null)["usable"], true);
    other.stop_and_start_again();
    assert_eq!(other.get("/token").json(), TOKEN);
    assert_eq!(fs::read(other.data_dir().join("device.key")).unwrap(), own_key);
    let key = fs::read(daemon.data_dir().join("device.key")).unwrap();
    for file in files(&other.data_dir()) {
        let bytes = fs::read(&file).unwrap();
        let found = bytes.windows(key.len()).any(|window| window == key);
        assert!(!found && !holds(&bytes, TOKEN), "{}", file.display());
    }
    // What a third one made of it can be opened no more: it has neither key.
    let third = Daemon::start();
    restore(&third, &download(&other, &make(&other)));
    assert_eq!(third.get("/token").status, 502);
}

#[test]
fn a_backup_is_restored_without_a_daemon_with_and_without_the_key() {
    let (_daemon, without, with) = device_with_backups();
    for (bytes, status) in [(without, 502), (with, 200)] {
        let dir = TempDir::new();
        let file = dir.path().join("b.picloud.zst");
        fs::write(&file, bytes).unwrap();
        let data = dir.path().join("data").to_str().unwrap().to_owned();
        let ran = picloud(&["restore", "--data-dir", &data, file.to_str().unwrap()], &[]);
        assert_eq!(ran.code, 0, "{}", ran.err);
        let restored = Setup::default().start_in(dir);
        assert_eq!(restored.get("/token").status, status);
        assert_eq!(names(&restored), ["token"]);
    }
}

#[test]
fn the_command_line_sets_lists_and_removes_secrets() {
    let daemon = Daemon::start();
    let dir = TempDir::new();
    let run = |args: &[&str]| picloud(args, &[("PICLOUD_URL", &daemon.url()), ("PICLOUD_API_KEY", KEY)]);
    let file = dir.file("value", &format!("{TOKEN}\n"));
    let said = run(&["secret", "set", "token", "--value-file", &file]);
    assert_eq!((said.code, said.out.as_str()), (0, "set secret token of app default\n"), "{}", said.err);
    daemon.serve("/token", "secrets::get(\"token\")");
    assert_eq!(daemon.get("/token").json(), TOKEN, "without the line break at its end");
    let listed = run(&["secret", "list"]);
    assert!(listed.out.contains("token") && listed.out.contains("ok"), "{}", listed.out);
    assert!(!holds(listed.out.as_bytes(), TOKEN));
    assert_eq!(run(&["secret", "set", "token", TOKEN]).code, 64, "no value is taken from the arguments");
    let empty = run(&["secret", "set", "token"]);
    assert!(empty.code == 1 && empty.err.contains("is empty"), "{}", empty.err);
    assert_eq!(run(&["secret", "rm", "token"]).code, 0);
    assert!(run(&["secret", "ls"]).out.contains("no secrets"));
    let made = run(&["backup", "--with-secrets", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&made.out).unwrap()["secrets"], true, "{}", made.err);
    let to = dir.path().join("out").to_str().unwrap().to_owned();
    assert_eq!(run(&["backup", "--with-secrets", "--to", &to]).code, 0);
    assert_eq!(fs::metadata(&to).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn settings_come_from_the_file_and_never_from_the_environment() {
    let daemon = Setup::default().config("[env]\nsite = \"The boat\"\n").env("HARBOUR", "x").start();
    daemon.serve("/site", "env::get(\"site\")");
    daemon.serve("/harbour", "env::get(\"HARBOUR\")");
    daemon.serve("/default", "env::get(\"HARBOUR\", \"none\")");
    assert_eq!(daemon.get("/site").json(), "The boat");
    assert_eq!(daemon.get("/default").json(), "none");
    let missing = daemon.get("/harbour");
    assert!(
        missing.status == 502 && missing.error().contains("there is no setting \"HARBOUR\""),
        "{missing}"
    );
}
