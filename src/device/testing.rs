//! A directory for tests, which goes when the test does.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};

use super::Place;

/// The file system of a slot, of so many blocks of 4 KiB: something, nothing, and something that does not compress.
pub(crate) fn slot(blocks: usize) -> Vec<u8> {
    let mut bytes = vec![0; blocks * 4096];
    bytes[..9].copy_from_slice(b"a system!");
    let mut state = 7_u32;
    for byte in bytes.iter_mut().skip(blocks * 2048) {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = state.to_be_bytes()[0];
    }
    bytes
}

/// A key that signs updates.
pub(crate) struct Signer(Vec<u8>);

impl Signer {
    pub(crate) fn new() -> Signer {
        Signer(Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).unwrap().as_ref().to_vec())
    }

    pub(crate) fn pair(&self) -> Ed25519KeyPair {
        Ed25519KeyPair::from_pkcs8(&self.0).unwrap()
    }

    pub(crate) fn private_pem(&self) -> String {
        pem("PRIVATE KEY", &self.0)
    }

    pub(crate) fn public_pem(&self) -> String {
        let prefix = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
        pem("PUBLIC KEY", &[prefix.as_slice(), self.pair().public_key().as_ref()].concat())
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

/// The directory.
pub(crate) struct Folder(PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("picloud-device-{}-{}", std::process::id(), COUNT.fetch_add(1, Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The device that lies in it.
    pub(crate) fn place(&self) -> Place {
        Place::below(&self.0)
    }

    /// Writes a file, with the directories above it.
    pub(crate) fn file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
