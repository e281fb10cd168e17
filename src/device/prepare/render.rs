//! The settings as the programs of the image take them, below `/run`, since nothing in `/etc` can be written.

use std::io;
use std::path::{Path, PathBuf};

use super::settings::Settings;
use super::{files, network};
use crate::config;
use crate::device::Place;

/// The daemon's configuration of the image.
const BASE: &str = "usr/share/picloud/picloud.toml";
const BASE_BYTES_MAX: u64 = 256 * 1024;
const MADE: &str = "# Made at each boot from the settings of this device.\n";

/// A file that is made, or one that must not be there.
struct Rendered {
    path: PathBuf,
    text: Option<String>,
    mode: u32,
}

/// The daemon's configuration of the image; one without is as the daemon is by itself.
pub(super) fn base(place: &Place) -> Result<String, String> {
    match files::read(&place.path(BASE), BASE_BYTES_MAX) {
        Ok(bytes) => String::from_utf8(bytes).map_err(|_| format!("/{BASE} is not UTF-8")),
        Err(why) if why.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        Err(why) => Err(format!("/{BASE} cannot be read: {why}")),
    }
}

/// Makes all of them, and tells what did not work. One that fails does not keep the others from being made.
pub(super) fn all(place: &Place, settings: &Settings, host_name: &str, base: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut rendered = networks(place, settings);
    rendered.extend(logins(place, settings));
    rendered.extend(services(place));
    let run = |name: &str| place.run().join(name);
    rendered.push(Rendered {
        path: place.path("run/hostname"),
        text: Some(format!("{host_name}\n")),
        mode: 0o644,
    });
    let keymap = keymap(place, settings).unwrap_or_else(|why| {
        complaints.push(why);
        None
    });
    let keymap = keymap.map(|keymap| format!("{MADE}KEYMAP={keymap}\n"));
    rendered.push(Rendered { path: run("vconsole.conf"), text: keymap, mode: 0o644 });
    let urls =
        settings.device.time_urls.as_ref().map(|urls| urls.iter().map(|url| format!("{url}\n")).collect());
    rendered.push(Rendered { path: run("time-urls"), text: urls, mode: 0o644 });
    // The next boot looks for it before there is anything below /run.
    rendered.push(Rendered {
        path: place.identity().join("journal-volatile"),
        text: settings.device.volatile_journal.then(String::new),
        mode: 0o600,
    });
    let daemon = daemon(settings, base).unwrap_or_else(|why| {
        complaints.push(why);
        base.to_owned()
    });
    rendered.push(Rendered { path: run("picloud.toml"), text: Some(daemon), mode: 0o644 });
    for file in rendered {
        let done = match &file.text {
            Some(text) => made(&file.path, text, file.mode),
            None => files::remove(&file.path),
        };
        complaints.extend(done.err().map(|why| format!("{} cannot be made: {why}", file.path.display())));
    }
    let zones = place.path("usr/share/zoneinfo");
    let mut zone = settings.device.timezone.as_deref().unwrap_or("UTC");
    if zones.is_dir() && !zones.join(zone).is_file() {
        // Old names that only other systems keep.
        complaints.push(format!("this system has no time zone {zone}: it goes by UTC"));
        zone = "UTC";
    }
    let linked = files::link(&format!("/usr/share/zoneinfo/{zone}"), &run("localtime"));
    complaints.extend(linked.err().map(|why| format!("the time zone cannot be set: {why}")));
    complaints
}

/// The layout of the console's keyboard; a system with layouts must have it.
fn keymap<'a>(place: &Place, settings: &'a Settings) -> Result<Option<&'a str>, String> {
    let Some(keymap) = settings.device.keymap.as_deref() else { return Ok(None) };
    let layouts = place.path("usr/share/keymaps");
    if layouts.is_dir() && !layouts.join(format!("{keymap}.kmap.gz")).is_file() {
        return Err(format!(
            "this system has no keyboard layout {keymap}: the console has the keys of a US keyboard; \
             ls /usr/share/keymaps tells which there are"
        ));
    }
    Ok(Some(keymap))
}

fn made(path: &Path, text: &str, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent().filter(|parent| !parent.is_dir()) {
        files::directory(parent, 0o755)?;
    }
    files::write(path, text.as_bytes(), mode)
}

fn networks(place: &Place, settings: &Settings) -> Vec<Rendered> {
    let networkd = place.path("run/systemd/network");
    let wifi = settings.wifi.as_ref();
    vec![
        Rendered {
            path: networkd.join("20-picloud-ethernet.network"),
            text: Some(network::ethernet(&settings.ethernet)),
            mode: 0o644,
        },
        Rendered {
            path: networkd.join("25-picloud-wireless.network"),
            text: wifi.map(|wifi| network::wireless(&wifi.network)),
            mode: 0o644,
        },
        Rendered {
            path: place.run().join("wpa_supplicant-wlan0.conf"),
            text: wifi.map(network::wpa_supplicant),
            mode: 0o600,
        },
    ]
}

/// Who may log in. sshd reads the keys as the user who logs in, so that they are not secret; nor are they by nature.
fn logins(place: &Place, settings: &Settings) -> Vec<Rendered> {
    let run = |name: &str| place.run().join(name);
    let ssh = &settings.ssh;
    let keys = (!ssh.authorized_keys.is_empty()).then(|| ssh.authorized_keys.join("\n") + "\n");
    let by_password = if ssh.takes_password() { "yes" } else { "no" };
    // A star is no hash: nobody gets in by a password (shadow(5)). The date of the last change is any but 0, which would
    // ask for a new one.
    let hash = ssh.password_hash.as_deref().unwrap_or("*");
    vec![
        Rendered { path: run("authorized_keys"), text: keys, mode: 0o644 },
        Rendered { path: run("ssh-enabled"), text: settings.has_ssh().then(String::new), mode: 0o644 },
        Rendered {
            path: run("sshd.conf"),
            text: Some(format!("{MADE}PasswordAuthentication {by_password}\n")),
            mode: 0o644,
        },
        Rendered {
            path: run("shadow-admin"),
            text: Some(format!("admin:{hash}:20000:0:99999:7:::\n")),
            mode: 0o600,
        },
    ]
}

/// What the device announces by multicast DNS (systemd.dnssd(5)).
fn services(place: &Place) -> Vec<Rendered> {
    let service = |kind: &str, port: u16| Rendered {
        path: place.path("run/systemd/dnssd").join(format!("picloud-{kind}.dnssd")),
        text: Some(format!("{MADE}[Service]\nName=%H\nType=_{kind}._tcp\nPort={port}\nTxtText=path=/\n")),
        mode: 0o644,
    };
    vec![service("http", 80), service("https", 443)]
}

/// The daemon's configuration: the image's, with the tables of the user in the place of its own keys. After an update or
/// a rollback a daemon may not take what another took: it then runs as the image says, and tells so.
fn daemon(settings: &Settings, base: &str) -> Result<String, String> {
    let mut table: toml::Table =
        toml::from_str(base).map_err(|why| format!("/{BASE} is not TOML: {}", why.message()))?;
    for (name, value) in &settings.daemon {
        lay(&mut table, name, value);
    }
    let text = toml::to_string(&table).map_err(|why| format!("the settings cannot be written: {why}"))?;
    let wrong = config::complaints(Path::new("picloud.toml"), "", &text, &[]);
    if wrong.is_empty() {
        return Ok(format!("{MADE}{text}"));
    }
    let wrong: Vec<String> = wrong.into_iter().map(|(_, why)| why).collect();
    Err(format!(
        "this version does not take the daemon's settings, and runs without them: {}",
        wrong.join("; ")
    ))
}

fn lay(table: &mut toml::Table, name: &str, value: &toml::Value) {
    match (table.get_mut(name), value) {
        (Some(toml::Value::Table(stands)), toml::Value::Table(new)) => {
            for (name, value) in new {
                lay(stands, name, value);
            }
        }
        _ => drop(table.insert(name.to_owned(), value.clone())),
    }
}
