//! Whose credentials a request carries.

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::router::RouteTable;
use crate::model::{Principal, UnixMs};

/// What is checked against besides the stored keys.
#[derive(Clone, Default)]
pub(super) struct Auth {
    device_key: Option<[u8; 32]>,
}

impl Auth {
    /// With the key that the daemon was started with, if any.
    pub(super) fn new(device_key: Option<&str>) -> Auth {
        Auth { device_key: device_key.map(hash_secret) }
    }

    /// Whose bearer token this is. An unknown or expired one is nobody's.
    pub(super) fn principal(&self, headers: &HeaderMap, table: &RouteTable) -> Option<Principal> {
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // Only hashes are compared: how long that takes says nothing about a secret.
        let hash = hash_secret(token.trim());
        if self.device_key.is_some_and(|device| bool::from(device.ct_eq(&hash))) {
            return Some(Principal { key_id: Uuid::nil(), name: "device".into() });
        }
        let key = table.key(&hash)?;
        let expired = key.expires_at.is_some_and(|at| at <= UnixMs::now());
        (!expired).then(|| Principal { key_id: key.id, name: key.name.to_string() })
    }
}

/// The form in which a key's secret is stored.
pub(super) fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}
