//! How people come in: the setup of a new device, login and logout, and who it is that asks.

use std::time::Instant;

use hyper::header::{HeaderMap, SET_COOKIE};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::input::Call;
use super::keys::{KeyView, new_secret};
use super::users::{UserView, session_secret};
use super::{Office, Outcome, no_randomness, not_allowed};
use crate::http::auth::Credentials;
use crate::http::clients::Client;
use crate::http::cookies::{self, Origin};
use crate::http::logins::WRONG_CODE_TAKES;
use crate::http::reply::{self, Refusal, Reply};
use crate::http::router::RouteTable;
use crate::model::{Email, Name, Password, UnixMs, User};
use crate::store::ChangeError;

/// Bytes of a body with a password.
pub(super) const BODY_BYTES_MAX: usize = 8 * 1024;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Setup {
    email: Email,
    password: Password,
    setup_code: Zeroizing<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Login {
    email: String,
    password: Zeroizing<String>,
}

/// A page of another origin may not even make its reader somebody else.
pub(super) fn refuse_other_pages(parts: &Parts, client: Client) -> Result<(), Refusal> {
    match cookies::origin(parts, client.is_secure) {
        Origin::Here | Origin::Unsaid => Ok(()),
        Origin::Elsewhere => Err(Refusal::new(StatusCode::FORBIDDEN, "this is not taken from another page")),
    }
}

impl Office {
    /// `POST /api/v1/setup`, once.
    pub(super) async fn set_up(&self, call: Call, client: Client) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("POST");
        }
        if !self.store.catalog().users.is_empty() {
            return Err(Refusal::new(StatusCode::CONFLICT, "this device has a user already: log in"));
        }
        let Setup { email, password, setup_code } = call.json_within(BODY_BYTES_MAX).await?;
        if !self.logins.is_setup_code(&setup_code, client.address, Instant::now())? {
            tracing::warn!(peer = %client.address, "a wrong setup code was tried");
            tokio::time::sleep(WRONG_CODE_TAKES).await;
            let message = "setup_code: this is not the code that the device shows";
            return Err(Refusal::new(StatusCode::FORBIDDEN, message));
        }
        let password = self.logins.passwords.hash(password).await?;
        let now = UnixMs::now();
        let user = User { id: self.store.new_id(), email, password, created_at: now, updated_at: now };
        let name = key_name(&user.email)?;
        let (key_secret, key) = new_secret(name, None, self.store.new_id(), now).map_err(no_randomness)?;
        let (secret, session) = session_secret(user.id, self.store.new_id(), now)?;
        let (user, key) = self.change(move |changes| changes.set_up(user, key, session)).await?;
        tracing::info!(user = %user.id, "the device is set up: its first user was made");
        let body = json!({ "user": UserView::of(&user), "api_key": KeyView::of(&key, Some(&key_secret)) });
        Ok(with_cookie(reply::json(StatusCode::CREATED, &body), Some(&secret), client))
    }

    /// `POST /api/v1/login`.
    pub(super) async fn log_in(&self, call: Call, client: Client) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("POST");
        }
        let Login { email, password } = call.json_within(BODY_BYTES_MAX).await?;
        let email = email.parse::<Email>().ok();
        let known = email.as_ref().map_or("", Email::as_str);
        let attempt = self.logins.attempt(known, client.address, Instant::now())?;
        let catalog = self.store.catalog();
        let user = email.and_then(|email| catalog.users.values().find(|user| user.email == email)).cloned();
        let kept = user.as_ref().map(|user| user.password.clone());
        let is_right = self.logins.passwords.verify(password, kept).await?;
        let wrong = || Refusal::new(StatusCode::UNAUTHORIZED, "e-mail or password is wrong");
        let Some(user) = user.filter(|_| is_right) else {
            tracing::warn!(peer = %client.address, "a login failed");
            return Err(wrong());
        };
        attempt.was_right();
        let (secret, session) = session_secret(user.id, self.store.new_id(), UnixMs::now())?;
        let password = user.password.clone();
        let begun = self
            .change(move |changes| match changes.create_session(session, &password) {
                // The user went, or got another password, a moment ago.
                Err(ChangeError::NotFound { .. }) => Ok(false),
                begun => begun.map(|()| true),
            })
            .await?;
        if !begun {
            return Err(wrong());
        }
        let body = json!({ "user": UserView::of(&user) });
        Ok(with_cookie(reply::json(StatusCode::OK, &body), Some(&secret), client))
    }

    /// `POST /api/v1/logout`: ends the session that comes along, if one does.
    pub(super) async fn log_out(
        &self,
        call: Call,
        headers: &HeaderMap,
        table: &RouteTable,
        client: Client,
    ) -> Outcome {
        if call.method != Method::POST {
            return not_allowed("POST");
        }
        if let Some((session, _)) = self.auth.session(headers, table) {
            let id = session.id;
            self.change(move |changes| match changes.delete_session(id) {
                // Somebody else ended it.
                Err(ChangeError::NotFound { .. }) => Ok(()),
                ended => ended,
            })
            .await?;
        }
        Ok(with_cookie(reply::empty(StatusCode::NO_CONTENT), None, client))
    }

    /// `GET /api/v1/me`: whom the credentials belong to, and what they are.
    pub(super) fn me(&self, call: &Call, credentials: &Credentials) -> Outcome {
        if call.method != Method::GET {
            return not_allowed("GET");
        }
        let body = match credentials {
            Credentials::Device => {
                json!({ "kind": "device", "user": null, "api_key": null, "session": null })
            }
            Credentials::Key(key) => {
                json!({ "kind": "api_key", "user": null, "api_key": KeyView::of(key, None), "session": null })
            }
            Credentials::Session(session, user) => json!({
                "kind": "session",
                "user": UserView::of(user),
                "api_key": null,
                "session": {
                    "id": session.id,
                    "created_at": session.created_at,
                    "expires_at": session.expires_at(),
                },
            }),
        };
        Ok(reply::json(StatusCode::OK, &body))
    }
}

/// What the key of a user is called: names are shorter than addresses.
fn key_name(email: &Email) -> Result<Name, Refusal> {
    let text: String = email.as_str().chars().take(100).collect();
    text.parse().map_err(|why| Refusal::invalid("email", why))
}

fn with_cookie(mut reply: Reply, secret: Option<&str>, client: Client) -> Reply {
    if let Some(cookie) = cookies::set(secret, client.is_secure) {
        reply.headers_mut().insert(SET_COOKIE, cookie);
    }
    reply
}
