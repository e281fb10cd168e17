//! Reception: the data plane of the contract's section 1, in its order. The first check that fails answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{ALLOW, COOKIE, HOST, HeaderValue, LOCATION};
use hyper::http::request::Parts;
use hyper::{HeaderMap, Method, StatusCode};
use serde::Serialize;
use uuid::Uuid;

use super::auth::Auth;
use super::body::{self, Brought, Larder, Shelf, Unread};
use super::clients::Client;
use super::cookies;
use super::rate::Rates;
use super::reply::{self, Refusal, Reply};
use super::router::{self, Match, RouteTable, Target};
use crate::dispatch::{Dispatch, Promise, Waiter};
use crate::model::{
    Access, App, BODY_BYTES_MAX, BodyMode, Chain, DispatchMode, Durability, Host, Kind, Principal, Request,
    Route, Row, Script, UnixMs,
};
use crate::script::{CHAIN_HEADER, ChainKey, WAIT_SLACK};

/// Path of the always-available bypass.
pub(super) const EXECUTE: &str = "/api/execute/";

/// Bounds of the data plane.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Limit of a sync run whose script names none.
    pub timeout_sync: Duration,
    /// Limit of an async run whose script names none.
    pub timeout_async: Duration,
    /// The longest that a body may take to arrive.
    pub body_time_max: Duration,
    /// Bytes that large bodies may have in memory, all together.
    pub bodies_bytes_max: usize,
    /// Requests a second to an app that says nothing; 0: any number.
    pub requests_per_second: u32,
}

/// The desk that turns requests into rows.
#[derive(Clone)]
pub(super) struct Reception {
    dispatch: Dispatch,
    auth: Auth,
    settings: Settings,
    larder: Larder,
    chain_key: ChainKey,
    rates: Rates,
    rate_limited: Arc<AtomicU64>,
}

/// What the access line says about an answer of the data plane.
#[derive(Default)]
pub(super) struct Served {
    /// The app.
    pub app: Option<Arc<App>>,
    /// The route; none of a script that is executed directly.
    pub route: Option<Arc<Target>>,
    /// The script.
    pub script: Option<Arc<Script>>,
    /// The execution.
    pub execution: Option<Uuid>,
}

type Outcome = Result<Reply, Refusal>;

#[derive(Serialize)]
struct Accepted {
    accepted_at: UnixMs,
    execution_id: Uuid,
}

impl Reception {
    /// A desk in front of `dispatch`.
    /// `rate_limited` counts requests that came too often.
    pub(super) fn new(
        dispatch: Dispatch,
        auth: Auth,
        settings: Settings,
        chain_key: ChainKey,
        rate_limited: Arc<AtomicU64>,
    ) -> Reception {
        let larder = Larder::new(settings.bodies_bytes_max);
        Reception { dispatch, auth, settings, larder, chain_key, rates: Rates::default(), rate_limited }
    }

    /// `POST /api/execute/{script_id}`: runs the script directly, not over the outbox.
    pub(super) async fn execute(
        &self,
        table: &Arc<RouteTable>,
        parts: Parts,
        body: Brought,
        client: Client,
        served: &mut Served,
    ) -> Outcome {
        if parts.method != Method::POST {
            let mut refused =
                Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a script is executed with POST").reply();
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
            return Ok(refused);
        }
        let id = parts.uri.path().strip_prefix(EXECUTE).unwrap_or_default();
        let id = Uuid::try_parse(id)
            .map_err(|_| Refusal::bad_request(format_args!("\"{id}\" is not a script id")))?;
        let script = table.script(id).ok_or_else(|| gone(id))?.clone();
        served.script = Some(script.clone());
        served.app = table.app_by_id(script.app_id).map(|table| table.app().clone());
        let principal = self.admit(&parts, table, client, (script.access, Access::Public))?;
        self.check_rate(table, script.app_id)?;
        let (bytes, _shelf) = self.read(body).await.map_err(|unread| match unread {
            Unread::TooLarge(_) => {
                Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, format!("body read failed: {unread}"))
            }
            Unread::TooSlow(_) | Unread::Broken(_) | Unread::NoRoom => body_refused(&unread),
        })?;
        let body = body::check(bytes, BodyMode::Json, &parts.headers).map_err(Refusal::bad_request)?;
        let path = format!("{EXECUTE}{id}");
        let request =
            Request { body, path, query: String::new(), ..request(&parts, Vec::new(), String::new()) };
        let timeout = self.timeout(&script, DispatchMode::Sync);
        let row = row(self.dispatch.new_id(), &script, None, request, principal, timeout);
        let row = Row { client: Some(client.address), ..self.chained(row, &parts.headers) };
        served.execution = Some(row.execution_id);
        let execution = row.execution_id;
        Ok(wait(self.dispatch.call_directly(row), timeout, execution).await)
    }

    /// Every other path: a user's route.
    pub(super) async fn route(
        &self,
        table: &Arc<RouteTable>,
        parts: Parts,
        body: Brought,
        client: Client,
        served: &mut Served,
    ) -> Outcome {
        let (found, script) = self.find(table, &parts)?;
        let route = &found.target.route;
        served.script = Some(script.clone());
        served.app = table.app_by_id(script.app_id).map(|table| table.app().clone());
        served.route = Some(found.target.clone());
        let principal = self.admit(&parts, table, client, (script.access, route.access))?;
        self.check_rate(table, script.app_id)?;
        let (bytes, _shelf) = self.read(body).await.map_err(|unread| body_refused(&unread))?;
        let body = body::check(bytes, route.body, &parts.headers).map_err(Refusal::bad_request)?;
        let promise = match route.durability {
            Durability::Relaxed => Promise::Relaxed,
            durability if durability.is_strict_for(parts.method.as_str()) => Promise::Strict,
            Durability::Auto | Durability::Strict => Promise::Auto,
        };
        let request = Request { body, ..request(&parts, found.params, found.rest) };
        let timeout = self.timeout(&script, route.dispatch_mode);
        let row = row(self.dispatch.new_id(), &script, Some(route), request, principal, timeout);
        let row = Row { client: Some(client.address), ..self.chained(row, &parts.headers) };
        let execution = row.execution_id;
        served.execution = Some(execution);
        match route.dispatch_mode {
            DispatchMode::Sync => Ok(wait(self.dispatch.call(row, promise), timeout, execution).await),
            DispatchMode::Async => self.accept(row).await,
        }
    }

    fn find(&self, table: &RouteTable, parts: &Parts) -> Result<(Match, Arc<Script>), Refusal> {
        // RFC 9112 3.2: whoever reads the other one would go elsewhere.
        if parts.headers.get_all(HOST).iter().count() > 1 {
            return Err(Refusal::bad_request("more than one Host header"));
        }
        let header = router::request_host(parts);
        let host = Host::from_header(&header);
        let path = parts.uri.path();
        let app = table.app(&host).ok_or_else(|| {
            let quoted = serde_json::Value::from(host.as_str());
            Refusal::not_found(format!("no app claims host {quoted}"))
        })?;
        let found = app.find(&host, parts.method.as_str(), path);
        let found =
            found.ok_or_else(|| Refusal::not_found(format!("no route matches {} {path}", parts.method)))?;
        let script = found.target.script.clone().ok_or_else(|| gone(found.target.route.script_id))?;
        Ok((found, script))
    }

    /// The principal, if the route and the script admit it.
    fn admit(
        &self,
        parts: &Parts,
        table: &Arc<RouteTable>,
        client: Client,
        (script, route): (Access, Access),
    ) -> Result<Option<Principal>, Refusal> {
        let principal = self.auth.principal(parts, table, client.is_secure);
        if principal.is_none() && (script == Access::Key || route == Access::Key) {
            let message = "this needs an api key: send Authorization: Bearer <key>";
            return Err(Refusal::new(StatusCode::UNAUTHORIZED, message));
        }
        Ok(principal)
    }

    /// Refuses what comes more often than the app allows: after the key, so that who has none cannot use it up, and
    /// before the body.
    fn check_rate(&self, table: &RouteTable, app: Uuid) -> Result<(), Refusal> {
        let own = table.app_by_id(app).and_then(|table| table.app().limits.requests_per_second);
        let per_second = own.unwrap_or(self.settings.requests_per_second);
        self.rates.pass(app, per_second, Instant::now()).map_err(|wait| {
            self.rate_limited.fetch_add(1, Relaxed);
            Refusal::too_often(per_second, wait)
        })
    }

    /// The body, and its place in memory, to be held until the answer is known.
    async fn read(&self, body: Brought) -> Result<(Bytes, Shelf), Unread> {
        body::read(body, BODY_BYTES_MAX, self.settings.body_time_max, Some(&self.larder)).await
    }

    /// The row of a call that a script of this device made, one step further in the chain of that script's run.
    fn chained(&self, row: Row, headers: &HeaderMap) -> Row {
        let value = headers.get(CHAIN_HEADER).and_then(|value| value.to_str().ok());
        match value.and_then(|value| self.chain_key.verify(value)) {
            Some(Chain { depth, root }) => {
                Row { trigger_depth: depth.saturating_add(1), root_execution_id: root, ..row }
            }
            None => row,
        }
    }

    async fn accept(&self, row: Row) -> Outcome {
        let (accepted_at, execution_id) = (row.accepted_at, row.execution_id);
        self.dispatch.accept(row).await.map_err(|error| {
            if let Some(reason) = error.refusal() {
                return Refusal::overloaded(error.to_string(), reason);
            }
            tracing::error!(execution = %execution_id, %error, "a row could not be accepted");
            Refusal::internal()
        })?;
        let mut reply = reply::json(StatusCode::ACCEPTED, &Accepted { accepted_at, execution_id });
        reply::name_execution(&mut reply, execution_id);
        if let Ok(location) = HeaderValue::try_from(format!("/api/v1/executions/{execution_id}")) {
            reply.headers_mut().insert(LOCATION, location);
        }
        Ok(reply)
    }

    fn timeout(&self, script: &Script, mode: DispatchMode) -> Duration {
        let default = match mode {
            DispatchMode::Sync => self.settings.timeout_sync,
            DispatchMode::Async => self.settings.timeout_async,
        };
        script.timeout_seconds.map_or(default, |seconds| Duration::from_secs(seconds.into()))
    }
}

/// Waits for the answer a little longer than the script may run.
async fn wait(mut waiter: Waiter, timeout: Duration, execution: Uuid) -> Reply {
    match tokio::time::timeout(timeout + WAIT_SLACK, waiter.answer()).await {
        Ok(answer) => reply::answer(answer, execution),
        Err(_) => reply::timed_out(execution),
    }
}

fn gone(script: Uuid) -> Refusal {
    Refusal::not_found(format!("script not found: {script}"))
}

fn body_refused(unread: &Unread) -> Refusal {
    Refusal::bad_request(format_args!("body read failed: {unread}"))
}

fn request(parts: &Parts, params: Vec<(String, String)>, rest: String) -> Request {
    Request {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        headers: headers(&parts.headers),
        body: crate::model::Body::Empty,
        query: parts.uri.query().unwrap_or_default().to_owned(),
        params,
        rest,
    }
}

/// Lower-case names, visible ASCII values, the last of a repeated name. What we say to ourselves is not a script's, and
/// neither is the session of whoever is logged in.
fn headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::with_capacity(headers.keys_len());
    for name in headers.keys().filter(|name| *name != CHAIN_HEADER) {
        let values = headers.get_all(name).iter();
        if let Some(value) = values.rev().find_map(|value| value.to_str().ok()) {
            let value = if name == COOKIE { cookies::without_session(value) } else { Some(value.to_owned()) };
            all.extend(value.map(|value| (name.as_str().to_owned(), value)));
        }
    }
    all
}

fn row(
    execution_id: Uuid,
    script: &Script,
    route: Option<&Route>,
    request: Request,
    principal: Option<Principal>,
    timeout: Duration,
) -> Row {
    let accepted_at = UnixMs::now();
    let sent_id = request.headers.iter().find(|(name, value)| name == "x-request-id" && value.len() <= 128);
    let request_id = sent_id.map_or_else(|| execution_id.to_string(), |(_, value)| value.clone());
    Row {
        execution_id,
        request_id,
        kind: Kind::Http,
        app_id: script.app_id,
        route_id: route.map(|route| route.id),
        script_id: script.id,
        script_name: script.name.to_string(),
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        reply_to: None,
        request,
        principal,
        trigger_depth: 0,
        root_execution_id: execution_id,
        attempts: 0,
        crashes: 0,
        due_at: accepted_at,
        accepted_at,
        pinned_version: None,
        history: Vec::new(),
        redriven_from: None,
        age_ms: 0,
        wait_ms: 0,
        trigger_id: None,
        event: None,
        attempts_max: None,
        unique: None,
        client: None,
    }
}
