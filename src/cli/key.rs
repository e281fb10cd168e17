//! The api key: where it is looked for, and how its origin is told when it does not open.

use std::fmt;
use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::error::Error;
use super::input;

/// Where a daemon on this machine leaves its admin key: in the data directory of a desk, and in that of an appliance;
/// before that, where an appliance leaves one for root.
const ADMIN_KEYS: [&str; 3] =
    ["./picloud-data/admin.key", "/run/picloud-device/api-key", "/var/lib/picloud/admin.key"];

/// A key, or none, and where it came from. Never printed.
pub(super) struct Key {
    /// What is sent.
    pub(super) secret: Option<String>,
    origin: Origin,
}

enum Origin {
    File(PathBuf),
    Environment,
    Nowhere,
}

impl Key {
    /// Looks for a key: the named file, else the environment's, else the admin key of a daemon on this machine.
    /// That last one is only for a daemon on this machine: no other is to see it.
    pub(super) fn find(file: Option<&Path>, variable: Option<String>, url: &str) -> Result<Key, Error> {
        if let Some(path) = file {
            let unusable = |why: String| Error::File { path: path.to_owned(), why };
            let text = read(path).map_err(|why| unusable(why.to_string()))?;
            let secret =
                usable(&text).ok_or_else(|| unusable("it holds no api key on its first line".into()))?;
            return Ok(Key { secret: Some(secret), origin: Origin::File(path.to_owned()) });
        }
        if let Some(text) = variable {
            let secret =
                usable(&text).ok_or_else(|| Error::Usage("PICLOUD_API_KEY holds no api key".into()))?;
            return Ok(Key { secret: Some(secret), origin: Origin::Environment });
        }
        let found = ADMIN_KEYS.iter().filter(|_| is_this_machine(url)).find_map(|path| {
            let secret = read(Path::new(path)).ok().and_then(|text| usable(&text))?;
            Some(Key { secret: Some(secret), origin: Origin::File(PathBuf::from(path)) })
        });
        Ok(found.unwrap_or(Key { secret: None, origin: Origin::Nowhere }))
    }
}

fn read(path: &Path) -> io::Result<String> {
    let bytes = input::within(input::SECRET_BYTES_MAX, File::open(path)?)?;
    str::from_utf8(&bytes).map(str::to_owned).map_err(io::Error::other)
}

/// A key is one line of visible ASCII, so that it fits a header.
fn usable(text: &str) -> Option<String> {
    let line = text.trim();
    (!line.is_empty() && line.bytes().all(|byte| byte.is_ascii_graphic())).then(|| line.to_owned())
}

/// Whether a URL leads to the machine that it is used on.
pub(super) fn is_this_machine(url: &str) -> bool {
    let host =
        url.parse::<ureq::http::Uri>().ok().and_then(|uri| uri.host().map(str::to_owned)).unwrap_or_default();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Key {
    /// The key by its origin, after "refuses".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::File(path) => write!(f, "the api key in {}", path.display()),
            Origin::Environment => f.write_str("the api key in PICLOUD_API_KEY"),
            Origin::Nowhere => f.write_str("requests without an api key, and none was found"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_keys_stay_on_this_machine() {
        for url in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:80"] {
            assert!(is_this_machine(url), "{url}");
        }
        for url in ["http://192.168.1.7", "http://localhost.example.org", "http://pi.local:8080"] {
            assert!(!is_this_machine(url), "{url}");
        }
    }

    #[test]
    fn a_key_is_one_line() {
        assert_eq!(usable(" pc_abc\n").as_deref(), Some("pc_abc"));
        for bad in ["", "\n", "two lines\nhere", "a b", "ü"] {
            assert_eq!(usable(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn the_named_file_must_hold_a_key() {
        let error =
            Key::find(Some(Path::new("/nowhere/key")), None, "http://127.0.0.1").err().unwrap().to_string();
        assert!(error.starts_with("cannot read /nowhere/key"), "{error}");
        let error = Key::find(Some(Path::new("/dev/zero")), None, "http://127.0.0.1").err().unwrap();
        assert_eq!(error.to_string(), "cannot read /dev/zero: it has more than 65536 bytes");
        let key = Key::find(None, Some("pc_x".into()), "http://pi.local").unwrap();
        assert_eq!((key.secret.as_deref(), key.to_string().contains("pc_x")), (Some("pc_x"), false));
    }
}
