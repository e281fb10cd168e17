//! Updates that do not come, or come slowly, or are cut off; and uploads of the command line that are refused.

use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, TempDir, picloud, until};
use crate::updates::Device;

/// A server whose file begins and does not go on.
fn stalling_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        let mut held = Vec::new();
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 2048]);
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
            let _ = stream.write_all(format!("{head}{}", "x".repeat(1000)).as_bytes());
            held.push(stream);
        }
    });
    format!("http://{address}/file")
}

/// Files of updates that are on the card, whole or not.
fn kept(device: &Device) -> Vec<String> {
    let names = fs::read_dir(device.path("data/picloud/device")).into_iter().flatten();
    names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[track_caller]
fn fetch(device: &Device, url: &str) {
    let request = device.daemon.request("POST", "/api/v1/updates").key(KEY);
    let request = request.header("content-type", "application/json");
    let answer = request.body(json!({ "url": url }).to_string()).send();
    assert_eq!(answer.status, 202, "{answer}");
    until("what comes", || (device.standing()["phase"] == "downloading").then_some(()));
}

#[track_caller]
fn cancel(device: &Device) {
    assert_eq!(device.daemon.api("DELETE", "/updates", Value::Null).status, 204);
    assert_eq!(device.standing()["phase"], "idle");
    assert_eq!(kept(device), [""; 0], "nothing of it is left");
}

#[test]
fn a_fetch_that_stalls_is_cancelled_at_once() {
    let device = Device::new();
    let url = stalling_server();
    for _ in 0..2 {
        fetch(&device, &url);
        assert_eq!(kept(&device).len(), 1);
        cancel(&device);
    }
    let good = device.bundle("1.1.0", 2, picloud::store::SCHEMA);
    let answer = device.upload(&good);
    assert_eq!(answer.status, 202, "another is taken: {answer}");
    assert!(device.request().exists());
}

/// A client that says it will send more than it does.
fn dripping(device: &Device) -> TcpStream {
    let mut stream = TcpStream::connect(device.daemon.address).unwrap();
    let head = format!(
        "POST /api/v1/updates HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {KEY}\r\ncontent-type: application/octet-stream\r\ncontent-length: 500000\r\n\r\nabc"
    );
    stream.write_all(head.as_bytes()).unwrap();
    until("what comes", || (device.standing()["phase"] == "receiving").then_some(()));
    stream
}

#[test]
fn an_upload_that_drips_is_cancelled_at_once() {
    let device = Device::new();
    let mut first = dripping(&device);
    cancel(&device);
    // Another takes its place, and has it also when the first one hears of it.
    let second = dripping(&device);
    first.write_all(b"x").unwrap();
    first.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut said = [0; 300];
    let count = first.read(&mut said).unwrap();
    let said = String::from_utf8_lossy(&said[..count]).into_owned();
    assert!(said.starts_with("HTTP/1.1 409 ") && said.contains("was cancelled"), "{said}");
    drop(first);
    assert_eq!(device.standing()["phase"], "receiving");
    assert_eq!(kept(&device).len(), 1);
    drop(second);
    until("its end", || (device.standing()["phase"] == "idle").then_some(()));
    assert_eq!(kept(&device), [""; 0]);
}

#[test]
fn what_was_coming_when_the_daemon_was_killed_goes_with_the_next_start() {
    let mut device = Device::new();
    fetch(&device, &stalling_server());
    device.daemon.kill();
    assert_eq!(kept(&device).len(), 1);
    // So it was called once.
    fs::write(device.path("data/picloud/device/update.part"), "x").unwrap();
    fs::write(device.path("data/picloud/device/factory-reset"), "").unwrap();
    device.daemon.start_again();
    assert_eq!(kept(&device), ["factory-reset"]);
}

#[test]
fn where_it_was_fetched_from_is_told_with_the_port() {
    let device = Device::new();
    let request = device.daemon.request("POST", "/api/v1/updates").key(KEY);
    let request = request.header("content-type", "application/json");
    request.body(json!({ "url": "http://me:word@127.0.0.1:1/x?token=it" }).to_string()).send();
    let failed = until("the failure", || Some(device.standing()).filter(|told| told["phase"] == "failed"));
    let why = failed["error"].as_str().unwrap();
    assert!(
        why.contains("http://127.0.0.1:1/x: ") && !why.contains("word") && !why.contains("token"),
        "{why}"
    );
}

/// What is refused is refused before it is sent: the reason arrives.
#[test]
fn who_uploads_hears_why_it_is_refused() {
    let device = Device::new();
    let large = device.path("large.update");
    fs::File::create(&large).unwrap().set_len(64 * 1024 * 1024).unwrap();
    let large = large.to_str().unwrap();
    let ran = device.daemon.cli(&["update", large]);
    assert!(ran.code == 1 && ran.err.contains("which none for this device has (status 413)"), "{}", ran.err);
    assert!(!ran.err.contains("sent"), "{}", ran.err);
    let url = device.daemon.url();
    let env = [("PICLOUD_URL", url.as_str()), ("PICLOUD_API_KEY", "wrong")];
    for args in [&["restore", "--yes", large][..], &["update", large]] {
        let ran = picloud(args, &env);
        assert!(ran.code == 1 && ran.err.contains("refuses the api key"), "{args:?}: {}", ran.err);
    }
    let kept = device.bundle("1.1.0", 2, picloud::store::SCHEMA);
    let ran = device.daemon.cli(&["update", "--no-wait", kept.to_str().unwrap()]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let ran = device.daemon.cli(&["update", kept.to_str().unwrap()]);
    assert!(ran.code == 1 && ran.err.contains("another update is under way"), "{}", ran.err);
}

#[test]
fn only_files_are_uploaded() {
    let (device, dir) = (Device::new(), TempDir::new());
    let folder = dir.path().to_str().unwrap();
    for args in [&["update", folder][..], &["restore", "--yes", folder]] {
        let ran = device.daemon.cli(args);
        assert_eq!(
            (ran.code, ran.err.trim_end()),
            (1, &*format!("picloud: cannot read {folder}: it is no regular file"))
        );
    }
}

#[test]
fn files_with_secrets_are_read_within_bounds() {
    let daemon = Daemon::start();
    let words = "cannot read /dev/zero: it has more than 655";
    for args in [
        &["--key-file", "/dev/zero", "status"][..],
        &["--ca-file", "/dev/zero", "status"],
        &["user", "add", "me@example.org", "--password-file", "/dev/zero"],
        &["secret", "set", "it", "--value-file", "/dev/zero"],
    ] {
        let ran = daemon.cli(args);
        let known = ran.err.contains(words) || ran.err.contains("it has more than 1048576");
        assert!(ran.code == 1 && known, "{args:?}: {} {}", ran.code, ran.err);
    }
}
