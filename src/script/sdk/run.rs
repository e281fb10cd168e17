//! `run::…`: other scripts of the app, called like functions or started for later.

use std::sync::Arc;

use rhai::{Dynamic, EvalAltResult, Map, NativeCallContext};

use super::super::engine;
use super::super::watch::Watch;
use super::super::{Fault, alloc, convert, faults};
use super::given::shown;
use super::queue::{self, Wishes};
use super::{Kit, Raised, kv, offer, wrong};
use crate::model::Row;

/// Scripts that may call one another in a chain.
const CALLS_DEEP_MAX: u16 = 4;

/// The functions.
pub(super) fn kit(watch: &Arc<Watch>) -> Kit {
    let about = "Other scripts of the app: called at once and waited for, or started for later.";
    let mut kit = Kit::new("run", about, watch);
    let watch = kit.watch();
    offer!(
        kit,
        /// Runs another script of the app at once, with `input` as its `request.body`, and gives its value.
        ///
        /// It is a part of this run: it has what is left of its time, operations and memory, and what it changes is
        /// committed together with all else. If it throws, what it changed is taken back, and the caller may catch it;
        /// after `fail` the whole run has failed. Input and value travel as JSON.
        ///
        /// Limits: 4 scripts deep; 1 MiB of JSON each way.
        ///
        /// ```rhai
        /// run::call("double", 21) // => 42
        /// ```
        /// ```rhai
        /// let ended = "well"; try { run::call("broken", ()) } catch (why) { ended = why; }
        /// [ended.contains("broken"), kv::get("a")] // => [true, null]
        /// ```
        /// ```rhai
        /// run::call("nobody", ()) // throws: the app has no script "nobody"
        /// ```
        "run::call(script, input)",
        move |ctx: NativeCallContext, name: &str, input: Dynamic| -> Result<Dynamic, Raised> {
            let input = kv::json(&watch, &ctx, "run::call", &input)?;
            call(&watch, &ctx, name, &input)
        }
    );
    let watch = kit.watch();
    offer!(
        kit,
        /// The address that the request came from which this run answers, as a text; `()` if no request began it. Behind a
        /// proxy that the device trusts it is the client's, not the proxy's.
        ///
        /// Limits: many people may share an address, and one may have many: it is no proof of who asks.
        ///
        /// ```rhai
        /// run::client() // => null
        /// ```
        "run::client()",
        move || -> Dynamic {
            let client = watch.row().and_then(|row| row.client);
            client.map_or(Dynamic::UNIT, |address| address.to_string().into())
        }
    );
    let watch = kit.watch();
    let start = move |ctx: NativeCallContext, name: &str, input: Dynamic, options: &Map| {
        let wishes = Wishes::of("run::start", options)?;
        let input = kv::json(&watch, &ctx, "run::start", &input)?;
        queue::start(&watch, &ctx, name, &input, &wishes)
    };
    let plain = start.clone();
    offer!(
        kit,
        /// Queues a run of another script of the app, with `input` as its `request.body`, and gives its execution id.
        /// It begins when this run has ended and is committed; it is tried again if it fails.
        ///
        /// Options: `delay`, `max_attempts` and `key`, as for `queue::send`.
        ///
        /// Limits: those of `queue::send`.
        ///
        /// ```rhai
        /// run::start("double", 4, #{ delay: 2.5 }).len // => 36
        /// ```
        "run::start(script, input[, options])",
        move |ctx: NativeCallContext, name: &str, input: Dynamic, options: Map| -> Result<String, Raised> {
            start(ctx, name, input, &options)
        }
    );
    kit.also("start", move |ctx: NativeCallContext, name: &str, input: Dynamic| -> Result<String, Raised> {
        plain(ctx, name, input, &Map::new())
    });
    kit
}

fn call(watch: &Watch, ctx: &NativeCallContext, name: &str, input: &[u8]) -> Result<Dynamic, Raised> {
    let Some((world, caller)) = watch.world().zip(watch.row()) else {
        return Err(wrong("run::call", "there are no other scripts here"));
    };
    let script = world.library.by_name(caller.app_id, name);
    let script =
        script.ok_or_else(|| wrong("run::call", format!("the app has no script {}", shown(name))))?;
    // Compiled programs outlive the run.
    let program = alloc::outside(|| world.library.active(&script));
    let program = program.map_err(|fault| wrong("run::call", format!("\"{name}\": {}", fault.message)))?;
    let row = alloc::outside(|| {
        Arc::new(Row {
            script_id: script.id,
            script_name: script.name.to_string(),
            request: queue::called("CALL", name, input),
            event: None,
            ..caller.as_ref().clone()
        })
    });
    let frame = watch.enter(ctx, row, program.names.reused, CALLS_DEEP_MAX)?;
    let ended = engine::evaluate(ctx.engine(), watch, &program, &mut rhai::Scope::new());
    let ended = ended.map_err(|error| (explained(watch, &error), error));
    watch.leave(frame, ended.is_ok());
    match ended {
        Ok(value) => passed_on(watch, ctx, &value),
        Err((_, error)) if is_final(&error) => Err(error),
        Err((fault, _)) => Err(wrong("run::call", format!("\"{name}\": {}", fault.message))),
    }
}

fn explained(watch: &Watch, error: &EvalAltResult) -> Fault {
    faults::explain(error, &watch.limits())
}

/// Whether the whole run is over.
fn is_final(error: &EvalAltResult) -> bool {
    matches!(error.unwrap_inner(), EvalAltResult::ErrorTerminated(..))
}

/// The value, free of everything that belongs to the script that gave it.
fn passed_on(watch: &Watch, ctx: &NativeCallContext, value: &Dynamic) -> Result<Dynamic, Raised> {
    let json = kv::json(watch, ctx, "run::call", value)?;
    convert::from_json(&json).map_err(|why| wrong("run::call", why))
}
