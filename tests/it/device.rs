//! The appliance's helpers as systemd starts them, on a directory that stands for a device; what the status tells; and the
//! bundle for whoever helps, which holds no secret.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, TempDir, picloud, until};

fn put(dir: &Path, path: &str, text: &str) {
    let path = dir.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

#[track_caller]
fn read(dir: &Path, path: &str) -> String {
    fs::read_to_string(dir.join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

#[test]
fn a_boot_prepares_the_device() {
    let dir = TempDir::new();
    let root = dir.path().to_str().unwrap();
    put(dir.path(), "sys/firmware/devicetree/base/serial-number", "100000000000BEEF\0");
    put(
        dir.path(),
        "boot/firmware/picloud.toml",
        "[wifi]\r\nssid = \"Home\"\r\npassword = \"it is me\"\r\ncountry = \"DE\"\r\n[scripts]\r\nthreads = 3\r\n",
    );
    let ran = picloud(&["device", "prepare", "--root", root], &[]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (0, "this device is picloud-beef\n", ""));
    let wifi = read(dir.path(), "run/picloud-device/wpa_supplicant-wlan0.conf");
    assert!(
        wifi.contains("\tssid=486f6d65\n")
            && wifi.contains("\tpsk=287ae5b33067b8d8f3bc3d965fafae2fba97f4c1648c0b32769637e742947040\n"),
        "{wifi}"
    );
    let applied = read(dir.path(), "boot/firmware/picloud.toml.applied");
    assert!(applied.contains("password = \"(removed)\"\r\n"), "{applied}");
    // Each device has keys of its own.
    let keys = ["run/picloud-device/api-key", "run/picloud-device/setup-code"];
    let first = keys.map(|path| read(dir.path(), path));
    let other = TempDir::new();
    picloud(&["device", "prepare", "--root", other.path().to_str().unwrap()], &[]);
    let second = keys.map(|path| read(other.path(), path));
    assert!(first[0] != second[0] && first[1] != second[1], "{first:?} {second:?}");
    for path in keys {
        let mode = fs::metadata(dir.path().join(path)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{path}");
    }
    // The daemon takes what was made for it.
    let config = dir.path().join("run/picloud-device/picloud.toml");
    let checked = picloud(&["serve", "--check-config", "--config", config.to_str().unwrap()], &[]);
    assert_eq!(checked.code, 0, "{}", checked.err);
    // Once a user exists, the console does not tell the code any more.
    assert!(read(dir.path(), "run/issue.d/picloud.issue").contains(first[1].trim()));
    put(dir.path(), "data/picloud/device/set-up", "");
    assert_eq!(picloud(&["device", "announce", "--root", root], &[]).code, 0);
    assert!(!read(dir.path(), "run/issue.d/picloud.issue").contains(first[1].trim()));
}

#[test]
fn a_boot_with_wrong_files_goes_on() {
    let dir = TempDir::new();
    put(dir.path(), "boot/firmware/picloud.toml", "[wifi]\nssid = \"Home\"\npasword = \"it is me\"\n");
    let ran = picloud(&["device", "prepare", "--root", dir.path().to_str().unwrap()], &[]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "this device is picloud-0000\n"));
    assert!(ran.err.contains("not applied: picloud.toml, line 3: unknown key wifi.pasword"), "{}", ran.err);
    assert!(
        read(dir.path(), "boot/firmware/PROVISION-ERROR.txt").contains("line 3: unknown key wifi.pasword")
    );
    let gone = picloud(&["device", "prepare", "--root", "/proc/nowhere"], &[]);
    assert_eq!(gone.code, 0, "a boot must go on: {}", gone.err);
    assert!(gone.err.contains("failed: "), "{}", gone.err);
}

/// A web server whose clock is so many hours away, whatever it is asked.
fn web_server(hours: i64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 4096]);
            let by = Duration::from_secs(3600 * hours.unsigned_abs());
            let now = SystemTime::now();
            let date = httpdate::fmt_http_date(if hours < 0 { now - by } else { now + by });
            let _ = write!(
                stream,
                "HTTP/1.1 301 Moved\r\nlocation: http://x/\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n"
            );
        }
    });
    url
}

/// What `picloud device clock` does with servers that are so many hours away, and what it then tells.
#[track_caller]
fn set_clock(hours: &[i64]) -> (i32, String, Value) {
    let dir = TempDir::new();
    let urls: Vec<String> =
        hours.iter().map(|away| web_server(*away)).chain(["http://127.0.0.1:1".into()]).collect();
    put(dir.path(), "run/picloud-device/time-urls", &urls.join("\n"));
    let root = dir.path().to_str().unwrap();
    let ran = picloud(&["device", "clock", "--root", root, "--wait", "0"], &[]);
    let told = read(dir.path(), "run/picloud-device/clock.json");
    (ran.code, format!("{}{}", ran.out, ran.err), serde_json::from_str(&told).unwrap())
}

#[test]
fn web_servers_that_agree_set_the_clock() {
    // All of these leave the clock of this machine alone: the right time needs no setting, and who disagrees sets none.
    let (code, said, told) = set_clock(&[0, -400, 0]);
    assert_eq!((code, &told["synchronised"], &told["by"]), (0, &json!(true), &json!("http")), "{said}");
    for hours in [&[-1, 1][..], &[0], &[]] {
        let (code, said, told) = set_clock(hours);
        assert_eq!((code, &told["synchronised"]), (0, &json!(false)), "{said}");
        assert!(said.contains("no two agree"), "{said}");
    }
    // A network that comes later than the device.
    let dir = TempDir::new();
    put(dir.path(), "run/picloud-device/time-urls", "http://127.0.0.1:1");
    let root = dir.path().to_owned();
    let words = ["device", "clock", "--root", root.to_str().unwrap(), "--wait", "1", "--tries", "8"]
        .map(str::to_owned);
    let later = thread::spawn(move || picloud(&words.each_ref().map(String::as_str), &[]));
    until("the first try", || dir.path().join("run/picloud-device/clock.json").exists().then_some(()));
    put(dir.path(), "run/picloud-device/time-urls", &[web_server(0), web_server(0)].join("\n"));
    let ran = later.join().unwrap();
    assert!(ran.code == 0 && ran.out.starts_with("the clock was "), "{}{}", ran.out, ran.err);
    // Somebody else sets it already.
    let dir = TempDir::new();
    put(dir.path(), "run/systemd/timesync/synchronized", "");
    let ran = picloud(&["device", "clock", "--root", dir.path().to_str().unwrap()], &[]);
    assert_eq!((ran.code, ran.out.as_str()), (0, "a time server sets the clock\n"));
}

#[test]
fn the_status_tells_what_it_runs_on() {
    let daemon = Daemon::start();
    let status = daemon.done("GET", "/status", Value::Null);
    let device = &status["device"];
    // The tests run on computers that were not booted from a card image.
    assert_eq!(device["appliance"], false, "{device:#}");
    assert_eq!((&device["boot"]["slot"], &device["image"]["version"]), (&Value::Null, &Value::Null));
    assert_eq!(device["throttling"], json!({ "throttled": null, "why": "this kernel cannot tell" }));
    assert!(device["memory"]["total_bytes"].as_u64().unwrap() > 1 << 20, "{device:#}");
    assert!(device["boot"]["uptime_seconds"].as_u64().is_some(), "{device:#}");
    assert!(device["host_name"].as_str().is_some(), "{device:#}");
}

/// The texts of a bundle, by name.
#[track_caller]
fn unpacked(file: &Path) -> Vec<(String, String)> {
    let bytes = zstd::decode_all(fs::File::open(file).unwrap()).unwrap();
    assert!(bytes.len() < 9 << 20, "{} bytes", bytes.len());
    let mut archive = tar::Archive::new(bytes.as_slice());
    let parts = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut text = String::new();
        entry.read_to_string(&mut text).unwrap();
        (name, text)
    });
    parts.collect()
}

#[test]
fn a_support_bundle_holds_no_secret() {
    let daemon = Daemon::start();
    daemon.serve("/hello", "let x = \"the-source-is-private\"; x");
    daemon.done("PUT", "/apps/default/secrets/mail", json!({ "value": "sealed-value-of-the-app" }));
    daemon.done("PUT", "/apps/default/kv/note", json!({ "value": "a-value-that-is-kept" }));
    let dir = TempDir::new();
    let hash = "$6$saltsalt$abcdefghijklmnopqrstuvwxyzABCDEF";
    for (path, text) in [
        ("run/picloud-device/api-key", "pc_planted0admin0key0000\n"),
        ("run/picloud-device/setup-code", "WXYZ-2345\n"),
        ("run/picloud-device/shadow-admin", &format!("admin:{hash}:20000:::::\n")),
        (
            "run/picloud-device/update.json",
            r#"{"phase":"failed","why":"pc_planted0admin0key0000","url":"http://x/?token=planted-token"}"#,
        ),
        (
            "run/picloud-device/prepare.json",
            r#"{"errors":["picloud.toml, line 3: unknown key"],"password":"planted-password"}"#,
        ),
        (
            "run/picloud-device/picloud.toml",
            "[env]\nanything = \"planted-setting\"\n[acme]\neab_key_id = \"planted-eab\"\n[scripts]\nthreads = 3\n",
        ),
        (
            "data/identity/settings.toml",
            "[wifi]\nssid_hex = \"686f6d65\"\npassword = \"planted-wifi\"\npsk = \"planted-psk\"\n[admin]\nkey = \"planted-fleet-key\"\n",
        ),
        (
            "data/update/report-1.json",
            r#"{"version":"0.2.0","journal":["joined with planted-wifi","WXYZ-2345 was typed","key planted-fleet-key","Authorization: Basic cGxhbnRlZDpiYXNpYw==","fetched http://me:planted-url-word@host/x"]}"#,
        ),
        (
            "bin/journalctl",
            "#!/bin/sh\necho 'GET /a?secret=planted-query 200'\necho 'Authorization: Bearer planted-bearer-token'\necho 'key pic_planted0key0of0the0api was refused'\necho 'it brought picloud_session=planted-session; x=1'\necho 'planted-psk and the end'\n",
        ),
    ] {
        put(dir.path(), path, text);
    }
    let program = dir.path().join("bin/journalctl");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    let bundle = dir.path().join("bundle.tar.zst");
    let (root, file) = (dir.path().to_str().unwrap(), bundle.to_str().unwrap());
    let (url, path) = (daemon.url(), format!("{root}/bin:/usr/bin:/bin"));
    let env = [("PICLOUD_URL", url.as_str()), ("PICLOUD_API_KEY", KEY), ("PATH", path.as_str())];
    let ran = picloud(&["support-bundle", "-o", file, "--root", root], &env);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    let mode = fs::metadata(&bundle).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let parts = unpacked(&bundle);
    for (name, text) in &parts {
        for secret in [
            KEY,
            "the-source-is-private",
            "sealed-value-of-the-app",
            "a-value-that-is-kept",
            "WXYZ-2345",
            "saltsalt",
            "planted",
            "cGxhbnRlZDpiYXNpYw",
        ] {
            assert!(!text.contains(secret), "{name} tells {secret}:\n{text}");
        }
    }
    // What helps is there.
    for (name, part) in [
        ("daemon/status.json", "\"executions\""),
        ("daemon/metrics.txt", "picloud_executions_total"),
        ("daemon/apps.json", "\"/hello\""),
        ("device.json", "\"uptime_seconds\""),
        ("picloud.toml", "threads = 3"),
        ("journal.txt", "and the end"),
        ("files/data/update/report-1.json", "\"0.2.0\""),
        ("files/run/picloud-device/prepare.json", "line 3: unknown key"),
        ("missing.txt", "run/picloud-device/clock.json: "),
    ] {
        let found = parts.iter().find(|(other, _)| *other == format!("picloud-support/{name}"));
        let (_, text) = found.unwrap_or_else(|| panic!("{name} is missing"));
        assert!(text.contains(part), "{part} in {name}:\n{text}");
    }
}

#[test]
fn a_support_bundle_is_made_when_nothing_answers() {
    let dir = TempDir::new();
    let bundle = dir.path().join("bundle.tar.zst");
    // A log that is too long keeps its end.
    put(dir.path(), "run/picloud-device/no-data", &format!("{}the-end", "x".repeat(3 << 20)));
    let args = ["support-bundle", "-o", bundle.to_str().unwrap(), "--root", dir.path().to_str().unwrap()];
    let ran = picloud(&args, &[("PICLOUD_URL", "http://127.0.0.1:1")]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let parts = unpacked(&bundle);
    let text = |name: &str| parts.iter().find(|(other, _)| other.ends_with(name)).unwrap().1.clone();
    assert!(text("missing.txt").contains("daemon: no PiCloud answers"), "{}", text("missing.txt"));
    let log = text("no-data");
    assert!(log.len() <= 1 << 20 && log.ends_with("the-end"), "{} bytes", log.len());
    let nowhere =
        picloud(&["support-bundle", "-o", "/proc/nowhere/x"], &[("PICLOUD_URL", "http://127.0.0.1:1")]);
    assert_eq!(nowhere.code, 1);
    assert!(nowhere.err.contains("cannot write /proc/nowhere/x"), "{}", nowhere.err);
}
