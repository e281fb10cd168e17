//! Rows that triggers make: what happened, as the script that waits for it is told.
//!
//! Pure: ids, the clock and the catalog are arguments. A row is one deeper in its chain than what caused it; whether
//! that is too deep is decided when it is to run.

mod dead_letters;

use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use serde_json::value::RawValue;

use super::Ids;
use super::catalog::Catalog;
use super::kv::{Change, Entry};
use crate::model::{Body, Chain, Request, Row, Trigger, UnixMs};

/// What rows are made with.
pub(crate) struct Clerk<'a> {
    pub(crate) ids: &'a Ids,
    pub(crate) now: UnixMs,
    /// Limit of a run whose script names none.
    pub(crate) timeout: Duration,
}

/// A value was set or deleted.
pub(crate) struct KvEvent<'a> {
    pub(crate) change: &'a Change,
    /// What was there, if it had not expired.
    pub(crate) old: Option<&'a Entry>,
    /// The number of the commit.
    pub(crate) version: u64,
    pub(crate) cause: Option<Chain>,
}

#[derive(Serialize)]
struct KvDetails<'a> {
    kind: &'static str,
    op: &'static str,
    key: &'a str,
    old: Option<&'a RawValue>,
    new: Option<&'a RawValue>,
    version: u64,
}

impl Clerk<'_> {
    /// The row that `trigger` makes of an event. `None` if its script is gone: there is nobody to tell.
    pub(crate) fn row(
        &self,
        trigger: &Trigger,
        catalog: &Catalog,
        cause: Option<Chain>,
        event: &impl Serialize,
        path: &str,
    ) -> Option<Row> {
        let script = catalog.scripts.get(&trigger.script_id)?;
        let execution_id = self.ids.at(self.now);
        let timeout = script.timeout_seconds.map_or(self.timeout, |limit| Duration::from_secs(limit.into()));
        let kind = trigger.on.kind();
        let attempts_max = match trigger.on {
            crate::model::TriggerOn::Queue { attempts_max, .. } => attempts_max,
            crate::model::TriggerOn::Kv { .. }
            | crate::model::TriggerOn::Cron { .. }
            | crate::model::TriggerOn::DeadLetter { .. }
            | crate::model::TriggerOn::Startup => None,
        };
        let event = serde_json::to_vec(event).unwrap_or_else(|error| {
            // No event holds what JSON cannot say.
            tracing::error!(%error, "an event could not be written");
            b"{}".to_vec()
        });
        Some(Row {
            execution_id,
            request_id: execution_id.to_string(),
            kind,
            app_id: trigger.app_id,
            route_id: None,
            script_id: script.id,
            script_name: script.name.to_string(),
            timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
            reply_to: None,
            request: happening(kind.as_str(), path),
            principal: None,
            trigger_depth: cause.map_or(1, |cause| cause.depth.saturating_add(1)),
            root_execution_id: cause.map_or(execution_id, |cause| cause.root),
            attempts: 0,
            crashes: 0,
            due_at: self.now,
            accepted_at: self.now,
            pinned_version: None,
            history: Vec::new(),
            redriven_from: None,
            age_ms: 0,
            wait_ms: 0,
            trigger_id: Some(trigger.id),
            event: Some(Bytes::from(event)),
            attempts_max,
            unique: None,
            client: None,
        })
    }

    /// The row for a changed value; `None` also if nothing was there to be deleted.
    pub(crate) fn kv(&self, trigger: &Trigger, catalog: &Catalog, event: &KvEvent<'_>) -> Option<Row> {
        let KvEvent { change, old, version, cause } = event;
        if change.value.is_none() && old.is_none() {
            return None;
        }
        let details = KvDetails {
            kind: "kv",
            op: if change.value.is_some() { "set" } else { "delete" },
            key: change.key.as_str(),
            old: old.and_then(|old| raw(&old.value)),
            new: change.value.as_ref().and_then(raw),
            version: *version,
        };
        self.row(trigger, catalog, *cause, &details, change.key.as_str())
    }
}

/// A request that was none: what happened stands where the method is, and to what where the path is.
fn happening(kind: &str, path: &str) -> Request {
    Request {
        method: kind.to_ascii_uppercase(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: Body::Empty,
        query: String::new(),
        params: Vec::new(),
        rest: String::new(),
    }
}

/// JSON as it stands. Only valid JSON is ever kept.
fn raw(json: &Bytes) -> Option<&RawValue> {
    serde_json::from_slice(json).ok()
}
