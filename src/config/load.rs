//! Loading: the file is found, the layers are laid, the flags have the last word.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::layers::{Layers, Origin};
use super::{Config, file, rules};

/// Where the configuration is when nobody says otherwise; it need not exist.
pub const DEFAULT_PATH: &str = "/etc/picloud/picloud.toml";

/// The variable with the directory that systemd gives to a service for its data (systemd.exec(5), StateDirectory=). It is
/// the default there.
const STATE_DIRECTORY: &str = "STATE_DIRECTORY";

/// What the command line says; it beats everything else.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Overrides {
    /// Replaces `server.data_dir`.
    pub data_dir: Option<PathBuf>,
    /// Replaces `server.listen`, unless empty.
    pub listen: Vec<SocketAddr>,
    /// Replaces `tls.listen`, unless empty.
    pub listen_tls: Vec<SocketAddr>,
}

/// Where the configuration comes from. It can be read again, for a reload.
#[derive(Clone, Default)]
pub struct Source {
    /// The file that was named.
    pub path: Option<PathBuf>,
    /// The environment of the process. It may hold secrets that are no part of the configuration.
    pub environment: Vec<(OsString, OsString)>,
    /// What the command line says.
    pub flags: Overrides,
}

impl Source {
    /// Reads it, as [`Config::load`] does.
    ///
    /// # Errors
    /// Those of [`Config::load`].
    pub fn load(&self) -> Result<Config, Error> {
        Config::load(self.path.as_deref(), self.environment.iter().cloned(), self.flags.clone())
    }
}

/// Why there is no configuration. Each message names the place, the key and what is allowed, and fits a line.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("cannot read {}: {why}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        why: String,
    },
    /// The file is no TOML.
    #[error("{}:{line}: {why}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// What the parser said.
        why: String,
    },
    /// Nobody knows the key.
    #[error("{place}: unknown key {key}{hint}")]
    UnknownKey {
        /// File and line.
        place: String,
        /// The key with its tables.
        key: String,
        /// What could have been meant.
        hint: String,
    },
    /// No key has this environment variable.
    #[error("environment {0}: unknown variable; the keys of the configuration are listed in picloud.toml")]
    UnknownVariable(String),
    /// The value is not allowed.
    #[error("{place}: {key} {allowed}")]
    Value {
        /// File and line, or the variable.
        place: String,
        /// The key with its tables.
        key: String,
        /// What it must be.
        allowed: String,
    },
    /// The keys and their types disagree, which the tests rule out.
    #[error("the configuration does not fit its own keys: {0}")]
    Broken(String),
}

impl Config {
    /// Reads the configuration. The file is [`find`]`(path)`; `environment` is that of the process.
    ///
    /// # Errors
    /// If a file was named or found and cannot be read, or if anything in it or in the environment is wrong.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        flags: Overrides,
    ) -> Result<Config, Error> {
        let mut layers = Layers::new()?;
        if let Some(path) = find(path) {
            file::lay(&mut layers, &path)?;
        }
        assemble(layers, environment, flags)
    }
}

/// Everything that is wrong with the daemon's tables of a file, by line (from 1), where `base` is the text of the file that
/// they are laid over. The tables in `others` are somebody else's.
pub fn complaints(path: &Path, base: &str, text: &str, others: &[&str]) -> Vec<(usize, String)> {
    let mut layers = match Layers::new() {
        Ok(layers) => layers,
        Err(why) => return vec![(1, why.to_string())],
    };
    // What is wrong with the base is not the fault of this file.
    let _ = file::lay_tables(&mut layers, Path::new("base"), base, &[]);
    let mut all = file::lay_tables(&mut layers, path, text, others);
    if all.is_empty() {
        all.extend(layers.finish().err());
    }
    let begin = format!("{}:", path.display());
    all.iter().map(|error| by_line(&error.to_string(), &begin)).collect()
}

/// A message that begins with file and line, taken apart.
fn by_line(message: &str, begin: &str) -> (usize, String) {
    let apart = message.strip_prefix(begin).and_then(|rest| rest.split_once(": "));
    let found = apart.and_then(|(line, why)| Some((line.parse().ok()?, why.to_owned())));
    found.unwrap_or_else(|| (1, message.to_owned()))
}

/// The file that is read: the one that was named, else [`DEFAULT_PATH`] if it is there, else none.
pub fn find(path: Option<&Path>) -> Option<PathBuf> {
    let default = Path::new(DEFAULT_PATH);
    // A file that exists but may not be looked at is an error when it is read, not a silent default.
    path.map(Path::to_owned)
        .or_else(|| (!matches!(default.try_exists(), Ok(false))).then(|| default.to_owned()))
}

/// Lays the environment over what is there, and then the flags.
pub(super) fn assemble(
    mut layers: Layers,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    flags: Overrides,
) -> Result<Config, Error> {
    for (name, text) in environment {
        if name == STATE_DIRECTORY {
            layers.lay_default("server.data_dir", text.to_str().filter(|path| !path.contains(':')));
            continue;
        }
        lay_variable(&mut layers, &name, &text)?;
    }
    let mut config = layers.finish()?;
    if !flags.listen.is_empty() {
        config.server.listen = flags.listen;
    }
    if !flags.listen_tls.is_empty() {
        config.tls.listen = flags.listen_tls;
    }
    if let Some(data_dir) = flags.data_dir {
        config.server.data_dir = data_dir;
    }
    Ok(config)
}

/// Lays one variable if it is ours. Only names that begin like a section are: others, such as PICLOUD_URL and
/// PICLOUD_API_KEY, are no part of the configuration.
fn lay_variable(layers: &mut Layers, name: &OsString, text: &OsString) -> Result<(), Error> {
    let Some(name) = name.to_str().filter(|name| name.starts_with("PICLOUD_")) else { return Ok(()) };
    let Some((key, rule)) = rules::RULES.iter().find(|(key, _)| rules::env_name(key) == name) else {
        let section = |key: &str| key.split('.').next().map(|section| rules::env_name(section) + "_");
        let ours =
            rules::RULES.iter().filter_map(|(key, _)| section(key)).any(|prefix| name.starts_with(&prefix));
        return if ours { Err(Error::UnknownVariable(name.to_owned())) } else { Ok(()) };
    };
    let origin = Origin::Environment(name.to_owned());
    match text.to_str() {
        Some(text) => layers.lay(key, rule.read(text), origin),
        None => Err(Error::Value {
            place: origin.to_string(),
            key: (*key).into(),
            allowed: "must be UTF-8".into(),
        }),
    }
}
