//! Runs of small programs, for the tests of this room.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use uuid::Uuid;

use crate::model::{
    Access, App, Body, InboxId, Principal, Request, Row, Sandbox, Script, Trigger, TriggerOn, UnixMs, testing,
};
use crate::store;

use super::{
    Bench, Control, Fault, FaultKind, Input, Library, Limits, Outcome, World, compile, egress, stack_bytes,
};

/// A row with a bit of everything in it.
pub(super) fn row() -> Row {
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    Row {
        execution_id: Uuid::from_u128(1),
        request_id: "req-1".into(),
        app_id: Uuid::from_u128(2),
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
        root_execution_id: Uuid::from_u128(1),
        ..testing::row()
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
        let input =
            || Input { row: row.clone(), deadline: Instant::now() + Duration::from_secs(10), world: None };
        bench.run(&program, input(), &limits, &Control::default())
    })
}

/// Runs `source` with the default limits.
pub(super) fn run(source: &str) -> Outcome {
    run_with(source, row(), Limits::default())
}

/// Runs an example of the reference, on a bench that has what examples may use: an app of its own with the scripts
/// `double` and `broken` and a queue `mail`.
pub(super) fn run_example(source: &str) -> Outcome {
    let source = source.parse().unwrap();
    let world = Some(world());
    on_a_bench(move || {
        let program = compile(&source).unwrap_or_else(|error| panic!("does not compile: {error}"));
        let mut bench = Bench::new().equipped(egress::testing::messenger());
        let input = Input { row: row().into(), deadline: Instant::now() + Duration::from_secs(10), world };
        bench.run(&program, input, &Limits::default(), &Control::default())
    })
}

/// What examples reach beyond themselves.
pub(super) fn world() -> Arc<World> {
    let (app_id, double, broken) = (Uuid::from_u128(2), Uuid::from_u128(10), Uuid::from_u128(11));
    let trigger = Trigger {
        id: Uuid::from_u128(20),
        app_id,
        script_id: double,
        on: TriggerOn::Queue { queue: "mail".parse().unwrap(), attempts_max: None },
        enabled: true,
        created_at: UnixMs(0),
        updated_at: UnixMs(0),
    };
    let store = store::testing::store(&store::testing::settings(), vec![trigger], move |changes| {
        let (created_at, updated_at) = (UnixMs(0), UnixMs(0));
        let (slug, name) = ("examples".parse().unwrap(), "Examples".parse().unwrap());
        changes
            .create_app(App {
                id: app_id,
                slug,
                name,
                egress: Default::default(),
                limits: Default::default(),
                created_at,
                updated_at,
            })
            .unwrap();
        for (id, name, source) in [
            (double, "double", "request.body * 2"),
            (broken, "broken", "kv::set(\"a\", 1); throw \"broken\""),
        ] {
            let script = Script {
                id,
                app_id,
                name: name.parse().unwrap(),
                active_version: 1,
                latest_version: 1,
                timeout_seconds: None,
                sandbox: Sandbox::default(),
                access: Access::Public,
                created_at,
                updated_at,
            };
            changes.create_script(script, source.parse().unwrap()).unwrap();
        }
    });
    let library = Library::new(store.clone(), 1024 * 1024, Limits::default());
    let (sealer, env) = (store::Sealer::new([7; 32].into()), BTreeMap::new());
    Arc::new(World { store, sealer, env, library, timeout_async: Duration::from_secs(30) })
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
