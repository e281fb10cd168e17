//! What a new slot has to show, and what becomes of one that does not.

use std::fs;
use std::net::TcpListener;
use std::time::Instant;

use serde_json::{Value, json};

use super::*;
use crate::harness::{Activated, PATIENCE};

#[test]
fn a_slot_that_gives_no_sign_of_life_is_given_up() {
    let mut device = Device::new();
    device.install(&device.bundle("1.1.0", 2, SCHEMA));
    for _ in 0..3 {
        assert_eq!(device.power_cycle(), Slot::B);
    }
    assert_eq!(device.power_cycle(), Slot::A);
    let settled = device.start();
    assert_eq!(settled.code, 0, "{}", settled.err);
    let standing = device.standing();
    let report = &standing["reports"][0];
    assert_eq!((&standing["phase"], &standing["version"]), (&json!("rolled_back"), &json!("1.0.0")));
    assert_eq!((&report["outcome"], &report["store"]), (&json!("rolled_back"), &Value::Null));
    let message = report["message"].as_str().unwrap();
    assert!(
        message.contains("update to 1.1.0") && message.contains("no sign of life in 3 boots"),
        "{message}"
    );
    assert_eq!(standing["error"], report["message"]);
    assert_eq!(device.state(), (Slot::A, None, 0));
    // It may be tried again.
    device.install(&device.bundle("1.1.0", 2, SCHEMA));
}

#[test]
fn a_slot_that_is_not_well_says_why_before_it_is_given_up() {
    let mut device = Device::new();
    device.daemon.serve("/mine", "1");
    device.install(&device.bundle("1.1.0", 2, SCHEMA));
    for _ in 0..3 {
        assert_eq!(device.power_cycle(), Slot::B);
        fs::write(device.path("proc/net/route"), "Iface\tDestination\n").unwrap();
        device.start();
        for route in device.daemon.all("/apps/default/routes") {
            let path = format!("/apps/default/routes/{}", crate::harness::id(&route));
            device.daemon.done("DELETE", &path, Value::Null);
        }
        let unwell = device.helper(&["health", "--wait", "1"]);
        assert_eq!(unwell.code, 1);
        assert!(unwell.err.contains("has 0 routes"), "{}", unwell.err);
    }
    assert_eq!(device.power_cycle(), Slot::A);
    device.start();
    let report = device.standing()["reports"][0].clone();
    let reasons = report["reasons"].to_string();
    for why in ["has 0 routes that work, and had", "is in none now"] {
        assert!(reasons.contains(why), "{reasons}");
    }
    let said = device.daemon.cli(&["update", "--status"]);
    assert!(said.out.contains("was rolled back: PiCloud has 0 routes"), "{}", said.out);
}

/// systemd gave the daemon up, and the page that tells why stands in its place.
fn given_up(device: &Device) -> (Activated, TcpListener) {
    let reason = device.path("reason");
    fs::write(&reason, "broken on purpose").unwrap();
    let socket = TcpListener::bind(device.listen).unwrap();
    let run = reason.parent().unwrap().to_str().unwrap();
    let page =
        Activated::start("rescue", &[(&socket, "picloud-rescue.socket")], &[("RUNTIME_DIRECTORY", run)]);
    (page, socket)
}

#[test]
fn a_slot_whose_daemon_does_not_start_is_not_well() {
    let mut device = Device::new();
    device.install(&device.bundle("1.1.0", 2, SCHEMA));
    device.power_cycle();
    device.helper(&["settle"]);
    let unwell = device.helper(&["health", "--wait", "2"]);
    assert!(unwell.code == 1 && unwell.err.contains("PiCloud is not ready"), "{}", unwell.err);
    // Where it was given up, that is not waited for.
    let began = Instant::now();
    let _page = given_up(&device);
    let unwell = device.helper(&["health", "--wait", "600"]);
    assert!(unwell.code == 1 && unwell.err.contains("PiCloud cannot start"), "{}", unwell.err);
    assert!(unwell.err.contains("broken on purpose"), "{}", unwell.err);
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(device.state(), (Slot::A, Some(Slot::B), 2), "what is tried is for U-Boot to count");
}

/// U-Boot found no kernel in the new slot, and booted the other one at once.
#[test]
fn a_slot_that_cannot_be_loaded_is_given_up_at_once() {
    let mut device = Device::new();
    device.install(&device.bundle("1.1.0", 2, SCHEMA));
    device.daemon.kill();
    boot_into(&device.root, Slot::A, Some(Slot::B));
    device.start();
    assert_eq!(device.standing()["reports"][0]["reasons"], json!(["slot B could not be loaded"]));
    assert_eq!(device.state(), (Slot::A, None, 0));
    device.daemon.kill();
    boot_into(&device.root, Slot::B, None);
    device.start();
    assert!(device.standing()["error"].as_str().unwrap().contains("slot A could not be loaded"));
    // From when that slot is written anew until it is whole, it must not be the one that boots. Here it is never whole, for
    // there is no place for the copy of the data.
    let (kept, aside) = (device.path("data/update"), device.path("data/aside"));
    fs::rename(&kept, &aside).unwrap();
    fs::write(&kept, "").unwrap();
    let bundle = device.bundle("1.2.0", 3, SCHEMA);
    assert_eq!(device.upload(&bundle).status, 202);
    assert_eq!(device.helper(&["install"]).code, 1);
    assert_eq!(device.state(), (Slot::B, None, 0));
    fs::remove_file(&kept).unwrap();
    fs::rename(&aside, &kept).unwrap();
    device.install(&bundle);
    assert!(device.holds("disk2", 3));
    assert_eq!(device.state(), (Slot::B, Some(Slot::A), 3));
}

/// What mends a daemon that does not start can only come from root.
#[test]
fn root_installs_an_update_where_the_daemon_was_given_up() {
    let mut device = Device::new();
    device.daemon.kill();
    let page = given_up(&device);
    // Without a copy, data of another form could not go back.
    let other = device.bundle("1.2.0", 3, SCHEMA + 1);
    let refused = device.helper(&["install", other.to_str().unwrap()]);
    assert!(refused.code == 1 && refused.err.contains("no copy of the data"), "{}", refused.err);
    assert_eq!(device.state(), (Slot::A, None, 0));
    let forced = device.helper(&["install", "--force", other.to_str().unwrap()]);
    assert_eq!(forced.code, 0, "{}", forced.err);
    assert!(device.holds("disk3", 3));
    State::default().write(&device.path("disk")).unwrap();
    let mended = device.bundle("1.1.0", 2, SCHEMA);
    let installed = device.helper(&["install", mended.to_str().unwrap()]);
    assert_eq!(installed.code, 0, "{}", installed.err);
    assert!(device.holds("disk3", 2));
    drop(page);
    assert_eq!(device.power_cycle(), Slot::B);
    device.start();
    assert_eq!(device.helper(&["health", "--wait", "60"]).code, 0);
    assert_eq!(device.state(), (Slot::B, None, 0));
}
