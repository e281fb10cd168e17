//! A Raspberry Pi 3 in qemu, switched on with a card: its console, and its network on this machine's loopback.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::Kit;
use crate::card::Card;
use crate::lan::{self, Lan, TAP};

/// Nothing that is waited for takes longer, on an emulated board: a new slot may take 480 seconds to prove itself.
const PATIENCE: Duration = Duration::from_secs(700);
/// What is typed is echoed within this.
const ECHO: Duration = Duration::from_secs(45);
/// A shell of root on the serial line, beside what a person sees there.
pub(crate) const SHELL: &str =
    "systemd.debug_shell=1 systemd.default_debug_tty=ttyS1 systemd.mask=serial-getty@ttyS1.service";

/// The program of this machine, as the client.
const PICLOUD: &str = env!("CARGO_BIN_EXE_picloud");

/// Of the first user.
pub(crate) const PASSWORD: &str = "correct horse battery";

/// A board that is on; it goes when this does.
pub(crate) struct Pi {
    qemu: Child,
    console: UnixStream,
    log: PathBuf,
    url: String,
    /// A process in the network by which it is reached; else that of this machine.
    network: Option<u32>,
    began: Instant,
}

/// Asks `look` until it finds something.
#[track_caller]
pub(crate) fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < end, "waited in vain for {what}");
        thread::sleep(Duration::from_millis(300));
    }
}

impl Pi {
    /// Switches it on with a card.
    pub(crate) fn boot(kit: &Kit, card: &Card) -> Pi {
        Pi::boot_with(kit, &format!("file={},if=sd,format=raw", card.path.display()), &card.path)
    }

    /// Switches it on with a card, and with a stick in its USB port.
    pub(crate) fn boot_with_stick(kit: &Kit, card: &Card, stick: &Path) -> Pi {
        let stick = format!("if=none,id=stick,file={},format=raw", stick.display());
        let more = ["-drive", &stick, "-device", "usb-storage,drive=stick"];
        Pi::boot_board(
            kit,
            &format!("file={},if=sd,format=raw", card.path.display()),
            &card.path,
            &more,
            None,
        )
    }

    /// Switches it on with a drive as qemu describes it; its logs are named after `card`.
    pub(crate) fn boot_with(kit: &Kit, drive: &str, card: &Path) -> Pi {
        Pi::boot_board(kit, drive, card, &[], None)
    }

    /// Switches it on in a network where it has this address.
    pub(crate) fn boot_in(kit: &Kit, card: &Card, lan: &Lan, address: Ipv4Addr) -> Pi {
        let drive = format!("file={},if=sd,format=raw", card.path.display());
        Pi::boot_board(kit, &drive, &card.path, &[], Some((lan, address)))
    }

    fn boot_board(kit: &Kit, drive: &str, card: &Path, more: &[&str], lan: Option<(&Lan, Ipv4Addr)>) -> Pi {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (socket, log) = (card.with_extension("tty"), card.with_extension("log"));
        let _ = fs::remove_file(&socket);
        let firmware = |name: &str| kit.firmware.join(name).to_str().unwrap().to_owned();
        let tty = format!(
            "socket,id=tty,path={},server=on,wait=off,logfile={},logappend=on",
            socket.display(),
            log.display()
        );
        let program = "qemu-system-aarch64";
        let (mut qemu, network, url) = match lan {
            Some((lan, address)) => (
                lan.command(program),
                format!("tap,id=n,ifname={TAP},script=no,downscript=no"),
                format!("http://{address}"),
            ),
            None => (
                Command::new(program),
                format!("user,id=n,restrict=on,hostfwd=tcp:127.0.0.1:{port}-:80"),
                format!("http://127.0.0.1:{port}"),
            ),
        };
        let qemu = qemu
            .args(["-M", "raspi3b", "-display", "none", "-monitor", "none"])
            .args(["-kernel", &firmware("u-boot.bin"), "-dtb", &firmware("board.dtb")])
            .args(["-drive", drive, "-netdev", &network, "-device", "usb-net,netdev=n"])
            .args(more)
            .args(["-chardev", &tty, "-serial", "null", "-serial", "chardev:tty"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // It tells of each connection that comes before the board has a network.
            .stderr(fs::File::create(card.with_extension("qemu")).unwrap())
            .spawn()
            .unwrap();
        let console = until("the serial line", || UnixStream::connect(&socket).ok());
        console.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        Pi { qemu, console, log, url, network: lan.map(|(lan, _)| lan.id()), began: Instant::now() }
    }

    /// Since it was switched on.
    pub(crate) fn uptime(&self) -> Duration {
        self.began.elapsed()
    }

    /// What it wrote to the serial line since it was switched on with this card for the first time.
    pub(crate) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Waits until the serial line says something after its first `from` bytes; gives where that ends.
    #[track_caller]
    pub(crate) fn until_logs(&mut self, wanted: &str, from: usize) -> usize {
        let log = self.log.clone();
        until(wanted, || {
            self.drain();
            let text = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
            text.get(from..)?.find(wanted).map(|at| from + at + wanted.len())
        })
    }

    /// Takes what came, so that the board's serial line never waits for us.
    fn drain(&mut self) -> Vec<u8> {
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        while let Ok(count) = self.console.read(&mut some) {
            if count == 0 {
                break;
            }
            all.extend_from_slice(&some[..count]);
        }
        all
    }

    /// Runs a line in the shell on the serial line; gives what it said, and its exit code.
    #[track_caller]
    pub(crate) fn ask(&mut self, line: &str) -> (String, i32) {
        self.drain();
        let mark = format!("END{}", self.began.elapsed().as_nanos());
        // The mark is put together there, so that its echo is not taken for it.
        let (head, tail) = mark.split_at(3);
        let line = format!("{line}; echo {head}''{tail} $?");
        writeln!(self.console, "{line}").unwrap();
        let mut said = Vec::new();
        let end = Instant::now() + PATIENCE;
        let mut again = Instant::now() + ECHO;
        loop {
            // The emulated line loses what comes while the board's end of it is opened.
            if said.is_empty() && Instant::now() > again {
                writeln!(self.console, "{line}").unwrap();
                again += ECHO;
            }
            assert!(
                Instant::now() < end,
                "{line}: no answer on the serial line, but\n{}",
                String::from_utf8_lossy(&said)
            );
            said.extend(self.drain());
            let text = plain(&String::from_utf8_lossy(&said));
            let Some((before, after)) = text.split_once(&mark) else { continue };
            let Some((code, _)) = after.split_once('\n') else { continue };
            let out = before.split_once('\n').map_or("", |(_, out)| out);
            return (out.trim().to_owned(), code.trim().parse().unwrap_or(-1));
        }
    }

    /// Runs a line that must succeed.
    #[track_caller]
    pub(crate) fn sh(&mut self, line: &str) -> String {
        let (out, code) = self.ask(line);
        assert_eq!(code, 0, "{line}: {out}");
        out
    }

    /// Where it is reached from here.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// A program that can reach it.
    fn command(&self, program: &str) -> Command {
        self.network.map_or_else(|| Command::new(program), |id| lan::within(id, program))
    }

    /// Asks it by curl; `None` if there is no answer, or none of success.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let url = format!("{}{path}", self.url());
        let output = self.command("curl").args(["-sSf", "-m", "10", &url]).output().unwrap();
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until it answers; says how long that took since it was switched on.
    #[track_caller]
    pub(crate) fn until_answers(&mut self, path: &str) -> Duration {
        until(path, || {
            self.drain();
            assert!(self.qemu.try_wait().unwrap().is_none(), "the board went off");
            self.get(path)
        });
        self.uptime()
    }

    /// Waits until an answer, of success or not, has a word in it.
    #[track_caller]
    pub(crate) fn until_says(&mut self, path: &str, wanted: &str) -> String {
        let url = format!("{}{path}", self.url());
        until(wanted, || {
            self.drain();
            let output = self.command("curl").args(["-s", "-m", "10", &url]).output().unwrap();
            Some(String::from_utf8_lossy(&output.stdout).into_owned()).filter(|said| said.contains(wanted))
        })
    }

    /// Makes the first user, by the setup code; gives the key that comes with it, or the answer that has none.
    pub(crate) fn set_up(&self, code: &str) -> Result<String, String> {
        let body =
            json!({ "email": "ada@example.org", "password": PASSWORD, "setup_code": code }).to_string();
        let url = format!("{}/api/v1/setup", self.url());
        let output = self.command("curl").args(["-sS", "-m", "60", "-d", &body, &url]).output().unwrap();
        let answer = String::from_utf8_lossy(&output.stdout).into_owned();
        let fields: Value = serde_json::from_str(&answer).unwrap_or_default();
        fields["api_key"]["secret"].as_str().map(str::to_owned).ok_or(answer)
    }

    /// Runs the command line of this machine against it.
    pub(crate) fn picloud(&self, key: &str, args: &[&str]) -> Output {
        let mut command = self.command(PICLOUD);
        command.args(args).env("PICLOUD_URL", self.url());
        if !key.is_empty() {
            command.env("PICLOUD_API_KEY", key);
        }
        command.stdin(Stdio::null()).output().unwrap()
    }

    /// The same, which must succeed.
    #[track_caller]
    pub(crate) fn manage(&self, key: &str, args: &[&str]) -> String {
        let output = self.picloud(key, args);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{args:?}: {out}{}", String::from_utf8_lossy(&output.stderr));
        out
    }

    /// The key of this boot, from the shell on the serial line.
    #[track_caller]
    pub(crate) fn key(&mut self) -> String {
        self.sh("cat /run/picloud-device/api-key")
    }

    /// Pulls the plug.
    pub(crate) fn pull(mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

impl Drop for Pi {
    fn drop(&mut self) {
        let _ = self.qemu.kill();
        let _ = self.qemu.wait();
    }
}

/// Without what is for terminals only (ECMA-48, control sequences).
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    let rest = parts.map(|part| part.trim_start_matches(|c: char| !c.is_ascii_alphabetic()));
    rest.fold(first, |all, part| all + part.get(1..).unwrap_or_default()).replace('\r', "")
}

/// Runs the daemon of this machine on a data directory, and asks it something.
#[track_caller]
pub(crate) fn with_daemon<T>(data: &Path, ask: impl FnOnce(&dyn Fn(&str) -> String) -> T) -> T {
    let key = "the-key-of-the-tests";
    let log = data.with_extension("log");
    let mut daemon = Command::new(PICLOUD)
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir", data.to_str().unwrap()])
        .env("PICLOUD_API_KEY", key)
        .stdin(Stdio::null())
        .stderr(fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let url = until("a daemon on that store", || {
        let said = fs::read_to_string(&log).unwrap();
        assert!(daemon.try_wait().unwrap().is_none(), "{said}");
        let (_, after) = said.split_once("ready on ")?;
        after.split_whitespace().next().map(str::to_owned)
    });
    let answer = ask(&|path| {
        let bearer = format!("authorization: Bearer {key}");
        let output = Command::new("curl")
            .args(["-sS", "-m", "20", "-H", &bearer, &format!("{url}{path}")])
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    });
    let _ = daemon.kill();
    let _ = daemon.wait();
    answer
}
