//! A bench: one engine, reused from run to run on one thread, with the limits of each run set anew.
//!
//! Building an engine costs microseconds, so it is kept; only a panic of native code makes the bench build another.
//! A bench needs a stack of [`stack_bytes`].

use std::any::Any;
use std::borrow::Cow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};
use std::time::Instant;

use rhai::packages::{Package, StandardPackage};
use rhai::{Dynamic, Engine, EvalAltResult, Scope};

use crate::model::{Body, Row};

use super::alloc::{self, Meter};
use super::context::{self, CTX, REQUEST};
use super::egress::Messenger;
use super::places::Places;
use super::watch::{Leave, Remains, Watch};
use super::{
    Control, Fault, FaultKind, Input, Limits, Outcome, Program, Response, faults, guards, program, sdk,
};

/// Stack that a bench's thread needs where no run gets more memory than `memory_bytes`. Closures may hold each other in
/// a chain as long as the memory allows, and are freed recursively: at 64 MiB of memory, 128 MiB of stack overflow and
/// take the process down, 256 MiB do not. What is not touched costs only address space.
pub fn stack_bytes(memory_bytes: u64) -> usize {
    usize::try_from(memory_bytes.saturating_mul(5)).unwrap_or(usize::MAX).saturating_add(8 * 1024 * 1024)
}

/// Runs programs, one at a time.
#[derive(Debug)]
pub struct Bench {
    engine: Engine,
    watch: Arc<Watch>,
}

impl Default for Bench {
    fn default() -> Bench {
        Bench::new()
    }
}

impl Bench {
    /// A bench with nothing on it.
    pub fn new() -> Bench {
        Bench::with(Watch::new(None))
    }

    /// One of several, whose heavy runs share the processor, and which is left to others by runs that wait.
    pub(super) fn among(places: Arc<Places>, leave: Leave) -> Bench {
        Bench::with(Watch::new(Some((places, leave))))
    }

    fn with(watch: Watch) -> Bench {
        keep_panics_quiet();
        let watch = Arc::new(watch);
        Bench { engine: build(&watch), watch }
    }

    /// Lets its scripts call others.
    pub(super) fn equipped(self, messenger: Messenger) -> Bench {
        self.watch.equip(messenger);
        self
    }

    /// Whether a long run has made the thread too nice for the next one.
    pub(super) fn is_spent(&self) -> bool {
        self.watch.is_spent()
    }

    /// Runs a program to its end, whatever that is. Never panics, and returns soon after the deadline.
    pub fn run(&mut self, program: &Program, input: Input, limits: &Limits, control: &Control) -> Outcome {
        let began = Instant::now();
        // Held to the end: were it freed within, the run would seem to hold less than it does.
        let row = input.row.clone();
        let meter = Meter::begin();
        meter.set_budget(limits.memory_bytes);
        self.watch.begin(input, limits, control, program.names.reused);
        self.set_limits(limits, &row);
        let ended = catch_unwind(AssertUnwindSafe(|| self.evaluate(program, limits)));
        let remains = self.watch.finish();
        let result = match ended {
            Ok(result) => result,
            Err(payload) => Err(self.panicked(&*payload)),
        };
        let outcome = Bench::outcome(result, remains, limits, &meter, began);
        drop(row);
        outcome
    }

    fn set_limits(&mut self, limits: &Limits, row: &Row) {
        // Bytes of a blob count as items: a script may handle what it was sent, within its memory.
        let sent = match &row.request.body {
            Body::Raw(bytes) => bytes.len(),
            Body::Empty | Body::Json(_) | Body::Form(_) | Body::Text(_) => 0,
        };
        self.engine
            .set_max_string_size(limits.string_bytes_max())
            .set_max_array_size(limits.array_items_max().max(sent))
            .set_max_map_size(limits.map_entries_max())
            .set_max_call_levels(limits.call_levels);
    }

    fn evaluate(&self, program: &Program, limits: &Limits) -> Result<Response, Fault> {
        // What the script still holds counts while its answer is made.
        let mut scope = Scope::new();
        let value = evaluate(&self.engine, &self.watch, program, &mut scope);
        let value = value.map_err(|error| faults::explain(&error, limits))?;
        Response::read(&value, limits.response_bytes)
    }

    fn outcome(
        result: Result<Response, Fault>,
        remains: Remains,
        limits: &Limits,
        meter: &Meter,
        began: Instant,
    ) -> Outcome {
        let duration = began.elapsed();
        let mut result = match remains.stop {
            // Some native functions swallow what a callback raises: the reason to stop stands nevertheless.
            Some(stop) => Err(faults::stopped(stop, result.err(), limits, duration)),
            None => result,
        };
        if let Err(fault) = &mut result {
            fault.retry_after = remains.retry_after;
        }
        // A run that fails changes nothing.
        let (view, stands) = (remains.view, result.is_ok());
        let effects = alloc::outside(|| view.filter(|_| stands)?.into_effects(remains.chain));
        let redaction = remains.redaction;
        if let Err(fault) = &mut result {
            redaction.apply_to_error(&mut fault.message);
        }
        let mut logs = remains.logs.finish(u32::try_from(duration.as_millis()).unwrap_or(u32::MAX));
        for line in &mut logs {
            if let Cow::Owned(message) = redaction.apply(line.message.as_str().into()) {
                line.message = message;
            }
        }
        let mut outcome = Outcome {
            result,
            effects,
            logs,
            operations: remains.operations,
            peak_bytes: meter.peak_bytes(),
            leaked_bytes: 0,
            duration,
            redaction,
        };
        outcome.leaked_bytes = meter.net_bytes().saturating_sub(outcome.held_bytes());
        outcome
    }

    /// The fault for a panic, and a new engine: the old one may have been left in any state.
    fn panicked(&mut self, payload: &(dyn Any + Send)) -> Fault {
        let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
        let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
        self.engine = build(&self.watch);
        Fault::new(FaultKind::Panic, format!("the interpreter panicked: {}", super::logs::cut(&text, 1024)))
    }
}

/// Runs a program to its value, with `scope` for its variables.
pub(super) fn evaluate(
    engine: &Engine,
    watch: &Watch,
    program: &Program,
    scope: &mut Scope<'_>,
) -> Result<Dynamic, Box<EvalAltResult>> {
    if !program.names.captured {
        for (name, wanted) in [(CTX, program.names.ctx), (REQUEST, program.names.request)] {
            if wanted {
                scope.push_constant_dynamic(name, watch.given(name)?);
            }
        }
    }
    let value = engine.eval_ast_with_scope(scope, &program.ast)?;
    context::check_unchanged(scope)?;
    Ok(value)
}

/// An engine whose native functions answer to `watch`.
fn build(watch: &Arc<Watch>) -> Engine {
    let mut engine = Engine::new_raw();
    program::restrict(&mut engine);
    engine.register_global_module(StandardPackage::new().as_shared_module());
    engine.register_global_module(guards::module(watch).into());
    sdk::furnish(&mut engine, watch);
    let progress = watch.clone();
    engine.on_progress(move |_| progress.tick().then_some(Dynamic::UNIT));
    let print = watch.clone();
    engine.on_print(move |text| print.log("info", text));
    let debug = watch.clone();
    engine.on_debug(move |text, _, _| debug.log("debug", text));
    give(&mut engine, watch.clone());
    engine
}

/// Answers for `ctx` and `request` wherever they are not the script's own variables.
fn give(engine: &mut Engine, watch: Arc<Watch>) {
    // Called for every variable; those that the compiler placed have an index.
    #[allow(deprecated, reason = "not deprecated, says the interpreter, but marked because it may change")]
    engine.on_var(move |name, index, seen| {
        if !context::is_given(name) {
            return Ok(None);
        }
        let variable = if index > 0 || seen.scope().contains(name) { seen.scope().get(name) } else { None };
        let is_own = variable.is_some_and(|variable| {
            // A copy that a closure captured is answered for again: inner closures would make it shared, and then it
            // would be locked whenever an outer one is at work on it.
            variable.tag() != context::GIVEN_TAG
                || seen.scope().is_constant(name) == Some(true)
                || watch.is_reused()
        });
        if is_own { Ok(None) } else { watch.given(name).map(Some) }
    });
}

/// A panic within a run becomes a fault; the process-wide hook must not print it besides.
fn keep_panics_quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !alloc::is_metered() {
                usual(panic);
            }
        }));
    });
}

#[cfg(test)]
impl Bench {
    /// Registers a native function that panics.
    pub(super) fn panic_on(&mut self, name: &str) {
        self.engine.register_fn(name, || -> i64 { panic!("boom") });
    }
}
