//! `queue::…` and `run::start`: work for later, accepted with all else that the run changes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rhai::{Dynamic, Map, NativeCallContext};
use serde_json::json;
use uuid::Uuid;

use super::super::World;
use super::super::watch::Watch;
use super::given::shown;
use super::options::Options;
use super::{Kit, Raised, kv, offer, wrong};
use crate::model::{Body, Kind, Name, Request, Row, Script, TriggerOn, UnixMs};
use crate::store::kv::ViewError;

/// Longest time that work may be put off by: 30 days.
const DELAY_MAX: Duration = Duration::from_secs(30 * 86_400);
/// Most attempts that one piece of work may ask for.
const ATTEMPTS_MAX: i64 = 100;
/// Longest key, in bytes.
const KEY_BYTES_MAX: usize = 256;

/// The functions.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Messages to be worked on later, one run each, with attempts until one succeeds: accepted together \
                 with all else that the run changes.";
    let mut kit = Kit::new("queue", about, watch);
    let watch = kit.watch();
    let send = move |ctx: NativeCallContext, name: &str, payload: Dynamic, options: &Map| {
        let wishes = Wishes::of("queue::send", options)?;
        let payload = kv::json(&watch, &ctx, "queue::send", &payload)?;
        send(&watch, &ctx, name, &payload, &wishes)
    };
    let plain = send.clone();
    offer!(
        kit,
        /// Sends a message to a queue of the app and gives the id of the execution that will work on it: a run of the
        /// script that a `queue` trigger names, with the payload as `request.body` and `ctx.event.payload`.
        ///
        /// Options: `delay` in seconds; `max_attempts`, all in all; `key`: while a message with this key is not over,
        /// sending another gives the id of the first and does nothing else.
        ///
        /// Limits: 1000 messages and 4 MiB a run; 1 MiB of JSON a message; a delay of at most 30 days; 1 to 100
        /// attempts; and what the app may have waiting in all.
        ///
        /// ```rhai
        /// queue::send("mail", #{ to: "ada@example.org" }).len // => 36
        /// ```
        /// ```rhai
        /// let first = queue::send("mail", "once", #{ key: "welcome/7" });
        /// first == queue::send("mail", "again", #{ key: "welcome/7", delay: 60 }) // => true
        /// ```
        /// ```rhai
        /// queue::send("mial", 1) // throws: no trigger takes messages of "mial"
        /// ```
        "queue::send(name, payload[, options])",
        move |ctx: NativeCallContext, name: &str, payload: Dynamic, options: Map| -> Result<String, Raised> {
            send(ctx, name, payload, &options)
        }
    );
    kit.also("send", move |ctx: NativeCallContext, name: &str, payload: Dynamic| -> Result<String, Raised> {
        plain(ctx, name, payload, &Map::new())
    });
    kit
}

/// How work is to be done.
#[derive(Clone, Debug, Default)]
pub(super) struct Wishes {
    delay: Duration,
    attempts_max: Option<u16>,
    key: Option<String>,
}

impl Wishes {
    pub(super) fn of(function: &'static str, options: &Map) -> Result<Wishes, Raised> {
        let options = Options::of(function, options, &["delay", "max_attempts", "key"])?;
        let attempts_max = options.int("max_attempts", (1, ATTEMPTS_MAX))?;
        Ok(Wishes {
            delay: options.seconds("delay", DELAY_MAX)?.unwrap_or_default(),
            attempts_max: attempts_max.and_then(|most| u16::try_from(most).ok()),
            key: options.short_text("key", KEY_BYTES_MAX)?,
        })
    }
}

fn send(
    watch: &Watch,
    ctx: &NativeCallContext,
    name: &str,
    payload: &[u8],
    wishes: &Wishes,
) -> Result<String, Raised> {
    let Some((world, cause)) = watch.world().zip(watch.row()) else {
        return Err(wrong("queue::send", "there are no queues here"));
    };
    watch.with_view(ctx, "queue::send", |view| {
        let queue: Name =
            name.parse().map_err(|why| ViewError::Limit(format!("the name {} {why}", shown(name))))?;
        let Some(trigger) = view.queue(&queue) else {
            let why =
                format!("no trigger takes messages of {}; make one of the kind \"queue\" first", shown(name));
            return Err(ViewError::Limit(why));
        };
        let catalog = world.store.catalog();
        let Some(script) = catalog.scripts.get(&trigger.script_id) else {
            return Err(ViewError::Limit(format!(
                "the script that takes messages of {} is gone",
                shown(name)
            )));
        };
        let unique = wishes.key.as_ref().map(|key| format!("queue {name} {key}"));
        if let Some(id) = unique.as_deref().and_then(|key| view.unique(key)) {
            return Ok(id.to_string());
        }
        let of_trigger = match trigger.on {
            TriggerOn::Queue { attempts_max, .. } => attempts_max,
            TriggerOn::Kv { .. }
            | TriggerOn::Cron { .. }
            | TriggerOn::DeadLetter { .. }
            | TriggerOn::Startup => None,
        };
        let event = json!({ "kind": "queue", "queue": name, "key": wishes.key });
        let mut row = row(&world, &cause, script, ("QUEUE", name), payload, wishes);
        row.trigger_id = Some(trigger.id);
        row.attempts_max = wishes.attempts_max.or(of_trigger);
        (row.event, row.unique) = (Some(event.to_string().into()), unique);
        queue_row(view, row)
    })
}

/// Queues a run of a script.
pub(super) fn start(
    watch: &Watch,
    ctx: &NativeCallContext,
    name: &str,
    input: &[u8],
    wishes: &Wishes,
) -> Result<String, Raised> {
    let Some((world, cause)) = watch.world().zip(watch.row()) else {
        return Err(wrong("run::start", "there are no other scripts here"));
    };
    watch.with_view(ctx, "run::start", |view| {
        let Some(script) = world.library.by_name(view.app(), name) else {
            return Err(ViewError::Limit(format!("the app has no script {}", shown(name))));
        };
        let unique = wishes.key.as_ref().map(|key| format!("run {name} {key}"));
        if let Some(id) = unique.as_deref().and_then(|key| view.unique(key)) {
            return Ok(id.to_string());
        }
        let event = json!({ "kind": "run", "from": cause.script_name, "key": wishes.key });
        let mut row = row(&world, &cause, &script, ("RUN", name), input, wishes);
        row.attempts_max = wishes.attempts_max;
        (row.event, row.unique) = (Some(event.to_string().into()), unique);
        queue_row(view, row)
    })
}

fn queue_row(view: &mut crate::store::kv::View, row: Row) -> Result<String, ViewError> {
    let id = row.execution_id.to_string();
    view.queue_row(row)?;
    Ok(id)
}

/// Work that a run leads to.
fn row(
    world: &World,
    cause: &Row,
    script: &Script,
    (method, path): (&str, &str),
    payload: &[u8],
    wishes: &Wishes,
) -> Row {
    let (execution_id, now): (Uuid, UnixMs) = (world.store.new_id(), UnixMs::now());
    let timeout =
        script.timeout_seconds.map_or(world.timeout_async, |limit| Duration::from_secs(limit.into()));
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Row {
        execution_id,
        request_id: cause.request_id.clone(),
        kind: Kind::Queue,
        app_id: cause.app_id,
        route_id: None,
        script_id: script.id,
        script_name: script.name.to_string(),
        timeout_ms: u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX),
        reply_to: None,
        request: called(method, path, payload),
        principal: cause.principal.clone(),
        trigger_depth: cause.trigger_depth.saturating_add(1),
        root_execution_id: cause.root_execution_id,
        attempts: 0,
        crashes: 0,
        due_at: now.plus(wishes.delay),
        accepted_at: now,
        pinned_version: None,
        history: Vec::new(),
        redriven_from: None,
        age_ms: 0,
        wait_ms: millis(wishes.delay),
        trigger_id: None,
        event: None,
        attempts_max: None,
        unique: None,
        client: None,
    }
}

/// A request that was none: `method` says what it was, and `path` to what.
pub(super) fn called(method: &str, path: &str, body: &[u8]) -> Request {
    Request {
        method: method.to_owned(),
        path: path.to_owned(),
        headers: Vec::new(),
        body: Body::Json(Bytes::copy_from_slice(body)),
        query: String::new(),
        params: Vec::new(),
        rest: String::new(),
    }
}
