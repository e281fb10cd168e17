//! Users. A password is written, and never read back.

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::input::{Call, page_of};
use super::keys::random_secret;
use super::logins::BODY_BYTES_MAX;
use super::{Office, Outcome, no_randomness, not_allowed};
use crate::http::auth::{Credentials, hash_secret};
use crate::http::reply::{self, Refusal};
use crate::model::{Email, Password, Session, UnixMs, User};
use crate::store::UserPatch;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewUser {
    email: Email,
    password: Password,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Patch {
    email: Option<Email>,
    password: Option<Password>,
}

/// A user without what the password was made into.
#[derive(Serialize)]
pub(super) struct UserView<'a> {
    id: Uuid,
    email: &'a Email,
    created_at: UnixMs,
    updated_at: UnixMs,
}

impl UserView<'_> {
    pub(super) fn of(user: &User) -> UserView<'_> {
        let User { id, email, password: _, created_at, updated_at } = user;
        UserView { id: *id, email, created_at: *created_at, updated_at: *updated_at }
    }
}

/// A session of a user that begins now, and its secret.
pub(super) fn session_secret(user_id: Uuid, id: Uuid, now: UnixMs) -> Result<(String, Session), Refusal> {
    let secret = random_secret().map_err(no_randomness)?;
    let hash = hash_secret(&secret);
    Ok((secret, Session { id, user_id, hash, created_at: now, used_at: now }))
}

impl Office {
    pub(super) async fn users(&self, call: Call, credentials: &Credentials, rest: &[&str]) -> Outcome {
        match (&call.method, rest) {
            (&Method::GET, []) => {
                let (catalog, paging) = (self.store.catalog(), call.paging()?);
                let all = catalog.users.iter().map(|(id, user)| (*id, user.clone()));
                page_of(all, &paging, |user| serde_json::to_value(UserView::of(user)).unwrap_or_default())
            }
            (&Method::POST, []) => {
                let NewUser { email, password } = call.json_within(BODY_BYTES_MAX).await?;
                let password = self.logins.passwords.hash(password).await?;
                let now = UnixMs::now();
                let user =
                    User { id: self.store.new_id(), email, password, created_at: now, updated_at: now };
                let user = self.change(move |changes| changes.create_user(user)).await?;
                Ok(reply::json(StatusCode::CREATED, &UserView::of(&user)))
            }
            (_, []) => not_allowed("GET, POST"),
            (_, [id]) => self.user(call, credentials, id).await,
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn user(&self, call: Call, credentials: &Credentials, id: &str) -> Outcome {
        let catalog = self.store.catalog();
        let user = Uuid::try_parse(id).ok().and_then(|id| catalog.users.get(&id));
        let user = user.ok_or_else(|| Refusal::not_found(format!("user not found: {id}")))?;
        let id = user.id;
        match call.method {
            Method::GET => Ok(reply::json(StatusCode::OK, &UserView::of(user))),
            Method::PATCH => {
                let Patch { email, password } = call.json_within(BODY_BYTES_MAX).await?;
                let password = match password {
                    Some(password) => Some(self.logins.passwords.hash(password).await?),
                    None => None,
                };
                let own = match credentials {
                    Credentials::Session(session, _) => Some(session.id),
                    Credentials::Device | Credentials::Key(_) => None,
                };
                let patch = UserPatch { email, password };
                let user =
                    self.change(move |changes| changes.update_user(id, patch, own, UnixMs::now())).await?;
                Ok(reply::json(StatusCode::OK, &UserView::of(&user)))
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_user(id)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PATCH, DELETE"),
        }
    }
}
