//! An empty directory: something answers at once, and the operator finds a key that nobody else can read.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::harness::{Daemon, Setup, picloud};

fn mode(daemon: &Daemon, file: &str) -> u32 {
    fs::metadata(daemon.data_dir().join(file)).unwrap().permissions().mode() & 0o777
}

#[test]
fn an_empty_directory_becomes_a_house() {
    let mut daemon = Setup::default().without_device_key().start();
    assert_eq!((mode(&daemon, "admin.key"), mode(&daemon, "picloud.redb")), (0o600, 0o600));
    let secret = fs::read_to_string(daemon.data_dir().join("admin.key")).unwrap().trim().to_owned();
    assert!(secret.len() > 40, "{secret}");
    assert!(!daemon.log().contains(&secret) && daemon.log().contains("admin.key"), "{}", daemon.log());
    let apps = daemon.request("GET", "/api/v1/apps").key(&secret).send().json();
    assert_eq!(
        (&apps["items"][0]["slug"], apps["items"].as_array().unwrap().len()),
        (&Value::from("default"), 1)
    );
    let domains = daemon.request("GET", "/api/v1/apps/default/domains").key(&secret).send().json();
    assert_eq!(domains["items"][0]["pattern"], "*");
    let hello = daemon.request("GET", "/hello/J%C3%BCrgen").host("any.test").send();
    assert_eq!((hello.status, &hello.json()["hello"]), (200, &Value::from("Jürgen")));
    assert_eq!(daemon.get("/").json()["hello"], "you");

    daemon.kill_and_start_again();
    let again = fs::read_to_string(daemon.data_dir().join("admin.key")).unwrap();
    assert_eq!(again.trim(), secret, "a second start makes no new key");
    assert_eq!(daemon.request("GET", "/api/v1/apps").key(&secret).send().status, 200);
    let store = fs::read(daemon.data_dir().join("picloud.redb")).unwrap();
    let needle = secret.as_bytes();
    assert!(!store.windows(needle.len()).any(|window| window == needle), "the store has only its hash");
}

#[test]
fn who_removed_everything_is_not_given_it_again() {
    let mut daemon = Daemon::start();
    daemon.done("DELETE", "/apps/default", Value::Null);
    daemon.kill_and_start_again();
    assert!(daemon.all("/apps").is_empty(), "a key is left, so that the store is not empty");
    assert_eq!(daemon.get("/hello/you").status, 404);
}

#[test]
fn a_desk_needs_no_arguments() {
    let dir = crate::harness::TempDir::new();
    let file = dir.file("c.toml", "");
    let ran = picloud(&["serve", "--check-config", "--config", &file], &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""));
    assert_eq!(ran.out, format!("configuration is valid (read from {file})\n"));
}
