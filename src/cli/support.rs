//! `picloud support-bundle`: what helps somebody else to find out what is wrong, in one file that may be shown around.
//!
//! It is made also when no daemon answers: then that is what it tells. It holds no sources, no values, no bodies, and
//! what it holds went through [`super::scrub`]. On the device itself it has the journal and the reports of updates, too,
//! as far as whoever asks may read them; from another computer it has what the daemon says.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use super::client::{Call, segment};
use super::error::Error;
use super::scrub::{self, Scrub};
use super::session::Session;
use super::units;
use crate::device::{self, Place, facts};
use crate::model::UnixMs;

/// What the bundle may grow to, before it is packed; a mail takes that.
const BUNDLE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// What one part of it may; of a longer one the end is kept, where the trouble is.
const PART_BYTES_MAX: usize = 1024 * 1024;
const ITEMS_MAX: usize = 1000;
/// Apps whose scripts and routes are listed.
const APPS_MAX: usize = 100;

/// Files that tell about the device, from its root.
const FILES: [&str; 14] = [
    "etc/os-release",
    "usr/lib/picloud/image.json",
    "run/picloud-device/boot.json",
    "run/picloud-device/clock.json",
    "run/picloud-device/disk",
    "run/picloud-device/no-data",
    "run/picloud-device/prepare.json",
    "run/picloud-device/reports.json",
    "run/picloud-device/update.json",
    "boot/firmware/PROVISION-ERROR.txt",
    "proc/cmdline",
    "proc/meminfo",
    "proc/mounts",
    "proc/loadavg",
];
/// Files that hold nothing but a secret, and those that hold some.
const SECRETS: [&str; 6] = [
    "run/picloud-device/api-key",
    "run/picloud-device/setup-code",
    "data/identity/api-key",
    "data/identity/setup-code",
    "var/lib/picloud/admin.key",
    "data/picloud/admin.key",
];
const SETTINGS: &str = "data/identity/settings.toml";
const SHADOW: &str = "run/picloud-device/shadow-admin";
/// The daemon's configuration: that of the appliance, else that of any other.
const CONFIGS: [&str; 2] = ["run/picloud-device/picloud.toml", "etc/picloud/picloud.toml"];
/// Programs that tell about the system: the part, and the words.
const PROGRAMS: [(&str, &[&str]); 3] = [
    ("journal.txt", &["journalctl", "-u", "picloud", "-n", "1000", "--no-pager", "-o", "short-iso-precise"]),
    ("kernel.txt", &["journalctl", "-k", "-b", "-n", "500", "--no-pager", "-o", "short-monotonic"]),
    ("failed-units.txt", &["systemctl", "--failed", "--no-pager", "--plain"]),
];

/// Where to.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The file to write [default: picloud-support.tar.zst in this directory]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The root of the device's files
    #[arg(long, value_name = "DIR", default_value = "/", hide = true)]
    root: PathBuf,
}

/// Gathers, and writes the file.
pub(super) fn run(session: &mut Session<'_>, args: &Args) -> Result<(), Error> {
    let place = Place::below(&args.root);
    let mut gathered =
        Gathered { scrub: known(session, &place), parts: Vec::new(), missing: Vec::new(), bytes: 0 };
    gathered.daemon(session);
    if is_here(session.client.url(), &device::host_name()) {
        gathered.document("device.json", facts::look(&place, UnixMs::now()));
        gathered.config(&place);
        for path in FILES {
            gathered.file(&place, path);
        }
        gathered.reports(&place);
        for (name, words) in PROGRAMS {
            gathered.program(name, words);
        }
    } else {
        let why = "PiCloud was asked from another computer, whose own are nobody's business; `sudo picloud support-bundle` on the device adds them";
        gathered.miss("files and journal", why);
    }
    let missing = gathered.missing.join("\n");
    gathered.text("missing.txt", &missing);

    let file = args.output.clone().unwrap_or_else(|| PathBuf::from("picloud-support.tar.zst"));
    let bytes = write(&file, &gathered.parts)
        .map_err(|why| Error::Failed(format!("cannot write {}: {why}", file.display())))?;
    let line = format!(
        "wrote {}: {}, secrets taken out; look into it before you pass it on",
        file.display(),
        in_words(bytes)
    );
    let told = json!({
        "file": file.display().to_string(),
        "bytes": bytes,
        "parts": gathered.parts.iter().map(|(name, _)| name).collect::<Vec<_>>(),
        "missing": gathered.missing,
    });
    session.told(line, &told)
}

/// Whether a URL is that of the computer on which this runs, as far as its name tells.
fn is_here(url: &str, own_name: &str) -> bool {
    let uri: Option<ureq::http::Uri> = url.parse().ok();
    let host = uri.as_ref().and_then(ureq::http::Uri::host).unwrap_or_default().to_ascii_lowercase();
    let address = host.trim_matches(['[', ']']).parse::<std::net::IpAddr>();
    let name = own_name.to_ascii_lowercase();
    address.is_ok_and(|address| address.is_loopback())
        || host == "localhost"
        || (!name.is_empty() && (host == name || host == format!("{name}.local")))
}

/// What goes into the bundle.
struct Gathered {
    scrub: Scrub,
    parts: Vec<(String, Vec<u8>)>,
    missing: Vec<String>,
    bytes: usize,
}

impl Gathered {
    /// Adds a part, cut and without secrets. Those are taken out first: half a secret is not known any more.
    fn text(&mut self, name: &str, text: &str) {
        self.keep(name, &self.scrub.text(text));
    }

    fn document(&mut self, name: &str, mut value: Value) {
        self.scrub.value(&mut value);
        self.keep(name, &format!("{value:#}\n"));
    }

    fn keep(&mut self, name: &str, text: &str) {
        let room = PART_BYTES_MAX.min(BUNDLE_BYTES_MAX.saturating_sub(self.bytes));
        let mut from = text.len().saturating_sub(room);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        if from > 0 {
            self.missing.push(format!("{name}: the first {from} bytes, for it would be too long"));
        }
        self.bytes += text.len() - from;
        self.parts.push((name.to_owned(), text.as_bytes()[from..].to_vec()));
    }

    fn miss(&mut self, name: &str, why: impl std::fmt::Display) {
        let line = self.scrub.text(&format!("{name}: {why}"));
        self.missing.push(line);
    }

    /// What the daemon tells, as far as it does.
    fn daemon(&mut self, session: &Session<'_>) {
        for part in ["version", "health", "ready", "status"] {
            match session.client.probe(&format!("/api/v1/{part}")) {
                Ok((status, answer)) => {
                    self.document(
                        &format!("daemon/{part}.json"),
                        json!({ "status": status, "answer": answer }),
                    );
                }
                Err(why) => return self.miss("daemon", why),
            }
        }
        let metrics = Call {
            method: "GET".into(),
            path: "/api/v1/metrics".into(),
            headers: Vec::new(),
            body: None,
            with_key: true,
        };
        match session.client.call(&metrics) {
            Ok(answer) if answer.status == 200 => {
                self.text("daemon/metrics.txt", &String::from_utf8_lossy(&answer.body));
            }
            Ok(answer) => self.miss("daemon/metrics.txt", format!("status {}", answer.status)),
            Err(why) => self.miss("daemon/metrics.txt", why),
        }
        let apps = match session.client.list("/api/v1/apps", &[], Some(APPS_MAX), "the apps") {
            Ok(apps) => apps.items,
            Err(why) => return self.miss("daemon/apps.json", why),
        };
        let mut all = Vec::new();
        for mut app in apps {
            let id = app["id"].as_str().unwrap_or_default().to_owned();
            for kind in ["domains", "scripts", "routes", "triggers"] {
                let path = format!("/api/v1/apps/{}/{kind}", segment(&id));
                match session.client.list(&path, &[], Some(ITEMS_MAX), kind) {
                    Ok(items) => app[kind] = items.items.into_iter().map(without_source).collect(),
                    Err(why) => self.miss("daemon/apps.json", why),
                }
            }
            all.push(app);
        }
        self.document("daemon/apps.json", Value::from(all));
    }

    /// The configuration without the values of settings for scripts, whatever they are.
    fn config(&mut self, place: &Place) {
        let read = |path: &&str| read(&place.path(path)).ok();
        let Some(text) = CONFIGS.iter().find_map(read) else {
            return self.miss("picloud.toml", "there is none, or it may not be read");
        };
        match toml::from_str::<toml::Table>(&text) {
            Ok(mut table) => {
                blank("", &mut table);
                self.text("picloud.toml", &toml::to_string(&table).unwrap_or_default());
            }
            Err(why) => self.miss("picloud.toml", why.message()),
        }
    }

    fn file(&mut self, place: &Place, path: &str) {
        match read(&place.path(path)) {
            Ok(text) => match serde_json::from_str(&text) {
                Ok(value @ (Value::Object(_) | Value::Array(_))) => {
                    self.document(&format!("files/{path}"), value)
                }
                _ => self.text(&format!("files/{path}"), &text),
            },
            Err(why) => self.miss(path, why),
        }
    }

    /// What helpers keep of updates.
    fn reports(&mut self, place: &Place) {
        let names = fs::read_dir(place.data().join("update")).into_iter().flatten().take(50);
        let mut names: Vec<String> =
            names.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        names.sort();
        for name in names.iter().filter(|name| name.ends_with(".json") || name.ends_with(".txt")) {
            self.file(place, &format!("data/update/{name}"));
        }
    }

    fn program(&mut self, name: &str, words: &[&str]) {
        let Some((program, args)) = words.split_first() else { return };
        let ran = Command::new(program).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output();
        match ran {
            Ok(ran) if ran.status.success() => self.text(name, &String::from_utf8_lossy(&ran.stdout)),
            Ok(ran) => self.miss(name, format!("{program} ended with {}", ran.status)),
            Err(why) => self.miss(name, format!("{program}: {why}")),
        }
    }
}

/// Everything that is known to be secret here.
fn known(session: &Session<'_>, place: &Place) -> Scrub {
    let mut scrub = Scrub::default();
    if let Some(secret) = session.client.secret() {
        scrub.learn(secret);
    }
    for path in SECRETS {
        if let Ok(text) = read(&place.path(path)) {
            scrub.learn(&text);
        }
    }
    if let Ok(text) = read(&place.path(SHADOW)) {
        scrub.learn(text.split(':').nth(1).unwrap_or_default());
    }
    let settings =
        read(&place.path(SETTINGS)).ok().and_then(|text| toml::from_str::<toml::Table>(&text).ok());
    settings.iter().for_each(|settings| learn_table(&mut scrub, settings, false));
    scrub
}

fn learn_table(scrub: &mut Scrub, table: &toml::Table, secret: bool) {
    for (name, value) in table {
        let secret = secret || name == "admin" || name == "env" || scrub::is_secret(name);
        match value {
            toml::Value::Table(inner) => learn_table(scrub, inner, secret),
            toml::Value::String(text) if secret => scrub.learn(text),
            _ => {}
        }
    }
}

fn blank(section: &str, table: &mut toml::Table) {
    for (name, value) in table.iter_mut() {
        match value {
            toml::Value::Table(inner) => blank(name, inner),
            value if section == "env" || (value.is_str() && scrub::is_secret(name)) => {
                *value = toml::Value::from(scrub::REMOVED);
            }
            _ => {}
        }
    }
}

/// A script without its program.
fn without_source(mut item: Value) -> Value {
    if let Some(fields) = item.as_object_mut() {
        fields.remove("source");
    }
    item
}

/// A text file, of which some megabytes are read at the most.
fn read(path: &Path) -> std::io::Result<String> {
    let most = u64::try_from(BUNDLE_BYTES_MAX).unwrap_or(u64::MAX);
    let mut bytes = Vec::new();
    File::open(path)?.take(most).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Packs it, for the owner only, and gives the size.
fn write(path: &Path, parts: &[(String, Vec<u8>)]) -> std::io::Result<u64> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let _ = fs::remove_file(&partial);
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let written = pack(file, parts).and_then(|()| fs::rename(&partial, path));
    written.inspect_err(|_| drop(fs::remove_file(&partial)))?;
    Ok(fs::metadata(path)?.len())
}

fn pack(file: File, parts: &[(String, Vec<u8>)]) -> std::io::Result<()> {
    let mut archive = tar::Builder::new(zstd::Encoder::new(file, 0)?);
    let now = u64::try_from(UnixMs::now().0 / 1000).unwrap_or_default();
    for (name, bytes) in parts {
        let mut header = tar::Header::new_ustar();
        header.set_size(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        header.set_mtime(now);
        archive.append_data(&mut header, format!("picloud-support/{name}"), bytes.as_slice())?;
    }
    let mut file = archive.into_inner()?.finish()?;
    file.flush()?;
    file.sync_all()
}

fn in_words(bytes: u64) -> String {
    u32::try_from(bytes).map_or_else(|_| bytes.to_string(), |bytes| units::bytes(f64::from(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_computer_keeps_its_own_files() {
        for (url, here) in [
            ("http://127.0.0.1:8080", true),
            ("https://[::1]", true),
            ("http://localhost", true),
            ("http://boat.local", true),
            ("http://Boat:80", true),
            ("http://192.168.1.7", false),
            ("https://kitchen.local", false),
            ("http://boat.example.org", false),
            ("nonsense of no use", false),
        ] {
            assert_eq!(is_here(url, "boat"), here, "{url}");
        }
        assert!(!is_here("http://.local", ""));
    }
}
