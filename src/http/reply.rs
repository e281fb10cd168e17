//! The one place that knows which outcome is which status.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::channel::{Channel, Sender};
use http_body_util::{Either, Full};
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::{Response, StatusCode};
use serde::Serialize;
use uuid::Uuid;

use crate::dispatch::Answer;
use crate::script::{self, FaultKind};

/// What is sent: all at once, or as it comes. An error breaks the answer off, so that its end is not taken for one.
pub(super) type ReplyBody = Either<Full<Bytes>, Channel<Bytes, io::Error>>;
/// Where an answer comes from that is sent as it comes.
pub(super) type BodySender = Sender<Bytes, io::Error>;
/// An answer to a client.
pub(super) type Reply = Response<ReplyBody>;

/// Names the execution on every answer that has one.
pub(super) const EXECUTION_ID: HeaderName = HeaderName::from_static("x-execution-id");
const ERROR_SOURCE: HeaderName = HeaderName::from_static("x-error-source");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Why a request is not served. A value, not a failure of the house.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    /// What to answer.
    pub status: StatusCode,
    /// What to do about it.
    pub message: String,
    /// A word for programs.
    pub reason: Option<&'static str>,
    /// When to come back.
    pub retry_after: Option<Duration>,
    /// Further fields of the body.
    pub more: Vec<(&'static str, serde_json::Value)>,
}

impl Refusal {
    /// A refusal with this status and message.
    pub(super) fn new(status: StatusCode, message: impl Into<String>) -> Refusal {
        Refusal { status, message: message.into(), reason: None, retry_after: None, more: Vec::new() }
    }

    /// 400 as the data plane words it.
    pub(super) fn bad_request(why: impl std::fmt::Display) -> Refusal {
        Refusal::new(StatusCode::BAD_REQUEST, format!("bad request: {why}"))
    }

    /// 404.
    pub(super) fn not_found(message: impl Into<String>) -> Refusal {
        Refusal::new(StatusCode::NOT_FOUND, message)
    }

    /// 422 that names the field.
    pub(super) fn invalid(field: &str, why: impl std::fmt::Display) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, format!("{field}: {why}"));
        refusal.more.push(("field", field.into()));
        refusal
    }

    /// 500; the cause is only in the log.
    pub(super) fn internal() -> Refusal {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, "internal error")
    }

    /// 503: come back in a second.
    pub(super) fn overloaded(message: impl Into<String>, reason: &'static str) -> Refusal {
        let mut refusal = Refusal::new(StatusCode::SERVICE_UNAVAILABLE, message);
        refusal.reason = Some(reason);
        refusal.retry_after = Some(Duration::from_secs(1));
        refusal
    }

    /// 429: the app is called more often than it allows; come back after `wait`.
    pub(super) fn too_often(per_second: u32, wait: Duration) -> Refusal {
        let message = format!("this app takes {per_second} requests a second; slow down, or raise its limit");
        let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, message);
        refusal.reason = Some("rate_limited");
        refusal.retry_after =
            Some(Duration::from_secs(wait.as_millis().div_ceil(1000).try_into().unwrap_or(1)));
        refusal
    }

    /// 429: somebody guesses; come back after `wait`.
    pub(super) fn too_many_tries(what: &str, wait: Duration) -> Refusal {
        let seconds = u64::try_from(wait.as_millis().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        let message = format!("{what}; try again in {} minutes", seconds.div_ceil(60));
        let mut refusal = Refusal::new(StatusCode::TOO_MANY_REQUESTS, message);
        refusal.reason = Some("too_many_tries");
        refusal.retry_after = Some(Duration::from_secs(seconds));
        refusal
    }

    /// The answer.
    pub(super) fn reply(&self) -> Reply {
        let mut body = serde_json::Map::new();
        body.insert("error".into(), self.message.as_str().into());
        if let Some(reason) = self.reason {
            body.insert("reason".into(), reason.into());
        }
        body.extend(self.more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
        let mut reply = json(self.status, &body);
        if let Some(after) = self.retry_after {
            reply.headers_mut().insert(RETRY_AFTER, after.as_secs().max(1).into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            reply.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if self.status.is_server_error() {
            reply.headers_mut().insert(ERROR_SOURCE, HeaderValue::from_static("platform"));
        }
        reply
    }
}

/// The status of each fault: the table of the contract's section 1.2.
pub(super) fn fault_status(kind: FaultKind) -> StatusCode {
    match kind {
        FaultKind::Validation => StatusCode::UNPROCESSABLE_ENTITY,
        FaultKind::Runtime => StatusCode::BAD_GATEWAY,
        FaultKind::Overloaded | FaultKind::Conflict | FaultKind::Drain => StatusCode::SERVICE_UNAVAILABLE,
        FaultKind::Timeout => StatusCode::GATEWAY_TIMEOUT,
        FaultKind::Operations | FaultKind::Memory => StatusCode::INSUFFICIENT_STORAGE,
        FaultKind::Gone => StatusCode::NOT_FOUND,
        FaultKind::Cancelled | FaultKind::Panic | FaultKind::Platform => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

fn fault_reason(kind: FaultKind) -> &'static str {
    match kind {
        FaultKind::Validation => "validation",
        FaultKind::Runtime => "runtime",
        FaultKind::Overloaded => "overloaded",
        FaultKind::Conflict => "conflict",
        FaultKind::Drain => "stopping",
        FaultKind::Timeout => "timeout",
        FaultKind::Operations => "operations",
        FaultKind::Memory => "memory",
        FaultKind::Gone => "script_gone",
        FaultKind::Cancelled => "cancelled",
        FaultKind::Panic | FaultKind::Platform => "platform",
    }
}

fn is_ours(kind: FaultKind) -> bool {
    match kind {
        FaultKind::Validation
        | FaultKind::Runtime
        | FaultKind::Timeout
        | FaultKind::Operations
        | FaultKind::Memory
        | FaultKind::Gone => false,
        FaultKind::Overloaded
        | FaultKind::Conflict
        | FaultKind::Drain
        | FaultKind::Cancelled
        | FaultKind::Panic
        | FaultKind::Platform => true,
    }
}

/// The answer to a sync call. `None` is an answer that the house lost.
pub(super) fn answer(answer: Option<Answer>, execution: Uuid) -> Reply {
    let lost = || script::Fault::new(FaultKind::Platform, "the answer was lost");
    let result = answer.map_or_else(|| Err(lost()), |answer| answer.result);
    let mut reply = match result {
        Ok(response) => script_response(response, execution),
        Err(fault) => fault_reply(&fault, execution),
    };
    name_execution(&mut reply, execution);
    reply
}

/// 504 for a caller who waited as long as was promised.
pub(super) fn timed_out(execution: Uuid) -> Reply {
    let mut reply = fault_reply(&script::Fault::new(FaultKind::Timeout, "request timed out"), execution);
    name_execution(&mut reply, execution);
    reply
}

/// Adds the execution's id.
pub(super) fn name_execution(reply: &mut Reply, execution: Uuid) {
    let mut buffer = Uuid::encode_buffer();
    let id = execution.hyphenated().encode_lower(&mut buffer);
    if let Ok(value) = HeaderValue::from_str(id) {
        reply.headers_mut().insert(EXECUTION_ID, value);
    }
}

fn fault_reply(fault: &script::Fault, execution: Uuid) -> Reply {
    let mut refusal = Refusal::new(fault_status(fault.kind), fault.message.clone());
    refusal.reason = Some(fault.reason.unwrap_or(fault_reason(fault.kind)));
    refusal.more.push(("execution_id", execution.to_string().into()));
    if refusal.status == StatusCode::SERVICE_UNAVAILABLE {
        refusal.retry_after = Some(Duration::from_secs(1));
    }
    let mut reply = refusal.reply();
    if refusal.status.is_server_error() && !is_ours(fault.kind) {
        reply.headers_mut().insert(ERROR_SOURCE, HeaderValue::from_static("script"));
    }
    reply
}

/// Headers of the connection are the server's to set: a script that could would desynchronise it (RFC 9112 6.3).
fn belongs_to_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "content-length" | "keep-alive" | "te" | "trailer" | "transfer-encoding" | "upgrade"
    )
}

fn script_response(response: script::Response, execution: Uuid) -> Reply {
    // 1xx cannot be a final answer (RFC 9110 15.2).
    let status = StatusCode::from_u16(response.status).ok().filter(|status| !status.is_informational());
    let Some(status) = status else {
        let message = format!("the script answered with status {}, which cannot be sent", response.status);
        let mut refusal = Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, message);
        refusal.reason = Some("invalid_status");
        refusal.more.push(("execution_id", execution.to_string().into()));
        let mut reply = refusal.reply();
        reply.headers_mut().insert(ERROR_SOURCE, HeaderValue::from_static("script"));
        return reply;
    };
    let mut reply = Response::new(Either::Left(Full::new(response.body)));
    *reply.status_mut() = status;
    for (name, value) in &response.headers {
        let parsed = (HeaderName::try_from(name.as_str()), HeaderValue::from_str(value));
        if let (Ok(name), Ok(value)) = parsed
            && !belongs_to_connection(&name)
        {
            reply.headers_mut().append(name, value);
        }
    }
    if status.is_server_error() {
        reply.headers_mut().insert(ERROR_SOURCE, HeaderValue::from_static("script"));
    }
    reply
}

/// An answer of ours in JSON.
pub(super) fn json(status: StatusCode, body: &impl Serialize) -> Reply {
    let bytes = serde_json::to_vec(body).unwrap_or_else(|error| {
        tracing::error!(%error, "an answer could not be written as JSON");
        b"{\"error\":\"internal error\"}".to_vec()
    });
    let mut reply = Response::new(Either::Left(Full::new(Bytes::from(bytes))));
    *reply.status_mut() = status;
    reply.headers_mut().insert(CONTENT_TYPE, JSON);
    reply
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(Bytes::new())));
    *reply.status_mut() = status;
    reply
}

/// An answer in another type.
pub(super) fn text(content_type: &'static str, body: String) -> Reply {
    let mut reply = Response::new(Either::Left(Full::new(Bytes::from(body))));
    reply.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_has_the_contracts_status() {
        for (kind, status) in [
            (FaultKind::Validation, 422),
            (FaultKind::Runtime, 502),
            (FaultKind::Overloaded, 503),
            (FaultKind::Conflict, 503),
            (FaultKind::Timeout, 504),
            (FaultKind::Operations, 507),
            (FaultKind::Memory, 507),
            (FaultKind::Platform, 500),
            (FaultKind::Panic, 500),
            (FaultKind::Cancelled, 500),
            (FaultKind::Drain, 503),
            (FaultKind::Gone, 404),
        ] {
            let fault = script::Fault::new(kind, "why");
            let reply = answer(Some(Answer { result: Err(fault) }), Uuid::nil());
            assert_eq!(reply.status(), status, "{kind:?}");
            assert_eq!(reply.headers().contains_key(RETRY_AFTER), status == 503, "{kind:?}");
            assert!(reply.headers().contains_key(EXECUTION_ID));
        }
    }

    #[test]
    fn a_lost_answer_is_a_fault_of_ours() {
        let reply = answer(None, Uuid::nil());
        assert_eq!(reply.status(), 500);
        assert_eq!(reply.headers()[ERROR_SOURCE], "platform");
    }

    #[test]
    fn a_script_sets_its_headers_but_not_the_connections() {
        let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let headers = vec![
            header("x-a", "1"),
            header("set-cookie", "a=1"),
            header("set-cookie", "b=2"),
            header("bad name", "x"),
            header("x-bad", "a\nb"),
            header("content-length", "5"),
            header("transfer-encoding", "chunked"),
        ];
        let reply = script_response(
            script::Response { status: 299, headers, body: Bytes::from_static(b"{}") },
            Uuid::nil(),
        );
        assert_eq!(reply.status(), 299);
        assert_eq!(reply.headers().len(), 3);
        assert_eq!(reply.headers().get_all("set-cookie").iter().count(), 2);
    }

    #[test]
    fn a_status_that_cannot_be_sent_is_500() {
        for status in [0, 99, 100, 199, 1000, 65535] {
            let reply = script_response(
                script::Response { status, headers: vec![], body: Bytes::new() },
                Uuid::nil(),
            );
            assert_eq!(reply.status(), 500, "{status}");
        }
    }
}
