//! What scripts wrote: as lines, backwards from now, or as they come.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Either;
use http_body_util::channel::Channel;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Response, StatusCode};
use serde::Serialize;
use tokio::sync::broadcast::{self, error::RecvError};
use uuid::Uuid;

use super::executions::Whose;
use super::input::{Call, List};
use super::{Office, Outcome, not_allowed};
use crate::http::reply::{self, BodySender, Refusal};
use crate::model::{ExecutionRecord, UnixMs};
use crate::store::{ExecutionFilter, Position, Stopped};

/// A silent tail says something this often, so that both sides notice a dead connection.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Events a reader may fall behind before the tail waits for it.
const EVENTS_AHEAD: usize = 64;

/// One line.
#[derive(Clone, Debug, Serialize)]
struct Line {
    at: UnixMs,
    level: String,
    message: String,
    execution_id: Uuid,
    app_id: Uuid,
    script_id: Uuid,
    script_name: String,
}

/// What a reader wants to see.
#[derive(Clone)]
struct Wanted {
    whose: Whose,
    text: Option<String>,
}

impl Wanted {
    /// The lines of one execution, oldest first: what it wrote, and why it failed.
    fn lines(&self, record: &ExecutionRecord<'_>) -> Vec<Line> {
        if !self.whose.takes(record.app_id, record.script_id) {
            return Vec::new();
        }
        let began =
            record.finished_at.0.saturating_sub(i64::try_from(record.duration_us / 1000).unwrap_or(0));
        let line = |at: UnixMs, level: &str, message: &str| Line {
            at,
            level: level.to_owned(),
            message: message.to_owned(),
            execution_id: record.id,
            app_id: record.app_id,
            script_id: record.script_id,
            script_name: record.script_name.clone().into_owned(),
        };
        let written = record.script_logs.iter().map(|log| {
            let at = UnixMs(began).plus(Duration::from_millis(log.offset_ms.into()));
            line(at, &log.level, &log.message)
        });
        let failed = record.error.iter().map(|error| line(record.finished_at, "error", error));
        written
            .chain(failed)
            .filter(|line| self.text.as_ref().is_none_or(|text| line.message.contains(text)))
            .collect()
    }
}

impl Office {
    pub(super) async fn logs(&self, call: Call) -> Outcome {
        if call.method != Method::GET {
            return not_allowed("GET");
        }
        let (wanted, paging) = (self.wanted(&call)?, call.paging()?);
        let from = paging.cursor.as_deref().map(LineCursor::parse).transpose()?;
        let limit = paging.limit;
        let (items, next) = self
            .read(move |snapshot| {
                let filter = ExecutionFilter {
                    app_id: wanted.whose.app,
                    script_id: wanted.whose.script,
                    ..Default::default()
                };
                let mut page = LinePage { items: Vec::new(), limit, next: None };
                let stopped = snapshot.scan(&filter, from.map(LineCursor::scan_before), |at, record| {
                    let skip = from.filter(|from| from.at == at).map_or(0, |from| from.lines);
                    page.take(at, wanted.lines(&record), skip)
                })?;
                if let Stopped::Tired(at) = stopped {
                    page.next = Some(LineCursor { at, lines: 0 });
                }
                Ok((page.items, page.next))
            })
            .await?;
        Ok(reply::json(StatusCode::OK, &List { items, next_cursor: next.map(|next| next.to_string()) }))
    }

    /// `GET /api/v1/logs/tail`: server-sent events (WHATWG HTML 9.2), one line each.
    pub(super) fn tail(&self, call: &Call) -> Outcome {
        if call.method != Method::GET {
            return not_allowed("GET");
        }
        let wanted = self.wanted(call)?;
        let (sender, body) = Channel::new(EVENTS_AHEAD);
        tokio::spawn(follow(self.dispatch.tail(), wanted, sender, self.guests.clone()));
        let mut reply = Response::new(Either::Right(body));
        reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        reply.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        Ok(reply)
    }

    fn wanted(&self, call: &Call) -> Result<Wanted, Refusal> {
        Ok(Wanted { whose: self.whose(call)?, text: call.param("q").map(str::to_owned) })
    }
}

/// Sends lines until the reader leaves or the house closes.
async fn follow(
    mut tail: broadcast::Receiver<Arc<ExecutionRecord<'static>>>,
    wanted: Wanted,
    mut sender: BodySender,
    guests: crate::http::Guests,
) {
    let mut closing = guests.closing();
    loop {
        let events = tokio::select! {
            ended = tail.recv() => match ended {
                Ok(record) => wanted.lines(&record).iter().map(event).collect::<String>(),
                Err(RecvError::Lagged(missed)) => format!(": {missed} executions were missed\n\n"),
                Err(RecvError::Closed) => return,
            },
            () = tokio::time::sleep(HEARTBEAT) => ": still here\n\n".to_owned(),
            () = closing.wait() => return,
        };
        if !events.is_empty() && sender.send_data(Bytes::from(events)).await.is_err() {
            return;
        }
    }
}

fn event(line: &Line) -> String {
    let data = serde_json::to_string(line).unwrap_or_default();
    format!("data: {data}\n\n")
}

/// Where a list of lines goes on: after so many lines, newest first, of the record at `at`.
#[derive(Clone, Copy)]
struct LineCursor {
    at: Position,
    lines: usize,
}

impl LineCursor {
    fn parse(text: &str) -> Result<LineCursor, Refusal> {
        let wrong = || Refusal::invalid("cursor", "must be the next_cursor of an earlier page");
        let (at, lines) = text.rsplit_once('.').ok_or_else(wrong)?;
        let at = at.parse().map_err(|_| wrong())?;
        Ok(LineCursor { at, lines: lines.parse().map_err(|_| wrong())? })
    }

    /// The record itself is to be seen again if some of its lines are left.
    fn scan_before(self) -> Position {
        if self.lines > 0 { self.at.next() } else { self.at }
    }
}

impl std::fmt::Display for LineCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.at, self.lines)
    }
}

struct LinePage {
    items: Vec<Line>,
    limit: usize,
    next: Option<LineCursor>,
}

impl LinePage {
    /// Takes the lines of one record, newest first, but for the first `skip`. False when the page is full.
    fn take(&mut self, at: Position, lines: Vec<Line>, skip: usize) -> bool {
        let total = lines.len();
        let room = self.limit - self.items.len();
        let before = self.items.len();
        self.items.extend(lines.into_iter().rev().skip(skip).take(room));
        let shown = skip + self.items.len() - before;
        if shown < total {
            self.next = Some(LineCursor { at, lines: shown });
            return false;
        }
        if self.items.len() == self.limit {
            // Older records may have more: the next page begins below this one.
            self.next = Some(LineCursor { at, lines: 0 });
            return false;
        }
        true
    }
}
