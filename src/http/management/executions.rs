//! Executions: those under way, from the outbox; those that ended, from the log. And the outbox itself.

use std::time::Duration;

use hyper::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::input::{Call, List, Paging, parse_cursor};
use super::{Office, Outcome, not_allowed};
use crate::http::reply::{self, Refusal};
use crate::model::{Ended, ExecutionRecord, Row, UnixMs};
use crate::store::{ExecutionFilter, Position};

const WAIT_SECONDS_MAX: u64 = 60;

/// Who waits for an execution looks at least this often.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Which executions a list is about; shared by lists of executions, rows, letters and lines.
#[derive(Clone, Copy, Default)]
pub(super) struct Whose {
    pub(super) app: Option<Uuid>,
    pub(super) script: Option<Uuid>,
}

/// Where a list of executions goes on: among those under way, or in the log.
enum Cursor {
    Start,
    UnderWay(Uuid),
    Log(Option<Position>),
}

impl Cursor {
    fn parse(text: Option<&str>) -> Result<Cursor, Refusal> {
        let Some(text) = text else { return Ok(Cursor::Start) };
        let wrong = || Refusal::invalid("cursor", "must be the next_cursor of an earlier page");
        match text.split_once(':') {
            Some(("row", id)) => parse_cursor(id).map(Cursor::UnderWay),
            Some(("log", "")) => Ok(Cursor::Log(None)),
            Some(("log", at)) => at.parse().map(|at| Cursor::Log(Some(at))).map_err(|_| wrong()),
            _ => Err(wrong()),
        }
    }
}

impl Office {
    pub(super) async fn executions(&self, call: Call, rest: &[&str]) -> Outcome {
        match (&call.method, rest) {
            (&Method::GET, []) => self.execution_list(&call).await,
            (_, []) => not_allowed("GET"),
            (&Method::GET, [id]) => {
                let wait = call.parsed::<u64>("wait")?.unwrap_or(0);
                if wait > WAIT_SECONDS_MAX {
                    return Err(Refusal::invalid(
                        "wait",
                        format!("is {wait}; at most {WAIT_SECONDS_MAX} seconds are allowed"),
                    ));
                }
                let found = self.wait_for(execution_id(id)?, Duration::from_secs(wait)).await?;
                Ok(reply::json(StatusCode::OK, &found))
            }
            (_, [_]) => not_allowed("GET"),
            (&Method::POST, [id, "cancel"]) => self.cancel(execution_id(id)?).await,
            (_, [_, "cancel"]) => not_allowed("POST"),
            _ => Err(Refusal::not_found("no such endpoint")),
        }
    }

    async fn execution_list(&self, call: &Call) -> Outcome {
        let (whose, paging) = (self.whose(call)?, call.paging()?);
        let cursor = Cursor::parse(paging.cursor.as_deref())?;
        let status = call.param("status");
        let (under_way, ended) = match status {
            None => (true, true),
            Some("queued" | "running" | "retrying") => (true, false),
            Some(word) => {
                let words = "must be queued, running, retrying, success, error, timeout or budget_exceeded";
                Ended::parse(word).ok_or_else(|| Refusal::invalid("status", words))?;
                (false, true)
            }
        };
        let since = self.since(call)?;
        let mut items = Vec::new();
        let before = match cursor {
            Cursor::Start => None,
            Cursor::UnderWay(id) => Some(id),
            Cursor::Log(at) => return self.ended(whose, status, since, at, &paging, items).await,
        };
        if under_way {
            let next = self.under_way(whose, status, since, before, &paging, &mut items).await?;
            if next.is_some() || !ended {
                return Ok(reply::json(StatusCode::OK, &List { items, next_cursor: next }));
            }
        }
        self.ended(whose, status, since, None, &paging, items).await
    }

    /// Adds executions that have not ended; says where to go on if there are more.
    async fn under_way(
        &self,
        whose: Whose,
        status: Option<&str>,
        since: Option<UnixMs>,
        before: Option<Uuid>,
        paging: &Paging,
        items: &mut Vec<Value>,
    ) -> Result<Option<String>, Refusal> {
        let (limit, wanted, dispatch) = (paging.limit, status.map(str::to_owned), self.dispatch.clone());
        let keep = move |row: &Row| {
            whose.takes(row.app_id, row.script_id)
                && since.is_none_or(|since| row.accepted_at >= since)
                && wanted.as_deref().is_none_or(|status| dispatch.state(row).as_str() == status)
        };
        let page = self.read(move |snapshot| snapshot.rows(before, limit, keep)).await?;
        items.extend(page.items.iter().map(|row| self.row_view(row)));
        Ok(page.next.map(|id| format!("row:{id}")))
    }

    /// Fills the page up with executions that ended.
    async fn ended(
        &self,
        whose: Whose,
        status: Option<&str>,
        since: Option<UnixMs>,
        before: Option<Position>,
        paging: &Paging,
        mut items: Vec<Value>,
    ) -> Outcome {
        let left = paging.limit.saturating_sub(items.len());
        if left == 0 {
            return Ok(reply::json(StatusCode::OK, &List { items, next_cursor: Some("log:".into()) }));
        }
        let status = status.and_then(Ended::parse);
        let filter = ExecutionFilter { app_id: whose.app, script_id: whose.script, status, since };
        let page = self.read(move |snapshot| snapshot.executions(&filter, before, left)).await?;
        items.extend(page.items.iter().map(record_view));
        Ok(reply::json(StatusCode::OK, &List { items, next_cursor: page.next.map(|at| format!("log:{at}")) }))
    }

    /// The execution as soon as it ended, or as it is after `wait`.
    async fn wait_for(&self, id: Uuid, wait: Duration) -> Result<Value, Refusal> {
        let until = Instant::now() + wait;
        let (mut tail, mut closing) = (self.dispatch.tail(), self.guests.closing());
        let mut found = self.look_up(id).await?;
        while !found.1 && Instant::now() < until {
            let ended = timeout_at(until.min(Instant::now() + LOOK_AGAIN), tail.recv());
            let ended = tokio::select! {
                ended = ended => ended,
                // Nobody is kept waiting by a house that closes.
                () = closing.wait() => break,
            };
            match ended {
                Ok(Ok(record)) if record.id != id => continue,
                // Fell behind, or the end came between the first look and the tail: what was missed may be the one.
                // Or the time is over, and it may run by now.
                Ok(Ok(_) | Err(RecvError::Lagged(_))) | Err(_) => {}
                Ok(Err(RecvError::Closed)) => break,
            }
            found = self.look_up(id).await?;
        }
        Ok(found.0)
    }

    /// An execution and whether it has ended.
    async fn look_up(&self, id: Uuid) -> Result<(Value, bool), Refusal> {
        let found = self.read(move |snapshot| Ok((snapshot.row(id)?, snapshot.execution(id)?))).await?;
        match found {
            (_, Some(record)) => Ok((record_view(&record), true)),
            (Some(row), None) => Ok((self.row_view(&row), false)),
            // A direct call is on a bench without a row.
            (None, None) if self.dispatch.executor().is_running(id) => {
                Ok((json!({ "id": id, "status": "running" }), false))
            }
            (None, None) => Err(unknown(id)),
        }
    }

    async fn cancel(&self, id: Uuid) -> Outcome {
        if self.dispatch.cancel(id) {
            return Ok(reply::json(StatusCode::OK, &json!({ "id": id, "cancelled": true })));
        }
        let message = match self.look_up(id).await? {
            (_, true) => "the execution has ended",
            (_, false) => "the execution is about to run or to end; ask again",
        };
        Err(Refusal::new(StatusCode::CONFLICT, message))
    }

    pub(super) async fn outbox(&self, call: Call) -> Outcome {
        if call.method != Method::GET {
            return not_allowed("GET");
        }
        let (whose, paging) = (self.whose(&call)?, call.paging()?);
        let before = paging.cursor.as_deref().map(parse_cursor).transpose()?;
        let keep = move |row: &Row| whose.takes(row.app_id, row.script_id);
        let page = self.read(move |snapshot| snapshot.rows(before, paging.limit, keep)).await?;
        let items: Vec<Value> = page.items.iter().map(|row| self.row_view(row)).collect();
        Ok(reply::json(StatusCode::OK, &List { items, next_cursor: page.next }))
    }

    /// What `?app=` and `?script=` name.
    pub(super) fn whose(&self, call: &Call) -> Result<Whose, Refusal> {
        self.resolve(call.param("app"), call.param("script"))
    }

    /// An app by id or slug, a script by id or by a name that only one script has.
    pub(super) fn resolve(&self, app: Option<&str>, script: Option<&str>) -> Result<Whose, Refusal> {
        let catalog = self.store.catalog();
        // The executions of what was removed can still be asked for, by id.
        let app = app
            .map(|text| match (catalog.app(text), Uuid::try_parse(text)) {
                (Some(app), _) => Ok(app.id),
                (None, Ok(id)) => Ok(id),
                (None, Err(_)) => Err(Refusal::not_found(format!("app not found: {text}"))),
            })
            .transpose()?;
        let by_name = |text: &str| {
            let in_app = |owner: Uuid| app.is_none_or(|app| app == owner);
            let mut named = catalog.scripts.values().filter(|s| s.name.as_str() == text && in_app(s.app_id));
            match (named.next(), named.next()) {
                (Some(script), None) => Ok(script.id),
                (Some(_), Some(_)) => Err(Refusal::invalid(
                    "script",
                    "is a name in several apps; name the app too, or give the id",
                )),
                (None, _) => Err(Refusal::not_found(format!("script not found: {text}"))),
            }
        };
        let script = script.map(|text| Uuid::try_parse(text).or_else(|_| by_name(text))).transpose()?;
        Ok(Whose { app, script })
    }

    fn since(&self, call: &Call) -> Result<Option<UnixMs>, Refusal> {
        let parse = |text: &str| {
            UnixMs::parse(text).ok_or_else(|| {
                Refusal::invalid("since", "must be an RFC 3339 instant like 2026-01-31T07:00:00Z")
            })
        };
        call.param("since").map(parse).transpose()
    }

    fn row_view(&self, row: &Row) -> Value {
        json!({
            "id": row.execution_id,
            "execution_id": row.execution_id,
            "app_id": row.app_id,
            "script_id": row.script_id,
            "script_name": row.script_name,
            "route_id": row.route_id,
            "trigger_id": row.trigger_id,
            "request_id": row.request_id,
            "request_method": row.request.method,
            "request_path": row.request.path,
            "kind": row.kind,
            "sync": row.is_sync(),
            "status": self.dispatch.state(row).as_str(),
            "attempts": row.attempts,
            "attempt": row.attempt(),
            "errors": row.history,
            "due_at": row.due_at,
            "created_at": row.accepted_at,
            "updated_at": row.history.last().map_or(row.accepted_at, |attempt| attempt.at),
            "trigger_depth": row.trigger_depth,
            "root_execution_id": row.root_execution_id,
        })
    }
}

impl Whose {
    pub(super) fn takes(&self, app: Uuid, script: Uuid) -> bool {
        self.app.is_none_or(|id| id == app) && self.script.is_none_or(|id| id == script)
    }
}

fn execution_id(text: &str) -> Result<Uuid, Refusal> {
    Uuid::try_parse(text).map_err(|_| Refusal::bad_request(format_args!("\"{text}\" is not an execution id")))
}

fn unknown(id: Uuid) -> Refusal {
    Refusal::not_found(format!("execution not found: {id}"))
}

/// The record of contract 1.6.
fn record_view(record: &ExecutionRecord<'_>) -> Value {
    let headers: Map<String, Value> = record
        .request_headers
        .iter()
        .map(|(name, value)| (name.clone().into_owned(), value.as_ref().into()))
        .collect();
    json!({
        "id": record.id,
        "execution_id": record.id,
        "app_id": record.app_id,
        "script_id": record.script_id,
        "script_name": record.script_name,
        "script_version": record.script_version,
        "route_id": record.route_id,
        "request_id": record.request_id,
        "request_method": record.request_method,
        "request_path": record.request_path,
        "request_headers": headers,
        "request_body": record.request_body,
        "response_code": record.response_code,
        "response_body": record.response_body,
        "script_logs": record.script_logs,
        "duration_ms": millis(record.duration_us),
        "status": record.status,
        "error": record.error,
        "created_at": record.created_at,
        "updated_at": record.finished_at,
        "finished_at": record.finished_at,
        "attempt": record.attempt,
        "kind": record.kind,
        "sync": record.sync,
        "queue_wait_ms": millis(record.queue_wait_us),
        "operations": record.operations,
        "peak_bytes": record.peak_bytes,
        "delivery": record.delivery,
        "dead_letter_id": record.dead_letter_id,
        "trigger_depth": record.trigger_depth,
        "root_execution_id": record.root_execution_id,
    })
}

/// Milliseconds with a fraction.
fn millis(us: u64) -> f64 {
    let ms = Duration::from_micros(us).as_secs_f64() * 1000.0;
    (ms * 1000.0).round() / 1000.0
}
