//! The reference of what scripts can call: in the terminal without a daemon, and over the management API.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, PICLOUD, Process, picloud};

#[track_caller]
fn shown(args: &[&str]) -> String {
    let ran = picloud(&[&["sdk"], args].concat(), &[]);
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{args:?}");
    ran.out
}

#[test]
fn the_terminal_shows_all_and_each() {
    let all = shown(&[]);
    let document: Value = serde_json::from_str(&shown(&["--json"])).unwrap();
    let chapters = document["items"].as_array().unwrap();
    assert_eq!(chapters.len(), 16);
    let mut functions = 0;
    for chapter in chapters {
        let namespace = chapter["name"].as_str().unwrap();
        for function in chapter["functions"].as_array().unwrap() {
            let signature = function["signature"].as_str().unwrap();
            let name = signature.split('(').next().unwrap();
            assert!(
                all.lines().any(|line| line.starts_with(&format!("  {name} "))),
                "{name} is not in {all}"
            );
            let page = shown(&[name]);
            assert!(page.starts_with(&format!("{signature}\n\n")), "{page}");
            assert!(page.contains("\n  Limits: ") && page.contains("\n    "), "{page}");
            assert!(namespace.is_empty() || shown(&[namespace]).contains(page.trim_end()), "{name}");
            functions += 1;
        }
    }
    assert!(functions > 50, "{functions}");
    assert!(all.lines().all(|line| line.chars().count() <= 100), "{all}");
    assert!(!all.contains('\u{1b}'), "no colour");
    let unknown = picloud(&["sdk", "kv::gett"], &[]);
    assert_eq!((unknown.code, unknown.out.as_str()), (64, ""));
    assert!(unknown.err.contains("kv::gett; there is kv::get, "), "{}", unknown.err);
}

#[test]
fn a_reader_that_leaves_early_is_no_fault() {
    let mut command = Command::new(PICLOUD);
    command.args(["sdk", "--markdown"]).env_clear().stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut process = Process(command.spawn().unwrap());
    let mut first = String::new();
    BufReader::new(process.0.stdout.take().unwrap()).read_line(&mut first).unwrap();
    assert_eq!(first, "# What scripts can call\n");
    assert_eq!(process.wait("picloud sdk").code(), Some(0));
    let mut said = String::new();
    BufReader::new(process.0.stderr.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "");
}

#[test]
fn the_api_gives_what_the_terminal_shows() {
    let daemon = Daemon::start();
    let document = daemon.done("GET", "/sdk", Value::Null);
    assert_eq!(document, serde_json::from_str::<Value>(&shown(&["--json"])).unwrap());
    let incr =
        &document["items"][1]["functions"].as_array().unwrap().iter().find(|page| page["name"] == "incr");
    assert_eq!(incr.unwrap()["examples"][0]["outcome"], json!({ "gives": "3" }));
    let ask = |accept: &str| daemon.request("GET", "/api/v1/sdk").key(KEY).header("accept", accept).send();
    for (accept, kind) in [("*/*", "application/json"), ("text/markdown", "text/markdown; charset=utf-8")] {
        let answer = ask(accept);
        assert_eq!(
            (answer.status, answer.header("content-type"), answer.header("vary")),
            (200, Some(kind), Some("accept"))
        );
    }
    assert_eq!(ask("text/markdown").text(), shown(&["--markdown"]));
    assert_eq!(daemon.get("/api/v1/sdk").status, 401, "it says what this device can do");
    assert_eq!(daemon.api("POST", "/sdk", json!({})).status, 405);
}
