//! `rpi-preseed.toml` on the boot partition: what Raspberry Pi Imager writes for an image whose `init_format` is
//! `rpi-preseed` (its customization_generator.cpp).
//!
//! Everything that it can say is known here. What has no meaning on this device is noted and does no harm: nobody chose
//! the file's format.

use super::ours;
use super::reader::{Reader, Secret};
use super::settings::{Network, Settings, Wifi};
use super::values;

/// The one user that can log in.
const LOGIN: &str = "admin";
/// The format that is known.
const VERSION: &str = "1.0";
const TABLES: [&str; 7] = ["system", "user", "ssh", "wlan", "locale", "connect", "interfaces"];

/// Lays the file over the settings. What it gives is only good if the reader found nothing wrong. The notes are for
/// people.
pub(super) fn read(reader: &mut Reader<'_>, before: &Settings, notes: &mut Vec<String>) -> Settings {
    reader.tolerate_unknown();
    let root = reader.parse();
    let mut settings = before.clone();
    if !reader.is_good() {
        return settings;
    }
    for (key, value) in root.iter() {
        let name = key.get_ref().as_ref();
        if name == "config_version" {
            if value.get_ref().as_str() != Some(VERSION) {
                reader.wrong(key.span().start, format!("config_version must be \"{VERSION}\""));
            }
        } else if !TABLES.contains(&name) {
            let why = format!("unknown key {name}; the file has config_version, [{}]", TABLES.join("], ["));
            reader.unknown(key.span().start, value, why);
        } else if matches!(name, "connect" | "interfaces") {
            // Their values may be secrets all the same.
            reader.unknown(key.span().start, value, format!("[{name}] has no meaning on this device"));
        }
    }
    let system = reader.section(&root, "system", &["hostname"]);
    if let Some(name) = reader.text(system, "hostname", values::host_name) {
        settings.device.hostname = Some(name);
    }
    let locale = reader.section(&root, "locale", &["keymap", "timezone"]);
    if let Some(zone) = reader.text(locale, "timezone", values::time_zone) {
        settings.device.timezone = Some(zone);
    }
    if let Some(keymap) = reader.text(locale, "keymap", values::keymap) {
        settings.device.keymap = Some(keymap);
    }
    login(reader, &root, &mut settings, notes);
    let known = ["ssid", "ssid_hex", "password", "password_encrypted", "hidden", "country"];
    let wlan = reader.section(&root, "wlan", &known);
    // A country alone unblocks the radio; without a network there is nothing to join.
    if wlan.has("ssid") || wlan.has("ssid_hex") || wlan.has("password") {
        settings.wifi = Some(wireless(reader, wlan, before.wifi.as_ref()));
    }
    notes.extend_from_slice(reader.notes());
    settings
}

fn login(
    reader: &mut Reader<'_>,
    root: &toml::de::DeTable<'_>,
    settings: &mut Settings,
    notes: &mut Vec<String>,
) {
    let known = ["name", "password", "password_encrypted", "groups", "passwordless_sudo"];
    let user = reader.section(root, "user", &known);
    let name = reader.text(user, "name", |text| Ok(text.to_owned()));
    // The name is shown on the console, so only if it is one.
    if let Some(name) = name.filter(|name| name != LOGIN && values::host_name(name).is_ok()) {
        notes.push(format!("the login of this device is {LOGIN}, not {name}"));
    }
    if user.has("password") && reader.flag(user, "password_encrypted") == Some(false) {
        reader.wrong_key(
            user,
            "password",
            "must be encrypted: set password_encrypted = true and give its hash",
        );
        return;
    }
    match reader.secret(user, "password", values::password_hash) {
        Some(Secret::New(hash)) => {
            // It is for the console, as long as nothing is said about ssh.
            settings.ssh.password_login = Some(settings.ssh.takes_password());
            settings.ssh.password_hash = Some(hash).filter(|hash| !hash.is_empty());
        }
        Some(Secret::Kept) | None => {}
    }
    let ssh = reader.section(root, "ssh", &["enabled", "password_authentication", "authorized_keys"]);
    if !ssh.is_there() {
        return;
    }
    let keys = reader.list(ssh, "authorized_keys", 32, values::public_key).unwrap_or_default();
    let enabled = reader.flag(ssh, "enabled");
    let by_password = reader.flag(ssh, "password_authentication").unwrap_or_default();
    let enabled = enabled.unwrap_or(by_password || !keys.is_empty());
    settings.ssh.authorized_keys = if enabled { keys } else { Vec::new() };
    settings.ssh.password_login = Some(enabled && by_password);
}

fn wireless(reader: &mut Reader<'_>, wlan: super::reader::Section<'_>, before: Option<&Wifi>) -> Wifi {
    let ssid_hex = ours::ssid(reader, wlan);
    // Imager keeps only the key that a password becomes, unless it was told not to.
    let encrypted = reader.flag(wlan, "password_encrypted").unwrap_or_default();
    let read = if encrypted { values::psk } else { values::passphrase };
    let same = before.filter(|before| Some(&before.ssid_hex) == ssid_hex.as_ref());
    let (password, psk) = match reader.secret(wlan, "password", read) {
        Some(Secret::New(secret)) if secret.is_empty() => (None, None),
        Some(Secret::New(secret)) if encrypted => (None, Some(secret)),
        Some(Secret::New(secret)) => (Some(secret), None),
        Some(Secret::Kept) => match same {
            Some(same) => (same.password.clone(), same.psk.clone()),
            None => {
                reader.wrong_key(wlan, "password", "was removed when the file was applied: write it again");
                (None, None)
            }
        },
        None => (None, None),
    };
    let country = reader.text(wlan, "country", values::country);
    if !wlan.has("country") {
        reader.wrong_key(wlan, "country", "is missing: choose the country of the wireless network in Imager");
    }
    Wifi {
        ssid_hex: ssid_hex.unwrap_or_default(),
        password,
        psk,
        wpa3: false,
        country: country.unwrap_or_default(),
        hidden: reader.flag(wlan, "hidden").unwrap_or_default(),
        network: before.map_or_else(Network::default, |before| before.network.clone()),
    }
}
