//! The shapes of earlier releases, for reading only. They never change.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::model::{
    App, AppLimits, Attempt, DeadLetter, Domain, Egress, HostPattern, InboxId, Kind, Name, Principal,
    Request, Row, Slug, TlsSource, UnixMs,
};

/// An app before its calls could be ruled.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AppV1 {
    id: Uuid,
    slug: Slug,
    name: Name,
    created_at: UnixMs,
    updated_at: UnixMs,
}

impl From<AppV1> for App {
    fn from(old: AppV1) -> App {
        let AppV1 { id, slug, name, created_at, updated_at } = old;
        App {
            id,
            slug,
            name,
            egress: Egress::default(),
            limits: AppLimits::default(),
            created_at,
            updated_at,
        }
    }
}

/// A domain before schema 4: it had no certificate.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DomainV1 {
    id: Uuid,
    app_id: Uuid,
    pattern: HostPattern,
    created_at: UnixMs,
    updated_at: UnixMs,
}

impl From<DomainV1> for Domain {
    fn from(old: DomainV1) -> Domain {
        let DomainV1 { id, app_id, pattern, created_at, updated_at } = old;
        Domain { id, app_id, pattern, tls: TlsSource::default(), created_at, updated_at }
    }
}

/// A row before schema 2: without its age.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RowV1 {
    execution_id: Uuid,
    request_id: String,
    kind: Kind,
    app_id: Uuid,
    route_id: Option<Uuid>,
    script_id: Uuid,
    script_name: String,
    timeout_ms: u32,
    reply_to: Option<InboxId>,
    request: Request,
    principal: Option<Principal>,
    trigger_depth: u16,
    root_execution_id: Uuid,
    attempts: u16,
    crashes: u16,
    due_at: UnixMs,
    accepted_at: UnixMs,
    pinned_version: Option<u32>,
    history: Vec<Attempt>,
    redriven_from: Option<Uuid>,
}

/// A row before schema 3: no trigger made it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RowV2 {
    execution_id: Uuid,
    request_id: String,
    kind: Kind,
    app_id: Uuid,
    route_id: Option<Uuid>,
    script_id: Uuid,
    script_name: String,
    timeout_ms: u32,
    reply_to: Option<InboxId>,
    request: Request,
    principal: Option<Principal>,
    trigger_depth: u16,
    root_execution_id: Uuid,
    attempts: u16,
    crashes: u16,
    due_at: UnixMs,
    accepted_at: UnixMs,
    pinned_version: Option<u32>,
    history: Vec<Attempt>,
    redriven_from: Option<Uuid>,
    age_ms: u64,
    wait_ms: u64,
}

/// A row before schema 4: without its client.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RowV3 {
    execution_id: Uuid,
    request_id: String,
    kind: Kind,
    app_id: Uuid,
    route_id: Option<Uuid>,
    script_id: Uuid,
    script_name: String,
    timeout_ms: u32,
    reply_to: Option<InboxId>,
    request: Request,
    principal: Option<Principal>,
    trigger_depth: u16,
    root_execution_id: Uuid,
    attempts: u16,
    crashes: u16,
    due_at: UnixMs,
    accepted_at: UnixMs,
    pinned_version: Option<u32>,
    history: Vec<Attempt>,
    redriven_from: Option<Uuid>,
    age_ms: u64,
    wait_ms: u64,
    trigger_id: Option<Uuid>,
    event: Option<Bytes>,
    attempts_max: Option<u16>,
    unique: Option<String>,
}

/// A dead letter before schema 4, around a row of its time.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct DeadLetterOf<R> {
    id: Uuid,
    row: R,
    script_version: u32,
    reason: String,
    died_at: UnixMs,
}

impl From<RowV1> for RowV2 {
    /// The age is what the clocks of then say: a lower bound if they were wrong.
    fn from(old: RowV1) -> RowV2 {
        let written_at = old.history.last().map_or(old.accepted_at, |attempt| attempt.at);
        let millis = |from: UnixMs, to: UnixMs| u64::try_from(to.since(from).as_millis()).unwrap_or(u64::MAX);
        RowV2 {
            age_ms: millis(old.accepted_at, old.due_at),
            wait_ms: millis(written_at, old.due_at),
            execution_id: old.execution_id,
            request_id: old.request_id,
            kind: old.kind,
            app_id: old.app_id,
            route_id: old.route_id,
            script_id: old.script_id,
            script_name: old.script_name,
            timeout_ms: old.timeout_ms,
            reply_to: old.reply_to,
            request: old.request,
            principal: old.principal,
            trigger_depth: old.trigger_depth,
            root_execution_id: old.root_execution_id,
            attempts: old.attempts,
            crashes: old.crashes,
            due_at: old.due_at,
            accepted_at: old.accepted_at,
            pinned_version: old.pinned_version,
            history: old.history,
            redriven_from: old.redriven_from,
        }
    }
}

impl From<RowV1> for Row {
    fn from(old: RowV1) -> Row {
        RowV2::from(old).into()
    }
}

impl From<RowV2> for RowV3 {
    fn from(old: RowV2) -> RowV3 {
        RowV3 {
            execution_id: old.execution_id,
            request_id: old.request_id,
            kind: old.kind,
            app_id: old.app_id,
            route_id: old.route_id,
            script_id: old.script_id,
            script_name: old.script_name,
            timeout_ms: old.timeout_ms,
            reply_to: old.reply_to,
            request: old.request,
            principal: old.principal,
            trigger_depth: old.trigger_depth,
            root_execution_id: old.root_execution_id,
            attempts: old.attempts,
            crashes: old.crashes,
            due_at: old.due_at,
            accepted_at: old.accepted_at,
            pinned_version: old.pinned_version,
            history: old.history,
            redriven_from: old.redriven_from,
            age_ms: old.age_ms,
            wait_ms: old.wait_ms,
            trigger_id: None,
            event: None,
            attempts_max: None,
            unique: None,
        }
    }
}

impl From<RowV2> for Row {
    fn from(old: RowV2) -> Row {
        RowV3::from(old).into()
    }
}

impl From<RowV3> for Row {
    fn from(old: RowV3) -> Row {
        Row {
            execution_id: old.execution_id,
            request_id: old.request_id,
            kind: old.kind,
            app_id: old.app_id,
            route_id: old.route_id,
            script_id: old.script_id,
            script_name: old.script_name,
            timeout_ms: old.timeout_ms,
            reply_to: old.reply_to,
            request: old.request,
            principal: old.principal,
            trigger_depth: old.trigger_depth,
            root_execution_id: old.root_execution_id,
            attempts: old.attempts,
            crashes: old.crashes,
            due_at: old.due_at,
            accepted_at: old.accepted_at,
            pinned_version: old.pinned_version,
            history: old.history,
            redriven_from: old.redriven_from,
            age_ms: old.age_ms,
            wait_ms: old.wait_ms,
            trigger_id: old.trigger_id,
            event: old.event,
            attempts_max: old.attempts_max,
            unique: old.unique,
            client: None,
        }
    }
}

impl<R: Into<Row>> From<DeadLetterOf<R>> for DeadLetter {
    fn from(old: DeadLetterOf<R>) -> DeadLetter {
        let DeadLetterOf { id, row, script_version, reason, died_at } = old;
        DeadLetter { id, row: row.into(), script_version, reason, died_at }
    }
}
