//! Values of an app. A key is all of the path behind `/kv/`, slashes and escapes included.
//!
//! A change is made as a run makes it: read, changed and committed as one, with the triggers that follow from it; if
//! somebody was faster it is made again.

use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::input::{Call, List, Paging};
use super::{Office, Outcome, blocking, broken, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::model::{KV_TTL_MAX, KV_VALUE_BYTES_MAX, KvKey, KvPrefix, UnixMs};
use crate::store::kv::{Found, Put, Refused, View, ViewError};
use crate::store::{Error, Store};

/// A value of the largest size, and what its escapes and the fields around it take.
const BODY_BYTES_MAX: usize = 4 * KV_VALUE_BYTES_MAX;
/// Bytes after which a page is full, however few values it has.
const PAGE_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Values that are read at once, so that a page of large ones is bounded.
const READ_AT_ONCE: usize = 16;
/// How often a change is made again when somebody else is faster.
const TRIES_MAX: usize = 16;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewValue {
    value: Value,
    /// Seconds.
    ttl: Option<u64>,
    if_version: Option<u64>,
}

/// A value as it is sent.
#[derive(Serialize)]
struct EntryView {
    key: KvKey,
    value: Value,
    version: u64,
    expires_at: Option<UnixMs>,
}

impl EntryView {
    fn of(key: KvKey, found: &Found) -> Result<EntryView, ViewError> {
        let damaged = |error: serde_json::Error| Error::Damaged { what: "value", why: error.to_string() };
        let value = serde_json::from_slice(&found.value).map_err(damaged)?;
        Ok(EntryView { key, value, version: found.version.unwrap_or_default(), expires_at: found.expires_at })
    }
}

/// What is to be done with one value.
enum Wish {
    Put { json: Vec<u8>, ttl: Option<std::time::Duration>, if_version: Option<u64> },
    Delete { if_version: Option<u64> },
}

/// What was done.
struct Done {
    commit: u64,
    /// Whether there was a value before.
    replaced: bool,
    expires_at: Option<UnixMs>,
}

impl Office {
    pub(super) async fn kv(&self, call: Call, app: Uuid, rest: &[&str]) -> Outcome {
        match (&call.method, rest) {
            (&Method::GET, []) => self.kv_list(&call, app).await,
            (_, []) => not_allowed("GET"),
            (_, rest) => self.kv_entry(call, app, parse_key(&rest.join("/"))?).await,
        }
    }

    async fn kv_list(&self, call: &Call, app: Uuid) -> Outcome {
        let paging = call.paging()?;
        let prefix: KvPrefix = call.parsed("prefix")?.unwrap_or_default();
        let after: Option<KvKey> = call.parsed("cursor")?;
        let store = self.store.clone();
        let page = blocking(move || page(&store, app, &prefix, after, &paging)).await?;
        Ok(reply::json(StatusCode::OK, &page.map_err(unviewed)?))
    }

    async fn kv_entry(&self, call: Call, app: Uuid, key: KvKey) -> Outcome {
        match call.method {
            Method::GET => {
                let store = self.store.clone();
                let missing = Refusal::not_found(format!("value not found: {key}"));
                let read = move || {
                    let found = store.view(app, UnixMs::now()).get(&key)?;
                    found.map(|found| EntryView::of(key, &found)).transpose()
                };
                let found = blocking(read).await?.map_err(unviewed)?;
                found.map_or(Err(missing), |entry| Ok(reply::json(StatusCode::OK, &entry)))
            }
            Method::PUT => {
                let new: NewValue = call.json_within(BODY_BYTES_MAX).await?;
                let (value, wish) = new.checked()?;
                let done = self.kv_change(app, key.clone(), wish).await?;
                let entry = EntryView { key, value, version: done.commit, expires_at: done.expires_at };
                let status = if done.replaced { StatusCode::OK } else { StatusCode::CREATED };
                Ok(reply::json(status, &entry))
            }
            Method::DELETE => {
                let if_version = call.parsed("if_version")?;
                self.kv_change(app, key, Wish::Delete { if_version }).await?;
                Ok(reply::empty(StatusCode::NO_CONTENT))
            }
            _ => not_allowed("GET, PUT, DELETE"),
        }
    }

    /// Makes a change and waits until it is durable.
    async fn kv_change(&self, app: Uuid, key: KvKey, wish: Wish) -> Result<Done, Refusal> {
        let store = self.store.clone();
        let (done, told) = blocking(move || change(&store, app, &key, &wish)).await??;
        told.await.unwrap_or(Err(Error::Closed)).map_err(|error| broken(&error))?;
        Ok(done)
    }
}

impl NewValue {
    /// What is to be done, if the value and its time are within their bounds.
    fn checked(self) -> Result<(Value, Wish), Refusal> {
        let NewValue { value, ttl, if_version } = self;
        let json = value.to_string().into_bytes();
        if json.len() > KV_VALUE_BYTES_MAX {
            let why =
                format!("value: has {} bytes as JSON; at most {KV_VALUE_BYTES_MAX} are kept", json.len());
            return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, why));
        }
        let most = KV_TTL_MAX.as_secs();
        if ttl.is_some_and(|seconds| seconds == 0 || seconds > most) {
            return Err(Refusal::invalid("ttl", format!("must be 1 to {most} seconds")));
        }
        Ok((value, Wish::Put { json, ttl: ttl.map(std::time::Duration::from_secs), if_version }))
    }
}

fn parse_key(path: &str) -> Result<KvKey, Refusal> {
    let text =
        percent_decode_str(path).decode_utf8().map_err(|_| Refusal::invalid("key", "must be UTF-8"))?;
    text.parse().map_err(|why| Refusal::invalid("key", why))
}

/// A page of values, by key.
fn page(
    store: &Store,
    app: Uuid,
    prefix: &KvPrefix,
    mut after: Option<KvKey>,
    paging: &Paging,
) -> Result<List<EntryView>, ViewError> {
    let mut view = store.view(app, UnixMs::now());
    let (mut items, mut held) = (Vec::new(), 0);
    loop {
        let wanted = READ_AT_ONCE.min(paging.limit - items.len());
        let listed = view.list(prefix, after.as_ref(), wanted)?;
        for (key, found) in listed.items {
            held += found.value.len();
            items.push(EntryView::of(key, &found)?);
        }
        after = listed.next;
        if after.is_none() || items.len() >= paging.limit || held > PAGE_BYTES_MAX {
            return Ok(List { items, next_cursor: after.map(String::from) });
        }
    }
}

/// Makes a change, and again if somebody was faster. What it gives besides is told when it is durable.
fn change(
    store: &Store,
    app: Uuid,
    key: &KvKey,
    wish: &Wish,
) -> Result<(Done, oneshot::Receiver<Result<(), Error>>), Refusal> {
    for _ in 0..TRIES_MAX {
        let mut view = store.view(app, UnixMs::now());
        let (replaced, expires_at) = match make(&mut view, key, wish) {
            Err(Unmade::View(ViewError::Stale)) => continue,
            Err(Unmade::View(why)) => return Err(unviewed(why)),
            Err(Unmade::Refused(refusal)) => return Err(refusal),
            Ok(made) => made,
        };
        let effects = view.into_effects(None).ok_or_else(Refusal::internal)?;
        let (tell, told) = oneshot::channel();
        // A caller that left does not hear of it; the change is made all the same.
        match store.commit(effects, move |durable| drop(tell.send(durable))) {
            Ok(commit) => return Ok((Done { commit, replaced, expires_at }, told)),
            Err(Refused::Conflict) => {}
            Err(Refused::KvFull(message)) => return Err(full(message)),
            Err(Refused::Store(error)) => {
                return Err(match error.refusal() {
                    Some(reason) => Refusal::overloaded(error.to_string(), reason),
                    None => broken(&error),
                });
            }
        }
    }
    let message = format!("others change \"{key}\" all the time; try again");
    Err(Refusal::overloaded(message, "conflict"))
}

/// Why a change was not made.
enum Unmade {
    View(ViewError),
    Refused(Refusal),
}

impl From<ViewError> for Unmade {
    fn from(why: ViewError) -> Unmade {
        Unmade::View(why)
    }
}

/// Makes the change in a view. Says whether there was a value, and when the new one expires.
fn make(view: &mut View, key: &KvKey, wish: &Wish) -> Result<(bool, Option<UnixMs>), Unmade> {
    let found = view.get(key)?;
    let (Wish::Put { if_version, .. } | Wish::Delete { if_version }) = wish;
    let version = found.as_ref().and_then(|found| found.version).unwrap_or_default();
    if if_version.is_some_and(|wanted| wanted != version) {
        let message = match version {
            0 => format!("\"{key}\" is not there any more"),
            version => format!("\"{key}\" has version {version} now; read it again"),
        };
        return Err(Unmade::Refused(Refusal::new(StatusCode::CONFLICT, message)));
    }
    match wish {
        Wish::Put { json, ttl, .. } => {
            let expires_at = ttl.map(|ttl| view.now().plus(ttl));
            let put = Put { key: key.clone(), value: json.clone().into(), expires_at };
            view.put(put)?;
            Ok((found.is_some(), expires_at))
        }
        Wish::Delete { .. } if view.delete(key)? => Ok((true, None)),
        Wish::Delete { .. } => Err(Unmade::Refused(Refusal::not_found(format!("value not found: {key}")))),
    }
}

/// The app keeps as much as it may.
fn full(message: String) -> Refusal {
    Refusal { reason: Some("kv_full"), ..Refusal::new(StatusCode::INSUFFICIENT_STORAGE, message) }
}

fn unviewed(why: ViewError) -> Refusal {
    match why {
        ViewError::Stale => Refusal::overloaded("what was read was changed meanwhile; try again", "conflict"),
        ViewError::Store(error) => broken(&error),
        // The size of the value was looked at before: what is left is the room of the app.
        ViewError::Limit(message) => full(message),
    }
}
