//! What keeps the daemon from starting, and how it says so.

use std::net::TcpListener;

use crate::harness::{Daemon, Ran, Setup, TempDir, picloud};

/// Serves with these arguments and variables, which must not work.
#[track_caller]
fn refused(args: &[&str], env: &[(&str, &str)], code: i32, says: &[&str]) -> Ran {
    let ran = picloud(&[&["serve"], args].concat(), env);
    assert_eq!(ran.code, code, "{}", ran.err);
    for word in says {
        assert!(ran.err.contains(word), "{word} is not in: {}", ran.err);
    }
    assert!(!ran.err.contains("panicked") && ran.err.lines().count() <= 3, "{}", ran.err);
    ran
}

#[test]
fn a_wrong_configuration_names_the_key() {
    let dir = TempDir::new();
    for (toml, says) in [
        ("[server]\nlisten = \"nowhere\"", &[":2", "server.listen"][..]),
        ("[server]\nlisten = []", &["server.listen"]),
        ("[server]\nthreads = -1", &["server.threads"]),
        ("[server]\nthreads = \"two\"", &["server.threads"]),
        ("[server]\nheader_bytes_max = 100", &["server.header_bytes_max", "8192"]),
        ("[sever]\nthreads = 1", &["sever"]),
        ("[server]\ntreads = 1", &["server.treads", "threads"]),
        ("[scripts.limits]\nmax_operation = 1", &["scripts.limits.max_operation", "max_operations"]),
        ("[scripts]\ntimeout_seconds_sync = 301", &["scripts.timeout_seconds_sync", "300"]),
        ("[log]\nlevel = \"loud\"", &["log.level"]),
        ("[management]\nallow = [\"everywhere\"]", &["management.allow"]),
        ("[store]\nflush_interval_ms = 5000", &["store.flush_interval_ms", "1000"]),
        ("[server\n", &[":1"]),
    ] {
        let file = dir.file("picloud.toml", toml);
        refused(&["--config", &file], &[], 78, &[&[file.as_str()], says].concat());
        refused(&["--config", &file, "--check-config"], &[], 78, says);
    }
    refused(&["--config", "/nowhere/picloud.toml"], &[], 78, &["/nowhere/picloud.toml"]);
    refused(&[], &[("PICLOUD_SERVER_THREADS", "x")], 78, &["PICLOUD_SERVER_THREADS", "server.threads"]);
    refused(&[], &[("PICLOUD_SERVER_THREAD", "1")], 78, &["PICLOUD_SERVER_THREAD"]);
    refused(&["--listen", "here"], &[], 64, &["--listen"]);
}

#[test]
fn a_data_directory_belongs_to_one_daemon() {
    let daemon = Daemon::start();
    let data = daemon.data_dir();
    let args = ["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
    refused(&args, &[], 1, &["in use by another process", data.to_str().unwrap(), "already running"]);
    assert_eq!(daemon.get("/hello/you").status, 200, "the first is not disturbed");
}

#[test]
fn an_address_that_is_taken_is_named() {
    let dir = TempDir::new();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = picloud(&["serve", "--listen", &address, "--data-dir", dir.path().to_str().unwrap()], &[]);
    assert_eq!(ran.code, 1, "{}", ran.err);
    assert!(
        ran.err.contains(&format!("cannot listen on {address}")) && ran.err.contains("--listen"),
        "{}",
        ran.err
    );
}

#[test]
fn a_directory_that_cannot_be_is_named() {
    let dir = TempDir::new();
    let file = dir.file("file", "");
    refused(&["--listen", "127.0.0.1:0", "--data-dir", &format!("{file}/data")], &[], 1, &[&file]);
    refused(&["--listen", "127.0.0.1:0", "--data-dir", "/proc/picloud"], &[], 1, &["/proc/picloud"]);
}

#[test]
fn a_newer_schema_is_refused_and_left_alone() {
    let mut daemon = Daemon::start();
    let script = daemon.serve("/x", "1");
    daemon.process.signal("TERM");
    daemon.process.wait("the daemon");
    let path = daemon.data_dir().join("picloud.redb");
    let newer = picloud::store::SCHEMA + 1;
    let set = |schema: u32| {
        let meta = redb::TableDefinition::<&str, &[u8]>::new("meta");
        let db = redb::Database::open(&path).unwrap();
        let txn = db.begin_write().unwrap();
        txn.open_table(meta).unwrap().insert("schema", schema.to_le_bytes().as_slice()).unwrap();
        txn.commit().unwrap();
    };
    set(newer);
    let data = daemon.data_dir();
    let says = ["newer PiCloud", &format!("schema {newer}"), "restore a backup"];
    refused(&["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()], &[], 1, &says);
    set(picloud::store::SCHEMA);
    daemon.start_again();
    assert_eq!(daemon.get("/x").text(), "1", "nothing was changed: {script}");
}

#[test]
fn a_file_that_is_no_store_is_refused() {
    let dir = TempDir::new();
    let path = dir.file("picloud.redb", &"this is a letter to my aunt\n".repeat(1000));
    let args = ["--listen", "127.0.0.1:0", "--data-dir", dir.path().to_str().unwrap()];
    refused(&args, &[], 1, &[&path]);
    assert!(std::fs::read_to_string(&path).unwrap().starts_with("this is a letter"), "it is left alone");
}

#[test]
fn several_addresses_are_served() {
    let dir = TempDir::new();
    let listen = "127.0.0.1:0,127.0.0.1:0";
    let file = dir.file("picloud.toml", "[log]\nformat = \"json\"\n");
    let mut command = std::process::Command::new(crate::harness::PICLOUD);
    command.args(["serve", "--config", &file, "--data-dir"]).arg(dir.path().join("data"));
    command.env_clear().env("PICLOUD_SERVER_LISTEN", listen).stderr(std::process::Stdio::piped());
    let mut process = crate::harness::Process(command.spawn().unwrap());
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(process.0.stderr.take().unwrap()));
    let urls = lines.find_map(|line| {
        let event: serde_json::Value = serde_json::from_str(&line.unwrap()).expect("each line is JSON");
        let message = event["fields"]["message"].as_str()?;
        Some(message.strip_prefix("ready on ")?.split(' ').map(str::to_owned).collect::<Vec<_>>())
    });
    let urls = urls.unwrap();
    assert_eq!(urls.len(), 2);
    for url in urls {
        let address = url.strip_prefix("http://").unwrap().parse().unwrap();
        assert_eq!(crate::http::Request::new(address, "GET", "/hello/you").send().status, 200);
    }
}

#[test]
fn a_damaged_file_is_an_error_and_no_panic() {
    let mut daemon = Daemon::start();
    daemon.serve("/x", "1");
    daemon.kill();
    let data = daemon.data_dir();
    let file = data.join("picloud.redb");
    let whole = std::fs::read(&file).unwrap();
    let args = ["--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()];
    for keep in [0, 100, 320, 4096] {
        let mut damaged = whole.clone();
        damaged[keep..].fill(0x5a);
        std::fs::write(&file, &damaged).unwrap();
        refused(&args, &[], 1, &["picloud.redb"]);
    }
}

#[test]
fn a_credential_of_systemd_is_an_admin_key() {
    let credentials = TempDir::new();
    credentials.file("api-key", "from-systemd\n");
    let directory = credentials.path().to_str().unwrap();
    let daemon = Setup::default().without_device_key().env("CREDENTIALS_DIRECTORY", directory).start();
    let answer = |key: &str| daemon.request("GET", "/api/v1/apps").key(key).send().status;
    assert_eq!((answer("from-systemd"), answer("other")), (200, 401));
}
