//! Small validated texts: slugs, names, script sources and route methods.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Longest accepted script source, in bytes.
pub const SOURCE_BYTES_MAX: usize = 64 * 1024;

/// Why a text was refused; says what is allowed. The caller names the field.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Invalid(pub String);

/// Implements the string traits of a validated text: it is parsed wherever it is read.
macro_rules! validated {
    ($name:ident) => {
        impl $name {
            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Invalid;
            fn try_from(text: String) -> Result<$name, Invalid> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.as_ref().to_owned()
            }
        }
    };
}
pub(crate) use validated;

/// The short name of an app in URLs: 1 to 63 of `a-z`, `0-9` and `-`, no `-` at either end.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(Arc<str>);
validated!(Slug);

impl FromStr for Slug {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Slug, Invalid> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let fits = (1..=63).contains(&text.len()) && text.chars().all(allowed);
        if !fits || text.starts_with('-') || text.ends_with('-') {
            return Err(Invalid("must be 1 to 63 of a-z, 0-9 and '-', and not begin or end with '-'".into()));
        }
        // An id is accepted wherever a slug is, so a slug that reads as one would be ambiguous.
        if uuid::Uuid::try_parse(text).is_ok() {
            return Err(Invalid("must not look like an id".into()));
        }
        Ok(Slug(text.into()))
    }
}

/// A name for people: 1 to 100 characters without control characters, not blank.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<str>);
validated!(Name);

impl FromStr for Name {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Name, Invalid> {
        let length = text.chars().count();
        if text.trim().is_empty() || length > 100 || text.chars().any(char::is_control) {
            return Err(Invalid("must be 1 to 100 characters, not blank, without control characters".into()));
        }
        Ok(Name(text.into()))
    }
}

/// The source of a script: UTF-8, at most [`SOURCE_BYTES_MAX`]. That it compiles is for the script room to say.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ScriptSource(Arc<str>);
validated!(ScriptSource);

impl FromStr for ScriptSource {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<ScriptSource, Invalid> {
        if text.len() > SOURCE_BYTES_MAX {
            return Err(Invalid(format!(
                "is {} bytes long; a script may have {SOURCE_BYTES_MAX}",
                text.len()
            )));
        }
        Ok(ScriptSource(text.into()))
    }
}

/// The method a route answers: one method, or `ANY`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RouteMethod(Arc<str>);
validated!(RouteMethod);

impl RouteMethod {
    /// Whether this stands for every method.
    pub fn is_any(&self) -> bool {
        &*self.0 == "ANY"
    }
}

impl FromStr for RouteMethod {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<RouteMethod, Invalid> {
        // RFC 9110 9.1 allows any token; those that people use are upper-case letters and '-'.
        let allowed = |b: u8| b.is_ascii_alphabetic() || b == b'-';
        if text.is_empty() || text.len() > 32 || !text.bytes().all(allowed) {
            return Err(Invalid("must be ANY or an HTTP method like GET or POST".into()));
        }
        Ok(RouteMethod(text.to_ascii_uppercase().into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check<T: FromStr<Err = Invalid>>(good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(text.parse::<T>().is_ok(), "{text:?} was refused");
        }
        for text in bad {
            assert!(text.parse::<T>().is_err(), "{text:?} was accepted");
        }
    }

    #[test]
    fn slugs() {
        let long = "a".repeat(64);
        let id = "0192e4a0-7e5b-7000-8000-000000000000";
        check::<Slug>(&["a", "my-app", "a1", &long[..63]], &["", "-a", "a-", "A", "a b", "ü", &long, id]);
    }

    #[test]
    fn names() {
        let long = "ü".repeat(101);
        check::<Name>(&["Hello", "Grüße 7"], &["", "  ", "a\nb", "a\0", &long]);
    }

    #[test]
    fn methods() {
        check::<RouteMethod>(&["GET", "get", "ANY", "M-SEARCH"], &["", "GET ", "G/T", "*"]);
        assert_eq!("get".parse::<RouteMethod>().unwrap().as_str(), "GET");
    }

    #[test]
    fn sources() {
        let full = "x".repeat(SOURCE_BYTES_MAX);
        let over = "x".repeat(SOURCE_BYTES_MAX + 1);
        check::<ScriptSource>(&["", "1 + 1", &full], &[&over]);
    }
}
