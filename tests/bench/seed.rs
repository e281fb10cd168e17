//! A device that has been in use: many routes and log rows, made through the store itself because the management
//! API would take an fsync for each.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, mpsc};
use std::time::Duration;

use picloud::model::{
    Access, App, AppLimits, BodyMode, Delivery, DispatchMode, Domain, Durability, Egress, Ended,
    ExecutionRecord, Kind, Request, Route, Row, Sandbox, Script, UnixMs,
};
use picloud::store::{self, Catalog, Changes, End, Hooks, Store};
use uuid::Uuid;

use crate::Outcome;
use crate::daemon::BODY;

/// The route that answers on every seeded device.
pub(crate) const ANSWERS: &str = "/route-0/list";
/// Routes of one app.
const APP_ROUTES: usize = 1_000;

/// An app with its script, a claim and routes.
pub(crate) struct Furniture {
    app: App,
    domain: Domain,
    script: Script,
    routes: Vec<Route>,
}

impl Furniture {
    /// App `number`; the first claims every host, the others one each.
    pub(crate) fn new(number: usize, routes: usize) -> Outcome<Furniture> {
        let now = UnixMs::now();
        let app = App {
            id: Uuid::now_v7(),
            slug: format!("app-{number}").parse()?,
            name: format!("App {number}").parse()?,
            egress: Egress::default(),
            limits: AppLimits::default(),
            created_at: now,
            updated_at: now,
        };
        let pattern = if number == 0 { "*".parse()? } else { format!("app-{number}.local").parse()? };
        let domain = Domain {
            id: Uuid::now_v7(),
            app_id: app.id,
            pattern,
            tls: Default::default(),
            created_at: now,
            updated_at: now,
        };
        let script = Script {
            id: Uuid::now_v7(),
            app_id: app.id,
            name: "bench".parse()?,
            active_version: 1,
            latest_version: 1,
            timeout_seconds: None,
            sandbox: Sandbox::default(),
            access: Access::Public,
            created_at: now,
            updated_at: now,
        };
        let routes = (0..routes).map(|index| route(&script, index, now)).collect::<Outcome<_>>()?;
        Ok(Furniture { app, domain, script, routes })
    }

    /// This app alone, as the router is given it.
    pub(crate) fn catalog(self) -> Catalog {
        Catalog {
            apps: shelf([(self.app.id, self.app)]),
            domains: shelf([(self.domain.id, self.domain)]),
            scripts: shelf([(self.script.id, self.script)]),
            routes: shelf(self.routes.into_iter().map(|route| (route.id, route))),
            ..Catalog::default()
        }
    }

    fn place(self, changes: &mut Changes<'_>) -> Result<(), store::ChangeError> {
        let source = "#{ at: request.path }".parse();
        let source =
            source.map_err(|why| store::ChangeError::Invalid { field: "source", why: format!("{why}") })?;
        changes.create_app(self.app)?;
        changes.create_domain(self.domain)?;
        changes.create_script(self.script, source)?;
        for route in self.routes {
            changes.create_route(route)?;
        }
        Ok(())
    }
}

fn shelf<T>(items: impl IntoIterator<Item = (Uuid, T)>) -> Arc<BTreeMap<Uuid, Arc<T>>> {
    Arc::new(items.into_iter().map(|(id, item)| (id, Arc::new(item))).collect())
}

/// Four kinds of path take turns.
fn pattern(index: usize) -> String {
    match index % 4 {
        0 => format!("/route-{index}/list"),
        1 => format!("/route-{index}/{{id}}"),
        2 => format!("/{{tenant}}/route-{index}/edit"),
        _ => format!("/route-{index}/{{*rest}}"),
    }
}

/// A path that the route of this index takes, and no other.
pub(crate) fn path(index: usize) -> String {
    pattern(index).replace("{id}", "4711").replace("{tenant}", "home").replace("{*rest}", "a/b.css")
}

fn route(script: &Script, index: usize, now: UnixMs) -> Outcome<Route> {
    Ok(Route {
        id: Uuid::now_v7(),
        app_id: script.app_id,
        script_id: script.id,
        host: None,
        method: "GET".parse()?,
        path: pattern(index).parse()?,
        dispatch_mode: DispatchMode::Sync,
        durability: Durability::Auto,
        body: BodyMode::Json,
        access: Access::Public,
        created_at: now,
        updated_at: now,
    })
}

/// A new device that is filled without a daemon.
pub(crate) struct Device {
    pub(crate) store: Store,
    broken: mpsc::Receiver<String>,
}

impl Device {
    /// Opens a new store below the data directory `dir`.
    pub(crate) fn open(dir: &Path) -> Outcome<Device> {
        let (store, _, startable) = Store::open(&settings(dir))?;
        let (tell_broken, broken) = mpsc::channel();
        startable.start(Hooks {
            catalog: Box::new(|_| {}),
            enqueued: Box::new(|_| {}),
            broken: Box::new(move |error| drop(tell_broken.send(error.to_string()))),
        })?;
        Ok(Device { store, broken })
    }

    /// Makes a change and waits until it is durable.
    pub(crate) fn change<T: Send + 'static>(
        &self,
        change: impl FnOnce(&mut Changes<'_>) -> Result<T, store::ChangeError> + Send + 'static,
    ) -> Outcome<T> {
        let (tell, told) = mpsc::channel();
        self.store.change(change, move |made| drop(tell.send(made)));
        Ok(told.recv()??)
    }

    /// Places app 0 with one script and one route, and gives the script.
    pub(crate) fn furnish(&self) -> Outcome<Arc<Script>> {
        let furniture = Furniture::new(0, 1)?;
        self.change(move |changes| furniture.place(changes))?;
        self.script()
    }

    fn script(&self) -> Outcome<Arc<Script>> {
        Ok(self.store.catalog().scripts.values().next().ok_or("the store has no script")?.clone())
    }

    /// Closes the store; an error if it broke on the way.
    pub(crate) fn close(self) -> Outcome<()> {
        self.store.close();
        self.broken.try_recv().map_or(Ok(()), |why| Err(why.into()))
    }
}

/// Fills a new store below the data directory `dir` and closes it.
pub(crate) fn fill(dir: &Path, routes: usize, log_rows: usize) -> Outcome<()> {
    let device = Device::open(dir)?;
    let apps = routes.div_ceil(APP_ROUTES);
    for number in 0..apps {
        let furniture = Furniture::new(number, APP_ROUTES.min(routes - number * APP_ROUTES))?;
        device.change(move |changes| furniture.place(changes))?;
    }
    let script = device.script()?;
    for _ in 0..log_rows {
        let row = row(&script);
        device.store.settle(&row, End::Done(store::encode_record(&record(&row))));
    }
    device.close()
}

/// As the daemon's defaults are.
fn settings(dir: &Path) -> store::Settings {
    store::Settings {
        path: dir.join("picloud.redb"),
        cache_bytes: 16 * 1024 * 1024,
        flush_interval: Duration::from_secs(1),
        sync_delay: Duration::ZERO,
        write_budget_bytes_per_day: 0,
        outbox_rows_max: 100_000,
        outbox_bytes_max: 256 * 1024 * 1024,
        app_queue_rows_max: 100_000,
        log_bytes_max: 64 * 1024 * 1024,
        log_age_max: Duration::from_secs(30 * 24 * 3600),
        dead_letters_max: 10_000,
        dead_letters_bytes_max: 64 * 1024 * 1024,
        dead_letters_age_max: Duration::MAX,
        dead_letters_alert_at: 0,
        versions_bytes_max: u64::MAX,
        versions_age_max: Duration::MAX,
        kv_bytes_max: u64::MAX,
        timeout_async: Duration::from_secs(30),
        space: store::Bounds::default(),
    }
}

/// A row as the hall makes it of a request with a browser's usual headers.
pub(crate) fn row(script: &Script) -> Row {
    let (id, now) = (Uuid::now_v7(), UnixMs::now());
    let headers = [
        ("host", "pi.local"),
        ("user-agent", "curl/8.14.1"),
        ("accept", "*/*"),
        ("content-type", "application/json"),
        ("content-length", "13"),
    ];
    Row {
        execution_id: id,
        request_id: id.to_string(),
        kind: Kind::Http,
        app_id: script.app_id,
        route_id: Some(script.id),
        script_id: script.id,
        script_name: script.name.to_string(),
        timeout_ms: 5_000,
        reply_to: None,
        request: Request {
            method: "POST".into(),
            path: ANSWERS.into(),
            headers: headers.map(|(name, value)| (name.into(), value.into())).into(),
            body: picloud::model::Body::Json(BODY.into()),
            query: String::new(),
            params: Vec::new(),
            rest: String::new(),
        },
        principal: None,
        trigger_depth: 0,
        root_execution_id: id,
        attempts: 0,
        crashes: 0,
        due_at: now,
        accepted_at: now,
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

fn record(row: &Row) -> ExecutionRecord<'_> {
    ExecutionRecord {
        id: row.execution_id,
        app_id: row.app_id,
        script_id: row.script_id,
        script_name: row.script_name.as_str().into(),
        script_version: 1,
        route_id: row.route_id,
        request_id: row.request_id.as_str().into(),
        request_method: row.request.method.as_str().into(),
        request_path: row.request.path.as_str().into(),
        request_headers: row
            .request
            .headers
            .iter()
            .map(|(name, value)| (name.into(), value.into()))
            .collect(),
        request_body: BODY.into(),
        response_code: Some(200),
        response_body: Some(format!("{{\"echo\":{BODY}}}").into()),
        script_logs: Vec::new().into(),
        duration_us: 20,
        status: Ended::Success,
        error: None,
        created_at: row.accepted_at,
        finished_at: row.accepted_at,
        attempt: 1,
        kind: row.kind,
        sync: true,
        queue_wait_us: 10,
        operations: 5,
        peak_bytes: 2_000,
        delivery: Delivery::Delivered,
        dead_letter_id: None,
        trigger_depth: 0,
        root_execution_id: row.execution_id,
    }
}
