//! Users: people who log in with an e-mail and a password, and the sessions that this begins.
//!
//! A password is in the clear only between the one who sends it and its hash. It prints as nothing, and is wiped when
//! it goes. Of a session only the hash of its secret is kept.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::name::validated;
use super::{Invalid, Principal, UnixMs};

/// Fewest bytes of a password.
pub const PASSWORD_BYTES_MIN: usize = 10;
/// Most bytes of a password.
pub const PASSWORD_BYTES_MAX: usize = 256;
/// The cookie that holds the secret of a session.
pub const SESSION_COOKIE: &str = "picloud_session";
/// The longest that a session lasts.
pub const SESSION_AGE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);
/// The longest that a session lasts without being used.
const SESSION_IDLE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Its use is noted so often: cards wear.
const SESSION_NOTE_EVERY: Duration = Duration::from_secs(3600);

/// An e-mail address, by which a user is found: in lower case, at most 254 bytes (RFC 5321 4.5.3.1). Whether anybody
/// reads mail there is not known.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Email(Arc<str>);
validated!(Email);

impl FromStr for Email {
    type Err = Invalid;
    fn from_str(text: &str) -> Result<Email, Invalid> {
        let bad = || Invalid("must be an e-mail address like ada@example.org, of at most 254 bytes".into());
        let text = text.to_lowercase();
        let (local, domain) = text.split_once('@').ok_or_else(bad)?;
        let odd = |c: char| c.is_whitespace() || c.is_control() || "@<>()[],;:\\\"".contains(c);
        let labels = domain.split('.').all(|label| !label.is_empty());
        if text.len() > 254
            || !(1..=64).contains(&local.len())
            || !labels
            || [local, domain].concat().contains(odd)
        {
            return Err(bad());
        }
        Ok(Email(text.into()))
    }
}

/// A password in the clear, of a length that is allowed.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Password(Zeroizing<String>);

impl Password {
    /// The password. Whoever takes it must neither log nor keep it.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Password {
    type Error = Invalid;
    fn try_from(text: String) -> Result<Password, Invalid> {
        let text = Zeroizing::new(text);
        if (PASSWORD_BYTES_MIN..=PASSWORD_BYTES_MAX).contains(&text.len()) {
            return Ok(Password(text));
        }
        Err(Invalid(format!(
            "must have {PASSWORD_BYTES_MIN} to {PASSWORD_BYTES_MAX} bytes, and has {}",
            text.len()
        )))
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password")
    }
}

/// A hash of a password, as a PHC string. It prints as nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PasswordHash(pub String);

impl fmt::Debug for PasswordHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PasswordHash")
    }
}

/// Somebody who may log in. Every user may do everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct User {
    /// Never changes.
    pub id: Uuid,
    /// Unique on the device.
    pub email: Email,
    /// Of the password.
    pub password: PasswordHash,
    /// When it was made.
    pub created_at: UnixMs,
    /// When it last changed.
    pub updated_at: UnixMs,
}

impl User {
    /// Whom requests of a session belong to.
    pub fn principal(&self) -> Principal {
        Principal { key_id: self.id, name: self.email.to_string() }
    }
}

/// What a login began and a logout ends.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Names it; no secret.
    pub id: Uuid,
    /// Whose.
    pub user_id: Uuid,
    /// SHA-256 of the secret, which has 256 random bits.
    pub hash: [u8; 32],
    /// When it began.
    pub created_at: UnixMs,
    /// When it was last used, to the hour.
    pub used_at: UnixMs,
}

impl Session {
    /// From then on it opens nothing, however much it is used.
    pub fn expires_at(&self) -> UnixMs {
        self.created_at.plus(SESSION_AGE_MAX)
    }

    /// Whether it opens nothing any more.
    pub fn is_over(&self, now: UnixMs) -> bool {
        now >= self.expires_at() || now >= self.used_at.plus(SESSION_IDLE_MAX)
    }

    /// Whether its use is to be noted again.
    pub fn wants_note(&self, now: UnixMs) -> bool {
        now.since(self.used_at) >= SESSION_NOTE_EVERY
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn emails() {
        let long = format!("{}@example.org", "a".repeat(64));
        for good in ["a@b", "Ada.L+x@Example.org", "ü@bücher.example", &long] {
            assert_eq!(good.parse::<Email>().unwrap().as_str(), good.to_lowercase());
        }
        let far = format!("a@{}", "b".repeat(253));
        for bad in [
            "",
            "a",
            "@b",
            "a@",
            "a@b@c",
            "a b@c",
            "a@b..c",
            "a@.b",
            "a\n@b",
            "<a@b>",
            &format!("a{long}"),
            &far,
        ] {
            assert!(bad.parse::<Email>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn passwords_are_bounded_and_print_as_nothing() {
        for (bytes, good) in [(0, false), (9, false), (10, true), (256, true), (257, false)] {
            assert_eq!(Password::try_from("p".repeat(bytes)).is_ok(), good, "{bytes}");
        }
        let said = Password::try_from("hunter22".to_owned()).unwrap_err().to_string();
        assert_eq!(said, "must have 10 to 256 bytes, and has 8");
        let shown = (Password::try_from("hunter2222".to_owned()).unwrap(), PasswordHash("$argon2id".into()));
        assert_eq!(format!("{shown:?}"), "(Password, PasswordHash)");
    }

    #[test]
    fn a_session_ends_when_it_is_old_or_idle() {
        const HOUR: i64 = 3_600_000;
        let session = |used_at| Session {
            id: Uuid::nil(),
            user_id: Uuid::nil(),
            hash: [0; 32],
            created_at: UnixMs(0),
            used_at: UnixMs(used_at),
        };
        for (used_hours, now_hours, over, note) in [
            (0, 0, false, false),
            (0, 1, false, true),
            (0, 7 * 24 - 1, false, true),
            (0, 7 * 24, true, true),
            (7 * 24, 8 * 24, false, true),
            (30 * 24 - 1, 30 * 24, true, true),
            // A clock that was set back ends nothing, and does not count as use.
            (5, 2, false, false),
        ] {
            let (session, now) = (session(used_hours * HOUR), UnixMs(now_hours * HOUR));
            let found = (session.is_over(now), session.wants_note(now));
            assert_eq!(found, (over, note), "used at {used_hours} h, now {now_hours} h");
        }
    }
}
