//! Secrets of an app: what they are called, what they may hold, and how they are kept.
//!
//! A value is in the clear only between the one who sends it, the seal and the script that asks for it. It prints as
//! nothing, and is wiped when it goes.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::name::validated;
use super::{Invalid, UnixMs};

/// Longest name of a secret, in bytes.
pub const SECRET_NAME_BYTES_MAX: usize = 128;
/// Longest value of a secret, in bytes.
pub const SECRET_BYTES_MAX: usize = 64 * 1024;

/// The name of a secret: 1 to [`SECRET_NAME_BYTES_MAX`] of letters, digits, `_`, `.` and `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretName(Arc<str>);
validated!(SecretName);

impl FromStr for SecretName {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<SecretName, Invalid> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        if (1..=SECRET_NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(allowed) {
            return Ok(SecretName(text.into()));
        }
        Err(Invalid(format!(
            "must be 1 to {SECRET_NAME_BYTES_MAX} of A-Z, a-z, 0-9, '_', '.' and '-', like \"smtp.password\""
        )))
    }
}

impl Borrow<str> for SecretName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The value of a secret in the clear: 1 to [`SECRET_BYTES_MAX`] bytes of text.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SecretText(Zeroizing<String>);

impl SecretText {
    /// The value. Whoever takes it must neither log nor keep it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SecretText {
    type Error = Invalid;
    fn try_from(text: String) -> Result<SecretText, Invalid> {
        let text = Zeroizing::new(text);
        match text.len() {
            0 => Err(Invalid("is empty; a secret has at least one character".into())),
            bytes if bytes > SECRET_BYTES_MAX => {
                Err(Invalid(format!("is {bytes} bytes long; a secret has at most {SECRET_BYTES_MAX}")))
            }
            _ => Ok(SecretText(text)),
        }
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretText")
    }
}

/// A secret as it is kept; app and name are its key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret {
    /// The value, sealed.
    pub sealed: Vec<u8>,
    /// When it was first set.
    pub created_at: UnixMs,
    /// When it was last set.
    pub updated_at: UnixMs,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let longest = "x".repeat(SECRET_NAME_BYTES_MAX);
        for good in ["a", "API_KEY", "smtp.password", "a-b", "..", "0", &longest] {
            assert_eq!(good.parse::<SecretName>().unwrap().as_str(), good);
        }
        for bad in ["", " ", "a b", "a/b", "ü", "a\0", "a\n", "a:b", &format!("{longest}x")] {
            let said = bad.parse::<SecretName>().unwrap_err().to_string();
            assert!(said.contains("1 to 128"), "{bad:?}: {said}");
        }
    }

    #[test]
    fn values_are_bounded_and_print_as_nothing() {
        let text = |bytes: usize| SecretText::try_from("ü".repeat(bytes / 2));
        assert!(text(SECRET_BYTES_MAX).is_ok());
        for (bytes, why) in [(0, "is empty"), (SECRET_BYTES_MAX + 2, "at most 65536")] {
            assert!(text(bytes).unwrap_err().to_string().contains(why));
        }
        let printed = format!("{:?}", SecretText::try_from("hunter22".to_owned()).unwrap());
        assert!(!printed.contains("hunter"), "{printed}");
    }
}
