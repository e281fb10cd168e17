//! Plain things for tests.

use uuid::Uuid;

use super::{Access, Body, Kind, Request, Row, Sandbox, Script, Trigger, TriggerOn, UnixMs};

/// An async row of no script.
pub(crate) fn row() -> Row {
    let request = Request {
        method: "POST".into(),
        path: "/".into(),
        headers: vec![],
        body: Body::Empty,
        query: String::new(),
        params: vec![],
        rest: String::new(),
    };
    Row {
        execution_id: Uuid::nil(),
        request_id: String::new(),
        kind: Kind::Http,
        app_id: Uuid::nil(),
        route_id: None,
        script_id: Uuid::nil(),
        script_name: "s".into(),
        timeout_ms: 1000,
        reply_to: None,
        request,
        principal: None,
        trigger_depth: 0,
        root_execution_id: Uuid::nil(),
        attempts: 0,
        crashes: 0,
        due_at: UnixMs(0),
        accepted_at: UnixMs(0),
        pinned_version: None,
        history: vec![],
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

/// A script of no app.
pub(crate) fn script() -> Script {
    Script {
        id: Uuid::nil(),
        app_id: Uuid::nil(),
        name: "s".parse().unwrap(),
        active_version: 1,
        latest_version: 1,
        timeout_seconds: None,
        sandbox: Sandbox::default(),
        access: Access::Public,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
    }
}

/// A trigger that runs [`script`] at the start.
pub(crate) fn trigger() -> Trigger {
    Trigger {
        id: Uuid::nil(),
        app_id: Uuid::nil(),
        script_id: Uuid::nil(),
        on: TriggerOn::Startup,
        enabled: true,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
    }
}
