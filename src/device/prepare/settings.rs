//! What one device was told to be: the merged content of all provisioning files, kept in the identity.
//!
//! The file is for root only. Keys that this version does not know are passed over: after a rollback an older one reads
//! what a newer one wrote.

use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::files;
use crate::device::Place;

/// A file of settings is no larger than the provisioning files that it came from.
const BYTES_MAX: u64 = 256 * 1024;

/// Everything that was set.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Settings {
    pub(super) device: Device,
    pub(super) ethernet: Network,
    pub(super) wifi: Option<Wifi>,
    pub(super) ssh: Ssh,
    pub(super) admin: Admin,
    /// The daemon's own tables, as they were written.
    pub(super) daemon: toml::Table,
}

/// The device itself.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Device {
    pub(super) hostname: Option<String>,
    pub(super) timezone: Option<String>,
    pub(super) keymap: Option<String>,
    pub(super) time_urls: Option<Vec<String>>,
    /// Whether the journal is in memory only, and the card is spared.
    pub(super) volatile_journal: bool,
}

/// The address of an interface; without one it asks the network.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Network {
    pub(super) address: Option<String>,
    pub(super) gateway: Option<String>,
    pub(super) dns: Vec<String>,
}

/// A wireless network. Without a password and a key it is an open one.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Wifi {
    pub(super) ssid_hex: String,
    pub(super) password: Option<String>,
    pub(super) psk: Option<String>,
    pub(super) wpa3: bool,
    pub(super) country: String,
    pub(super) hidden: bool,
    pub(super) network: Network,
}

/// Who may log in.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Ssh {
    pub(super) authorized_keys: Vec<String>,
    pub(super) password_hash: Option<String>,
    /// Whether the password opens the network's door, too, and not only that of the console; if not said, where no key does.
    pub(super) password_login: Option<bool>,
}

impl Ssh {
    pub(super) fn takes_password(&self) -> bool {
        self.password_hash.is_some() && self.password_login.unwrap_or(self.authorized_keys.is_empty())
    }
}

/// Who may manage.
#[derive(Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Admin {
    pub(super) key: Option<String>,
    /// The code by which the first user is made, if it was chosen.
    pub(super) setup_code: Option<String>,
}

impl Settings {
    /// Those of a device; a device that was told nothing has none.
    ///
    /// # Errors
    /// If there are some that cannot be read. They are for a person to look at, and stay until a provisioning file
    /// replaces them.
    pub(super) fn load(place: &Place) -> Result<Settings, String> {
        let path = path(place);
        let text = match files::read(&path, BYTES_MAX) {
            Ok(bytes) => String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_owned()),
            Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(Settings::default()),
            Err(why) => Err(why.to_string()),
        };
        let read = text.and_then(|text| {
            // The parser's long message would repeat a line of the file, which may hold a secret.
            toml::from_str(&text).map_err(|why: toml::de::Error| why.message().to_owned())
        });
        read.map_err(|why| {
            format!("the settings in {} cannot be read and are not used: {why}", path.display())
        })
    }

    /// Keeps them.
    ///
    /// # Errors
    /// If the card does not take them; what was there stays.
    pub(super) fn store(&self, place: &Place) -> io::Result<()> {
        let text = toml::to_string(self).map_err(io::Error::other)?;
        files::write(&path(place), text.as_bytes(), 0o600)
    }

    /// Whether anybody may come in by the network.
    pub(super) fn has_ssh(&self) -> bool {
        !self.ssh.authorized_keys.is_empty() || self.ssh.takes_password()
    }
}

/// Where they are.
fn path(place: &Place) -> PathBuf {
    place.identity().join("settings.toml")
}
