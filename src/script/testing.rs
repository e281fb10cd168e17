//! Runs of small programs, for the tests of this room.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::model::{Body, InboxId, Kind, Principal, Request, Row, UnixMs};

use super::{Bench, Control, Fault, FaultKind, Input, Limits, Outcome, compile, stack_bytes};

/// A row with a bit of everything in it.
pub(super) fn row() -> Row {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Row {
        execution_id: Uuid::from_u128(1),
        request_id: "req-1".into(),
        kind: Kind::Http,
        app_id: Uuid::from_u128(2),
        route_id: None,
        script_id: Uuid::from_u128(3),
        script_name: "hello".into(),
        timeout_ms: 5000,
        reply_to: Some(InboxId(1)),
        request: Request {
            method: "POST".into(),
            path: "/hello/ada".into(),
            headers: vec![pair("x-a", "1"), pair("host", "example.org")],
            body: Body::Json(Bytes::from_static(br#"{"x":{"y":[1,2,3]},"n":10}"#)),
            query: "q=1&r=a%20b".into(),
            params: vec![pair("name", "ada")],
            rest: "re/st".into(),
        },
        principal: Some(Principal { key_id: Uuid::from_u128(4), name: "key".into() }),
        trigger_depth: 0,
        root_execution_id: Uuid::from_u128(1),
        attempts: 0,
        crashes: 0,
        due_at: UnixMs(0),
        accepted_at: UnixMs(0),
        pinned_version: None,
        history: Vec::new(),
        redriven_from: None,
        age_ms: 0,
        wait_ms: 0,
    }
}

/// Does `work` on a thread such as benches have.
pub(super) fn on_a_bench<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(stack_bytes(64 * 1024 * 1024)).spawn(work).unwrap();
    thread.join().unwrap()
}

/// Runs `source` as given, within 10 s.
pub(super) fn run_with(source: &str, row: Row, limits: Limits) -> Outcome {
    let source = source.parse().unwrap();
    on_a_bench(move || {
        let program = compile(&source).unwrap_or_else(|error| panic!("does not compile: {error}"));
        let row = Arc::new(row);
        let mut bench = Bench::new();
        let input = || Input { row: row.clone(), deadline: Instant::now() + Duration::from_secs(10) };
        bench.run(&program, input(), &limits, &Control::default())
    })
}

/// Runs `source` with the default limits.
pub(super) fn run(source: &str) -> Outcome {
    run_with(source, row(), Limits::default())
}

/// Runs an example of the reference, on a bench that has what examples may use.
pub(super) fn run_example(source: &str) -> Outcome {
    run(source)
}

/// A text as a script writes it.
pub(super) fn quoted(text: &str) -> String {
    // JSON knows two escapes that scripts do not.
    serde_json::to_string(text).unwrap().replace("\\b", "\\x08").replace("\\f", "\\x0c")
}

/// Asserts that `source` answers 200 with this body.
#[track_caller]
pub(super) fn gives(source: &str, body: &str) {
    let response = run(source).result.unwrap_or_else(|fault| panic!("{source}: {fault:?}"));
    assert_eq!((response.status, &*String::from_utf8_lossy(&response.body)), (200, body), "{source}");
}

/// Asserts that `source` ends with this kind of fault, whose message contains `why`.
#[track_caller]
pub(super) fn fails(source: &str, kind: FaultKind, why: &str) -> Fault {
    let fault = match run(source).result {
        Err(fault) => fault,
        Ok(response) => panic!("{source}: answered {}", String::from_utf8_lossy(&response.body)),
    };
    assert_eq!(fault.kind, kind, "{source}: {fault:?}");
    assert!(fault.message.contains(why), "{source}: {fault:?}");
    fault
}
