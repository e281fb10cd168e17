//! The command line from its arguments to its exit code, against a tiny server that answers from a list.

use std::cell::Cell;
use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{self, ExitCode};
use std::thread;

use serde_json::{Value, json};

use super::backups::Offline;
use super::run::{World, run_in};

mod deploy;
mod sdk;
mod verbs;

const ID: &str = "0192e4a0-7e5b-7000-8000-000000000000";

const OFFLINE: Offline = Offline {
    check: |_| Ok(json!({ "tables": { "apps": 2 } })),
    restore: |_, _| Ok(json!({})),
    go_back: |_, _| Ok(None),
    reference: sdk::reference,
    markdown: |chapters| format!("{} chapters\n", chapters.len()),
    schema: 4,
    rescue: || ExitCode::SUCCESS,
    alive: |_| (),
    cannot_start: |_| (),
};

/// What a run printed and returned.
struct Ran {
    code: ExitCode,
    out: String,
    err: String,
}

/// A request as the server saw it.
#[derive(Debug)]
struct Seen {
    line: String,
    head: String,
    body: String,
}

fn picloud(args: &[&str], environment: &[(&str, &str)]) -> Ran {
    let args = ["picloud"].iter().chain(args).map(Into::into).collect();
    let environment = environment.iter().map(|(name, value)| (name.into(), value.into())).collect();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run_in(World { args, environment }, &mut out, &mut err, |_| ExitCode::from(42), OFFLINE);
    Ran { code, out: String::from_utf8(out).unwrap(), err: String::from_utf8(err).unwrap() }
}

/// Answers each connection with the next of `answers` and gives back what was asked.
fn served(answers: Vec<String>, args: &[&str]) -> (Ran, Vec<Seen>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (address, count) = (listener.local_addr().unwrap(), answers.len());
    let url = format!("http://{address}");
    let server = thread::spawn(move || {
        let answer = |answer: String| {
            let (mut stream, _) = listener.accept().unwrap();
            let seen = request(&stream);
            let _ = stream.write_all(answer.as_bytes());
            seen
        };
        answers.into_iter().map(answer).collect()
    });
    let ran = picloud(args, &[("PICLOUD_URL", &url), ("PICLOUD_API_KEY", "pc_secret")]);
    // Whatever the server still waits for was not asked: it would wait for ever.
    for _ in 0..count {
        let _ = TcpStream::connect(address).and_then(|mut stream| stream.write_all(b"UNASKED\r\n\r\n"));
    }
    assert!(!format!("{}{}", ran.out, ran.err).contains("pc_secret"));
    let seen: Vec<Seen> = server.join().unwrap();
    assert!(seen.iter().all(|seen| seen.line != "UNASKED"), "asked too little: {seen:?} {}", ran.err);
    (ran, seen)
}

fn request(stream: &TcpStream) -> Seen {
    let mut reader = BufReader::new(stream);
    let (mut line, mut head) = (String::new(), String::new());
    reader.read_line(&mut line).unwrap();
    while !head.ends_with("\r\n\r\n") && head != "\r\n" {
        reader.read_line(&mut head).unwrap();
    }
    let length = head
        .lines()
        .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    reader.read_exact(&mut body).unwrap();
    Seen { line: line.trim_end().to_owned(), head, body: String::from_utf8(body).unwrap() }
}

fn answer(status: u16, kind: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn reply(status: u16, body: Value) -> String {
    answer(status, "application/json", &body.to_string())
}

fn list(items: Value) -> String {
    reply(200, json!({ "items": items, "next_cursor": null }))
}

/// A file that goes when its test does.
struct TempFile(PathBuf);

impl TempFile {
    fn new(name: &str, text: &str) -> TempFile {
        let path = env::temp_dir().join(format!("picloud-cli-{}-{name}", process::id()));
        fs::write(&path, text).unwrap();
        TempFile(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for TempFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

#[test]
fn arguments_that_make_no_sense_exit_64() {
    for args in [
        &[][..],
        &["fly"],
        &["app"],
        &["app", "add"],
        &["serve", "--listen", "nowhere"],
        &["serve", "--fast"],
        &["deploy"],
        &["deploy", "x.rhai", "--route", "GET"],
        &["deploy", "x.rhai", "--route", "/hello"],
        &["call"],
        &["call", "GET", "hello"],
        &["call", "GET", "/a", "b"],
        &["call", "/", "-H", "nonsense"],
        &["executions", "ls", "--status", "lost"],
        &["executions", "--since", "yesterday"],
        &["dead-letters", "redrive"],
        &["dead-letters", "redrive", ID, "--all"],
        &["key", "add", "x", "--expires", "soon"],
        &["key", "add", "x", "--key", "secret"],
        &["status", "--url", "ftp://pi.local"],
        &["status", "--url", "http://a/b"],
        &["completions", "powershell"],
        &["script", "add", "x.rhai", "--sandbox", "max_operations"],
    ] {
        let ran = picloud(args, &[]);
        assert_eq!(ran.code, ExitCode::from(64), "{args:?}: {}", ran.err);
        assert!(ran.out.is_empty() && !ran.err.is_empty(), "{args:?}");
    }
}

#[test]
fn help_and_version_are_answers() {
    for args in [&["--help"][..], &["--version"], &["serve", "--help"], &["help", "dead-letters"]] {
        let ran = picloud(args, &[]);
        assert_eq!((ran.code, ran.err.as_str()), (ExitCode::SUCCESS, ""), "{args:?}");
        assert!(!ran.out.is_empty());
    }
}

#[test]
fn completions_know_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        assert!(picloud(&["completions", shell], &[]).out.contains("dead-letters"), "{shell}");
    }
}

#[test]
fn serve_hands_over_the_configuration_or_exits_78() {
    let file = TempFile::new("serve.toml", "[server]\nthreads = 3\n");
    let path = file.path();
    let given = Cell::new(None);
    let args = [
        "picloud",
        "serve",
        "--config",
        path,
        "--data-dir",
        "d",
        "--listen",
        "127.0.0.1:1",
        "--listen",
        "[::1]:2",
    ];
    let world = World { args: args.map(Into::into).into(), environment: vec![] };
    let daemon = |config| {
        given.set(Some(config));
        ExitCode::from(42)
    };
    let code = run_in(world, &mut Vec::new(), &mut Vec::new(), daemon, OFFLINE);
    assert_eq!(code, ExitCode::from(42));
    let server = given.take().unwrap().0.server;
    assert_eq!((server.threads, server.listen.len(), server.data_dir.to_str()), (3, 2, Some("d")));

    let ran = picloud(&["serve", "--config", path, "--check-config"], &[]);
    assert_eq!(
        (ran.code, ran.out),
        (ExitCode::SUCCESS, format!("configuration is valid (read from {path})\n"))
    );
    let ran = picloud(&["serve", "--config", path], &[("PICLOUD_SERVER_X", "1")]);
    assert_eq!(ran.code, ExitCode::from(78));
    fs::remove_file(path).unwrap();
    let ran = picloud(&["serve", "--config", path, "--check-config"], &[]);
    assert_eq!(ran.code, ExitCode::from(78));
    assert!(ran.err.contains("cannot read"), "{}", ran.err);
}

#[test]
fn nobody_there_says_how_to_start() {
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let ran = picloud(&["app", "ls", "--url", &address.to_string()], &[]);
    assert_eq!(ran.code, ExitCode::FAILURE);
    assert!(
        ran.err.contains(&format!("no PiCloud answers at http://{address}; is it running?")),
        "{}",
        ran.err
    );
}

#[test]
fn refusals_are_told() {
    for (refusal, told) in [
        (reply(401, json!({"error": "no"})), "refuses the api key in PICLOUD_API_KEY; give another with"),
        (reply(403, json!({"error": "outside"})), "does not let you do this: outside"),
        (reply(404, json!({"error": "app not found: x"})), "app x is not there: app not found: x"),
        (reply(409, json!({"error": "claimed"})), "picloud: claimed\n"),
        (reply(500, json!({"error": "internal error"})), "picloud: internal error (status 500)\n"),
        (answer(404, "text/html", "<h1>nginx</h1>"), "is no PiCloud, or not this version"),
        (answer(200, "text/html", "<h1>nginx</h1>"), "is no PiCloud, or not this version"),
        ("SSH-2.0-OpenSSH_9.2\r\n".to_owned(), "127.0.0.1"),
    ] {
        let (ran, seen) = served(vec![refusal], &["app", "show", "x"]);
        assert_eq!(ran.code, ExitCode::FAILURE);
        assert!(ran.err.contains(told), "{} does not say {told}", ran.err);
        assert!(seen[0].head.contains("authorization: Bearer pc_secret"));
    }
}

#[test]
fn lists_are_followed_to_their_end() {
    let app =
        |slug: &str| json!({"id": ID, "slug": slug, "name": slug, "created_at": "2026-01-31T07:00:00Z"});
    let first = reply(200, json!({"items": [app("b")], "next_cursor": "c/1"}));
    let (ran, seen) = served(vec![first.clone(), list(json!([app("a")]))], &["app", "ls"]);
    assert_eq!(ran.out.lines().count(), 3);
    assert!(ran.out.starts_with("SLUG  NAME  ID"), "{}", ran.out);
    assert_eq!(seen[1].line, "GET /api/v1/apps?limit=100&cursor=c%2F1 HTTP/1.1");

    let (ran, seen) = served(vec![first], &["app", "ls", "--limit", "1", "--json"]);
    let document: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((document["items"].as_array().unwrap().len(), &document["next_cursor"]), (1, &json!("c/1")));
    assert_eq!(seen[0].line, "GET /api/v1/apps?limit=1 HTTP/1.1");

    let (ran, _) = served(vec![list(json!([]))], &["outbox"]);
    assert!(ran.out.starts_with("the outbox is empty"), "{}", ran.out);
}

#[test]
fn names_become_ids_or_candidates() {
    let route = |host: Value| json!({"id": ID, "method": "GET", "path": "/x", "host": host});
    let one = list(json!([route(Value::Null), {"id": "other", "method": "POST", "path": "/x"}]));
    let (ran, seen) =
        served(vec![one, reply(204, json!("")).replace("\"\"", "")], &["route", "rm", "get", "/x"]);
    assert_eq!(ran.out, "removed route get /x\n", "{}", ran.err);
    assert_eq!(seen[1].line, format!("DELETE /api/v1/apps/default/routes/{ID} HTTP/1.1"));

    let two = list(json!([route(Value::Null), route(json!("a.local"))]));
    let (ran, _) = served(vec![two], &["route", "show", "/x"]);
    assert!(
        ran.err.contains("is ambiguous; name one of") && ran.err.contains("GET a.local/x"),
        "{}",
        ran.err
    );

    let (ran, _) = served(
        vec![list(json!([{"id": ID, "name": "hello"}]))],
        &["script", "show", "helo", "--app", "shop"],
    );
    assert_eq!(ran.err, "picloud: there is no script helo of app shop; there are hello\n");
}
