//! The daemon under test: the real binary in its own process, set up over its management API like anybody's.
//!
//! Everything is at its default, the access log included, except that it listens on a free port and has a key
//! in its environment. Its standard error goes to a file beside its data.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Outcome;
use crate::process::Process;

/// The key of the daemon's environment. It guards nothing but a directory that is about to go.
const KEY: &str = "bench";
/// A daemon that is not ready by then never will be.
const READY_TIME_MAX: Duration = Duration::from_secs(120);
/// The outbox drains within this, or the rest is left.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(120);
/// The body of every request: 13 bytes of JSON.
pub(crate) const BODY: &str = r#"{"name":"pi"}"#;
/// The host of the neighbour, which claims no other.
pub(crate) const NEIGHBOUR: &str = "neighbour.test";
const SCRIPT: &str = "#{ echo: request.body }";
/// One value read, one written, of a thousand.
const VALUES: &str = r#"let key = "visits/" + rand::int(0, 999); let n = kv::get(key) ?? 0; kv::set(key, n + 1); #{ visits: n + 1 }"#;
/// Every run changes the same value.
const COUNTER: &str = r#"#{ hits: kv::incr("hits") }"#;

/// A running daemon.
pub(crate) struct Daemon {
    pub(crate) process: Process,
    pub(crate) address: SocketAddr,
    /// From the spawn to the line that says ready.
    pub(crate) ready_after: Duration,
    spawned_at: Instant,
    agent: ureq::Agent,
    log: PathBuf,
}

/// What the daemon counts, by name without `picloud_`.
pub(crate) struct Metrics(HashMap<String, u64>);

impl Daemon {
    /// Starts a daemon on this directory and waits until it is ready.
    pub(crate) fn start(dir: &Path, environment: &[(String, String)]) -> Outcome<Daemon> {
        fs::create_dir_all(dir)?;
        // An empty file of configuration hides that of this machine.
        let (config, log) = (dir.join("empty.toml"), dir.join("stderr.log"));
        File::create(&config)?;
        let stderr = OpenOptions::new().create(true).append(true).open(&log)?;
        stderr.set_len(0)?;
        let mut command = Command::new(env!("CARGO_BIN_EXE_picloud"));
        command.args(["serve", "--listen", "127.0.0.1:0"]).arg("--config").arg(&config);
        command.arg("--data-dir").arg(dir.join("data")).env_clear();
        command.env("PICLOUD_API_KEY", KEY).envs(environment.iter().cloned());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr);
        let spawned_at = Instant::now();
        let mut process = Process::spawn(&mut command)?;
        let address = wait_until_ready(&mut process, &log)?;
        let ready_after = spawned_at.elapsed();
        // A connection kept for later may be one that the daemon has let go.
        let agent = ureq::Agent::config_builder().http_status_as_error(false).max_idle_connections(0);
        let agent = agent.build().new_agent();
        Ok(Daemon { process, address, ready_after, spawned_at, agent, log })
    }

    /// Where it speaks TLS.
    pub(crate) fn tls_address(&self) -> Outcome<SocketAddr> {
        let said = fs::read_to_string(&self.log)?;
        let url = said.split_whitespace().find_map(|word| word.strip_prefix("https://"));
        Ok(url.ok_or("TLS is off")?.parse()?)
    }

    /// How long ago the process was started.
    pub(crate) fn age(&self) -> Duration {
        self.spawned_at.elapsed()
    }

    /// Makes the routes that are measured, and sees that they answer. The script's id is told.
    pub(crate) fn furnish(&self) -> Outcome<String> {
        let script =
            self.post("/api/v1/apps/default/scripts", &json!({ "name": "bench", "source": SCRIPT }))?;
        let id = script["id"].as_str().ok_or("the script has no id")?.to_owned();
        for (path, dispatch_mode, durability) in
            [("/relaxed", "sync", "relaxed"), ("/strict", "sync", "strict"), ("/async", "async", "auto")]
        {
            let route = json!({
                "method": "POST", "path": path, "script_id": id,
                "dispatch_mode": dispatch_mode, "durability": durability,
            });
            self.post("/api/v1/apps/default/routes", &route)?;
        }
        let sent: Value = serde_json::from_str(BODY)?;
        for path in ["/relaxed", "/strict", &format!("/api/execute/{id}")] {
            let answer = self.post(path, &sent)?;
            if answer["echo"] != sent {
                return Err(format!("POST {path} does not echo: {answer}").into());
            }
        }
        Ok(id)
    }

    /// Makes the routes whose scripts keep values.
    pub(crate) fn furnish_values(&self) -> Outcome<()> {
        for (path, source, durability) in [("/values", VALUES, "relaxed"), ("/counter", COUNTER, "strict")] {
            self.serve("default", path, source, ("sync", durability))?;
            self.post(path, &Value::Null)?;
        }
        Ok(())
    }

    /// The value that every run of `/counter` changes.
    pub(crate) fn counter(&self) -> Outcome<u64> {
        let entry: Value = serde_json::from_str(&self.get("/api/v1/apps/default/kv/hits")?)?;
        Ok(entry["value"].as_u64().ok_or("the counter is no number")?)
    }

    /// Makes a script and a route to it.
    pub(crate) fn serve(
        &self,
        app: &str,
        path: &str,
        source: &str,
        (dispatch_mode, durability): (&str, &str),
    ) -> Outcome<()> {
        let script = json!({ "name": &path[1..], "source": source });
        let script = self.post(&format!("/api/v1/apps/{app}/scripts"), &script)?;
        let route = json!({
            "method": "POST", "path": path, "script_id": script["id"],
            "dispatch_mode": dispatch_mode, "durability": durability,
        });
        self.post(&format!("/api/v1/apps/{app}/routes"), &route).map(drop)
    }

    /// Makes a second app, which behaves badly.
    pub(crate) fn furnish_neighbour(&self) -> Outcome<()> {
        self.post("/api/v1/apps", &json!({ "slug": "neighbour" }))?;
        self.post("/api/v1/apps/neighbour/domains", &json!({ "pattern": NEIGHBOUR }))?;
        let endless = "let n = 0; loop { n += 1; }";
        for (path, source, dispatch_mode) in
            [("/loop", endless, "sync"), ("/loop-later", endless, "async"), ("/flood", SCRIPT, "async")]
        {
            self.serve("neighbour", path, source, (dispatch_mode, "auto"))?;
        }
        Ok(())
    }

    /// Sends a POST of JSON and waits for the JSON of a good answer.
    pub(crate) fn post(&self, path: &str, body: &Value) -> Outcome<Value> {
        let request = self.agent.post(self.url(path)).header("authorization", format!("Bearer {KEY}"));
        let mut answer = request.send_json(body)?;
        if answer.status().is_success() {
            return Ok(answer.body_mut().read_json()?);
        }
        let why = answer.body_mut().read_to_string()?;
        Err(format!("POST {path}: {}: {}", answer.status(), why.trim()).into())
    }

    /// Sends a GET to a route and waits for a 200.
    pub(crate) fn get(&self, path: &str) -> Outcome<String> {
        let request = self.agent.get(self.url(path)).header("authorization", format!("Bearer {KEY}"));
        let mut answer = request.call()?;
        let body = answer.body_mut().read_to_string()?;
        if answer.status() == 200 {
            return Ok(body);
        }
        Err(format!("GET {path}: {}: {}", answer.status(), body.trim()).into())
    }

    /// What the daemon counted until now.
    pub(crate) fn metrics(&self) -> Outcome<Metrics> {
        let text = self.get("/api/v1/metrics")?;
        let samples = text.lines().filter_map(|line| line.strip_prefix("picloud_")?.split_once(' '));
        let parsed = samples.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
        Ok(Metrics(parsed.collect()))
    }

    /// Waits until no accepted work is left; says how long that took.
    pub(crate) fn drain(&self) -> Outcome<Duration> {
        let began = Instant::now();
        while began.elapsed() < DRAIN_TIME_MAX && self.metrics()?.value("outbox_rows")? > 0 {
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(began.elapsed())
    }

    /// Empties the log, so that hours of access lines do not fill the disk.
    pub(crate) fn forget_log(&self) -> Outcome<()> {
        Ok(OpenOptions::new().write(true).open(&self.log)?.set_len(0)?)
    }

    /// Ends the daemon as systemd would; an error if it does not end well.
    pub(crate) fn stop(self) -> Outcome<()> {
        self.process.stop().map_err(|error| {
            let said = fs::read_to_string(&self.log).unwrap_or_default();
            let said: Vec<&str> = said.lines().rev().take(3).collect();
            format!("{error}: {}", said.join(", after "))
        })?;
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

impl Metrics {
    /// The value now.
    pub(crate) fn value(&self, name: &str) -> Outcome<u64> {
        Ok(*self.0.get(name).ok_or_else(|| format!("the metrics have no picloud_{name}"))?)
    }

    /// How much it grew since `earlier`.
    pub(crate) fn since(&self, earlier: &Metrics, name: &str) -> Outcome<u64> {
        Ok(self.value(name)?.saturating_sub(earlier.value(name)?))
    }
}

fn wait_until_ready(process: &mut Process, log: &Path) -> Outcome<SocketAddr> {
    let began = Instant::now();
    while began.elapsed() < READY_TIME_MAX {
        let said = fs::read_to_string(log)?;
        if let Some(address) = ready_address(&said) {
            return Ok(address);
        }
        if let Some(status) = process.child.try_wait()? {
            return Err(format!("the daemon ended with {status}: {}", said.trim()).into());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Err("the daemon does not become ready".into())
}

fn ready_address(said: &str) -> Option<SocketAddr> {
    let (_, after) = said.split_once("ready on http://")?;
    // Without what follows it, the address may be cut.
    let (address, _) = after.split_once(char::is_whitespace)?;
    address.parse().ok()
}
