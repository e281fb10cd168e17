//! A card without room, on real small file systems: what must be durable is refused, the rest works, nothing is
//! lost, and when there is room again nobody has to do anything.
//!
//! The file systems are mounted in a namespace of their own, so nobody else sees them: a tmpfs for everyone, and an
//! ext4 on a loop device for root, who alone may mount one.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Daemon, Process, RaisedAtEnd, Setup, TempDir, until};
use crate::http::Answer;

const MIB: u64 = 1024 * 1024;
/// Below it the card is full.
const LOW: u64 = 8 * MIB;
/// What is set aside.
const RESERVE: u64 = 4 * MIB;

/// A small file system that only its daemon and this test see. It goes with the test.
struct Card {
    helper: Process,
    dir: TempDir,
    as_root: bool,
}

const TMPFS: &str = r#"mount -t tmpfs -o size=48m,nr_inodes=400,mode=0777 none "$1/card""#;
const EXT4: &str = r#"truncate -s 48M "$1/image" && PATH=$PATH:/usr/sbin:/sbin mkfs.ext4 -q -m 0 -N 400 "$1/image" &&
    mount -o loop "$1/image" "$1/card" && rmdir "$1/card/lost+found""#;

impl Card {
    #[track_caller]
    fn mount(how: &str) -> Card {
        let as_root = rustix::process::getuid().is_root();
        let dir = TempDir::new();
        fs::create_dir(dir.path().join("card")).unwrap();
        let mut command = Command::new("unshare");
        command.args(if as_root { &["--mount"][..] } else { &["--mount", "--user", "--map-root-user"] });
        // It ends with its input, and the namespace with it and its daemon.
        let script = format!("({how}) && echo mounted && exec cat");
        command.args(["sh", "-c", &script, "sh"]).arg(dir.path());
        let mut helper = Process(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
        let mut line = String::new();
        BufReader::new(helper.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert_eq!(line, "mounted\n", "the small file system could not be mounted");
        Card { helper, dir, as_root }
    }

    /// A daemon that has its data on the card.
    #[track_caller]
    fn start(&self) -> Daemon {
        let pid = self.helper.0.id().to_string();
        let mut prefix = vec!["nsenter".to_owned(), "--mount".to_owned(), "--target".to_owned(), pid];
        if !self.as_root {
            prefix.extend(["--user".to_owned(), "--preserve-credentials".to_owned()]);
        }
        prefix.push("--".to_owned());
        Setup::default()
            .set("store.space_low_bytes", LOW)
            .set("store.inodes_low", 32)
            .set("store.reserve_bytes", RESERVE)
            .set("log.access", false)
            .by(&prefix)
            .data_in(self.dir.path().join("card/data"))
            .start()
    }

    /// The card's files, as this process sees them.
    fn path(&self, name: &str) -> PathBuf {
        let outside = self.dir.path().join("card").join(name);
        let inside = outside.strip_prefix("/").unwrap();
        PathBuf::from(format!("/proc/{}/root", self.helper.0.id())).join(inside)
    }

    fn free(&self) -> u64 {
        let told = rustix::fs::statvfs(self.path("")).unwrap();
        told.f_bavail * told.f_frsize
    }

    /// Fills it until only so much is free.
    fn fill_to(&self, free: u64) {
        let mut filler = OpenOptions::new().append(true).create(true).open(self.path("filler")).unwrap();
        loop {
            let left = self.free().saturating_sub(free).min(64 * 1024);
            let zeros = vec![0; usize::try_from(left).unwrap()];
            match filler.write(&zeros) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::StorageFull => break,
                Err(error) => panic!("{error}"),
            }
        }
        filler.sync_all().unwrap();
    }

    fn empty(&self) {
        fs::remove_file(self.path("filler")).unwrap();
    }
}

fn storage(daemon: &Daemon) -> Value {
    let ready = daemon.get("/api/v1/ready");
    assert_eq!(ready.status, 200, "{ready}");
    ready.json()["storage"].clone()
}

#[track_caller]
fn becomes(daemon: &Daemon, state: &str) {
    until(&format!("storage to be {state}"), || (storage(daemon) == state).then_some(()));
}

#[track_caller]
fn is_refused(answer: &Answer) {
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("1")), "{answer}");
    let body = answer.json();
    assert_eq!(body["reason"], "storage_full", "{answer}");
    let error = body["error"].as_str().unwrap();
    assert!(error.contains("/card/data") && error.contains("delete"), "{answer}");
}

fn metric(daemon: &Daemon, name: &str) -> u64 {
    let metrics = daemon.api("GET", "/metrics", Value::Null).text();
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("picloud_{name} ")));
    line.unwrap_or_else(|| panic!("no {name} in {metrics}")).parse().unwrap()
}

/// What a daemon was set up with, and what it accepted.
struct Furnished {
    strict: String,
    spare: String,
    dead: Vec<String>,
    retrying: String,
    ended: Vec<String>,
}

fn furnish(daemon: &Daemon) -> Furnished {
    let strict = daemon.serve("/call", "1");
    daemon.done("PATCH", &format!("/apps/default/scripts/{strict}"), json!({ "source": "request.method" }));
    let work =
        "if request.body == 1 { fail(\"asked to\") } if request.body == 2 { retry_after(3600); throw 2 }";
    daemon.serve_async("/work", work);
    let spare = daemon.route("GET", "/spare", &strict, json!({}));
    let dead: Vec<String> = (0..4).map(|_| daemon.accepted("/work", "1")).collect();
    let ended: Vec<String> = (0..4).map(|_| daemon.accepted("/work", "0")).collect();
    let retrying = daemon.accepted("/work", "2");
    daemon.execution_once(&retrying, "retrying");
    let dead = dead.iter().map(|id| daemon.ended(id)["dead_letter_id"].as_str().unwrap().to_owned());
    let dead = dead.collect();
    ended.iter().for_each(|id| assert_eq!(daemon.ended(id)["status"], "success"));
    Furnished { strict, spare, dead, retrying, ended }
}

fn holds_what_it_accepted(daemon: &Daemon, made: &Furnished) {
    made.ended.iter().for_each(|id| assert_eq!(daemon.execution(id)["status"], "success"));
    assert_eq!(daemon.execution(&made.retrying)["status"], "retrying");
    assert_eq!(daemon.all("/outbox").len(), 1);
}

fn refuses_what_must_be_durable(daemon: &Daemon, made: &Furnished) {
    is_refused(&daemon.post("/call", "1"));
    is_refused(&daemon.post("/work", "0"));
    let (script, letter) = (format!("/apps/default/scripts/{}", made.strict), &made.dead[0]);
    for (method, path, body) in [
        ("POST", "/apps".to_owned(), json!({ "slug": "more", "name": "More" })),
        ("PATCH", "/apps/default".to_owned(), json!({ "name": "Other" })),
        ("POST", "/apps/default/scripts".to_owned(), json!({ "name": "s", "source": "1" })),
        ("PATCH", script, json!({ "source": "2" })),
        (
            "POST",
            "/apps/default/routes".to_owned(),
            json!({ "method": "GET", "path": "/n", "script_id": made.strict }),
        ),
        ("POST", "/apps/default/domains".to_owned(), json!({ "pattern": "a.example" })),
        ("POST", "/keys".to_owned(), json!({ "name": "k" })),
        ("POST", format!("/dead-letters/{letter}/redrive"), json!({})),
        ("POST", "/dead-letters/redrive".to_owned(), json!({})),
    ] {
        is_refused(&daemon.api(method, &path, body));
    }
    let refused = metric(daemon, "storage_full_refusals_total");
    assert_eq!((refused, metric(daemon, "storage_low")), (11, 1));
    assert!(metric(daemon, "storage_free_bytes") < LOW);
}

fn serves_the_rest(daemon: &Daemon, made: &Furnished) {
    let relaxed = daemon.get("/call");
    assert_eq!((relaxed.status, relaxed.text().as_str()), (200, "\"GET\""));
    let directly = daemon.post(&format!("/api/execute/{}", made.strict), "");
    assert_eq!(directly.status, 200, "{directly}");
    for answer in [&relaxed, &directly] {
        assert_eq!(daemon.execution(&answer.execution_id())["status"], "success");
    }
    for path in ["/apps", "/apps/default/scripts", "/executions", "/dead-letters", "/outbox", "/logs"] {
        daemon.done("GET", path, Value::Null);
    }
    assert_eq!(daemon.get("/api/v1/health").status, 200);
}

fn lets_go_of_things(daemon: &Daemon, made: &Furnished) {
    daemon.done("DELETE", &format!("/dead-letters/{}", made.dead[0]), Value::Null);
    let purged = daemon.done("POST", "/dead-letters/purge", json!({}));
    assert_eq!(purged["count"], 3);
    daemon.done("DELETE", &format!("/apps/default/routes/{}", made.spare), Value::Null);
    let back = format!("/apps/default/scripts/{}/rollback", made.strict);
    daemon.done("POST", &back, json!({ "version": 1 }));
    assert_eq!(daemon.get("/call").text(), "1");
}

fn a_card_fills_and_empties(how: &str) {
    let card = Card::mount(how);
    let mut daemon = card.start();
    let made = furnish(&daemon);
    assert_eq!(storage(&daemon), "ok");
    card.fill_to(LOW / 2);
    becomes(&daemon, "full");
    refuses_what_must_be_durable(&daemon, &made);
    serves_the_rest(&daemon, &made);
    let log = daemon.log();
    assert_eq!(log.matches("WARN the card is full: ").count(), 1, "said once: {log}");
    daemon.kill_and_start_again();
    holds_what_it_accepted(&daemon, &made);
    is_refused(&daemon.post("/call", "1"));
    lets_go_of_things(&daemon, &made);
    daemon.stop_and_start_again();
    holds_what_it_accepted(&daemon, &made);
    assert!(daemon.all("/dead-letters").is_empty());
    is_refused(&daemon.post("/work", "0"));
    card.empty();
    becomes(&daemon, "ok");
    assert_eq!(daemon.post("/call", "1").status, 200);
    let accepted = daemon.accepted("/work", "0");
    assert_eq!(daemon.ended(&accepted)["status"], "success");
    assert_eq!(daemon.log().matches("INFO the card has room again").count(), 1);
    assert_eq!(metric(&daemon, "storage_low"), 0);
}

/// Bodies that do not compress, so that they fill the execution log.
pub(crate) fn noise(bytes: usize) -> String {
    let mut noise = vec![0; bytes];
    getrandom::fill(&mut noise).unwrap();
    let letters = noise.iter().map(|byte| char::from(b'0' + byte % 64));
    format!("\"{}\"", letters.map(|c| if c == '\\' { 'x' } else { c }).collect::<String>())
}

/// What a caller saw while the card filled up under it.
#[derive(Default)]
struct Seen {
    accepted: Vec<String>,
    refused: usize,
}

/// Calls until it is told to stop, and counts the answers that had to be durable. Any but the promised ones fails.
fn call(daemon: &Daemon, path: &str, stop: &AtomicBool, answers: &AtomicUsize) -> Seen {
    let mut seen = Seen::default();
    for turn in 0_u32.. {
        if stop.load(Relaxed) {
            break;
        }
        let answer = daemon.post(path, if turn.is_multiple_of(5) { "1" } else { "0" });
        match answer.status {
            202 => seen.accepted.push(answer.execution_id()),
            200 => {}
            _ => {
                is_refused(&answer);
                seen.refused += 1;
            }
        }
        answers.fetch_add(usize::from(path != "/relaxed"), Relaxed);
    }
    seen
}

/// Fills the card to its last byte under load. What was accepted has ended, once each, when this is over.
fn the_last_byte_under_load(card: &Card, daemon: &Daemon) -> Vec<String> {
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    let passed = |more: usize| {
        let goal = answers.load(Relaxed) + more;
        until("answers", || (answers.load(Relaxed) >= goal).then_some(()));
    };
    let seen: Vec<Seen> = thread::scope(|scope| {
        let callers: Vec<_> = ["/work", "/work", "/call", "/relaxed"]
            .into_iter()
            .map(|path| scope.spawn(|| call(daemon, path, &stop, &answers)))
            .collect();
        let raise = RaisedAtEnd(&stop);
        passed(60);
        card.fill_to(0);
        passed(30);
        card.fill_to(0);
        becomes(daemon, "full");
        passed(60);
        drop(raise);
        callers.into_iter().map(|caller| caller.join().unwrap()).collect()
    });
    assert!(seen.iter().map(|seen| seen.refused).sum::<usize>() > 0, "nothing was refused");
    assert_eq!(seen[3].refused, 0, "relaxed calls go on");
    seen.into_iter().flat_map(|seen| seen.accepted).collect()
}

fn each_ended_once(daemon: &Daemon, accepted: &[String]) {
    assert!(accepted.len() > 10, "too few were accepted to say anything: {}", accepted.len());
    until("the outbox to be empty", || daemon.all("/outbox").is_empty().then_some(()));
    let records = daemon.all("/executions?limit=500");
    let letters = daemon.all("/dead-letters?limit=500");
    for id in accepted {
        let ends: Vec<&Value> = records.iter().filter(|record| record["id"] == id.as_str()).collect();
        assert_eq!(ends.len(), 1, "{id} ended {} times", ends.len());
        let dead = letters.iter().filter(|letter| letter["execution_id"] == id.as_str()).count();
        assert_eq!(dead, usize::from(ends[0]["status"] == "error"), "{id}: {:#}", ends[0]);
    }
}

/// Five times as much as the log may hold: what just ended can be read, and the oldest makes way.
fn the_log_goes_round(daemon: &Daemon) {
    let ids: Vec<String> = (0..100).map(|_| logged(daemon)).collect();
    assert!(metric(daemon, "execution_log_bytes") < 2 * MIB, "it does not grow");
    let first = daemon.api("GET", &format!("/executions/{}", ids[0]), Value::Null);
    assert_eq!(first.status, 404, "{first}");
}

/// A relaxed call with a large record, which is read at once.
fn logged(daemon: &Daemon) -> String {
    let answer = daemon.post("/relaxed", &noise(60_000));
    assert_eq!(answer.status, 200, "{answer}");
    let id = answer.execution_id();
    assert_eq!(daemon.execution(&id)["status"], "success");
    id
}

fn a_card_without_a_free_byte(how: &str) {
    let card = Card::mount(how);
    let mut daemon = card.start();
    let script = daemon.serve("/call", "1");
    daemon.route("POST", "/relaxed", &script, json!({ "durability": "relaxed" }));
    daemon.serve_async("/work", "if request.body == 1 { fail(\"asked to\") }");
    let accepted = the_last_byte_under_load(&card, &daemon);
    each_ended_once(&daemon, &accepted);
    assert!(daemon.process.0.try_wait().unwrap().is_none(), "it ended");
    daemon.kill_and_start_again();
    each_ended_once(&daemon, &accepted);
    is_refused(&daemon.post("/work", "0"));
    for _ in 0..3 {
        card.fill_to(0);
        daemon.stop_and_start_again();
    }
    each_ended_once(&daemon, &accepted);
    card.fill_to(0);
    the_log_goes_round(&daemon);
    card.empty();
    becomes(&daemon, "ok");
    assert_eq!(daemon.post("/call", "1").status, 200);
    assert_eq!(card_file_bytes(&card, "data/picloud.reserve"), RESERVE, "the reserve is there again");
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
}

fn card_file_bytes(card: &Card, name: &str) -> u64 {
    fs::metadata(card.path(name)).unwrap().len()
}

fn a_card_without_inodes(how: &str) {
    let card = Card::mount(how);
    let daemon = card.start();
    daemon.serve("/call", "request.method");
    fs::create_dir(card.path("files")).unwrap();
    let names = (0..400).map(|number| card.path(&format!("files/{number}")));
    let made = names.take_while(|name| File::create(name).is_ok()).count();
    assert!(made > 300, "only {made} files fit");
    becomes(&daemon, "full");
    let refused = daemon.post("/call", "1");
    is_refused(&refused);
    assert!(refused.error().contains("more files"), "{refused}");
    let told = |daemon: &Daemon| daemon.done("POST", "/health", json!({}))["storage_full"].clone();
    assert_eq!(told(&daemon), true);
    assert_eq!(daemon.get("/call").status, 200);
    fs::remove_dir_all(card.path("files")).unwrap();
    becomes(&daemon, "ok");
    assert_eq!(told(&daemon), false);
    assert_eq!(daemon.post("/call", "1").status, 200);
}

#[test]
fn on_tmpfs_a_card_fills_and_empties() {
    a_card_fills_and_empties(TMPFS);
}

#[test]
fn on_tmpfs_no_byte_is_free() {
    a_card_without_a_free_byte(TMPFS);
}

#[test]
fn on_tmpfs_no_inode_is_free() {
    a_card_without_inodes(TMPFS);
}

/// Only root may mount an ext4; continuous integration is root.
fn on_ext4(check: impl FnOnce(&str)) {
    if rustix::process::getuid().is_root() {
        check(EXT4);
    } else {
        eprintln!("not tried on ext4: only root may mount one");
    }
}

#[test]
fn on_ext4_a_card_fills_and_empties() {
    on_ext4(a_card_fills_and_empties);
}

#[test]
fn on_ext4_no_byte_is_free() {
    on_ext4(a_card_without_a_free_byte);
}

#[test]
fn on_ext4_no_inode_is_free() {
    on_ext4(a_card_without_inodes);
}
