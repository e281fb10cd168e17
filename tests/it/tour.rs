//! The README's tour, block by block as it stands, but for the address: 8080 may be taken where tests run.

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use crate::harness::{Daemon, PICLOUD, Setup};

const README: &str = include_str!("../../README.md");

/// The shell lines between the two marks.
fn tour() -> String {
    let (_, after) = README.split_once("<!-- tour:").expect("the README has a tour");
    let (tour, _) = after.split_once("<!-- end of the tour -->").expect("the tour has an end");
    let blocks: Vec<&str> =
        tour.split("```sh\n").skip(1).map(|block| block.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 5, "the tour has {} blocks", blocks.len());
    blocks.concat()
}

/// Runs the tour where a newcomer would: beside the data directory, the binary in `target/release`.
fn walk(daemon: &Daemon) -> (bool, String) {
    let place = daemon.dir().path();
    fs::create_dir_all(place.join("target/release")).unwrap();
    symlink(PICLOUD, place.join("target/release/picloud")).unwrap();
    symlink(daemon.data_dir(), place.join("picloud-data")).unwrap();
    let script = format!(
        "set -e\nshopt -s expand_aliases\nexec 2>&1\n{}",
        tour().replace("http://127.0.0.1:8080", &daemon.url())
    );
    let ran =
        Command::new("bash").arg("-c").arg(script).current_dir(place).env_remove("PICLOUD_API_KEY").output();
    let ran = ran.expect("bash and curl are there: scripts/install-tools installs them");
    (ran.status.success(), String::from_utf8_lossy(&ran.stdout).into_owned())
}

#[test]
fn the_tour_of_the_readme_works_as_it_stands() {
    let daemon = Setup::default().without_device_key().start();
    let (worked, said) = walk(&daemon);
    assert!(worked, "the tour broke off:\n{said}");
    let mut rest = said.as_str();
    for expected in [
        "\"hello\":\"you\"",
        "\"greeting\":\"Hello Ada\"",
        "\"you_sent\":{\"from\":\"the tour\"}",
        "502 Bad Gateway",
        "there must be a name",
        "greeting nobody",
        "\"execution_id\"",
        "\"status\":\"success\"",
        "permanent",
        "picloud_card_fsyncs_total",
    ] {
        let at = rest
            .find(expected)
            .unwrap_or_else(|| panic!("{expected:?} does not come next in:\n{rest}\n\nall:\n{said}"));
        rest = &rest[at + expected.len()..];
    }
}

/// The shell lines between two marks of the README.
fn marked(name: &str) -> &'static str {
    let (_, after) = README.split_once(&format!("<!-- {name}: a test runs this block")).expect(name);
    let (section, _) = after.split_once(&format!("<!-- end of the {name} -->")).expect(name);
    section.split_once("```sh\n").and_then(|(_, rest)| rest.split_once("```")).expect(name).0
}

#[test]
fn the_commands_of_the_sections_work_as_they_stand() {
    let daemon = Setup::default().without_device_key().tls().start();
    let place = daemon.dir().path();
    symlink(daemon.data_dir(), place.join("picloud-data")).unwrap();
    let https = format!("localhost:{}", daemon.tls_address().port());
    for (name, expected) in [
        (
            "https",
            &["\"hello\":\"you\"", "localhost", "308 Permanent Redirect", "location: https://boat.lan"][..],
        ),
        ("users", &["eve@example.org", "\"kind\":\"session\"", "removed user eve@example.org"]),
        ("kv", &["{\"name\":\"Ada\"}", "user/7", "imported 4 values"]),
        ("sdk", &["kv:: Values that stay", "kv::incr(key[, by])"]),
        (
            "triggers",
            &["0 7 * * * Europe/Berlin", "printed/*", "failed/b", "printed/a", "sheets", "permanent"],
        ),
        ("secrets", &["api.token", "smtp.password", "{\"characters\":13}", "using [secret]"]),
        ("moving", &["sound", "served"]),
    ] {
        let script = format!(
            "set -e\npicloud() {{ {PICLOUD} \"$@\"; }}\nexec 2>&1\n{}",
            marked(name).replace("localhost:8443", &https)
        );
        let mut bash = Command::new("bash");
        bash.arg("-c").arg(script).current_dir(place).env_clear().env("PICLOUD_URL", daemon.url());
        let ran = bash.env("PATH", "/usr/bin:/bin").output().unwrap();
        let said = String::from_utf8_lossy(&ran.stdout).into_owned();
        assert!(ran.status.success(), "{name}: {said}");
        for part in expected {
            assert!(said.contains(part), "{name}: {part:?} is not in {said}");
        }
        assert!(!said.contains("correct horse"), "{said}");
    }
}
