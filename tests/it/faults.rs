//! The card fails under the real daemon: strace(1) answers one of its system calls with an error. Nothing is
//! acknowledged that is not on the card; the daemon says what to do, ends with 1, and the next start is clean.

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::thread;

use crate::full_disk::noise;
use crate::harness::{Daemon, RaisedAtEnd, Setup, until};
use crate::http::Request;
use crate::kills::Dice;

/// Async routes twice, so that several rows share a commit.
const CALLERS: [&str; 3] = ["/work", "/work", "/strict"];

/// Which of a thread's calls fails: more than opening the file makes, so that it is one of the writer's, and not so
/// many that the load does not get there. The file's length changes only a few times.
fn draw(call: &str, dice: &mut Dice) -> u64 {
    match call {
        "pwrite64" => 40 + dice.roll(260),
        "fdatasync" => 10 + dice.roll(40),
        _ => 2,
    }
}

/// The words before the daemon's own that make call number `nth` of each of its threads fail.
fn failing(call: &str, error: &str, nth: u64) -> Vec<String> {
    let trace = format!("trace={call}");
    let inject = format!("inject={call}:error={error}:when={nth}");
    let words = ["strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "--"];
    words.map(str::to_owned).to_vec()
}

#[track_caller]
fn strace_is_there() {
    let found = Command::new("strace").arg("--version").stdout(Stdio::null()).status();
    assert!(found.is_ok_and(|status| status.success()), "strace is missing: run scripts/install-tools");
}

/// Calls until it is told to stop, also where nobody answers; gives the executions that got a 202.
fn call(address: SocketAddr, path: &str, stop: &AtomicBool, answers: &AtomicUsize) -> Vec<String> {
    let mut accepted = Vec::new();
    while !stop.load(Relaxed) {
        let request = Request::new(address, "POST", path).header("connection", "close");
        let Some(answer) = request.body(noise(3000)).send_to_mortal() else { continue };
        match answer.status {
            202 => accepted.push(answer.execution_id()),
            // Refused, because the writer failed or the house closes.
            200 | 500 | 503 => {}
            _ => panic!("{answer}"),
        }
        answers.fetch_add(1, Relaxed);
    }
    accepted
}

/// Calls from all sides until `done` finds what it waits for.
fn under_load<T>(address: SocketAddr, done: impl FnOnce(&AtomicUsize) -> T) -> (T, Vec<String>) {
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        let (stop, answers) = (&stop, &answers);
        let callers = CALLERS.map(|path| scope.spawn(move || call(address, path, stop, answers)));
        let raise = RaisedAtEnd(stop);
        let found = done(answers);
        drop(raise);
        let accepted = callers.into_iter().flat_map(|caller| caller.join().unwrap()).collect();
        (found, accepted)
    })
}

/// A daemon with something to call, started again so that the call fails.
#[track_caller]
fn about_to_fail(reserve_bytes: u64, prefix: &[String]) -> Daemon {
    strace_is_there();
    let setup = Setup::default().set("store.reserve_bytes", reserve_bytes).set("log.access", false);
    let mut daemon = setup.start();
    daemon.serve_async("/work", "1");
    daemon.serve("/strict", "1");
    daemon.process.signal("TERM");
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0));
    daemon.start_again_by(prefix);
    daemon
}

#[track_caller]
fn is_accepted(daemon: &Daemon, accepted: &[String], what: &str) {
    for id in accepted {
        assert_eq!(daemon.ended(id)["status"], "success", "{id} after {what}");
    }
    until("the outbox to be empty", || daemon.all("/outbox").is_empty().then_some(()));
    assert!(!daemon.log().contains("panicked"), "{what}: {}", daemon.log());
}

/// It ends with 1 and says what to do; all that was accepted is there at the next start.
#[track_caller]
fn ends(call: &str, error: &str, dice: &mut Dice) {
    let nth = draw(call, dice);
    let what = format!("{call} number {nth} with {error}");
    let mut daemon = about_to_fail(0, &failing(call, error, nth));
    let address = daemon.address;
    let process = &mut daemon.process;
    let (status, accepted) = under_load(address, |_| process.wait(&what));
    assert_eq!(status.code(), Some(1), "{what}: {}", daemon.log());
    let log = daemon.log();
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.contains("ERROR the store failed: ") && last.contains("start PiCloud again"),
        "{what}: {log}"
    );
    daemon.start_again_by(&[]);
    is_accepted(&daemon, &accepted, &what);
    eprintln!("{what}: {} accepted before it", accepted.len());
}

/// The reserve makes room, and nobody notices.
#[track_caller]
fn survives(call: &str, error: &str, dice: &mut Dice) {
    let nth = draw(call, dice);
    let what = format!("{call} number {nth} with {error}");
    let mut daemon = about_to_fail(1024 * 1024, &failing(call, error, nth));
    let ((), accepted) = under_load(daemon.address, |_| {
        until(&what, || daemon.log().contains("WARN the card is full: a write to").then_some(()));
        until("room again", || daemon.log().contains("INFO the card has room again").then_some(()));
    });
    is_accepted(&daemon, &accepted, &what);
    daemon.process.signal("TERM");
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0), "{what}");
}

fn dice() -> Dice {
    let seed = getrandom::u64().unwrap() | 1;
    eprintln!("seed {seed}");
    Dice(seed)
}

#[test]
fn a_failing_card_ends_the_daemon_and_nothing_is_lost() {
    let mut dice = dice();
    for call in ["pwrite64", "fdatasync", "ftruncate", "fallocate"] {
        ends(call, "EIO", &mut dice);
    }
}

#[test]
fn a_full_card_without_a_reserve_ends_the_daemon_and_nothing_is_lost() {
    let mut dice = dice();
    for call in ["pwrite64", "fdatasync", "ftruncate"] {
        ends(call, "ENOSPC", &mut dice);
    }
}

#[test]
fn a_write_without_room_is_made_on_the_reserve() {
    let mut dice = dice();
    for call in ["pwrite64", "ftruncate"] {
        survives(call, "ENOSPC", &mut dice);
    }
}
