//! What a management request brings: its query, its page, its JSON.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use percent_encoding::percent_decode_str;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use uuid::Uuid;

use super::Outcome;
use crate::http::body::{self, Brought, Unread};
use crate::http::reply::{self, Refusal};

/// Largest body of a management request; a source has 64 KiB.
const BODY_BYTES_MAX: usize = 1024 * 1024;
const BODY_TIME_MAX: Duration = Duration::from_secs(30);
const PAGE_LIMIT: usize = 100;

/// One management request.
pub(super) struct Call {
    pub(super) method: Method,
    /// What the body is said to be, in lower case and without parameters.
    pub(super) content_type: String,
    /// The forms of an answer that the caller wants, in lower case.
    pub(super) accept: String,
    /// The caller's key; nil for the device's.
    pub(super) key_id: Uuid,
    query: BTreeMap<String, String>,
    body: Brought,
    page_limit_max: usize,
}

/// Which part of a list is asked for.
pub(super) struct Paging {
    pub(super) limit: usize,
    pub(super) cursor: Option<String>,
}

/// A part of a list, as it is sent.
#[derive(Serialize)]
pub(super) struct List<T> {
    pub(super) items: Vec<T>,
    pub(super) next_cursor: Option<String>,
}

impl Call {
    pub(super) fn new(parts: &Parts, body: Brought, key_id: Uuid, page_limit_max: usize) -> Call {
        let header = |name: HeaderName| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let essence = header(CONTENT_TYPE).and_then(|value| value.split(';').next()).unwrap_or_default();
        let content_type = essence.trim().to_ascii_lowercase();
        let accept = header(ACCEPT).unwrap_or_default().to_ascii_lowercase();
        let query = parts.uri.query().unwrap_or_default();
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        let pairs = query
            .split('&')
            .filter(|pair| !pair.is_empty())
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        let query = pairs.map(|(name, value)| (decode(name), decode(value))).collect();
        Call { method: parts.method.clone(), content_type, accept, key_id, query, body, page_limit_max }
    }

    /// A parameter that is there and not empty.
    pub(super) fn param(&self, name: &str) -> Option<&str> {
        self.query.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A parameter of a type; 422 if it is there and cannot be read.
    pub(super) fn parsed<T: FromStr<Err: Display>>(&self, name: &'static str) -> Result<Option<T>, Refusal> {
        self.param(name).map(|value| value.parse().map_err(|error| Refusal::invalid(name, error))).transpose()
    }

    /// The page asked for.
    pub(super) fn paging(&self) -> Result<Paging, Refusal> {
        let limit = self.parsed::<usize>("limit")?.unwrap_or(PAGE_LIMIT.min(self.page_limit_max));
        if limit == 0 || limit > self.page_limit_max {
            return Err(Refusal::invalid("limit", format!("must be 1 to {}", self.page_limit_max)));
        }
        Ok(Paging { limit, cursor: self.param("cursor").map(str::to_owned) })
    }

    /// The body as it comes.
    pub(super) fn into_body(self) -> Brought {
        self.body
    }

    /// The body as a `T`. 400 if it is no JSON, 422 that names the field if it is the wrong JSON.
    pub(super) async fn json<T: DeserializeOwned>(self) -> Result<T, Refusal> {
        self.json_within(BODY_BYTES_MAX).await
    }

    /// The same for a body that may be larger or smaller than usual.
    pub(super) async fn json_within<T: DeserializeOwned>(self, bytes_max: usize) -> Result<T, Refusal> {
        let (bytes, _) =
            body::read(self.body, bytes_max, BODY_TIME_MAX, None).await.map_err(|unread| match unread {
                Unread::TooLarge(_) => {
                    Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("body read failed: {unread}"))
                }
                Unread::TooSlow(_) | Unread::Broken(_) | Unread::NoRoom => {
                    Refusal::bad_request(format!("body read failed: {unread}"))
                }
            })?;
        parse(if bytes.is_empty() { b"{}" } else { &bytes })
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    let unreadable = |why: serde_json::Error| Refusal::bad_request(format_args!("invalid JSON body: {why}"));
    if !bytes.trim_ascii_start().starts_with(b"{") {
        // A derived reader would take the fields from an array, too, by their order.
        serde_json::from_slice::<IgnoredAny>(bytes).map_err(unreadable)?;
        return Err(Refusal::invalid("body", "must be a JSON object"));
    }
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let value: T = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        if inner.is_data() {
            let field = if path == "." { "body" } else { path.as_str() };
            return Refusal::invalid(field, inner);
        }
        unreadable(inner)
    })?;
    reader.end().map_err(unreadable)?;
    Ok(value)
}

/// One page of what is in memory, newest first. `all` ends with the newest.
pub(super) fn page_of<T, V: Serialize>(
    all: impl DoubleEndedIterator<Item = (Uuid, Arc<T>)>,
    paging: &Paging,
    view: impl Fn(&T) -> V,
) -> Outcome {
    let before = paging.cursor.as_deref().map(parse_cursor).transpose()?;
    let mut rest = all.rev().skip_while(|(id, _)| before.is_some_and(|before| *id >= before));
    let page: Vec<(Uuid, Arc<T>)> = rest.by_ref().take(paging.limit).collect();
    let more = rest.next().is_some();
    let next_cursor = page.last().filter(|_| more).map(|(id, _)| id.to_string());
    Ok(reply::json(
        StatusCode::OK,
        &List { items: page.iter().map(|(_, item)| view(item)).collect(), next_cursor },
    ))
}

/// A cursor that is an id.
pub(super) fn parse_cursor(text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text)
        .map_err(|_| Refusal::invalid("cursor", "must be the next_cursor of an earlier page"))
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Thing {
        #[allow(dead_code)]
        count: u8,
        #[allow(dead_code)]
        inner: Option<Vec<u8>>,
    }

    #[test]
    fn wrong_bodies_name_what_is_wrong() {
        for (body, status, says) in [
            ("", 400, "invalid JSON"),
            ("{", 400, "invalid JSON"),
            ("{\"count\":1} x", 400, "invalid JSON"),
            ("[]", 422, "body: must be a JSON object"),
            ("[1]", 422, "body: must be a JSON object"),
            ("[1", 400, "invalid JSON"),
            ("{}", 422, "missing field `count`"),
            ("{\"count\":300}", 422, "count: invalid value"),
            ("{\"count\":1,\"inner\":[1,\"x\"]}", 422, "inner[1]: invalid type"),
            ("{\"count\":1,\"colour\":2}", 422, "unknown field `colour`"),
        ] {
            let refusal = parse::<Thing>(body.as_bytes()).expect_err(body);
            assert_eq!(refusal.status, status, "{body}");
            assert!(refusal.message.contains(says), "{body}: {}", refusal.message);
        }
        assert!(parse::<Thing>(b"{\"count\":1}").is_ok());
    }
}
