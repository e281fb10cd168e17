//! What systemd sees of the daemon, with a socket of the test in its place; the real one is in `scripts/test-systemd`.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::{Activated, Daemon, PATIENCE, PICLOUD, Process, Setup, TempDir, picloud, until};
use crate::restores::{app, old_store, slugs};

/// Stands in for systemd: hears what it is told, at once, as systemd does.
pub(crate) struct Manager {
    dir: TempDir,
    told: Receiver<String>,
}

impl Manager {
    pub(crate) fn new() -> Manager {
        let dir = TempDir::new();
        let socket = UnixDatagram::bind(dir.path().join("notify.sock")).unwrap();
        let (tell, told) = mpsc::channel();
        // Ends with the process: the socket has no other end to be closed.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length) = socket.recv(&mut buffer) {
                let text = String::from_utf8_lossy(&buffer[..length]).trim().to_owned();
                if tell.send(text).is_err() {
                    return;
                }
            }
        });
        Manager { dir, told }
    }

    pub(crate) fn setup(&self) -> Setup {
        let path = self.dir.path().join("notify.sock");
        Setup::default().env("NOTIFY_SOCKET", path.to_str().unwrap())
    }

    /// The same with a directory for the time until the next boot.
    fn setup_with_runtime(&self) -> Setup {
        self.setup().env("RUNTIME_DIRECTORY", self.dir.path().to_str().unwrap())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The next message.
    #[track_caller]
    pub(crate) fn next(&self) -> String {
        self.told.recv_timeout(PATIENCE).expect("nothing more was told")
    }

    /// The next message with a line that begins so.
    #[track_caller]
    pub(crate) fn next_of(&self, wanted: &str) -> String {
        until(wanted, || Some(self.next()).filter(|told| told.lines().any(|line| line.starts_with(wanted))))
    }

    /// Whether a sign of life comes within this time.
    fn is_fed_within(&self, time: Duration) -> bool {
        let end = Instant::now() + time;
        loop {
            match self.told.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(told) if told == "WATCHDOG=1" => return true,
                Ok(_) => {}
                Err(_) => return false,
            }
        }
    }

    fn forget_what_came(&self) {
        self.told.try_iter().for_each(drop);
    }
}

#[test]
fn systemd_is_told_when_it_is_ready_how_it_is_and_when_it_stops() {
    let manager = Manager::new();
    let mut daemon = manager.setup().start();
    assert!(manager.next_of("READY=1").contains("STATUS=1 scripts, 0 due, 0 dead"));
    assert_eq!(daemon.get("/hello/you").status, 200, "ready is when requests are answered");
    daemon.script("1");
    manager.next_of("STATUS=2 scripts, 0 due, 0 dead");
    daemon.process.signal("TERM");
    manager.next_of("STOPPING=1");
    // The grace is 20 s, and the store may need longer.
    let extended = manager.next_of("EXTEND_TIMEOUT_USEC=");
    let by: u64 = extended.split_once('=').unwrap().1.parse().unwrap();
    assert!((30_000_000..60_000_000).contains(&by), "{by}");
    assert_eq!(daemon.process.wait("the daemon").code(), Some(0));
}

#[test]
fn opening_asks_for_the_time_that_it_takes() {
    let manager = Manager::new();
    let _daemon = manager.setup().start();
    let mut told = vec![manager.next()];
    while !told.last().unwrap().starts_with("READY=1") {
        told.push(manager.next());
    }
    assert!(told.iter().any(|told| told == "EXTEND_TIMEOUT_USEC=30000000"), "{told:?}");
    assert!(told.iter().any(|told| told == "STATUS=opening the store"), "{told:?}");
    let kept = told.iter().any(|told| told.starts_with("FDSTORE=1\nFDNAME=kept-127.0.0.1_"));
    assert!(kept, "its sockets are kept over a restart: {told:?}");
}

#[test]
fn a_failed_start_tells_why_and_leaves_it_for_the_page() {
    let manager = Manager::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let notify = manager.file("notify.sock");
    let dir = TempDir::new();
    let serve = |config: &str| {
        let file = dir.file("picloud.toml", config);
        let data = dir.path().join("data");
        let args = ["serve", "--config", &file, "--listen", &address, "--data-dir", data.to_str().unwrap()];
        Command::new(PICLOUD)
            .args(args)
            .env_clear()
            .env("NOTIFY_SOCKET", &notify)
            .env("RUNTIME_DIRECTORY", manager.file(""))
            .output()
            .unwrap()
    };
    assert_eq!(serve("").status.code(), Some(1));
    let told = manager.next_of("ERRNO=98");
    assert!(told.contains(&format!("STATUS=cannot listen on {address}")), "{told}");
    let left = fs::read_to_string(manager.file("reason")).unwrap();
    assert!(left.contains(&address) && left.contains("in use"), "{left}");

    assert_eq!(serve("nonsense = 1").status.code(), Some(78));
    until("the reason", || manager.next().contains("picloud.toml:1: unknown key nonsense").then_some(()));
    assert!(fs::read_to_string(manager.file("reason")).unwrap().contains("nonsense"));
}

#[test]
fn the_watchdog_is_fed_while_the_pipeline_works_also_if_it_is_busy() {
    let manager = Manager::new();
    let daemon = manager.setup().env("WATCHDOG_USEC", "2000000").set("scripts.threads", 2).start();
    manager.next_of("READY=1");
    manager.next_of("WATCHDOG=1");
    let busy = daemon.script_with(
        "let n = 0; while n < 1_000_000_000 { n += 1 }",
        json!({
            "timeout_seconds": 8, "sandbox": { "max_operations": 100_000_000 }
        }),
    );
    daemon.route("POST", "/busy", &busy, json!({ "dispatch_mode": "async" }));
    (0..4).for_each(|_| drop(daemon.accepted("/busy", "")));
    manager.forget_what_came();
    for _ in 0..4 {
        assert!(manager.is_fed_within(Duration::from_secs(3)), "busy is not broken");
    }
}

/// Each part in turn stops; the rest goes on.
#[test]
fn the_watchdog_is_not_fed_while_a_part_of_the_pipeline_is_stuck() {
    for part in ["writer", "dispatcher", "executor"] {
        let manager = Manager::new();
        let wedge = manager.file("wedge");
        let setup =
            manager.setup().env("WATCHDOG_USEC", "2000000").env("PICLOUD_WEDGE", wedge.to_str().unwrap());
        let daemon = setup.set("scripts.threads", 2).set("apps.concurrency", 2).start();
        let script = daemon.script_with("1", json!({ "timeout_seconds": 1 }));
        daemon.route("POST", "/work", &script, json!({ "dispatch_mode": "async" }));
        daemon.route("GET", "/work", &script, json!({}));
        manager.next_of("READY=1");
        assert!(manager.is_fed_within(Duration::from_secs(5)), "{part}");
        fs::write(&wedge, part).unwrap();
        if part == "executor" {
            drop(daemon.request("GET", "/work").begin());
            drop(daemon.request("POST", "/work").begin());
            drop(daemon.request("GET", "/work").begin());
        }
        until("nothing to be told", || {
            manager.forget_what_came();
            (!manager.is_fed_within(Duration::from_secs(2))).then_some(())
        });
        let named = format!("no sign of life of the {}", if part == "executor" { "benches" } else { part });
        until("the log to name the part", || daemon.log().contains(&named).then_some(()));
        // A reload is answered, and proves nothing.
        daemon.process.signal("HUP");
        manager.next_of("READY=1");
        assert!(!manager.is_fed_within(Duration::from_secs(2)), "{part}");
        fs::remove_file(&wedge).unwrap();
        until("a sign of life again", || manager.is_fed_within(Duration::from_secs(5)).then_some(()));
    }
}

#[test]
fn sockets_of_systemd_are_served_and_keep_those_who_come_early() {
    let dir = TempDir::new();
    let (clear, secure) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (http, https) = (clear.local_addr().unwrap(), secure.local_addr().unwrap());
    let mut early = crate::http::Request::new(http, "GET", "/hello/early").begin();
    let args = format!("serve --data-dir {}", dir.path().join("data").display());
    let daemon = Activated::start(&args, &[(&clear, "http"), (&secure, "https")], &[]);
    let ready = daemon.ready_line();
    assert!(ready.contains(&format!("ready on http://{http} https://{https}")), "{ready}");
    assert!(!ready.contains("8080"), "the default is for those who have no sockets: {ready}");
    assert_eq!(early.head().unwrap().status, 200, "who came before the start is served");
}

#[test]
fn kept_sockets_are_taken_over_where_they_are_wanted() {
    let (dir, manager) = (TempDir::new(), Manager::new());
    let (wanted, unwanted) =
        (TcpListener::bind("127.0.0.1:0").unwrap(), TcpListener::bind("127.0.0.1:0").unwrap());
    let (address, other) = (wanted.local_addr().unwrap(), unwanted.local_addr().unwrap());
    let args = format!("serve --listen {address} --data-dir {}", dir.path().join("data").display());
    let notify = manager.file("notify.sock");
    let env = [("NOTIFY_SOCKET", notify.to_str().unwrap())];
    let daemon = Activated::start(&args, &[(&wanted, "kept-a"), (&unwanted, "kept-b")], &env);
    assert!(
        daemon.ready_line().ends_with(&format!("http://{address}"))
            || daemon.ready_line().contains(&format!("http://{address} "))
    );
    manager.next_of("FDSTOREREMOVE=1");
    drop(unwanted);
    until("the other to close", || std::net::TcpStream::connect(other).is_err().then_some(()));
}

#[test]
fn many_bad_starts_lead_to_safe_mode_and_resume_leads_out() {
    let manager = Manager::new();
    let setup = manager.setup_with_runtime();
    let mut daemon = setup.start();
    let script = daemon.script("kv::incr(\"runs\", 1); kv::get(\"runs\")");
    daemon.route("POST", "/later", &script, json!({ "dispatch_mode": "async" }));
    daemon.route("GET", "/now", &script, json!({}));
    for _ in 0..4 {
        daemon.kill_and_start_again();
        assert_eq!(daemon.get("/now").status, 200);
    }
    let id = daemon.accepted("/later", "");
    daemon.ended(&id);
    daemon.kill_and_start_again();
    assert!(daemon.log().contains("SAFE MODE"), "{}", daemon.log());
    manager.next_of("STATUS=SAFE MODE");

    let refused = daemon.get("/now");
    assert_eq!((refused.status, &refused.json()["reason"]), (503, &json!("safe_mode")), "{refused}");
    let executed = daemon.request("POST", &format!("/api/execute/{script}")).send();
    assert_eq!((executed.status, &executed.json()["reason"]), (503, &json!("safe_mode")), "{executed}");
    let ready = daemon.get("/api/v1/ready");
    assert_eq!((ready.status, &ready.json()["safe_mode"]), (503, &json!(true)));
    assert_eq!(daemon.get("/api/v1/health").status, 200);
    assert_eq!(daemon.done("GET", "/status", Value::Null)["safe_mode"], true);
    assert!(daemon.api("GET", "/metrics", Value::Null).text().contains("\npicloud_safe_mode 1\n"));
    // Nothing that comes is lost, and everything can be mended.
    let id = daemon.accepted("/later", "");
    assert_eq!(daemon.execution(&id)["status"], "queued");
    daemon.done("PATCH", &format!("/apps/default/scripts/{script}"), json!({ "source": "\"mended\"" }));
    assert!(!daemon.done("GET", "/executions", Value::Null)["items"].as_array().unwrap().is_empty());

    let resumed = daemon.cli(&["resume"]);
    assert_eq!(
        (resumed.code, resumed.out.trim()),
        (0, "safe mode ended: scripts run again"),
        "{}",
        resumed.err
    );
    assert_eq!(daemon.ended(&id)["response_body"], "\"mended\"");
    assert_eq!(daemon.get("/now").status, 200);
    assert_eq!(daemon.get("/api/v1/ready").status, 200);
    assert_eq!(daemon.cli(&["resume"]).out.trim(), "this device is not in safe mode");
    until("the starts to be forgiven", || (!manager.file("starts").exists()).then_some(()));
    daemon.kill_and_start_again();
    assert_eq!(daemon.get("/now").status, 200);
}

#[test]
fn a_port_that_is_taken_is_no_crash() {
    let manager = Manager::new();
    let (setup, mut data) = (manager.setup_with_runtime(), TempDir::new());
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for _ in 0..7 {
        let ended = Command::new(PICLOUD)
            .args(["serve", "--listen", &address, "--data-dir", data.path().to_str().unwrap()])
            .env_clear()
            .env("RUNTIME_DIRECTORY", manager.file(""))
            .output()
            .unwrap();
        assert!(String::from_utf8_lossy(&ended.stderr).contains("cannot listen on"), "{ended:?}");
    }
    data = TempDir::new();
    assert_eq!(setup.start_in(data).get("/hello/you").status, 200);
}

#[test]
fn what_stops_it_while_it_opens_is_obeyed_and_no_crash() {
    let (manager, data) = (Manager::new(), TempDir::new());
    let wedge = manager.file("wedge");
    fs::write(&wedge, "opening").unwrap();
    let notify = manager.file("notify.sock");
    let opening = || {
        let child = Command::new(PICLOUD)
            .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", data.path().to_str().unwrap()])
            .env_clear()
            .env("NOTIFY_SOCKET", &notify)
            .env("RUNTIME_DIRECTORY", manager.file(""))
            .env("PICLOUD_WEDGE", &wedge)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let process = Process(child);
        // Once it hears SIGTERM (proc_pid_status(5), SigCgt).
        let status = format!("/proc/{}/status", process.0.id());
        until("its signals to be heard", || {
            let caught = fs::read_to_string(&status).unwrap();
            let mask = caught.lines().find_map(|line| line.strip_prefix("SigCgt:"))?;
            (u64::from_str_radix(mask.trim(), 16).unwrap() & (1 << 14) != 0).then_some(())
        });
        process
    };
    for _ in 0..7 {
        let mut process = opening();
        process.signal("TERM");
        assert_eq!(process.wait("the daemon").code(), Some(0));
        let mut told = String::new();
        process.0.stderr.take().unwrap().read_to_string(&mut told).unwrap();
        assert!(told.contains("stopped before PiCloud was open") && !told.contains("SAFE MODE"), "{told}");
    }
    assert!(!manager.file("starts").exists(), "nothing is left of them");
    let mut process = opening();
    process.signal("HUP");
    fs::remove_file(&wedge).unwrap();
    manager.next_of("READY=1");
    manager.next_of("RELOADING=1");
    process.signal("TERM");
    assert_eq!(process.wait("the daemon").code(), Some(0));
}

#[test]
fn a_stop_while_a_restored_store_opens_leaves_the_restore_as_it_is() {
    let mut daemon = Daemon::start();
    let data = daemon.data_dir().to_str().unwrap().to_owned();
    let file = daemon.dir().path().join("b.picloud.zst").to_str().unwrap().to_owned();
    assert_eq!(daemon.cli(&["backup", "--to", &file]).code, 0);
    app(&daemon, "later");
    daemon.kill();
    assert_eq!(picloud(&["restore", "--data-dir", &data, &file], &[]).code, 0);
    let wedge = daemon.dir().path().join("wedge");
    fs::write(&wedge, "opening").unwrap();
    let opening = Command::new(PICLOUD)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", &data])
        .env_clear()
        .env("PICLOUD_WEDGE", &wedge)
        .stderr(Stdio::null())
        .spawn();
    let mut opening = Process(opening.unwrap());
    until("the restored store to be in place", || old_store(&daemon).exists().then_some(()));
    opening.signal("TERM");
    thread::sleep(Duration::from_millis(300));
    assert!(opening.0.try_wait().unwrap().is_none(), "it closes in order, once it is open");
    fs::remove_file(&wedge).unwrap();
    assert_eq!(opening.wait("the daemon").code(), Some(0));
    daemon.start_again();
    assert_eq!(slugs(&daemon), ["default"]);
}

#[test]
fn good_ends_and_starts_without_systemd_never_lead_to_safe_mode() {
    let manager = Manager::new();
    let mut daemon = manager.setup_with_runtime().start();
    (0..6).for_each(|_| daemon.stop_and_start_again());
    assert_eq!(daemon.get("/hello/you").status, 200);
    let mut alone = Daemon::start();
    (0..6).for_each(|_| alone.kill_and_start_again());
    assert_eq!(alone.get("/hello/you").status, 200);
}

/// `JOURNAL_STREAM` names what standard error was when a service was started; children inherit the name.
#[test]
fn a_stranger_s_journal_is_not_ours() {
    let daemon = Setup::default().env("JOURNAL_STREAM", "8:12345").start();
    assert!(daemon.log().contains("ready on"));
}

#[test]
fn a_standard_error_that_nobody_reads_holds_up_nobody() {
    let dir = TempDir::new();
    let pipe = dir.path().join("pipe");
    // Reads up to the ready line, then holds the pipe open as long as the daemon lives.
    let script = "pipe=$0; mkfifo \"$pipe\"; \
        (sed -u '/ready on/q' >&2; while kill -0 $$ 2>/dev/null; do sleep 1; done) <\"$pipe\" & exec \"$@\" 2>\"$pipe\"";
    let prefix = ["/bin/sh", "-c", script, pipe.to_str().unwrap()].map(str::to_owned);
    let daemon = Setup::default().set("log.access", true).by(&prefix).env("PATH", "/usr/bin:/bin").start();
    let mut connection = daemon.connect();
    for _ in 0..2000 {
        connection.send(daemon.request("GET", "/hello/you").bytes());
        assert_eq!(connection.answer().unwrap().status, 200);
    }
}

#[test]
fn safe_mode_can_be_asked_for() {
    let daemon = Setup::default().flag("--safe-mode").start();
    assert_eq!(daemon.get("/hello/you").status, 503);
    assert_eq!(daemon.cli(&["resume"]).code, 0);
    assert_eq!(daemon.get("/hello/you").status, 200);
}

#[test]
fn the_page_tells_why_there_is_no_daemon() {
    let dir = TempDir::new();
    dir.file("reason", "picloud.toml:3: unknown key <x>");
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    let _page = Activated::start(
        "rescue",
        &[(&socket, "picloud-rescue.socket")],
        &[("RUNTIME_DIRECTORY", dir.path().to_str().unwrap())],
    );
    let answer = crate::http::Request::new(address, "POST", "/any/where").body("x").send();
    assert_eq!((answer.status, &answer.json()["reason"]), (503, &json!("cannot_start")));
    assert_eq!(answer.json()["error"], "this PiCloud cannot start: picloud.toml:3: unknown key <x>");
    let page = crate::http::Request::new(address, "GET", "/").header("accept", "text/html").send();
    assert_eq!((page.status, page.header("retry-after")), (503, Some("60")));
    assert!(page.text().contains("unknown key &lt;x&gt;"), "{page}");
    let told = fs::read_to_string(dir.path().join("url")).unwrap();
    assert_eq!(told, format!("http://{address}"), "where helpers ask whether it is ready");
}
