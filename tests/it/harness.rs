//! Starts, drives, kills and looks after one daemon.

use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::http::{Answer, Connection, Request};

/// The program under test: the one that cargo just built, or another that is named while the tests are compiled.
pub(crate) const PICLOUD: &str = match option_env!("PICLOUD_TEST_BINARY") {
    Some(another) => another,
    None => env!("CARGO_BIN_EXE_picloud"),
};
/// The key that daemons are started with.
pub(crate) const KEY: &str = "the-key-of-the-tests";
/// Nothing that a test waits for takes longer, even on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// Asks `look` until it finds something; fails with `what` if that takes too long.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Raises a flag when it goes, so that threads which look at it end also when their test fails.
pub(crate) struct RaisedAtEnd<'a>(pub(crate) &'a AtomicBool);

impl Drop for RaisedAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// A directory that goes when its test does.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> TempDir {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("picloud-it-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        TempDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What a program did, from start to end.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Runs the program to its end in an empty environment but for `env`.
#[track_caller]
pub(crate) fn picloud<A: AsRef<OsStr>>(args: &[A], env: &[(&str, &str)]) -> Ran {
    let mut command = Command::new(PICLOUD);
    command.args(args).env_clear().envs(env.iter().copied());
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process(child);
    let (out, err) = (slurp(process.0.stdout.take()), slurp(process.0.stderr.take()));
    let status = process.wait("a command");
    let code = status.code().unwrap_or(-1);
    Ran { code, out: out.join().unwrap(), err: err.join().unwrap() }
}

fn slurp(stream: Option<impl Read + Send + 'static>) -> thread::JoinHandle<String> {
    let mut stream = stream.unwrap();
    thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A child that never outlives its test.
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str) -> ExitStatus {
        until(&format!("the end of {what}"), || self.0.try_wait().unwrap())
    }

    /// Sends a signal by its name.
    #[track_caller]
    pub(crate) fn signal(&self, name: &str) {
        assert!(self.signal_if_alive(name), "{name} was not sent");
    }

    /// Sends a signal to a process that may be gone; it was not waited for, so its number is still its own.
    pub(crate) fn signal_if_alive(&self, name: &str) -> bool {
        let pid = self.0.id().to_string();
        Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status().unwrap().success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a daemon is started with.
#[derive(Clone, Default)]
pub(crate) struct Setup {
    env: Vec<(String, String)>,
    no_device_key: bool,
    prefix: Vec<String>,
    data_dir: Option<PathBuf>,
    config: Option<String>,
    listen: Option<String>,
    flags: Vec<String>,
    listens_by_file: bool,
}

impl Setup {
    /// Sets a key of the configuration, like `scripts.threads`, by its environment variable.
    pub(crate) fn set(mut self, key: &str, value: impl ToString) -> Setup {
        self.env.push((picloud::config::env_name(key), value.to_string()));
        self
    }

    /// The same unless it is set already.
    pub(crate) fn set_first(self, key: &str, value: impl ToString) -> Setup {
        let name = picloud::config::env_name(key);
        if self.env.iter().any(|(other, _)| *other == name) { self } else { self.set(key, value) }
    }

    /// Sets a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: &str) -> Setup {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without an admin key from the environment: the file in the data directory has one.
    pub(crate) fn without_device_key(mut self) -> Setup {
        self.no_device_key = true;
        self
    }

    /// Starts it by way of another program, which becomes the daemon: `nsenter .. --`, `strace -D ..`.
    pub(crate) fn by(mut self, prefix: &[String]) -> Setup {
        self.prefix = prefix.to_vec();
        self
    }

    /// Starts it with this flag.
    pub(crate) fn flag(mut self, flag: &str) -> Setup {
        self.flags.push(flag.to_owned());
        self
    }

    /// Listens there instead of at any free port.
    pub(crate) fn listen(mut self, address: &str) -> Setup {
        self.listen = Some(address.to_owned());
        self
    }

    /// Listens where the configuration file says.
    pub(crate) fn listen_by_file(mut self) -> Setup {
        self.listens_by_file = true;
        self
    }

    /// Speaks TLS, too, at a free port.
    pub(crate) fn tls(self) -> Setup {
        self.set("tls.listen", "127.0.0.1:0")
    }

    /// Gives it a configuration file with this text.
    pub(crate) fn config(mut self, text: &str) -> Setup {
        self.config = Some(text.to_owned());
        self
    }

    /// Puts the data elsewhere; the path is the daemon's.
    pub(crate) fn data_in(mut self, path: PathBuf) -> Setup {
        self.data_dir = Some(path);
        self
    }

    #[track_caller]
    pub(crate) fn start(self) -> Daemon {
        self.start_in(TempDir::new())
    }

    /// Starts it on a directory whose `data` may hold something already.
    #[track_caller]
    pub(crate) fn start_in(self, dir: TempDir) -> Daemon {
        let (process, lines, address) = launch(&self, dir.path());
        Daemon { setup: self, dir, process, lines, address }
    }
}

type Lines = Arc<Mutex<Vec<String>>>;

#[track_caller]
fn launch(setup: &Setup, dir: &Path) -> (Process, Lines, SocketAddr) {
    let mut words = setup.prefix.iter().map(String::as_str).chain([PICLOUD]);
    let mut command = Command::new(words.next().unwrap());
    command.args(words).arg("serve");
    if !setup.listens_by_file {
        command.args(["--listen", setup.listen.as_deref().unwrap_or("127.0.0.1:0")]);
    }
    command
        .arg("--data-dir")
        .arg(setup.data_dir.clone().unwrap_or_else(|| dir.join("data")))
        .args(&setup.flags);
    if let Some(text) = &setup.config {
        let file = dir.join("picloud.toml");
        fs::write(&file, text).unwrap();
        command.arg("--config").arg(file);
    }
    command.env_clear().envs(setup.env.iter().cloned());
    if !setup.no_device_key {
        command.env("PICLOUD_API_KEY", KEY);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut process = Process(child);
    let lines = lines_of(&mut process);
    let address = until("the daemon's ready line", || {
        let ended = process.0.try_wait().unwrap();
        assert!(ended.is_none(), "the daemon ended: {ended:?}\n{}", lines.lock().unwrap().join("\n"));
        let lines = lines.lock().unwrap();
        let url = lines.iter().find_map(|line| line.split_once("ready on http://"))?.1;
        Some(url.split_whitespace().next()?.parse().unwrap())
    });
    (process, lines, address)
}

/// What a process writes to standard error from now on.
fn lines_of(process: &mut Process) -> Lines {
    let lines = Lines::default();
    let (stderr, kept) = (process.0.stderr.take().unwrap(), lines.clone());
    thread::spawn(move || {
        BufReader::new(stderr).lines().map_while(Result::ok).for_each(|line| kept.lock().unwrap().push(line));
    });
    lines
}

/// A process that was handed sockets as systemd does it (sd_listen_fds(3)).
pub(crate) struct Activated {
    _process: Process,
    lines: Lines,
}

impl Activated {
    /// Runs the program with these arguments on at most two sockets, which have these names.
    #[track_caller]
    pub(crate) fn start(args: &str, sockets: &[(&TcpListener, &str)], env: &[(&str, &str)]) -> Activated {
        let handed = |number: usize| match sockets.get(number) {
            Some((socket, _)) => Stdio::from(OwnedFd::from(socket.try_clone().unwrap())),
            None => Stdio::null(),
        };
        let names: Vec<&str> = sockets.iter().map(|(_, name)| *name).collect();
        // The shell moves them to where systemd puts them, and becomes the program: so the number of the process is right.
        let script = format!(
            "exec 3<&0 4<&1 </dev/null >/dev/null; export LISTEN_PID=$$ LISTEN_FDS={} LISTEN_FDNAMES={}; exec {PICLOUD} {args}",
            sockets.len(),
            names.join(":"),
        );
        let mut command = Command::new("sh");
        command.args(["-c", &script]).env_clear().envs(env.iter().copied());
        let child = command.stdin(handed(0)).stdout(handed(1)).stderr(Stdio::piped()).spawn().unwrap();
        let mut process = Process(child);
        let lines = lines_of(&mut process);
        Activated { _process: process, lines }
    }

    /// The line that says where it listens.
    #[track_caller]
    pub(crate) fn ready_line(&self) -> String {
        until("the ready line", || {
            let lines = self.lines.lock().unwrap();
            lines.iter().find(|line| line.contains("ready on")).cloned()
        })
    }
}

/// A running daemon with its directory.
pub(crate) struct Daemon {
    setup: Setup,
    dir: TempDir,
    pub(crate) process: Process,
    lines: Lines,
    pub(crate) address: SocketAddr,
}

impl Daemon {
    #[track_caller]
    pub(crate) fn start() -> Daemon {
        Setup::default().start()
    }

    /// Runs the program against it, with the device's key.
    #[track_caller]
    pub(crate) fn cli(&self, args: &[&str]) -> Ran {
        picloud(args, &[("PICLOUD_URL", &self.url()), ("PICLOUD_API_KEY", KEY)])
    }

    /// What it wrote to standard error.
    pub(crate) fn log(&self) -> String {
        self.lines.lock().unwrap().join("\n")
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(crate) fn dir(&self) -> &TempDir {
        &self.dir
    }

    /// Where it speaks TLS.
    #[track_caller]
    pub(crate) fn tls_address(&self) -> SocketAddr {
        let log = self.log();
        let ready = log.lines().rev().find(|line| line.contains("ready on http://")).unwrap();
        let url = ready.split_whitespace().find_map(|word| word.strip_prefix("https://"));
        url.unwrap_or_else(|| panic!("TLS is off: {ready}")).parse().unwrap()
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// As a power cut does, but for the card.
    #[track_caller]
    pub(crate) fn kill(&mut self) {
        self.process.0.kill().unwrap();
        self.process.wait("the killed daemon");
    }

    /// Starts it again on the same directory, after its end.
    #[track_caller]
    pub(crate) fn start_again(&mut self) {
        let before = std::mem::take(&mut *self.lines.lock().unwrap());
        let (process, lines, address) = launch(&self.setup, self.dir.path());
        lines.lock().unwrap().splice(0..0, before);
        (self.process, self.lines, self.address) = (process, lines, address);
    }

    /// Starts it again by way of another program, or of none.
    #[track_caller]
    pub(crate) fn start_again_by(&mut self, prefix: &[String]) {
        self.setup.prefix = prefix.to_vec();
        self.start_again();
    }

    #[track_caller]
    pub(crate) fn kill_and_start_again(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Asks it to end, which makes all that was done durable, and starts it again.
    #[track_caller]
    pub(crate) fn stop_and_start_again(&mut self) {
        self.process.signal("TERM");
        assert_eq!(self.process.wait("the daemon").code(), Some(0));
        self.start_again();
    }

    /// A request of the data plane, as it will be sent.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.address, method, path)
    }

    #[track_caller]
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.request("GET", path).send()
    }

    #[track_caller]
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        self.request("POST", path).body(body).send()
    }

    pub(crate) fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// A request of the management API below `/api/v1`, with the device's key; null sends no body.
    #[track_caller]
    pub(crate) fn api(&self, method: &str, path: &str, body: Value) -> Answer {
        let request = self.request(method, &format!("/api/v1{path}")).key(KEY);
        let request = if body.is_null() { request } else { request.body(body.to_string()) };
        request.send()
    }

    /// The same, for what must succeed: the answer's JSON.
    #[track_caller]
    pub(crate) fn done(&self, method: &str, path: &str, body: Value) -> Value {
        let answer = self.api(method, path, body);
        assert!((200..300).contains(&answer.status), "{method} {path}: {answer}");
        if answer.body.is_empty() { Value::Null } else { answer.json() }
    }

    /// Stores a script of app `default` and gives its id.
    #[track_caller]
    pub(crate) fn script(&self, source: &str) -> String {
        self.script_with(source, json!({}))
    }

    /// The same with further fields.
    #[track_caller]
    pub(crate) fn script_with(&self, source: &str, fields: Value) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("script {}", COUNT.fetch_add(1, Relaxed));
        let body = merged(json!({ "name": name, "source": source }), fields);
        id(&self.done("POST", "/apps/default/scripts", body))
    }

    /// Binds a script of app `default`.
    #[track_caller]
    pub(crate) fn route(&self, method: &str, path: &str, script: &str, fields: Value) -> String {
        let body = merged(json!({ "method": method, "path": path, "script_id": script }), fields);
        id(&self.done("POST", "/apps/default/routes", body))
    }

    /// A script behind a route of any method, sync.
    #[track_caller]
    pub(crate) fn serve(&self, path: &str, source: &str) -> String {
        let script = self.script(source);
        self.route("ANY", path, &script, json!({}));
        script
    }

    /// A script behind an async route.
    #[track_caller]
    pub(crate) fn serve_async(&self, path: &str, source: &str) -> String {
        let script = self.script_with(source, json!({ "timeout_seconds": 60 }));
        self.route("ANY", path, &script, json!({ "dispatch_mode": "async" }));
        script
    }

    /// Calls an async route and gives the execution's id.
    #[track_caller]
    pub(crate) fn accepted(&self, path: &str, body: &str) -> String {
        let answer = self.post(path, body);
        assert_eq!(answer.status, 202, "{answer}");
        answer.json()["execution_id"].as_str().unwrap().to_owned()
    }

    /// An execution as it is now.
    #[track_caller]
    pub(crate) fn execution(&self, id: &str) -> Value {
        self.done("GET", &format!("/executions/{id}"), Value::Null)
    }

    /// An execution once its status is this.
    #[track_caller]
    pub(crate) fn execution_once(&self, id: &str, status: &str) -> Value {
        until(&format!("execution {id} to be {status}"), || {
            let answer = self.api("GET", &format!("/executions/{id}"), Value::Null);
            Some(answer.json()).filter(|found| found["status"] == status)
        })
    }

    /// An execution that has ended.
    #[track_caller]
    pub(crate) fn ended(&self, id: &str) -> Value {
        let found = self.done("GET", &format!("/executions/{id}?wait=40"), Value::Null);
        let open = ["queued", "running", "retrying"];
        assert!(!open.iter().any(|status| found["status"] == *status), "has not ended: {found:#}");
        found
    }

    /// All items of a list, over as many pages as it takes.
    #[track_caller]
    pub(crate) fn all(&self, path: &str) -> Vec<Value> {
        let mut items = Vec::new();
        let mut cursor = String::new();
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let mut page = self.done("GET", &format!("{path}{joint}cursor={cursor}"), Value::Null);
            items.append(page["items"].as_array_mut().unwrap());
            match page["next_cursor"].as_str() {
                Some(next) => {
                    assert_ne!(next, cursor, "{path} goes on for ever");
                    next.clone_into(&mut cursor);
                }
                None => return items,
            }
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let log = self.log();
            // Tests that wait ask often; that is not what went wrong.
            let lines: Vec<&str> = log.lines().filter(|line| !line.contains("INFO GET /api/v1/")).collect();
            eprintln!("--- what the daemon said:\n{}\n---", lines.join("\n"));
        }
    }
}

fn merged(mut object: Value, fields: Value) -> Value {
    object.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    object
}

/// The id of an object.
#[track_caller]
pub(crate) fn id(object: &Value) -> String {
    object["id"].as_str().unwrap_or_else(|| panic!("no id in {object}")).to_owned()
}
