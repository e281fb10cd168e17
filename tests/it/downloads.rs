//! Updates that do not come, or come slowly, or are cut off; and uploads of the command line that are refused.

use std::fs;

use serde_json::json;

use crate::harness::{Daemon, KEY, TempDir, picloud, until};
use crate::updates::Device;

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
