//! Api keys. A secret is shown once; only its hash is stored.

use std::fmt::Write;

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::input::{Call, page_of};
use super::{Office, Outcome, no_randomness, not_allowed};
use crate::http::auth::hash_secret;
use crate::http::reply::{self, Refusal};
use crate::model::{KEY_PREFIX, Key, Name, UnixMs};
use crate::store::KeyPatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewKey {
    name: Name,
    expires_at: Option<UnixMs>,
}

/// A key without what would help a thief.
#[derive(Serialize)]
pub(super) struct KeyView<'a> {
    id: Uuid,
    name: &'a Name,
    hint: &'a str,
    expires_at: Option<UnixMs>,
    created_at: UnixMs,
    updated_at: UnixMs,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<&'a str>,
}

impl<'a> KeyView<'a> {
    pub(super) fn of(key: &'a Key, secret: Option<&'a str>) -> KeyView<'a> {
        let Key { id, name, hash: _, hint, expires_at, created_at, updated_at } = key;
        KeyView {
            id: *id,
            name,
            hint,
            expires_at: *expires_at,
            created_at: *created_at,
            updated_at: *updated_at,
            secret,
        }
    }
}

/// Makes a secret of 256 random bits, and the key that holds its hash.
pub fn new_secret(
    name: Name,
    expires_at: Option<UnixMs>,
    id: Uuid,
    now: UnixMs,
) -> Result<(String, Key), getrandom::Error> {
    let secret = format!("{KEY_PREFIX}{}", random_secret()?);
    let key = key_of(name, &secret, expires_at, id, now);
    Ok((secret, key))
}

/// 256 random bits, in hexadecimal.
pub(super) fn random_secret() -> Result<String, getrandom::Error> {
    let mut bits = [0u8; 32];
    getrandom::fill(&mut bits)?;
    let mut secret = String::with_capacity(68);
    for byte in bits {
        // Writing to a string does not fail.
        let _ = write!(secret, "{byte:02x}");
    }
    Ok(secret)
}

/// The key of a secret.
pub fn key_of(name: Name, secret: &str, expires_at: Option<UnixMs>, id: Uuid, now: UnixMs) -> Key {
    let (hash, hint) = (hash_secret(secret), secret.chars().take(10).chain(['…']).collect());
    Key { id, name, hash, hint, expires_at, created_at: now, updated_at: now }
}

impl Office {
    pub(super) async fn keys(&self, call: Call, rest: &[&str]) -> Outcome {
        match (&call.method, rest) {
            (&Method::GET, []) => {
                let (catalog, paging) = (self.store.catalog(), call.paging()?);
                let all = catalog.keys.iter().map(|(id, key)| (*id, key.clone()));
                page_of(all, &paging, |key| serde_json::to_value(KeyView::of(key, None)).unwrap_or_default())
            }
            (&Method::POST, []) => {
                let new: NewKey = call.json().await?;
                let (secret, key) = new_secret(new.name, new.expires_at, self.store.new_id(), UnixMs::now())
                    .map_err(no_randomness)?;
                let key = self.change(move |changes| changes.create_key(key)).await?;
                Ok(reply::json(StatusCode::CREATED, &KeyView::of(&key, Some(&secret))))
            }
            (_, []) => not_allowed("GET, POST"),
            (_, [id]) => self.key(call, id).await,
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn key(&self, call: Call, id: &str) -> Outcome {
        let catalog = self.store.catalog();
        let key = Uuid::try_parse(id).ok().and_then(|id| catalog.keys.get(&id));
        let key = key.ok_or_else(|| Refusal::not_found(format!("key not found: {id}")))?;
        let id = key.id;
        match call.method {
            Method::GET => Ok(reply::json(StatusCode::OK, &KeyView::of(key, None))),
            Method::PATCH => {
                let patch: KeyPatch = call.json().await?;
                let key = self.change(move |changes| changes.update_key(id, patch, UnixMs::now())).await?;
                Ok(reply::json(StatusCode::OK, &KeyView::of(&key, None)))
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_key(id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PATCH, DELETE"),
        }
    }
}
