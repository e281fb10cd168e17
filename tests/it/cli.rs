//! The command line against a real daemon.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, PICLOUD, Process, Ran, Setup, TempDir, picloud, until};

/// A daemon and a desk to drive it from.
pub(crate) struct Desk {
    pub(crate) daemon: Daemon,
    dir: TempDir,
}

impl Desk {
    pub(crate) fn new() -> Desk {
        Desk { daemon: Daemon::start(), dir: TempDir::new() }
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        picloud(args, &[("PICLOUD_URL", &self.daemon.url()), ("PICLOUD_API_KEY", KEY)])
    }

    /// Runs what must work, and gives what it printed.
    #[track_caller]
    pub(crate) fn does(&self, args: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.out, ran.err);
        ran.out
    }

    /// The same as JSON.
    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let out = self.does(&[args, &["--json"]].concat());
        serde_json::from_str(&out).unwrap_or_else(|why| panic!("{args:?}: {why}: {out}"))
    }

    /// Runs what must fail with 1, and gives what it said about that.
    #[track_caller]
    fn fails(&self, args: &[&str], says: &str) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 1, "{args:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(says), "{args:?}: {says} is not in: {}", ran.err);
        ran.err
    }

    pub(crate) fn file(&self, name: &str, source: &str) -> String {
        self.dir.file(name, source)
    }
}

#[test]
fn deploy_makes_it_so_and_says_what_it_did() {
    let desk = Desk::new();
    let file = desk.file("greet.rhai", "`hello ${request.params.name}`");
    let args = ["deploy", &file, "--route", "GET /greet/{name}"];
    let first = desk.does(&args);
    assert!(first.contains("script greet: created, version 1"), "{first}");
    assert!(first.contains("route GET /greet/{name}: created, sync"), "{first}");
    assert!(first.contains(&format!("curl {}/greet/name", desk.daemon.url())), "{first}");
    assert_eq!(desk.daemon.get("/greet/you").json(), "hello you");
    let second = desk.does(&args);
    assert!(
        second.contains("script greet: unchanged, version 1") && second.contains(": unchanged, sync"),
        "{second}"
    );
    desk.file("greet.rhai", "`bye ${request.params.name}`");
    let third = desk.does(&[&args[..], &["--timeout", "9"]].concat());
    assert!(
        third.contains("script greet: updated, version 2") && third.contains(": unchanged, sync"),
        "{third}"
    );
    assert_eq!(desk.daemon.get("/greet/you").json(), "bye you");
    let fourth = desk.does(&[&args[..], &["--async"]].concat());
    assert!(fourth.contains("script greet: unchanged") && fourth.contains(": updated, async"), "{fourth}");
    assert_eq!(desk.daemon.get("/greet/you").status, 202);
    let document = desk.json(&args);
    assert_eq!(
        (&document["script"]["active_version"], &document["routes"][0]["dispatch_mode"]),
        (&json!(2), &json!("sync"))
    );
}

#[test]
fn a_script_that_does_not_compile_is_shown_with_its_place() {
    let desk = Desk::new();
    let file = desk.file("bad.rhai", "let a = 1;\nlet b = (;\n");
    for args in [&["deploy", &file][..], &["validate", &file], &["script", "add", &file]] {
        let said = desk.fails(args, "bad.rhai:2:10");
        let lines: Vec<&str> = said.lines().collect();
        let source =
            lines.iter().position(|line| line.ends_with("let b = (;")).unwrap_or_else(|| panic!("{said}"));
        let caret = lines[source + 1].find('^').unwrap_or_else(|| panic!("{said}"));
        assert_eq!(&lines[source][caret..=caret], ";", "{said}");
    }
    assert!(desk.daemon.all("/apps/default/scripts").iter().all(|script| script["name"] != "bad"));
    let good = desk.file("good.rhai", "1");
    desk.does(&["validate", &good]);
    desk.fails(&["validate", "/nowhere.rhai"], "/nowhere.rhai");
}

#[test]
fn apps_domains_scripts_routes_and_keys_are_made_and_removed() {
    let desk = Desk::new();
    desk.does(&["app", "add", "shop", "--name", "The Shop"]);
    assert!(desk.does(&["app", "ls"]).contains("The Shop"));
    assert_eq!(desk.json(&["app", "show", "shop"])["name"], "The Shop");
    desk.does(&["domain", "add", "*.shop.test", "--app", "shop"]);
    assert!(desk.does(&["domain", "ls", "--app", "shop"]).contains("*.shop.test"));
    assert_eq!(desk.json(&["domain", "show", "*.shop.test", "--app", "shop"])["pattern"], "*.shop.test");
    let file = desk.file("till.rhai", "request.body");
    desk.does(&[
        "script",
        "add",
        &file,
        "--app",
        "shop",
        "--sandbox",
        "max_operations=1000",
        "--timeout",
        "3",
    ]);
    let shown = desk.json(&["script", "show", "till", "--app", "shop"]);
    assert_eq!((&shown["timeout_seconds"], &shown["sandbox"]["max_operations"]), (&json!(3), &json!(1000)));
    assert_eq!(desk.does(&["script", "show", "till", "--source", "--app", "shop"]), "request.body");
    desk.does(&["route", "add", "post", "/till", "till", "--app", "shop", "--access", "key"]);
    let routes = desk.does(&["route", "ls", "--app", "shop"]);
    assert!(routes.contains("POST") && routes.contains("/till") && routes.contains("till"), "{routes}");
    let matched = desk.does(&["route", "match", "POST", "http://a.shop.test/till?x=1", "--app", "shop"]);
    assert!(matched.contains("POST /till"), "{matched}");
    desk.fails(&["route", "match", "GET", "/till", "--app", "shop"], "no route matches GET /till");
    desk.does(&["deploy", &desk.file("till.rhai", "2"), "--app", "shop"]);
    let versions = desk.json(&["script", "versions", "till", "--app", "shop"]);
    assert_eq!(versions["items"].as_array().map(Vec::len), Some(2));
    desk.does(&["script", "rollback", "till", "1", "--app", "shop"]);
    assert_eq!(desk.does(&["script", "show", "till", "--source", "--app", "shop"]), "request.body");
    let secret = desk.does(&["key", "add", "phone", "--expires", "90d"]);
    let asked = desk.daemon.request("GET", "/api/v1/apps").key(secret.trim()).send();
    assert_eq!(asked.status, 200, "the secret alone is on standard output: {secret:?}");
    assert!(
        desk.does(&["key", "ls"]).contains("phone") && !desk.does(&["key", "ls"]).contains(secret.trim())
    );
    desk.does(&["key", "rm", "phone"]);
    assert_eq!(desk.daemon.request("GET", "/api/v1/apps").key(secret.trim()).send().status, 401);
    desk.does(&["route", "rm", "POST", "/till", "--app", "shop"]);
    desk.does(&["script", "rm", "till", "--app", "shop"]);
    desk.does(&["domain", "rm", "*.shop.test", "--app", "shop"]);
    desk.does(&["app", "rm", "shop"]);
    desk.fails(&["app", "show", "shop"], "app shop is not there");
}

#[test]
fn refusals_help() {
    let desk = Desk::new();
    desk.fails(&["app", "add", "Shop!"], "slug: must be 1 to 63 of a-z");
    desk.fails(&["domain", "add", "*"], "is claimed by default");
    desk.fails(&["route", "add", "GET", "/api/x", "hello"], "begins with /api");
    desk.fails(
        &["route", "add", "GET", "/x", "helo"],
        "there is no script helo of app default; there are hello",
    );
    desk.fails(&["script", "ls", "--app", "nope"], "app nope is not there");
    desk.fails(&["executions", "show", "0192e4a0-7e5b-7000-8000-000000000000"], "is not there");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    desk.fails(
        &["status", "--url", &nobody],
        &format!("no PiCloud answers at http://{nobody}; is it running?"),
    );
    let wrong = picloud(&["app", "ls"], &[("PICLOUD_URL", &desk.daemon.url()), ("PICLOUD_API_KEY", "wrong")]);
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("refuses the api key in PICLOUD_API_KEY"), "{}", wrong.err);
    let none = picloud(&["app", "ls"], &[("PICLOUD_URL", &desk.daemon.url())]);
    assert!(none.code == 1 && none.err.contains("none was found"), "{}", none.err);
    for usage in
        [&["fly"][..], &["call"], &["deploy", "x", "--route", "nonsense"], &["dead-letters", "redrive"]]
    {
        assert_eq!(desk.run(usage).code, 64, "{usage:?}");
    }
}

#[test]
fn the_admin_key_of_this_machine_is_found_and_a_key_may_be_in_a_file() {
    let daemon = Setup::default().without_device_key().start();
    let key_file = daemon.data_dir().join("admin.key");
    let key_file = key_file.to_str().unwrap();
    let ran = picloud(&["app", "ls", "--url", &daemon.url(), "--key-file", key_file], &[]);
    assert!(ran.code == 0 && ran.out.contains("default"), "{}", ran.err);
    std::fs::rename(daemon.data_dir(), daemon.dir().path().join("picloud-data")).unwrap();
    let mut command = Command::new(PICLOUD);
    command.args(["app", "ls", "--url", &daemon.url()]).env_clear().current_dir(daemon.dir().path());
    assert!(command.output().unwrap().status.success(), "./picloud-data/admin.key is looked at");
}

#[test]
fn call_prints_the_answer_and_tells_success_by_its_code() {
    let desk = Desk::new();
    let file =
        desk.file("echo.rhai", "#{ status_code: request.body.code, body: [request.body, request.headers] }");
    desk.does(&["deploy", &file, "--route", "POST /echo"]);
    let ran = desk.run(&["call", "POST", "/echo", "-d", "{\"code\":200}", "-H", "X-A: b"]);
    assert_eq!(ran.code, 0, "{}", ran.err);
    let body: Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!((&body[0]["code"], &body[1]["x-a"]), (&json!(200), &json!("b")));
    assert_eq!(body[1].get("authorization"), None, "the key stays at home");
    assert!(ran.err.contains("200 OK, execution "), "{}", ran.err);
    let ran = desk.run(&["call", "echo", "-d", "{\"code\":404}", "--include"]);
    assert!(ran.code == 1 && ran.out.starts_with("HTTP/1.1 404 Not Found\n"), "{}", ran.out);
    let with_key = desk.json(&["call", "/echo", "--with-key", "-d", "{\"code\":201}"]);
    assert_eq!(
        (&with_key["status"], &with_key["body"][1]["authorization"]),
        (&json!(201), &json!(format!("Bearer {KEY}")))
    );
    assert!(desk.does(&["call", "/hello/you", "--host", "any.test"]).contains("\"hello\":\"you\""));
}

#[test]
fn executions_logs_and_dead_letters_are_shown() {
    let desk = Desk::new();
    let file = desk.file("job.rhai", "print(\"trying\"); fail(\"no use\")");
    desk.does(&["deploy", &file, "--route", "POST /job", "--async"]);
    let id = desk.daemon.accepted("/job", "[1]");
    let shown = desk.does(&["executions", "show", &id, "--wait", "30"]);
    assert!(shown.contains("error") && shown.contains("trying") && shown.contains("no use"), "{shown}");
    assert_eq!(desk.json(&["executions", "show", &id])["status"], "error");
    assert!(desk.does(&["executions", "--status", "error", "--since", "1h"]).contains(&id));
    assert!(!desk.does(&["executions", "ls", "--status", "success"]).contains(&id));
    let logs = desk.does(&["logs", "--script", "job"]);
    assert!(logs.lines().count() == 2 && logs.contains("trying"), "{logs}");
    let letter = crate::harness::id(&desk.json(&["dead-letters", "ls"])["items"][0]);
    let read = desk.does(&["dead-letters", "show", &letter]);
    assert!(read.contains("no use") && read.contains("POST /job") && read.contains("[1]"), "{read}");
    desk.does(&["deploy", &desk.file("job.rhai", "request.body")]);
    let again = desk.json(&["dead-letters", "redrive", &letter]);
    let again = desk.json(&["executions", "show", again["execution_id"].as_str().unwrap(), "--wait", "30"]);
    assert_eq!(again["response_body"], "[1]");
    desk.does(&["deploy", &desk.file("job.rhai", "fail(1)")]);
    desk.daemon.ended(&desk.daemon.accepted("/job", ""));
    assert_eq!(desk.run(&["dead-letters", "purge"]).code, 64, "nobody is asked without a terminal");
    assert!(desk.does(&["dead-letters", "purge", "--yes"]).contains("purged 1"));
    assert!(
        desk.does(&["dead-letters", "ls"]).contains("no dead letters")
            || desk.daemon.all("/dead-letters").is_empty()
    );
}

#[test]
fn outbox_and_cancel_reach_what_is_under_way() {
    let desk = Desk::new();
    desk.daemon.serve_async("/long", "sleep(50)");
    let id = desk.daemon.accepted("/long", "");
    desk.daemon.execution_once(&id, "running");
    assert!(desk.does(&["outbox"]).contains(&id));
    desk.does(&["executions", "cancel", &id]);
    assert_eq!(desk.daemon.ended(&id)["status"], "error");
    desk.fails(&["executions", "cancel", &id], "the execution has ended");
    assert!(desk.does(&["outbox"]).contains("the outbox is empty"));
}

#[test]
fn status_says_how_the_device_is() {
    let desk = Desk::new();
    let status = desk.does(&["status"]);
    assert!(status.contains(env!("CARGO_PKG_VERSION")) && status.contains("ready"), "{status}");
    assert_eq!(desk.json(&["status"])["ready"]["ready"], true);
}

#[test]
fn logs_follow() {
    let desk = Desk::new();
    desk.daemon.serve("/x", "print(\"line \" + request.query.n)");
    let mut command = Command::new(PICLOUD);
    command
        .args(["logs", "-f"])
        .env_clear()
        .envs([("PICLOUD_URL", desk.daemon.url().as_str()), ("PICLOUD_API_KEY", KEY)]);
    let mut process = Process(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap());
    let stdout = process.0.stdout.take().unwrap();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        BufReader::new(stdout).lines().map_while(Result::ok).for_each(|line| drop(tell.send(line)));
    });
    // The daemon does not say who follows; so lines are written until one arrives.
    let mut n = 0;
    let line = until("a line to arrive", || {
        n += 1;
        desk.daemon.get(&format!("/x?n={n}"));
        told.recv_timeout(std::time::Duration::from_millis(100)).ok()
    });
    assert!(line.contains("INFO") && line.contains("line "), "{line}");
}

#[test]
fn completions_name_the_verbs() {
    for shell in ["bash", "zsh", "fish"] {
        let ran = picloud(&["completions", shell], &[]);
        assert!(ran.code == 0 && ran.out.contains("dead-letters") && ran.out.contains("redrive"), "{shell}");
    }
    assert_eq!(picloud(&["completions", "powershell"], &[]).code, 64);
    let help = picloud(&["--help"], &[]);
    assert!(help.code == 0 && help.out.contains("deploy") && help.err.is_empty());
    assert_eq!(picloud(&["--version"], &[]).out.trim(), format!("picloud {}", env!("CARGO_PKG_VERSION")));
}
