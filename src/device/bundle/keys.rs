//! The keys that updates are signed by: Ed25519 (RFC 8032), in PEM as openssl(1) writes it (RFC 8410).

use std::fs;
use std::path::Path;

use ring::signature::{ED25519, Ed25519KeyPair, UnparsedPublicKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};

use super::BundleError;

/// What stands before the 32 bytes of a public key (RFC 8410 4 and 10.1).
const SPKI_PREFIX: &[u8] = &[0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
const KEY_BYTES: usize = 32;

/// The public keys that a device trusts. Any of them may have signed: while one is replaced there are two.
#[derive(Clone, Debug)]
pub struct Keys(Vec<[u8; KEY_BYTES]>);

impl Keys {
    /// All keys in the `*.pem` files of a directory.
    ///
    /// # Errors
    /// If there is none, or a file holds something else: a key that is overlooked would be missed too late.
    pub fn of(directory: &Path) -> Result<Keys, BundleError> {
        let none = |why: String| BundleError::NoKeys(format!("{}: {why}", directory.display()));
        let entries = fs::read_dir(directory).map_err(|why| none(why.to_string()))?;
        let mut keys = Vec::new();
        for entry in entries {
            let path = entry.map_err(|why| none(why.to_string()))?.path();
            if path.extension().is_none_or(|extension| extension != "pem") {
                continue;
            }
            let found = public_keys(&fs::read(&path).map_err(|why| none(why.to_string()))?);
            let found = found
                .ok_or_else(|| none(format!("{} holds no Ed25519 public key in PEM", path.display())))?;
            keys.extend(found);
        }
        if keys.is_empty() { Err(none("it holds no *.pem".to_owned())) } else { Ok(Keys(keys)) }
    }

    /// Whether one of them signed exactly these bytes.
    pub(super) fn check(&self, message: &[u8], signature: &[u8]) -> Result<(), BundleError> {
        let fits =
            |key: &[u8; KEY_BYTES]| UnparsedPublicKey::new(&ED25519, key).verify(message, signature).is_ok();
        if self.0.iter().any(fits) { Ok(()) } else { Err(BundleError::WrongKey { keys: self.0.len() }) }
    }
}

/// The keys of a file; `None` if there is none or something else.
fn public_keys(pem: &[u8]) -> Option<Vec<[u8; KEY_BYTES]>> {
    let keys = SubjectPublicKeyInfoDer::pem_slice_iter(pem)
        .map(|der| der.ok()?.strip_prefix(SPKI_PREFIX)?.try_into().ok())
        .collect::<Option<Vec<_>>>()?;
    Some(keys).filter(|keys| !keys.is_empty())
}

/// A private key, to sign with.
pub(super) fn private_key(path: &Path) -> Result<Ed25519KeyPair, String> {
    let refused = |why: String| format!("{}: {why}", path.display());
    let der = PrivatePkcs8KeyDer::from_pem_file(path).map_err(|why| {
        refused(format!("no private key in PEM ({why}); make one with openssl genpkey -algorithm ed25519"))
    })?;
    // openssl(1) leaves the public key out, which is version 1 of the format (RFC 5958 2).
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der())
        .map_err(|why| refused(format!("no Ed25519 key: {why}")))
}
