//! Whose credentials a request carries: an api key, or else the cookie of a session.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use hyper::http::request::Parts;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

use super::cookies;
use super::router::RouteTable;
use crate::model::{Key, Principal, Session, UnixMs, User};
use crate::store::Store;

/// Between two notes of the use of sessions, all together.
const NOTE_EVERY_MS: i64 = 1000;

/// What is checked against besides what is stored.
#[derive(Clone)]
pub(super) struct Auth {
    device_key: Option<[u8; 32]>,
    store: Store,
    noted_at: Arc<AtomicI64>,
}

/// Credentials that open something.
pub(super) enum Credentials {
    /// The key that the daemon was started with.
    Device,
    /// A key.
    Key(Arc<Key>),
    /// A session, and whose it is.
    Session(Arc<Session>, Arc<User>),
}

impl Credentials {
    /// Whose they are.
    pub(super) fn principal(&self) -> Principal {
        match self {
            Credentials::Device => Principal { key_id: Uuid::nil(), name: "device".into() },
            Credentials::Key(key) => Principal { key_id: key.id, name: key.name.to_string() },
            Credentials::Session(_, user) => user.principal(),
        }
    }
}

impl Auth {
    /// With the key that the daemon was started with, if any. The use of sessions is noted in `store`.
    pub(super) fn new(device_key: Option<&str>, store: Store) -> Auth {
        Auth { device_key: device_key.map(hash_secret), store, noted_at: Arc::default() }
    }

    /// The credentials of a request. Unknown and expired ones are nobody's.
    pub(super) fn credentials(&self, headers: &HeaderMap, table: &RouteTable) -> Option<Credentials> {
        self.key(headers, table).or_else(|| {
            let (session, user) = self.session(headers, table)?;
            Some(Credentials::Session(session, user))
        })
    }

    /// Whom a request of the data plane belongs to. A session counts only if the request was meant by its user.
    pub(super) fn principal(&self, parts: &Parts, table: &RouteTable, is_secure: bool) -> Option<Principal> {
        let credentials = self.credentials(&parts.headers, table)?;
        match &credentials {
            Credentials::Session(..) if !cookies::may_use_session(parts, is_secure) => None,
            Credentials::Device | Credentials::Key(_) | Credentials::Session(..) => {
                Some(credentials.principal())
            }
        }
    }

    fn key(&self, headers: &HeaderMap, table: &RouteTable) -> Option<Credentials> {
        let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
        let (scheme, token) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        // Only hashes are compared: how long that takes says nothing about a secret.
        let hash = hash_secret(token.trim());
        if self.device_key.is_some_and(|device| bool::from(device.ct_eq(&hash))) {
            return Some(Credentials::Device);
        }
        let key = table.key(&hash)?;
        let expired = key.expires_at.is_some_and(|at| at <= UnixMs::now());
        (!expired).then(|| Credentials::Key(key.clone()))
    }

    /// The session of a request, whatever else it brings.
    pub(super) fn session(
        &self,
        headers: &HeaderMap,
        table: &RouteTable,
    ) -> Option<(Arc<Session>, Arc<User>)> {
        let secret = cookies::session(headers)?;
        let (session, user) = table.session(&hash_secret(secret))?;
        let now = UnixMs::now();
        if session.is_over(now) {
            return None;
        }
        if session.wants_note(now) {
            self.note(session.id, now);
        }
        Some((session.clone(), user.clone()))
    }

    /// Notes that a session is used. Nobody waits for it, and a card that takes nothing is not asked at each request.
    fn note(&self, id: Uuid, now: UnixMs) {
        let noted_at = self.noted_at.load(Relaxed);
        let is_due = !(0..NOTE_EVERY_MS).contains(&now.0.saturating_sub(noted_at));
        if is_due && self.noted_at.compare_exchange(noted_at, now.0, Relaxed, Relaxed).is_ok() {
            self.store.change(move |changes| changes.note_session(id, now), drop);
        }
    }
}

/// The form in which a secret of a key or a session is stored.
pub(super) fn hash_secret(secret: &str) -> [u8; 32] {
    Sha256::digest(secret.as_bytes()).into()
}
