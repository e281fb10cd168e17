//! What is checked, in order.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use crate::machine::{Machine, until};

type Check = fn(&Machine);

pub(crate) const CHECKS: &[(&str, Check)] = &[
    ("the package installs, starts and answers", install),
    ("it is ready before those who wait for it", ready_order),
    ("the sandbox is tight, and everything works in it", sandbox),
    ("the journal has the fields that people ask for", journal),
    ("a reload takes what is good and refuses what is bad", reload),
    ("a stop finishes what is in flight", stop),
    ("a thousand requests during restarts, and none is refused", restart_under_load),
    ("a frozen process is restarted by the watchdog", watchdog_frozen),
    ("a stuck writer is restarted by the watchdog", |machine| watchdog_stuck(machine, "writer")),
    ("a stuck dispatcher is restarted by the watchdog", |machine| watchdog_stuck(machine, "dispatcher")),
    ("a stuck executor is restarted by the watchdog", |machine| watchdog_stuck(machine, "executor")),
    ("a busy daemon is not restarted by the watchdog", watchdog_busy),
    ("memory that runs out ends the daemon, and it comes back", out_of_memory),
    ("many crashes lead to safe mode, and resume leads out", safe_mode),
    ("a wrong configuration leads to the page, and a right one back", rescue_of_configuration),
    ("a start that always fails leads to the page, and not to a loop", rescue_of_start_limit),
    ("a backup can be made by the timer's service", backup),
    ("the manual pages and completions are there", pages),
    ("an upgrade loses no request, and a downgrade is refused", upgrade),
    ("removal keeps the data, purge does not", remove),
];

/// A daemon that works, for the next check.
pub(crate) fn mend(machine: &Machine) {
    machine.run("rm -rf /etc/systemd/system/picloud.service.d/90-test.conf /run/picloud/wedge /run/picloud/starts; cp /root/picloud.toml /etc/picloud/picloud.toml; systemctl daemon-reload; systemctl reset-failed; systemctl restart picloud");
}

/// Settings of the service for one check.
fn drop_in(machine: &Machine, text: &str) {
    machine.write("/etc/systemd/system/picloud.service.d/90-test.conf", &format!("[Service]\n{text}"));
    machine.sh("systemctl daemon-reload && systemctl restart picloud");
}

/// Another configuration: what it says goes into `[server]`, up to the first table.
fn configure(machine: &Machine, text: &str) {
    machine.write("/etc/picloud/picloud.toml", &format!("[server]\ndata_dir = \"/var/lib/picloud\"\n{text}"));
}

fn install(machine: &Machine) {
    machine.sh("apt-get install -y /root/picloud.deb </dev/null || dpkg -i /root/picloud.deb");
    machine.sh("cp /etc/picloud/picloud.toml /root/picloud.toml");
    assert_eq!(machine.property("picloud", "ActiveState"), "active");
    assert_eq!(machine.property("picloud", "SubState"), "running");
    assert_eq!(machine.property("picloud", "Result"), "success");
    assert!(machine.property("picloud", "StatusText").ends_with("1 scripts, 0 due, 0 dead"));
    for unit in ["picloud.service", "picloud.socket"] {
        assert_eq!(machine.sh(&format!("systemctl is-enabled {unit}")).trim(), "enabled", "{unit}");
    }
    assert_ne!(machine.run("systemctl is-enabled picloud-backup.timer").code, 0);
    let version: u32 =
        machine.sh("systemctl --version | sed -n '1s/^systemd \\([0-9]*\\).*/\\1/p'").trim().parse().unwrap();
    let kind = if version >= 254 { "notify-reload" } else { "notify" };
    assert_eq!(machine.property("picloud", "Type"), kind);
    assert_eq!(machine.property("picloud", "User"), "picloud");
    assert!(machine.sh("curl -sS http://127.0.0.1/hello/you").contains("you"));
    assert!(machine.sh("curl -sS http://localhost/hello/you").contains("you"), "by IPv6, too");
    machine.sh("curl -sSf http://127.0.0.1/api/v1/ca.pem -o /root/ca.pem && curl -sSf --cacert /root/ca.pem https://localhost/hello/you");
    assert!(machine.sh("picloud app ls").contains("default"), "the program finds the daemon and its key");
    assert_eq!(machine.sh("stat -c '%a %U' /var/lib/picloud").trim(), "700 picloud");
    assert_eq!(machine.sh("stat -c %a /var/lib/picloud/admin.key").trim(), "600");
    let failed = machine.sh("systemctl --failed --no-legend --plain");
    assert!(!failed.contains("picloud"), "{failed}");
    let cycles = machine.sh("journalctl -b --no-pager | grep -i 'ordering cycle' | wc -l");
    assert_eq!(cycles.trim(), "0");
    for (name, source) in [
        ("slow", "sleep(2.0); \"slow\""),
        ("write", "kv::incr(\"n\", 1); kv::get(\"n\")"),
        ("talk", "log::warn(\"a word from a script\"); 1"),
        ("fail", "throw \"on purpose\""),
    ] {
        machine.write(&format!("/root/{name}.rhai"), source);
        machine.sh(&format!("picloud deploy /root/{name}.rhai --route 'ANY /{name}'"));
    }
}

fn ready_order(machine: &Machine) {
    machine.write("/etc/systemd/system/after.service", "[Unit]\nAfter=picloud.service\nRequires=picloud.service\n[Service]\nType=oneshot\nExecStart=/usr/bin/curl -sSf http://127.0.0.1/hello/you");
    machine.sh("systemctl daemon-reload; systemctl stop picloud.socket picloud; systemctl start picloud.socket; systemctl start after");
    assert_eq!(machine.property("after", "Result"), "success");
    assert_eq!(machine.property("picloud", "ActiveState"), "active");
}

fn sandbox(machine: &Machine) {
    let told = machine.sh("systemd-analyze security --no-pager picloud.service | tail -1");
    println!("    {}", told.trim());
    let score: f64 = told.split(':').nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(score <= 1.5, "{told}");
    let rescue = machine.sh("systemd-analyze security --no-pager picloud-rescue.service | tail -1");
    let score: f64 = rescue.split(':').nth(1).unwrap().split_whitespace().next().unwrap().parse().unwrap();
    assert!(score <= 2.0, "{rescue}");
    let verify = machine.sh("systemd-analyze verify --man=no /usr/lib/systemd/system/picloud*.service /usr/lib/systemd/system/picloud*.socket /usr/lib/systemd/system/picloud*.timer /lib/systemd/system/picloud*.service 2>&1 | grep -i picloud || true");
    assert_eq!(verify.trim(), "", "{verify}");
    // Everything that the daemon does works under it: a write, a heavy run that is made nicer, a backup, a certificate.
    machine.sh("curl -sSf -X POST http://127.0.0.1/write");
    machine.sh("picloud backup && picloud cert ls && picloud status");
    let denied = machine.sh(
        "journalctl -u picloud --no-pager | grep -ci -e 'not permitted' -e 'read-only file system' || true",
    );
    assert_eq!(denied.trim(), "0");
    println!("    {}", memory(machine));
    let bytes: u64 = machine.property("picloud", "MemoryCurrent").parse().unwrap();
    assert!(bytes < 200 * 1024 * 1024);
}

fn journal(machine: &Machine) {
    configure(machine, "[log]\nscripts = true");
    machine.sh("systemctl reload picloud");
    machine.sh("curl -sS http://127.0.0.1/talk; curl -sS http://127.0.0.1/fail");
    let line = machine.until_says(
        "journalctl -u picloud PICLOUD_SCRIPT=talk -o json --no-pager -n 5 | grep GET",
        "PICLOUD_EXECUTION",
    );
    for field in [
        "\"PICLOUD_APP\":\"default\"",
        "\"PICLOUD_ROUTE\":\"/talk\"",
        "\"PICLOUD_STATUS\":\"200\"",
        "\"PICLOUD_DURATION_US\":\"",
        "\"SYSLOG_IDENTIFIER\":\"picloud\"",
        "\"PRIORITY\":\"6\"",
        "\"MESSAGE\":\"GET /talk\"",
    ] {
        assert!(line.contains(field), "{field} is missing: {line}");
    }
    machine.until_says(
        "journalctl -u picloud -p warning PICLOUD_SCRIPT=talk --no-pager",
        "a word from a script",
    );
    machine.until_says("journalctl -u picloud PICLOUD_STATUS=502 --no-pager", "GET /fail");
    machine.until_says("journalctl -t picloud --no-pager", "ready on");
    // A message of a megabyte, which no datagram holds, is there whole: the name of a key that nobody knows.
    machine.sh("key=$(head -c 1000000 /dev/zero | tr '\\0' a); printf '[server]\\n%s = 1\\n' \"$key\" > /etc/picloud/picloud.toml; systemctl kill -s HUP --kill-who=main picloud");
    machine.until_says(
        "journalctl -u picloud -n 5 -o cat --all --no-pager | awk 'length > 1000000' | grep -c 'is refused'",
        "1",
    );
    machine.sh("cp /root/picloud.toml /etc/picloud/picloud.toml; systemctl reload picloud");
    // A journal that is stopped holds up nobody.
    machine.sh("systemctl kill -s STOP systemd-journald");
    let began = Instant::now();
    machine.sh("for n in $(seq 3); do h2load --h1 -n 500 -c 4 http://127.0.0.1/hello/you | grep -q '500 succeeded' || exit 1; done");
    let took = began.elapsed();
    machine.sh("systemctl kill -s CONT systemd-journald");
    println!("    1,500 requests beside a stopped journal in {took:.1?}");
    machine.sh("journalctl --flush --sync; cp /root/picloud.toml /etc/picloud/picloud.toml; systemctl reload picloud");
}

fn reload(machine: &Machine) {
    let pid = machine.property("picloud", "MainPID");
    configure(machine, "[management]\npage_limit_max = 7");
    machine.sh("systemctl reload picloud");
    let key = "Authorization: Bearer $(cat /var/lib/picloud/admin.key)";
    machine.until_says(&format!("curl -s -H \"{key}\" 'http://127.0.0.1/api/v1/apps?limit=8'"), "limit");
    configure(machine, "nonsense = true");
    let refused = machine.run("systemctl reload picloud");
    assert_ne!(refused.code, 0, "the operator is told at once");
    machine.until_says("journalctl -u picloud -n 20 --no-pager", "unknown key");
    // Whoever sends the signal alone finds the reason in the status.
    machine.sh("systemctl kill -s HUP --kill-who=main picloud");
    machine.until_says("systemctl show -P StatusText picloud", "the changed configuration is refused");
    assert_eq!(machine.property("picloud", "ActiveState"), "active");
    machine.sh("curl -sSf http://127.0.0.1/hello/you");
    // Listeners come and go.
    configure(machine, "listen = [\"127.0.0.1:8088\"]");
    machine.sh("systemctl reload picloud");
    machine.until_says("curl -s http://127.0.0.1:8088/hello/you", "you");
    machine.sh("cp /root/picloud.toml /etc/picloud/picloud.toml; systemctl reload picloud");
    until("the port to close", || (machine.run("curl -s http://127.0.0.1:8088/").code != 0).then_some(()));
    assert!(!machine.property("picloud", "StatusText").contains("refused"));
    assert_eq!(machine.property("picloud", "MainPID"), pid, "all that without a restart");
}

fn stop(machine: &Machine) {
    machine.sh("curl -sS http://127.0.0.1/slow > /root/slow.out & sleep 0.7; systemctl stop picloud.socket picloud; wait");
    assert!(machine.sh("cat /root/slow.out").contains("slow"), "who is in is served");
    assert_eq!(machine.property("picloud", "Result"), "success");
    assert_eq!(machine.property("picloud", "ActiveState"), "inactive");
    machine.sh("systemctl start picloud.socket picloud");
}

/// A request of its own connection; how long it took.
fn ask(machine: &Machine) -> Result<Duration, String> {
    let began = Instant::now();
    let mut stream = TcpStream::connect(machine.http()).map_err(|error| error.to_string())?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    let request = b"GET /hello/you HTTP/1.1\r\nhost: pi\r\nconnection: close\r\n\r\n";
    stream.write_all(request).map_err(|error| error.to_string())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(|error| error.to_string())?;
    if answer.starts_with(b"HTTP/1.1 200") {
        Ok(began.elapsed())
    } else {
        Err(String::from_utf8_lossy(&answer).into_owned())
    }
}

fn restart_under_load(machine: &Machine) {
    let (asked, over) = (AtomicU32::new(0), AtomicBool::new(false));
    let slowest = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut slowest = Duration::ZERO;
                    while !over.load(Relaxed) || asked.load(Relaxed) < 1000 {
                        slowest = slowest.max(ask(machine).expect("a request failed"));
                        asked.fetch_add(1, Relaxed);
                    }
                    slowest
                })
            })
            .collect();
        for _ in 0..3 {
            machine.sh("systemctl restart picloud");
        }
        over.store(true, Relaxed);
        clients.into_iter().map(|client| client.join().unwrap()).max().unwrap()
    });
    println!(
        "    {} requests over three restarts, none refused; the slowest waited {} ms",
        asked.load(Relaxed),
        slowest.as_millis()
    );
    machine.sh("h2load --h1 -n 4000 -c 32 http://127.0.0.1/hello/you | grep -q '4000 succeeded'");
    println!("    after 4,000 requests over 32 connections: {}", memory(machine));
}

/// What it takes of the machine's memory.
fn memory(machine: &Machine) -> String {
    let pid = machine.property("picloud", "MainPID");
    let resident = machine.sh(&format!("grep -E '^(VmRSS|VmHWM)' /proc/{pid}/status"));
    let group: u64 = machine.property("picloud", "MemoryCurrent").parse().unwrap();
    let resident = resident.split_whitespace().collect::<Vec<_>>().join(" ");
    format!("memory {} KiB in its group, {resident}", group / 1024)
}

/// Restarts that systemd counted.
fn restarts(machine: &Machine) -> u32 {
    machine.property("picloud", "NRestarts").parse().unwrap()
}

fn restarted_by_watchdog(machine: &Machine, before: &str) {
    machine.until_says("journalctl -u picloud --no-pager -b -n 200", "Watchdog timeout");
    until("another process", || {
        let state = machine.property("picloud", "SubState");
        (state == "running" && machine.property("picloud", "MainPID") != before).then_some(())
    });
    machine.sh("curl -sSf http://127.0.0.1/hello/you");
}

fn watchdog_frozen(machine: &Machine) {
    machine.sh("journalctl --rotate --vacuum-time=1s >/dev/null 2>&1; true");
    drop_in(machine, "WatchdogSec=6s\nTimeoutAbortSec=5s");
    let pid = machine.property("picloud", "MainPID");
    machine.sh(&format!("kill -STOP {pid}"));
    restarted_by_watchdog(machine, &pid);
    mend(machine);
}

fn watchdog_stuck(machine: &Machine, part: &str) {
    machine.sh("journalctl --rotate --vacuum-time=1s >/dev/null 2>&1; true");
    drop_in(
        machine,
        "WatchdogSec=6s\nTimeoutAbortSec=5s\nEnvironment=PICLOUD_WEDGE=/run/picloud/wedge PICLOUD_SCRIPTS_THREADS=2 PICLOUD_APPS_CONCURRENCY=2 PICLOUD_SCRIPTS_TIMEOUT_SECONDS_SYNC=1",
    );
    let pid = machine.property("picloud", "MainPID");
    machine.sh(&format!("echo {part} > /run/picloud/wedge"));
    if part == "executor" {
        machine
            .sh("for n in 1 2 3; do curl -s -m 2 http://127.0.0.1/hello/you >/dev/null & done; wait; true");
    }
    machine.until_says("journalctl -u picloud --no-pager -n 100", "no sign of life of the");
    machine.until_says("journalctl -u picloud --no-pager -b -n 200", "Watchdog timeout");
    machine.sh("rm /run/picloud/wedge");
    restarted_by_watchdog(machine, &pid);
    mend(machine);
}

fn watchdog_busy(machine: &Machine) {
    drop_in(
        machine,
        "WatchdogSec=6s\nEnvironment=PICLOUD_SCRIPTS_THREADS=2 PICLOUD_SCRIPTS_TIMEOUT_SECONDS_SYNC=20 PICLOUD_SCRIPTS_LIMITS_MAX_OPERATIONS=1000000000000 PICLOUD_SCRIPTS_CEILINGS_MAX_OPERATIONS=1000000000000",
    );
    machine.write("/root/busy.rhai", "while true { }");
    machine.sh("picloud deploy /root/busy.rhai --route 'POST /busy'");
    let (before, began) = (restarts(machine), Instant::now());
    let said = machine.sh(
        "for n in 1 2 3 4; do curl -s -m 60 -o /dev/null -w '%{http_code} ' -X POST http://127.0.0.1/busy & done; wait",
    );
    assert!(
        began.elapsed() > Duration::from_secs(15),
        "busy for more than twice the watchdog's period: {said}"
    );
    assert!(said.contains("504"), "they ended by their time: {said}");
    assert_eq!(restarts(machine), before);
    assert_eq!(machine.property("picloud", "ActiveState"), "active");
    mend(machine);
}

fn out_of_memory(machine: &Machine) {
    drop_in(
        machine,
        "MemoryMax=40M\nMemoryHigh=infinity\nMemorySwapMax=0\nEnvironment=PICLOUD_SCRIPTS_LIMITS_MAX_MEMORY_BYTES=67108864 PICLOUD_SCRIPTS_LIMITS_MAX_STRING_BYTES=4194304",
    );
    let before = restarts(machine);
    // 28 values of 2 MiB each, more than the group may have and less than a script may.
    let values: String = (0..28).map(|n| format!("let v{n} = s + \"{n}\"; ")).collect();
    let source = format!("let s = \"0123456789abcdef\"; for n in 0..17 {{ s += s; }} {values} sleep(1.0); 1");
    machine.write("/root/eat.rhai", &source);
    machine.sh("picloud deploy /root/eat.rhai --route 'POST /eat'");
    let answer = machine.run("curl -s -m 30 -X POST http://127.0.0.1/eat").out;
    println!("    the caller heard {answer:?}");
    until("a restart", || (restarts(machine) > before).then_some(()));
    machine.until_says("journalctl -u picloud --no-pager -n 60", "oom-kill");
    machine.until_says("curl -s http://127.0.0.1/hello/you", "you");
    mend(machine);
}

fn safe_mode(machine: &Machine) {
    for _ in 0..5 {
        let pid = machine.property("picloud", "MainPID");
        machine.sh(&format!("kill -ABRT {pid}"));
        until("another process", || {
            let is_other = machine.property("picloud", "MainPID") != pid;
            (is_other && machine.property("picloud", "SubState") == "running").then_some(())
        });
    }
    machine.until_says("systemctl show -P StatusText picloud", "SAFE MODE");
    machine.until_says("journalctl -u picloud -p err --no-pager", "SAFE MODE");
    assert_eq!(machine.sh("curl -s -o /dev/null -w '%{http_code}' http://127.0.0.1/hello/you"), "503");
    assert!(machine.run("picloud status").out.contains("safe_mode"));
    machine.sh("picloud script ls && picloud logs && picloud resume");
    machine.sh("curl -sSf http://127.0.0.1/hello/you");
    machine.until_says("systemctl show -P StatusText picloud", " scripts, 0 due");
    machine.sh("systemctl reset-failed picloud");
}

fn rescue_of_configuration(machine: &Machine) {
    configure(machine, "nonsense = true");
    machine.run("systemctl restart picloud");
    let page = machine
        .until_says("curl -s -m 5 -H 'accept: text/html' http://127.0.0.1/any", "This PiCloud cannot start");
    assert!(page.contains("nonsense"), "{page}");
    assert_eq!(machine.property("picloud-rescue", "ActiveState"), "active");
    assert_eq!(machine.property("picloud", "ExecMainStatus"), "78");
    let before = machine.property("picloud", "NRestarts");
    thread::sleep(Duration::from_secs(5));
    machine
        .sh("for n in $(seq 20); do curl -s -m 5 http://127.0.0.1/ | grep -q cannot_start || exit 1; done");
    assert_eq!(machine.property("picloud", "NRestarts"), before, "a page, and no loop");
    machine.sh("cp /root/picloud.toml /etc/picloud/picloud.toml; systemctl restart picloud");
    machine.sh("curl -sSf http://127.0.0.1/hello/you");
    assert_ne!(machine.property("picloud-rescue", "ActiveState"), "active");
    assert_eq!(machine.property("picloud.socket", "ActiveState"), "active");
}

fn rescue_of_start_limit(machine: &Machine) {
    machine.sh("systemctl stop picloud.socket picloud; mv /var/lib/picloud/picloud.redb /root/good.redb; head -c 65536 /dev/urandom > /var/lib/picloud/picloud.redb; chown picloud: /var/lib/picloud/picloud.redb");
    machine.write(
        "/etc/systemd/system/picloud.service.d/90-test.conf",
        "[Service]\nRestartSec=100ms\nRestartSteps=0",
    );
    machine.sh("systemctl daemon-reload; systemctl start picloud.socket; systemctl start picloud --no-block");
    let page = machine.until_says("curl -s -m 5 http://127.0.0.1/any", "cannot_start");
    assert!(page.contains("picloud.redb"), "{page}");
    let before = machine.property("picloud", "NRestarts");
    thread::sleep(Duration::from_secs(5));
    assert_eq!(machine.property("picloud", "NRestarts"), before);
    machine.sh("systemctl reset-failed picloud; mv /root/good.redb /var/lib/picloud/picloud.redb; rm -f /etc/systemd/system/picloud.service.d/90-test.conf; systemctl daemon-reload; systemctl start picloud");
    machine.sh("curl -sSf http://127.0.0.1/hello/you");
}

fn backup(machine: &Machine) {
    let count =
        || machine.sh("picloud --json backup ls | grep -c '\"id\"' || true").trim().parse::<u32>().unwrap();
    let before = count();
    machine.sh("systemctl start picloud-backup.service");
    assert_eq!(count(), before + 1);
    machine.sh("systemctl start picloud-backup.timer && systemctl list-timers --all | grep -q picloud-backup && systemctl stop picloud-backup.timer");
}

fn pages(machine: &Machine) {
    machine.sh("man picloud | grep -q COMMANDS; man 5 picloud.toml | grep -q drain_grace_seconds");
    machine.sh("bash -c '. /usr/share/bash-completion/completions/picloud && complete -p picloud'");
    machine.sh("test -s /usr/share/zsh/vendor-completions/_picloud && test -s /usr/share/fish/vendor_completions.d/picloud.fish");
}

/// The package under a later version. It is made here, where that takes a moment.
fn later() -> PathBuf {
    let deb = PathBuf::from(std::env::var_os("PICLOUD_DEB").unwrap());
    let (tree, later) = (deb.with_extension("later"), deb.with_extension("later.deb"));
    let script = r#"
        rm -rf "$2" && dpkg-deb -R "$1" "$2"
        sed -i 's/^Version: .*/Version: 99.0/' "$2/DEBIAN/control"
        sed -i "s/'0[.0-9]*'/'99.0'/" "$2/DEBIAN/preinst"
        dpkg-deb -Zgzip -z1 -b "$2" "$3" >/dev/null && rm -rf "$2""#;
    let status =
        Command::new("sh").args(["-ec", script, "later"]).args([&deb, &tree, &later]).status().unwrap();
    assert!(status.success());
    later
}

fn upgrade(machine: &Machine) {
    let (asked, over) = (AtomicU32::new(0), AtomicBool::new(false));
    // The same program under a later number.
    machine.put(&later(), "/root/later.deb");
    machine.sh("systemctl enable --now picloud-backup.timer");
    thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !over.load(Relaxed) {
                ask(machine).expect("a request failed");
                asked.fetch_add(1, Relaxed);
            }
        });
        machine.sh("dpkg -i /root/later.deb");
        over.store(true, Relaxed);
        client.join().unwrap();
    });
    println!("    {} requests during the upgrade, none refused", asked.load(Relaxed));
    assert_eq!(machine.sh("dpkg-query -W -f '${Version}' picloud"), "99.0");
    assert!(machine.sh("picloud script ls").contains("write"), "what was there is there");
    assert_eq!(machine.property("picloud-backup.timer", "ActiveState"), "active", "backups go on");
    machine.sh("systemctl disable --now picloud-backup.timer");
    let schema = machine.sh("cat /var/lib/picloud/schema");
    assert_eq!(schema, machine.sh("picloud schema"));
    machine.sh("echo 9999 > /var/lib/picloud/schema");
    let refused = machine.run("dpkg -i /root/picloud.deb");
    assert!(refused.code != 0 && refused.out.contains("schema 9999"), "{}", refused.out);
    machine.sh("curl -sSf http://127.0.0.1/hello/you");
    assert_eq!(machine.sh("dpkg-query -W -f '${Version}' picloud"), "99.0", "nothing was changed");
    // Nor by way of removing it first.
    machine.sh("dpkg -r picloud");
    let refused = machine.run("dpkg -i /root/picloud.deb");
    assert!(refused.code != 0 && refused.out.contains("schema 9999"), "{}", refused.out);
    machine.sh(&format!("echo {} > /var/lib/picloud/schema", schema.trim()));
    machine.sh("dpkg -i /root/picloud.deb && curl -sSf http://127.0.0.1/hello/you");
}

fn remove(machine: &Machine) {
    // The likely one to be removed is one that cannot start.
    configure(machine, "nonsense = true");
    machine.run("systemctl restart picloud");
    machine.until_says("curl -s -m 5 http://127.0.0.1/any", "cannot_start");
    machine.sh("cp /root/picloud.toml /etc/picloud/picloud.toml");
    machine.sh("dpkg -r picloud");
    assert_ne!(machine.run("curl -s http://127.0.0.1/").code, 0, "nobody listens");
    machine.sh("test -s /var/lib/picloud/picloud.redb && test -s /etc/picloud/picloud.toml");
    machine.sh("dpkg -i /root/picloud.deb && picloud script ls | grep -q write");
    // What is not ours stays, and a disk may be mounted where the data are.
    machine.sh("touch /etc/picloud/mine.pem; systemctl stop picloud; mv /var/lib/picloud /root/kept; mkdir /var/lib/picloud; mount -t tmpfs data /var/lib/picloud; cp -a /root/kept/. /var/lib/picloud/; dpkg -P picloud");
    assert_eq!(machine.sh("ls -A /var/lib/picloud /etc/picloud").matches("mine.pem").count(), 1);
    assert!(!machine.sh("ls -A /var/lib/picloud").contains("picloud"));
    machine.sh("umount /var/lib/picloud; rm -r /etc/picloud");
    assert_ne!(machine.run("ls -d /run/picloud").code, 0);
    let left =
        machine.sh("find /etc/systemd /usr/lib/systemd /lib/systemd -name '*picloud*' 2>/dev/null || true");
    assert_eq!(left.trim(), "");
}
