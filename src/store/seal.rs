//! The seal of secrets: AES-256-GCM under the device's key.
//!
//! A sealed value is `format:u8 mark:8 nonce:12 ciphertext tag:16`. The mark names the key without telling it, so that
//! "sealed by another device" is told apart from "damaged". The app, the name of the secret and the head are
//! authenticated with the value: moved under another name or into another app, it does not open. Each sealing draws a
//! random nonce; 2^32 of them under one key are safe (NIST SP 800-38D 8.3). The desk that sets secrets seals, the SDK
//! and a restore open. Nothing here prints a key or a value.

use std::fmt;
use std::sync::Arc;

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use sha2::{Digest, Sha256};
use uuid::Uuid;
use zeroize::Zeroizing;

use crate::model::{SecretName, SecretText};

/// Bytes of a device's key.
pub const DEVICE_KEY_BYTES: usize = 32;

const FORMAT: u8 = 1;
const MARK_BYTES: usize = 8;
const HEAD_BYTES: usize = 1 + MARK_BYTES;

/// Seals and opens with one key. Cheap to clone.
#[derive(Clone)]
pub struct Sealer(Arc<Inner>);

struct Inner {
    key: Zeroizing<[u8; DEVICE_KEY_BYTES]>,
    head: [u8; HEAD_BYTES],
    cipher: LessSafeKey,
}

/// Why a sealed value was not opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unopened {
    /// It was sealed with another key.
    #[error("was sealed with another device's key, and this device cannot open it: set it again")]
    OtherKey,
    /// It is not what was sealed.
    #[error("is damaged: set it again")]
    Damaged,
}

/// The system gave no random numbers.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the system gave no random numbers")]
pub struct NoRandomness;

impl Sealer {
    /// The sealer of a device with this key.
    pub fn new(key: Zeroizing<[u8; DEVICE_KEY_BYTES]>) -> Sealer {
        let cipher = UnboundKey::new(&AES_256_GCM, &*key).expect("the key is as long as the cipher's");
        let mut head = [FORMAT; HEAD_BYTES];
        let hash = Sha256::new().chain_update(b"picloud device key mark").chain_update(*key).finalize();
        head[1..].copy_from_slice(&hash[..MARK_BYTES]);
        Sealer(Arc::new(Inner { key, head, cipher: LessSafeKey::new(cipher) }))
    }

    /// Seals the value of a secret of this app.
    ///
    /// # Errors
    /// If the system gives no random numbers.
    pub fn seal(&self, app: Uuid, name: &SecretName, plain: &SecretText) -> Result<Vec<u8>, NoRandomness> {
        let mut nonce = [0; NONCE_LEN];
        getrandom::fill(&mut nonce).map_err(|_| NoRandomness)?;
        let mut body = plain.expose().as_bytes().to_vec();
        let aad = self.aad(app, name);
        let sealed =
            self.0.cipher.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut body);
        sealed.expect("a value is far shorter than the cipher's limit");
        Ok([&self.0.head[..], &nonce, &body].concat())
    }

    /// Opens what was sealed under this app and name.
    ///
    /// # Errors
    /// If it was sealed with another key, or is not what was sealed.
    pub fn open(&self, app: Uuid, name: &SecretName, sealed: &[u8]) -> Result<SecretText, Unopened> {
        let (head, rest) = sealed.split_at_checked(HEAD_BYTES).ok_or(Unopened::Damaged)?;
        if head[0] != FORMAT {
            return Err(Unopened::Damaged);
        }
        if head != self.0.head {
            return Err(Unopened::OtherKey);
        }
        let (nonce, body) = rest.split_first_chunk::<NONCE_LEN>().ok_or(Unopened::Damaged)?;
        // Wiped when it goes: the value is opened in place.
        let mut body = Zeroizing::new(body.to_vec());
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.0.cipher.open_in_place(nonce, self.aad(app, name), &mut body);
        let text =
            std::str::from_utf8(opened.map_err(|_| Unopened::Damaged)?).map_err(|_| Unopened::Damaged)?;
        SecretText::try_from(text.to_owned()).map_err(|_| Unopened::Damaged)
    }

    /// Whether a value was sealed with this key, as far as can be told without opening it.
    pub fn sealed(&self, sealed: &[u8]) -> bool {
        sealed.starts_with(&self.0.head)
    }

    /// The key, for a backup that is to open elsewhere.
    pub(crate) fn key(&self) -> &[u8; DEVICE_KEY_BYTES] {
        &self.0.key
    }

    fn aad(&self, app: Uuid, name: &SecretName) -> Aad<Vec<u8>> {
        // The parts before the name have fixed lengths: no two pairs of app and name are alike.
        Aad::from([&self.0.head[..], app.as_bytes(), name.as_str().as_bytes()].concat())
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Sealer")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const APP: Uuid = Uuid::from_u128(1);

    fn sealer(byte: u8) -> Sealer {
        Sealer::new(Zeroizing::new([byte; DEVICE_KEY_BYTES]))
    }

    fn name(text: &str) -> SecretName {
        text.parse().unwrap()
    }

    fn plain(text: &str) -> SecretText {
        text.to_owned().try_into().unwrap()
    }

    #[test]
    fn what_was_sealed_opens_and_hides_what_it_holds() {
        let longest = "x".repeat(crate::model::SECRET_BYTES_MAX);
        for text in ["a", "pässword \0 \"\n", &longest] {
            let sealed = sealer(1).seal(APP, &name("n"), &plain(text)).unwrap();
            assert_eq!(sealer(1).open(APP, &name("n"), &sealed).unwrap(), plain(text));
            assert_eq!(sealed.len(), text.len() + 37);
            assert!(text.len() < 8 || !sealed.windows(8).any(|window| text.as_bytes().starts_with(window)));
        }
        let twice = || sealer(1).seal(APP, &name("n"), &plain("a")).unwrap();
        assert_ne!(twice(), twice(), "each has a nonce of its own");
        assert_eq!(format!("{:?}", sealer(7)), "Sealer");
    }

    #[test]
    fn under_another_name_app_or_key_it_stays_shut() {
        let sealed = sealer(1).seal(APP, &name("n"), &plain("value")).unwrap();
        let other = Uuid::from_u128(2);
        for (key, app, name, why) in [
            (1, APP, name("m"), Unopened::Damaged),
            (1, APP, name("nn"), Unopened::Damaged),
            (1, other, name("n"), Unopened::Damaged),
            (2, APP, name("n"), Unopened::OtherKey),
        ] {
            assert_eq!(sealer(key).open(app, &name, &sealed).unwrap_err(), why, "{key} {app} {name}");
        }
        assert!(sealer(1).sealed(&sealed) && !sealer(2).sealed(&sealed));
    }

    #[test]
    fn no_byte_of_it_can_be_changed_cut_or_added() {
        let sealed = sealer(1).seal(APP, &name("n"), &plain("value")).unwrap();
        for at in 0..sealed.len() {
            for bit in 0..8 {
                let mut changed = sealed.clone();
                changed[at] ^= 1 << bit;
                let in_mark = (1..HEAD_BYTES).contains(&at);
                let why = if in_mark { Unopened::OtherKey } else { Unopened::Damaged };
                assert_eq!(sealer(1).open(APP, &name("n"), &changed).unwrap_err(), why, "byte {at}");
            }
            assert!(sealer(1).open(APP, &name("n"), &sealed[..at]).is_err(), "cut at {at}");
        }
        assert!(sealer(1).open(APP, &name("n"), &[&sealed[..], b"x"].concat()).is_err());
    }
}
