//! `picloud.toml` on the boot partition: what the device is to be, and the daemon's own tables.
//!
//! A table `ethernet` or `wifi`, or one of the daemon's, takes the place of the whole table that was set before; of the
//! other tables each key does so by itself, and an empty text takes a key back.

use std::path::Path;

use toml::de::DeTable;

use super::reader::{Reader, Secret, Section};
use super::settings::{Network, Settings, Wifi};
use super::values;
use crate::config;

/// The tables that are not the daemon's.
pub(super) const TABLES: [&str; 5] = ["device", "ethernet", "wifi", "ssh", "admin"];

const NETWORK: [&str; 3] = ["address", "gateway", "dns"];
const WIFI: [&str; 10] =
    ["ssid", "ssid_hex", "password", "psk", "wpa3", "country", "hidden", "address", "gateway", "dns"];
/// What the image decides, whatever the daemon would take.
const FIXED: [(&str, &str); 3] = [("server", "data_dir"), ("server", "listen"), ("tls", "listen")];

/// Lays the file over the settings. What it gives is only good if the reader found nothing wrong. `base` is the daemon's
/// configuration of the image.
pub(super) fn read(reader: &mut Reader<'_>, text: &str, before: &Settings, base: &str) -> Settings {
    let root = reader.parse();
    let mut settings = before.clone();
    if !reader.is_good() {
        return settings;
    }
    device(reader, &root, &mut settings);
    let ethernet = reader.section(&root, "ethernet", &NETWORK);
    if ethernet.is_there() {
        settings.ethernet = network(reader, ethernet);
    }
    let wifi = reader.section(&root, "wifi", &WIFI);
    if wifi.is_there() {
        settings.wifi =
            if wifi.is_empty() { None } else { Some(wireless(reader, wifi, before.wifi.as_ref())) };
    }
    ssh(reader, &root, &mut settings, before);
    let admin = reader.section(&root, "admin", &["key", "setup_code"]);
    if let Some(code) = reader.secret(admin, "setup_code", values::setup_code) {
        let stood = before.admin.setup_code.as_ref();
        settings.admin.setup_code = kept_or_new(reader, admin, "setup_code", code, stood);
    }
    if let Some(key) = reader.secret(admin, "key", values::admin_key) {
        settings.admin.key = kept_or_new(reader, admin, "key", key, before.admin.key.as_ref());
    }
    daemon(reader, &root, text, base, &mut settings);
    settings
}

fn device(reader: &mut Reader<'_>, root: &DeTable<'_>, settings: &mut Settings) {
    let device = reader.section(root, "device", &["hostname", "timezone", "keymap", "time_urls", "journal"]);
    // An empty text takes back what was set.
    let or_none = |read: fn(&str) -> values::Read<String>| {
        move |text: &str| if text.is_empty() { Ok(None) } else { read(text).map(Some) }
    };
    if let Some(name) = reader.text(device, "hostname", or_none(values::host_name)) {
        settings.device.hostname = name;
    }
    if let Some(zone) = reader.text(device, "timezone", or_none(values::time_zone)) {
        settings.device.timezone = zone;
    }
    if let Some(keymap) = reader.text(device, "keymap", or_none(values::keymap)) {
        settings.device.keymap = keymap;
    }
    if let Some(urls) = reader.list(device, "time_urls", 8, values::time_url) {
        settings.device.time_urls = Some(urls);
    }
    if let Some(is_volatile) = reader.text(device, "journal", values::journal) {
        settings.device.volatile_journal = is_volatile;
    }
}

/// The address of an interface.
fn network(reader: &mut Reader<'_>, section: Section<'_>) -> Network {
    let own = reader.text(section, "address", values::address);
    let gateway = match &own {
        Some(own) => reader.text(section, "gateway", |text| values::gateway(text, own)),
        None => {
            if section.has("gateway") && !section.has("address") {
                reader.wrong_key(section, "gateway", "needs an address of this device: set address, too");
            }
            None
        }
    };
    let dns = reader.list(section, "dns", 3, values::ip).unwrap_or_default();
    Network {
        address: own.map(|own| own.to_string()),
        gateway: gateway.map(|gateway| gateway.to_string()),
        dns: dns.iter().map(ToString::to_string).collect(),
    }
}

fn wireless(reader: &mut Reader<'_>, section: Section<'_>, before: Option<&Wifi>) -> Wifi {
    let ssid_hex = ssid(reader, section);
    let country = reader.text(section, "country", values::country);
    if !section.has("country") {
        reader.wrong_key(
            section,
            "country",
            "is missing: radio rules differ; set it to two letters like \"DE\"",
        );
    }
    // A secret that was removed from the file is that of the same network only.
    let same = before.filter(|before| Some(&before.ssid_hex) == ssid_hex.as_ref());
    let mut password = None;
    if let Some(secret) = reader.secret(section, "password", values::passphrase) {
        let stood = same.and_then(|same| same.password.as_ref());
        password = kept_or_new(reader, section, "password", secret, stood);
    }
    let mut psk = None;
    if let Some(secret) = reader.secret(section, "psk", values::psk) {
        psk = kept_or_new(reader, section, "psk", secret, same.and_then(|same| same.psk.as_ref()));
    }
    if password.is_some() && psk.is_some() {
        reader.wrong_key(section, "psk", "and password exclude each other: keep one of them");
    }
    let wpa3 = reader.flag(section, "wpa3").unwrap_or_default();
    if wpa3 && password.is_none() && reader.is_good() {
        reader.wrong_key(section, "wpa3", "needs the password in words: set password");
    }
    Wifi {
        ssid_hex: ssid_hex.unwrap_or_default(),
        password,
        psk,
        wpa3,
        country: country.unwrap_or_default(),
        hidden: reader.flag(section, "hidden").unwrap_or_default(),
        network: network(reader, section),
    }
}

/// The name of the network, said in one of the two ways.
pub(super) fn ssid(reader: &mut Reader<'_>, section: Section<'_>) -> Option<String> {
    match (section.has("ssid"), section.has("ssid_hex")) {
        (true, true) => {
            reader.wrong_key(section, "ssid_hex", "and ssid exclude each other: keep one of them")
        }
        (false, false) => reader.wrong_key(section, "ssid", "is missing: the name of the wireless network"),
        (true, false) => return reader.text(section, "ssid", values::ssid),
        (false, true) => return reader.text(section, "ssid_hex", values::ssid_hex),
    }
    None
}

fn ssh(reader: &mut Reader<'_>, root: &DeTable<'_>, settings: &mut Settings, before: &Settings) {
    let ssh = reader.section(root, "ssh", &["authorized_keys", "password_hash", "password_login"]);
    if let Some(keys) = reader.list(ssh, "authorized_keys", 32, values::public_key) {
        settings.ssh.authorized_keys = keys;
    }
    if let Some(hash) = reader.secret(ssh, "password_hash", values::password_hash) {
        let stood = before.ssh.password_hash.as_ref();
        settings.ssh.password_hash = kept_or_new(reader, ssh, "password_hash", hash, stood);
        settings.ssh.password_login = None;
    }
    settings.ssh.password_login = reader.flag(ssh, "password_login").or(settings.ssh.password_login);
}

/// The secret that is meant: an empty one is none, and one that was removed is the one that stands.
fn kept_or_new(
    reader: &mut Reader<'_>,
    section: Section<'_>,
    key: &str,
    secret: Secret,
    stands: Option<&String>,
) -> Option<String> {
    match secret {
        Secret::New(secret) => Some(secret).filter(|secret| !secret.is_empty()),
        Secret::Kept if stands.is_some() => stands.cloned(),
        Secret::Kept => {
            let why = "was removed when the file was applied, and nothing stands for it now: write it again";
            reader.wrong_key(section, key, why);
            None
        }
    }
}

/// The daemon's tables, as its own reader takes them.
fn daemon(reader: &mut Reader<'_>, root: &DeTable<'_>, text: &str, base: &str, settings: &mut Settings) {
    let sections = config::sections();
    for key in root.keys() {
        let name = key.get_ref().as_ref();
        if !TABLES.contains(&name) && !sections.contains(&name) {
            let daemons = sections.iter().copied().filter(|section| !TABLES.contains(section));
            let all: Vec<&str> = TABLES.iter().copied().chain(daemons).collect();
            let why = format!("unknown table or key {name}; the file has [{}]", all.join("], ["));
            reader.wrong(key.span().start, why);
        }
    }
    for (table, key) in FIXED {
        let inner = root.iter().find(|(name, _)| name.get_ref() == table).map(|(_, value)| value.get_ref());
        let keys = inner.and_then(|inner| inner.as_table()).into_iter().flat_map(|inner| inner.keys());
        for found in keys.filter(|found| found.get_ref() == key) {
            reader.wrong(found.span().start, format!("{table}.{key} is given by the image: leave it out"));
        }
    }
    let ours: Vec<&str> = root
        .keys()
        .map(|key| key.get_ref().as_ref())
        .filter(|name| TABLES.contains(name) || !sections.contains(name))
        .collect();
    for (line, why) in config::complaints(Path::new("picloud.toml"), base, text, &ours) {
        reader.wrong_line(line, why);
    }
    // The parser has taken the text once already.
    let parsed: toml::Table = toml::from_str(text).unwrap_or_default();
    for (name, value) in parsed.into_iter().filter(|(name, _)| !TABLES.contains(&name.as_str())) {
        settings.daemon.insert(name, value);
    }
}
