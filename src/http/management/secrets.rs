//! Secrets of an app. A value comes in and never goes out: it is sealed at once, and answers tell its name alone.

use hyper::{Method, StatusCode};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::input::{Call, List};
use super::{Office, Outcome, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::model::{Secret, SecretName, SecretText, UnixMs};
use crate::store::{Changes, Sealer};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewValue {
    value: SecretText,
}

/// A secret without its value.
#[derive(Serialize)]
struct SecretView {
    id: SecretName,
    name: SecretName,
    /// Whether this device can open it: not what another one sealed.
    usable: bool,
    created_at: UnixMs,
    updated_at: UnixMs,
}

impl SecretView {
    fn of(name: SecretName, secret: &Secret, sealer: &Sealer) -> SecretView {
        SecretView {
            id: name.clone(),
            name,
            usable: sealer.sealed(&secret.sealed),
            created_at: secret.created_at,
            updated_at: secret.updated_at,
        }
    }

    /// Where it is in the list; the newest is the greatest.
    fn place(&self) -> (i64, &str) {
        (self.created_at.0, self.name.as_str())
    }
}

impl Office {
    pub(super) async fn secrets(&self, call: Call, app: Uuid, rest: &[&str]) -> Outcome {
        match (&call.method, rest) {
            (&Method::GET, []) => self.secret_list(&call, app).await,
            (_, []) => not_allowed("GET"),
            (_, [name]) => self.secret(call, app, name).await,
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn secret_list(&self, call: &Call, app: Uuid) -> Outcome {
        let paging = call.paging()?;
        let before = paging.cursor.as_deref().map(parse_cursor).transpose()?;
        let all = self.read(move |snapshot| snapshot.secrets(app)).await?;
        let view = |(name, secret): (SecretName, Secret)| SecretView::of(name, &secret, &self.custody.sealer);
        let mut all: Vec<SecretView> = all.into_iter().map(view).collect();
        all.sort_by(|one, other| other.place().cmp(&one.place()));
        all.retain(|view| before.as_ref().is_none_or(|(at, name)| view.place() < (*at, name.as_str())));
        let more = all.len() > paging.limit;
        all.truncate(paging.limit);
        let last = all.last().filter(|_| more);
        let next_cursor = last.map(|view| format!("{}.{}", view.created_at.0, view.name));
        Ok(reply::json(StatusCode::OK, &List { items: all, next_cursor }))
    }

    async fn secret(&self, call: Call, app: Uuid, name: &str) -> Outcome {
        let name: SecretName = name.parse().map_err(|why| Refusal::invalid("name", why))?;
        match call.method {
            Method::GET => {
                let wanted = name.clone();
                let found = self.read(move |snapshot| snapshot.secret(app, &wanted)).await?;
                let found = found.ok_or_else(|| Refusal::not_found(format!("secret not found: {name}")))?;
                Ok(reply::json(StatusCode::OK, &SecretView::of(name, &found, &self.custody.sealer)))
            }
            Method::PUT => {
                let NewValue { value } = call.json().await?;
                let sealed = self.custody.sealer.seal(app, &name, &value).map_err(|error| {
                    tracing::error!(%error, "a secret could not be sealed");
                    Refusal::internal()
                })?;
                let own = name.clone();
                let put =
                    move |changes: &mut Changes<'_>| changes.put_secret(app, &own, sealed, UnixMs::now());
                let (secret, is_new) = self.change(put).await?;
                let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
                Ok(reply::json(status, &SecretView::of(name, &secret, &self.custody.sealer)))
            }
            Method::DELETE => {
                self.change(move |changes| changes.delete_secret(app, &name)).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PUT, DELETE"),
        }
    }
}

/// A cursor: when the last one of a page was made, and its name.
fn parse_cursor(text: &str) -> Result<(i64, String), Refusal> {
    let read = text.split_once('.').and_then(|(at, name)| Some((at.parse().ok()?, name.to_owned())));
    read.ok_or_else(|| Refusal::invalid("cursor", "must be the next_cursor of an earlier page"))
}
