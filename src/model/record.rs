//! What is kept of work that ended: execution records and dead letters.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{Row, UnixMs};

/// How an execution ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// It did what it should; a routed sync call answered 200 to 399.
    Success,
    /// It failed, was cancelled, or answered outside 200 to 399.
    Error,
    /// It ran out of time.
    Timeout,
    /// It ran out of operations or memory.
    BudgetExceeded,
}

impl Ended {
    /// The word for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Ended::Success => "success",
            Ended::Error => "error",
            Ended::Timeout => "timeout",
            Ended::BudgetExceeded => "budget_exceeded",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Ended> {
        [Ended::Success, Ended::Error, Ended::Timeout, Ended::BudgetExceeded]
            .into_iter()
            .find(|e| e.as_str() == word)
    }
}

/// What became of a sync answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Delivery {
    /// The waiter took it.
    Delivered,
    /// The waiter was gone.
    Abandoned,
    /// Nobody waited.
    None,
}

/// One line a script wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// `debug`, `info`, `warn` or `error`; `print` writes `info`.
    pub level: String,
    /// The text.
    pub message: String,
    /// Milliseconds since the run began.
    pub offset_ms: u32,
}

/// One attempt that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it ended.
    pub at: UnixMs,
    /// How.
    pub status: Ended,
    /// Why.
    pub error: String,
}

/// The record of a finished execution. It borrows from the row and the outcome until it is encoded. Secret headers are redacted and bodies capped before it is made.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ExecutionRecord<'a> {
    /// The execution.
    pub id: Uuid,
    /// The app whose work it was.
    pub app_id: Uuid,
    /// What ran.
    pub script_id: Uuid,
    /// Its name then.
    pub script_name: Cow<'a, str>,
    /// The version that ran last; 0 if none did.
    pub script_version: u32,
    /// The route it came over, if any.
    pub route_id: Option<Uuid>,
    /// Names the request in logs.
    pub request_id: Cow<'a, str>,
    /// The request's method.
    pub request_method: Cow<'a, str>,
    /// The request's path.
    pub request_path: Cow<'a, str>,
    /// The request's headers.
    pub request_headers: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    /// The request's body, as text.
    pub request_body: Cow<'a, str>,
    /// The script's status, if it answered.
    pub response_code: Option<u16>,
    /// The script's body, as text, if it answered.
    pub response_body: Option<Cow<'a, str>>,
    /// What it wrote in its last attempt.
    pub script_logs: Cow<'a, [LogLine]>,
    /// The last attempt's running time in microseconds.
    pub duration_us: u64,
    /// How it ended.
    pub status: Ended,
    /// Why it failed, if it did.
    pub error: Option<Cow<'a, str>>,
    /// When it was accepted.
    pub created_at: UnixMs,
    /// When it ended.
    pub finished_at: UnixMs,
    /// Attempts it took.
    pub attempt: u16,
    /// The kind of its row, or `admin`.
    pub kind: super::Kind,
    /// Whether a caller waited.
    pub sync: bool,
    /// Time between being due and starting, in microseconds.
    pub queue_wait_us: u64,
    /// Operations used by the last attempt.
    pub operations: u64,
    /// The most bytes held at once by the last attempt.
    pub peak_bytes: u64,
    /// What became of the answer.
    pub delivery: Delivery,
    /// Where its dead letter is.
    pub dead_letter_id: Option<Uuid>,
    /// Triggers that led here.
    pub trigger_depth: u16,
    /// The execution that began the chain.
    pub root_execution_id: Uuid,
}

/// A row that ended without success after its last attempt.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    /// Never changes.
    pub id: Uuid,
    /// The row as it was, with every attempt's error in its history.
    pub row: Row,
    /// The version that failed; 0 if none ran.
    pub script_version: u32,
    /// One word for why: `attempts`, `permanent`, `age`, `crash`, `script_gone`.
    pub reason: String,
    /// When it died.
    pub died_at: UnixMs,
}
