//! SIGHUP: the configuration and the certificates are read again, and what is wrong changes nothing.

use std::fs;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;

use serde_json::{Value, json};

use crate::harness::{Daemon, KEY, RaisedAtEnd, Setup, until};
use crate::http::Request;
use crate::supervision::Manager;

/// Writes another configuration and has it read.
#[track_caller]
fn reload(daemon: &Daemon, config: &str) {
    let before = count(daemon);
    fs::write(daemon.dir().path().join("picloud.toml"), config).unwrap();
    daemon.process.signal("HUP");
    until("the reload", || (count(daemon) > before).then_some(()));
}

/// Reloads that came to something.
fn count(daemon: &Daemon) -> usize {
    let log = daemon.log();
    ["is in force", "is refused", "ready on http"].iter().map(|end| log.matches(end).count()).sum()
}

#[test]
fn the_front_changes_without_breaking_a_connection() {
    let manager = Manager::new();
    let daemon = manager.setup().config("[management]\npage_limit_max = 3\n").start();
    (0..5).for_each(|number| drop(daemon.script(&number.to_string())));
    manager.next_of("READY=1");
    let mut open = daemon.connect();
    let mut listed = || {
        open.send(daemon.request("GET", "/api/v1/apps/default/scripts?limit=5").key(KEY).bytes());
        open.answer().unwrap().status
    };
    assert_eq!(listed(), 422);
    reload(&daemon, "[management]\npage_limit_max = 5\n[server]\nconnections_max = 7\n");
    let told = manager.next_of("RELOADING=1");
    assert!(told.contains("\nMONOTONIC_USEC="), "{told}");
    manager.next_of("READY=1");
    assert_eq!(listed(), 200, "the same connection, the next request");
    assert!(!daemon.log().contains("stopping"), "{}", daemon.log());
}

#[test]
fn listeners_come_and_go() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let (first, second, secure) = (free(), free(), free());
    // Flags beat the file, so this one has none: its sockets are the file's.
    let config = |clear: &[std::net::SocketAddr], tls: &str| {
        format!(
            "[server]\nlisten = {:?}\n[tls]\nlisten = [{tls}]\n",
            clear.iter().map(ToString::to_string).collect::<Vec<_>>()
        )
    };
    let daemon = Setup::default().config(&config(&[first], "")).listen_by_file().start();
    let answers = |address| {
        TcpStream::connect(address).is_ok() && Request::new(address, "GET", "/hello/x").send().status == 200
    };
    assert!(answers(first) && TcpStream::connect(second).is_err());
    reload(&daemon, &config(&[first, second], &format!("\"{secure}\"")));
    assert!(answers(first) && answers(second));
    assert!(TcpStream::connect(secure).is_ok());
    let root = daemon.get("/api/v1/ca.pem");
    assert_eq!(root.status, 200, "TLS is on now: {root}");
    reload(&daemon, &config(&[second], ""));
    until("the first to close", || TcpStream::connect(first).is_err().then_some(()));
    until("TLS to close", || TcpStream::connect(secure).is_err().then_some(()));
    assert!(answers(second));
}

#[test]
fn a_bad_file_changes_nothing_and_is_told() {
    let manager = Manager::new();
    let daemon = manager.setup().config("").start();
    manager.next_of("READY=1");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap();
    let bad = [
        ("nonsense = 1", "unknown key nonsense"),
        ("[scripts]\nthreads = \"x\"", "scripts.threads must be"),
        ("[tls", "picloud.toml:1"),
        ("[log]\nformat = \"json\"", "log.format cannot change"),
        ("[device]\nroot = \"/nowhere\"", "[device] cannot change"),
        ("[management]\nclient_ca_file = \"/nowhere\"", "set tls.listen"),
        ("[egress]\nca_file = \"/nowhere\"", "egress.ca_file /nowhere cannot be used"),
    ];
    for (config, why) in bad {
        reload(&daemon, config);
        let status = manager.next_of("READY=1");
        assert!(
            status.contains("the changed configuration is refused: ") && status.contains(why),
            "{config}: {status}"
        );
        assert!(daemon.log().contains(why), "{config}");
        assert_eq!(daemon.get("/hello/you").status, 200, "{config}");
    }
    let tls = format!("[tls]\nlisten = [\"{taken}\"]");
    reload(&daemon, &tls);
    assert!(daemon.log().contains(&format!("cannot listen on {taken}")), "{}", daemon.log());
    manager.next_of("READY=1");
    reload(&daemon, "");
    let told = manager.next_of("READY=1");
    assert!(told.ends_with("0 dead"), "all is well again: {told}");
    assert_eq!(daemon.get("/hello/you").status, 200);
}

#[test]
fn what_is_deeper_takes_a_moment_in_which_nobody_is_turned_away() {
    let daemon = Setup::default().config("[env]\nword = \"old\"\n").start();
    daemon.serve("/word", "env::get(\"word\")");
    daemon.serve("/slow", "sleep(1.0); \"done\"");
    assert_eq!(daemon.get("/word").json(), json!("old"));
    let mut slow = daemon.request("GET", "/slow").begin();
    until("it to run", || (daemon.all("/executions?status=running").len() == 1).then_some(()));
    let (asked, over) = (AtomicU32::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        let _over = RaisedAtEnd(&over);
        scope.spawn(|| {
            while !over.load(Relaxed) {
                assert_eq!(daemon.get("/word").status, 200);
                asked.fetch_add(1, Relaxed);
            }
        });
        reload(&daemon, "[env]\nword = \"new\"\n");
        over.store(true, Relaxed);
    });
    assert_eq!(slow.answer().unwrap().json(), json!("done"), "what was under way ends");
    assert!(asked.load(Relaxed) > 0);
    assert_eq!(daemon.get("/word").json(), json!("new"));
}

#[test]
fn a_terminal_that_closes_ends_the_daemon_and_a_hangup_without_one_does_not() {
    let mut daemon = Daemon::start();
    daemon.process.signal("HUP");
    until("the reload", || daemon.log().contains("the configuration is in force").then_some(()));
    assert!(daemon.process.0.try_wait().unwrap().is_none());
    // script(1) gives it a terminal, and takes that away when it ends.
    let dir = crate::harness::TempDir::new();
    let command = format!(
        "exec {} serve --listen 127.0.0.1:0 --data-dir {}/data",
        crate::harness::PICLOUD,
        dir.path().display()
    );
    let log = dir.path().join("log");
    let mut script = std::process::Command::new("script");
    script
        .args(["-qfec", &command, log.to_str().unwrap()])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null());
    let mut script = crate::harness::Process(script.spawn().unwrap());
    let said = || fs::read_to_string(&log).unwrap_or_default();
    until("the ready line", || said().contains("ready on").then_some(()));
    script.0.kill().unwrap();
    script.wait("the terminal");
    let lock = fs::File::open(dir.path().join("data/picloud.lock")).unwrap();
    until("the daemon to let its data go", || lock.try_lock().ok());
}

#[test]
fn certificates_are_read_again() {
    let daemon = Setup::default().config("").tls().start();
    let before: Value = daemon.done("GET", "/certs", Value::Null);
    reload(&daemon, &format!("[tls]\nfiles = [\"{}/none.pem\"]\n", daemon.dir().path().display()));
    assert!(daemon.log().contains("none.pem"), "{}", daemon.log());
    assert_eq!(daemon.done("GET", "/certs", Value::Null), before, "a file that is not there changes nothing");
    let deeper =
        format!("[tls]\nfiles = [\"{}/none.pem\"]\n[scripts]\nthreads = 3\n", daemon.dir().path().display());
    reload(&daemon, &deeper);
    assert_eq!(daemon.log().matches("is refused").count(), 2, "{}", daemon.log());
    assert_eq!(daemon.done("GET", "/certs", Value::Null), before, "nor if the house would be opened again");
}
