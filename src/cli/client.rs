//! HTTP to a running PiCloud, in the clear or by TLS.
//!
//! Nothing is followed, retried or proxied: an api key goes to the host that was named, and nowhere else.

use std::io::{self, BufReader, Read};
use std::time::Duration;

use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use ureq::http::{Request, Response};
use ureq::tls::TlsConfig;
use ureq::{Agent, Body, SendBody};

use super::error::Error;
use super::key::Key;

/// Longest a management request may take; the API itself waits at most a minute.
const API_TIMEOUT: Duration = Duration::from_secs(90);
/// A script runs at most 300 s, and its caller waits a little longer.
const CALL_TIMEOUT: Duration = Duration::from_secs(330);
/// What moves a whole store takes as long as the card and the network need.
const LONG_TIMEOUT: Duration = Duration::from_secs(2 * 3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A daemon says so long at the most whether it wants what is uploaded; then it is sent in any case (RFC 9110 10.1.1).
const WANTED_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Items asked for at once.
const PAGE_ITEMS: usize = 100;

/// Everything but the unreserved characters of RFC 3986 2.3.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');
/// What may not stand in a request target; escapes that are there stay.
const TARGET: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'#')
    .add(b'<')
    .add(b'>')
    .add(b'\\')
    .add(b'^')
    .add(b'`')
    .add(b'{')
    .add(b'|')
    .add(b'}');

/// A client of one PiCloud.
pub(super) struct Client {
    agent: Agent,
    url: String,
    key: Key,
}

/// A request of the data plane.
pub(super) struct Call {
    /// The method.
    pub(super) method: String,
    /// Path and query.
    pub(super) path: String,
    /// Names and values.
    pub(super) headers: Vec<(String, String)>,
    /// The body, if one is sent.
    pub(super) body: Option<Vec<u8>>,
    /// Whether the api key goes along.
    pub(super) with_key: bool,
}

/// Whatever came back.
pub(super) struct Answer {
    /// The status.
    pub(super) status: u16,
    /// The words for it.
    pub(super) reason: &'static str,
    /// Names and values.
    pub(super) headers: Vec<(String, String)>,
    /// The body.
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The value of a header, by its lower-case name.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// Items of a list, over as many pages as it took.
#[derive(Debug)]
pub(super) struct Listing {
    /// Newest first.
    pub(super) items: Vec<Value>,
    /// Where the rest begins, if a limit left one.
    pub(super) next_cursor: Option<String>,
}

/// Reads what `--url` says; a missing scheme is http.
pub(super) fn parse_url(text: &str) -> Result<String, Error> {
    let bad =
        |why: &str| Error::Usage(format!("{text} is no URL of a PiCloud: {why}, as in http://pi.local:8080"));
    let full = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let uri: ureq::http::Uri =
        full.trim_end_matches('/').parse().map_err(|_| bad("it must be a scheme and a host"))?;
    match (uri.scheme_str(), uri.authority(), uri.path(), uri.query()) {
        (Some(scheme @ ("http" | "https")), Some(authority), "" | "/", None)
            if !authority.as_str().contains('@') =>
        {
            Ok(format!("{scheme}://{authority}"))
        }
        _ => Err(bad("it must be a scheme and a host, and nothing more")),
    }
}

/// Escapes one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

/// Escapes what may not stand in a request target, and leaves the rest as it is.
pub(super) fn target(text: &str) -> String {
    utf8_percent_encode(text, TARGET).to_string()
}

/// A path with a query; parameters without a value are left out.
pub(super) fn with_query(path: &str, parameters: &[(&str, Option<&str>)]) -> String {
    let given = parameters.iter().filter_map(|(name, value)| Some(format!("{name}={}", segment((*value)?))));
    let query = given.collect::<Vec<_>>().join("&");
    if query.is_empty() { path.to_owned() } else { format!("{path}?{query}") }
}

impl Client {
    /// A client of the PiCloud at `url`, as [`parse_url`] gives it.
    pub(super) fn new(url: String, key: Key, tls: TlsConfig) -> Client {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .proxy(None)
            .allow_non_standard_methods(true)
            .tls_config(tls)
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_await_100(Some(WANTED_TIMEOUT))
            .user_agent(concat!("picloud/", env!("CARGO_PKG_VERSION")));
        Client { agent: config.build().new_agent(), url, key }
    }

    /// The daemon's URL, without a slash at its end.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The key that is sent, so that what is shown can be kept free of it.
    pub(super) fn secret(&self) -> Option<&str> {
        self.key.secret.as_deref()
    }

    /// GET of the API; `what` names the thing for people.
    pub(super) fn get(&self, path: &str, what: &str) -> Result<Value, Error> {
        self.api("GET", path, None, what)
    }

    /// POST to the API.
    pub(super) fn post(&self, path: &str, body: &Value, what: &str) -> Result<Value, Error> {
        self.api("POST", path, Some(body), what)
    }

    /// POST to the API of what may take long.
    pub(super) fn post_patiently(&self, path: &str, body: &Value, what: &str) -> Result<Value, Error> {
        let headers = [("content-type".to_owned(), "application/json".to_owned())];
        let text = body.to_string();
        let sent = self.send("POST", path, &headers, Some(text.as_bytes()), true, Some(LONG_TIMEOUT))?;
        self.understood(sent, "POST", path, what)
    }

    /// POST of so many bytes to the API, as they are read. Nothing is sent before the daemon wants it, so that who is
    /// refused hears why.
    pub(super) fn upload(
        &self,
        path: &str,
        (kind, bytes): (&str, u64),
        from: &mut dyn Read,
        what: &str,
    ) -> Result<Value, Error> {
        let mut request = Request::builder().method("POST").uri(format!("{}{path}", self.url));
        request = request.header("content-type", kind).header("content-length", bytes);
        request = request.header("expect", "100-continue");
        if let Some(secret) = &self.key.secret {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        let bad = |why: ureq::http::Error| Error::Usage(format!("POST {path} is no HTTP request: {why}"));
        let request = request.body(SendBody::from_reader(from)).map_err(bad)?;
        let request = self.agent.configure_request(request);
        let sent = self.agent.run(request.timeout_global(Some(LONG_TIMEOUT)).build());
        self.understood(sent.map_err(|why| self.unreachable(&why))?, "POST", path, what)
    }

    /// GET of a file, which is read from what this gives.
    pub(super) fn download(&self, path: &str, what: &str) -> Result<impl Read + use<>, Error> {
        let response = self.send("GET", path, &[], None, true, Some(LONG_TIMEOUT))?;
        if !response.status().is_success() {
            return Err(self.refusal(&self.answer(response)?, what));
        }
        Ok(response.into_body().into_reader())
    }

    /// PUT of the API.
    pub(super) fn put(&self, path: &str, body: &Value, what: &str) -> Result<Value, Error> {
        self.api("PUT", path, Some(body), what)
    }

    /// PATCH of the API.
    pub(super) fn patch(&self, path: &str, body: &Value, what: &str) -> Result<Value, Error> {
        self.api("PATCH", path, Some(body), what)
    }

    /// DELETE of the API.
    pub(super) fn delete(&self, path: &str, what: &str) -> Result<(), Error> {
        self.api("DELETE", path, None, what).map(|_| ())
    }

    /// A list of the API, page by page, until it ends or has `limit` items.
    pub(super) fn list(
        &self,
        path: &str,
        parameters: &[(&str, Option<&str>)],
        limit: Option<usize>,
        what: &str,
    ) -> Result<Listing, Error> {
        let mut listing = Listing { items: Vec::new(), next_cursor: None };
        loop {
            let wanted =
                limit.map_or(PAGE_ITEMS, |limit| limit - listing.items.len()).min(PAGE_ITEMS).to_string();
            let mut query = parameters.to_vec();
            query.extend([("limit", Some(wanted.as_str())), ("cursor", listing.next_cursor.as_deref())]);
            let page = self.get(&with_query(path, &query), what)?;
            let Some(items) = page["items"].as_array() else {
                return Err(self.foreign(format!("GET {path} gave no list")));
            };
            let next = page["next_cursor"].as_str().map(str::to_owned);
            if next.is_some() && (items.is_empty() || next == listing.next_cursor) {
                return Err(self.foreign(format!("the pages of GET {path} do not end")));
            }
            listing
                .items
                .extend(items.iter().take(limit.map_or(usize::MAX, |l| l - listing.items.len())).cloned());
            listing.next_cursor = next;
            if listing.next_cursor.is_none() || limit.is_some_and(|limit| listing.items.len() >= limit) {
                return Ok(listing);
            }
        }
    }

    /// A request of the API whose every status is an answer, such as readiness.
    pub(super) fn probe(&self, path: &str) -> Result<(u16, Value), Error> {
        let answer = self.answer(self.send("GET", path, &[], None, true, Some(API_TIMEOUT))?)?;
        match serde_json::from_slice(&answer.body) {
            Ok(value @ Value::Object(_)) => Ok((answer.status, value)),
            _ => Err(self.foreign(format!("GET {path} answers {} and no JSON", answer.status))),
        }
    }

    /// A request of the data plane; any status is an answer.
    pub(super) fn call(&self, call: &Call) -> Result<Answer, Error> {
        let body = call.body.as_deref();
        let path = target(&call.path);
        self.answer(self.send(&call.method, &path, &call.headers, body, call.with_key, Some(CALL_TIMEOUT))?)
    }

    /// A stream of server-sent events, which lasts until one side goes.
    pub(super) fn stream(&self, path: &str, what: &str) -> Result<BufReader<impl Read + use<>>, Error> {
        let accept = [("accept".to_owned(), "text/event-stream".to_owned())];
        let response = self.send("GET", path, &accept, None, true, None)?;
        if !response.status().is_success() {
            return Err(self.refusal(&self.answer(response)?, what));
        }
        if response.body().mime_type() != Some("text/event-stream") {
            return Err(self.foreign(format!("GET {path} gave no stream of events")));
        }
        Ok(BufReader::new(response.into_body().into_reader()))
    }

    fn api(&self, method: &str, path: &str, body: Option<&Value>, what: &str) -> Result<Value, Error> {
        let text = body.map(Value::to_string);
        let headers = body.map(|_| ("content-type".to_owned(), "application/json".to_owned()));
        let headers: Vec<_> = headers.into_iter().collect();
        let bytes = text.as_deref().map(str::as_bytes);
        let sent = self.send(method, path, &headers, bytes, true, Some(API_TIMEOUT))?;
        self.understood(sent, method, path, what)
    }

    /// The JSON of an answer, or why there is none.
    fn understood(&self, sent: Response<Body>, method: &str, path: &str, what: &str) -> Result<Value, Error> {
        let answer = self.answer(sent)?;
        match answer.status {
            204 => Ok(Value::Null),
            200..=299 => serde_json::from_slice(&answer.body)
                .map_err(|_| self.foreign(format!("{method} {path} did not answer JSON"))),
            _ => Err(self.refusal(&answer, what)),
        }
    }

    fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(String, String)],
        body: Option<&[u8]>,
        with_key: bool,
        timeout: Option<Duration>,
    ) -> Result<Response<Body>, Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(secret) = self.key.secret.as_deref().filter(|_| with_key) {
            request = request.header("authorization", format!("Bearer {secret}"));
        }
        let bad = |why: ureq::http::Error| Error::Usage(format!("{method} {path} is no HTTP request: {why}"));
        let agent = &self.agent;
        let sent = match body {
            Some(body) => {
                let request = agent.configure_request(request.body(body).map_err(bad)?);
                agent.run(request.timeout_global(timeout).build())
            }
            None => {
                let request = agent.configure_request(request.body(()).map_err(bad)?);
                agent.run(request.timeout_global(timeout).build())
            }
        };
        sent.map_err(|why| self.unreachable(&why))
    }

    fn answer(&self, response: Response<Body>) -> Result<Answer, Error> {
        let (head, mut body) = response.into_parts();
        let pair = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
            (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        Ok(Answer {
            status: head.status.as_u16(),
            reason: head.status.canonical_reason().unwrap_or_default(),
            headers: head.headers.iter().map(pair).collect(),
            body: body
                .with_config()
                .limit(ANSWER_BYTES_MAX)
                .read_to_vec()
                .map_err(|why| self.unreachable(&why))?,
        })
    }

    /// What a status outside 200..=299 of the API means. Every refusal of PiCloud carries a message.
    fn refusal(&self, answer: &Answer, what: &str) -> Error {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        let url = self.url.clone();
        let Some(message) = body["error"].as_str().map(str::to_owned) else {
            return self.foreign(format!("it answers {} {} without a message", answer.status, answer.reason));
        };
        match answer.status {
            401 => Error::Unauthorised { url, key: self.key.to_string() },
            403 => Error::Forbidden { url, message },
            404 => Error::NotFound { what: what.to_owned(), message },
            status => Error::Api { status, message, body },
        }
    }

    fn foreign(&self, why: String) -> Error {
        Error::Foreign { url: self.url.clone(), why }
    }

    fn unreachable(&self, why: &ureq::Error) -> Error {
        let url = self.url.clone();
        let why = match why {
            ureq::Error::Io(why) if why.kind() == io::ErrorKind::ConnectionRefused => {
                return Error::Refused { url };
            }
            ureq::Error::Io(why) => why.to_string(),
            ureq::Error::Timeout(_) => "it did not answer in time".to_owned(),
            ureq::Error::HostNotFound => "no such host".to_owned(),
            ureq::Error::Protocol(why) => return self.foreign(format!("it does not speak HTTP: {why}")),
            why => why.to_string(),
        };
        Error::Unreachable { url, why }
    }
}
