//! Cuts in a restore: at every instant there is one whole store, the old or the new, and the report says which.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::backups::make;
use crate::harness::{Daemon, KEY, Setup, TempDir, picloud};
use crate::restores::{app, old_store, slugs};

/// A data directory in which a restore was cut at some instant.
struct Cut {
    dir: TempDir,
    good: Vec<u8>,
}

impl Cut {
    /// A stopped daemon's directory with an app `old`, and a store with an app `new` beside it.
    fn new() -> Cut {
        let mut daemon = Daemon::start();
        app(&daemon, "new");
        daemon.process.signal("TERM");
        daemon.process.wait("the daemon");
        let new = fs::read(daemon.data_dir().join("picloud.redb")).unwrap();
        let mut daemon = Daemon::start();
        app(&daemon, "old");
        daemon.process.signal("TERM");
        daemon.process.wait("the daemon");
        let dir = TempDir::new();
        let data = dir.path().join("data");
        fs::create_dir_all(&data).unwrap();
        fs::copy(daemon.data_dir().join("picloud.redb"), data.join("picloud.redb")).unwrap();
        Cut { dir, good: new }
    }

    fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.dir.path().join("data").join(name), bytes).unwrap();
    }

    fn rename(&self, from: &str, to: &str) {
        let data = self.dir.path().join("data");
        fs::rename(data.join(from), data.join(to)).unwrap();
    }

    fn journal(&self, state: &str) {
        let report = json!({ "state": state, "backup": null, "backup_created_at": null, "at": null, "why": null, "had_store": true });
        self.write("restore.json", report.to_string().as_bytes());
    }

    /// Starts on it: the store must be the one with this app, and the report must say so.
    #[track_caller]
    fn check(self, slug: &str, state: &str) {
        let mut daemon = Setup::default().start_in(self.dir);
        for _ in 0..2 {
            assert_eq!(slugs(&daemon), [slug, "default"]);
            assert_eq!(ended_or_none(&daemon), state);
            assert!(!daemon.data_dir().join("picloud.redb.new").exists());
            daemon.kill_and_start_again();
        }
        assert!(!old_store(&daemon).exists() || state == "none");
    }
}

fn ended_or_none(daemon: &Daemon) -> String {
    daemon.done("GET", "/restore", Value::Null)["state"].as_str().unwrap().to_owned()
}

const OLD: &str = "picloud.redb.before-restore";
const NEW: &str = "picloud.redb.new";

#[test]
fn a_cut_at_each_step_leaves_the_old_store_or_the_new() {
    let cut = Cut::new();
    cut.write(NEW, &cut.good[..cut.good.len() / 2]);
    cut.check("old", "none");

    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.check("old", "none");

    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    cut.check("new", "served");

    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    cut.rename("picloud.redb", OLD);
    cut.check("new", "served");

    let cut = Cut::new();
    cut.journal("restoring");
    cut.rename("picloud.redb", OLD);
    cut.write("picloud.redb", &cut.good.clone());
    cut.check("new", "served");

    let cut = Cut::new();
    cut.journal("trial");
    cut.rename("picloud.redb", OLD);
    cut.write("picloud.redb", &cut.good.clone());
    cut.check("old", "rolled_back");

    let cut = Cut::new();
    cut.journal("trial");
    cut.check("old", "rolled_back");

    let cut = Cut::new();
    cut.journal("served");
    cut.rename("picloud.redb", OLD);
    cut.write("picloud.redb", &cut.good.clone());
    cut.check("new", "served");
}

#[test]
fn a_restored_store_that_cannot_be_opened_is_taken_back() {
    let cut = Cut::new();
    let mut broken = cut.good.clone();
    broken[..4096].fill(0x5A);
    cut.write(NEW, &broken);
    cut.journal("restoring");
    let mut daemon = Setup::default().start_in(cut.dir);
    for _ in 0..2 {
        let report = daemon.done("GET", "/restore", Value::Null);
        assert_eq!(report["state"], "rolled_back");
        assert!(report["why"].as_str().unwrap().contains("could not be opened"), "{report}");
        assert_eq!(slugs(&daemon), ["old", "default"]);
        assert!(!old_store(&daemon).exists());
        daemon.kill_and_start_again();
    }
}

/// A request of somebody who may find nobody: only that it is made counts.
fn ask(address: SocketAddr) {
    if let Ok(mut stream) = TcpStream::connect(address) {
        let _ = stream.write_all(b"GET /hello/you HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

/// Kills a daemon so long after a restore was asked for; whether it had been accepted.
#[track_caller]
fn kill_during_a_restore(daemon: &mut Daemon, backup: &Value, after: Duration, asks: bool) -> bool {
    let accepted = thread::scope(|scope| {
        let call = scope.spawn(|| {
            let body = json!({ "backup_id": backup["id"] }).to_string();
            let request = daemon.request("POST", "/api/v1/restore").key(KEY).body(body);
            let accepted = request.begin().answer().is_some_and(|answer| answer.status == 202);
            if accepted && asks {
                ask(daemon.address);
            }
            accepted
        });
        thread::sleep(after);
        assert!(daemon.process.signal_if_alive("KILL"));
        call.join().unwrap()
    });
    daemon.process.wait("the killed daemon");
    daemon.start_again();
    accepted
}

#[test]
fn a_restore_survives_kills_at_any_instant() {
    let mut daemon = Daemon::start();
    app(&daemon, "before");
    let backup = make(&daemon);
    for round in 0..12 {
        app(&daemon, &format!("later-{round}"));
        // Later in each round, from before anything is checked to after it served.
        let (after, asks) = (Duration::from_millis(round * round * 4), round % 2 == 0);
        let accepted = kill_during_a_restore(&mut daemon, &backup, after, asks);
        let now = slugs(&daemon);
        let (old, new) = (now.contains(&format!("later-{round}")), now == ["before", "default"]);
        assert!(old != new && now.contains(&"before".to_owned()), "round {round}: {now:?}");
        let state = ended_or_none(&daemon);
        // What was accepted goes on, unless the restored store died on trial, which is then said.
        assert!(!(accepted && old) || state == "rolled_back", "round {round}: {state}");
    }
}

#[test]
fn a_restored_store_that_dies_before_it_served_is_taken_back() {
    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    let mut daemon = Setup::default().start_in(cut.dir);
    // Nobody asked it anything yet. An end in good order is no reason to go back.
    daemon.stop_and_start_again();
    assert!(old_store(&daemon).exists());
    daemon.kill_and_start_again();
    assert_eq!(
        (slugs(&daemon), ended_or_none(&daemon)),
        (vec!["old".into(), "default".into()], "rolled_back".into())
    );
    let why = daemon.done("GET", "/restore", Value::Null)["why"].to_string();
    assert!(why.contains("before the restored store had served"), "{why}");
}

#[test]
fn a_second_daemon_does_not_touch_a_restore_on_trial() {
    let cut = Cut::new();
    cut.write(NEW, &cut.good.clone());
    cut.journal("restoring");
    let daemon = Setup::default().start_in(cut.dir);
    let data = daemon.data_dir().to_str().unwrap().to_owned();
    let second = picloud(&["serve", "--listen", "127.0.0.1:0", "--data-dir", &data], &[]);
    assert!(second.code == 1 && second.err.contains("in use by another process"), "{}", second.err);
    assert_eq!(
        (slugs(&daemon), ended_or_none(&daemon)),
        (vec!["new".into(), "default".into()], "served".into())
    );
}
