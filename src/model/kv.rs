//! Names of values in the KV store of an app.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Invalid;

/// Longest key, in bytes.
pub const KV_KEY_BYTES_MAX: usize = 512;
/// Largest value, in bytes of its JSON text.
pub const KV_VALUE_BYTES_MAX: usize = 1024 * 1024;
/// Longest time that a value may be set to expire after: ten years.
pub const KV_TTL_MAX: Duration = Duration::from_secs(10 * 366 * 86_400);

/// The name of a value: 1 to [`KV_KEY_BYTES_MAX`] bytes of text without control characters. Any structure in it, such
/// as `user/7/name`, is the script's own; what begins alike is listed together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KvKey(Box<str>);

/// What keys may begin with: like a key, or empty for all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KvPrefix(Box<str>);

impl KvKey {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl KvPrefix {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a key begins with it.
    pub fn takes(&self, key: &KvKey) -> bool {
        key.0.starts_with(&*self.0)
    }
}

impl Borrow<str> for KvKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

fn check(text: &str) -> Result<(), Invalid> {
    if text.len() > KV_KEY_BYTES_MAX {
        return Err(Invalid(format!("is {} bytes long; a key has at most {KV_KEY_BYTES_MAX}", text.len())));
    }
    if text.chars().any(char::is_control) {
        return Err(Invalid("has a control character in it, which no key may have".into()));
    }
    Ok(())
}

impl FromStr for KvKey {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<KvKey, Invalid> {
        if text.is_empty() {
            return Err(Invalid("is empty; a key has at least one character".into()));
        }
        check(text)?;
        Ok(KvKey(text.into()))
    }
}

impl FromStr for KvPrefix {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<KvPrefix, Invalid> {
        check(text)?;
        Ok(KvPrefix(text.into()))
    }
}

impl TryFrom<String> for KvKey {
    type Error = Invalid;
    fn try_from(text: String) -> Result<KvKey, Invalid> {
        text.parse()
    }
}

impl TryFrom<String> for KvPrefix {
    type Error = Invalid;
    fn try_from(text: String) -> Result<KvPrefix, Invalid> {
        text.parse()
    }
}

impl From<KvKey> for String {
    fn from(key: KvKey) -> String {
        key.0.into()
    }
}

impl From<KvPrefix> for String {
    fn from(prefix: KvPrefix) -> String {
        prefix.0.into()
    }
}

impl fmt::Display for KvKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_text_of_bounded_length() {
        for good in ["a", "user/7", "ключ", &"x".repeat(512), " "] {
            assert_eq!(good.parse::<KvKey>().unwrap().as_str(), good);
        }
        for (bad, why) in [
            ("", "is empty"),
            ("a\0b", "control character"),
            ("a\nb", "control character"),
            (&*"x".repeat(513), "at most 512"),
            (&*"x".repeat(65_536), "65536 bytes"),
        ] {
            let said = bad.parse::<KvKey>().unwrap_err().to_string();
            assert!(said.contains(why), "{said}");
        }
        assert!("".parse::<KvPrefix>().unwrap().takes(&"a".parse().unwrap()));
        assert!(!"b".parse::<KvPrefix>().unwrap().takes(&"a".parse().unwrap()));
    }
}
