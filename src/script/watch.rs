//! The state of the run that a bench is in: its budgets, its log, its `ctx`.
//!
//! Native functions of the interpreter must be `'static`, so the engine and everything registered in it share one
//! [`Watch`], which is set anew for each run. Only the bench's own thread uses it: the mutex is never contended, and
//! no lock is held while script code runs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rhai::{Dynamic, EvalAltResult, Map, NativeCallContext};

use crate::model::{Chain, Row, UnixMs};
use crate::store::kv::{Mark, View, ViewError};

use super::egress::Messenger;
use super::logs::Logs;
use super::places::{Places, Share};
use super::{Cancel, Control, FaultKind, Input, Limits, Redaction, World, alloc, context};

/// Operations between two looks at the clock and the control.
const OPERATIONS_PER_LOOK: u64 = 1024;

/// Longest wait between two looks while a script sleeps.
const SLEEP_SLICE: Duration = Duration::from_millis(5);

/// Why the run must end. Scripts cannot catch it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    /// A limit, the clock or somebody outside.
    Fault(FaultKind),
    /// Memory, with more to say about it.
    Full(String),
    /// A value would print longer than a string may be.
    TooLarge,
    /// The script called `fail`.
    Failed(String),
}

/// Shared by a bench, its engine and the native functions.
pub(super) struct Watch {
    operations: AtomicU64,
    next_look: AtomicU64,
    run: Mutex<Run>,
    share: Mutex<Share>,
    leave: Option<Leave>,
}

/// How a run leaves its bench to others while it waits for something else, and comes back.
pub(super) struct Leave {
    /// False if it has to keep it.
    pub(super) step_aside: Box<dyn Fn() -> bool + Send + Sync>,
    pub(super) step_back: Box<dyn Fn() + Send + Sync>,
}

/// Comes back also where the wait ended in a panic.
struct Aside<'a>(&'a Leave);

impl Drop for Aside<'_> {
    fn drop(&mut self) {
        (self.0.step_back)();
    }
}

/// What only slower paths need.
struct Run {
    row: Option<Arc<Row>>,
    reused: bool,
    limits: Limits,
    /// Scripts that wait for the one that runs.
    calls: u16,
    began: Instant,
    deadline: Instant,
    control: Control,
    stop: Option<Stop>,
    logs: Logs,
    retry_after: Option<Duration>,
    redaction: Redaction,
    request: Option<Map>,
    ctx: Option<Map>,
    world: Option<Arc<World>>,
    view: Option<View>,
    messenger: Option<Messenger>,
}

/// A script that waits for another one in its run.
pub(super) struct Frame {
    row: Option<Arc<Row>>,
    reused: bool,
    request: Option<Map>,
    ctx: Option<Map>,
    mark: Option<Mark>,
}

/// What a run left behind.
pub(super) struct Remains {
    pub(super) stop: Option<Stop>,
    pub(super) logs: Logs,
    pub(super) retry_after: Option<Duration>,
    /// What it was told in confidence.
    pub(super) redaction: Redaction,
    pub(super) operations: u64,
    /// What it saw and changed, if it asked.
    pub(super) view: Option<View>,
    /// Its place in its chain.
    pub(super) chain: Option<Chain>,
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Watch {
    /// A watch that watches nothing yet.
    pub(super) fn new(among: Option<(Arc<Places>, Leave)>) -> Watch {
        let now = Instant::now();
        let run = Run {
            row: None,
            reused: false,
            limits: Limits::default(),
            calls: 0,
            began: now,
            deadline: now,
            control: Control::default(),
            stop: None,
            logs: Logs::default(),
            retry_after: None,
            redaction: Redaction::default(),
            request: None,
            ctx: None,
            world: None,
            view: None,
            messenger: None,
        };
        let (operations, next_look) = (AtomicU64::new(0), AtomicU64::new(0));
        let (places, leave) = among.unzip();
        Watch { operations, next_look, run: Mutex::new(run), share: Mutex::new(Share::new(places)), leave }
    }

    /// Lets all runs that follow call others.
    pub(super) fn equip(&self, messenger: Messenger) {
        self.run().messenger = Some(messenger);
    }

    /// Starts over for a new run.
    pub(super) fn begin(&self, input: Input, limits: &Limits, control: &Control, reused: bool) {
        self.operations.store(0, Ordering::Relaxed);
        // The first operation looks, so that a run that is late or cancelled ends before it does anything.
        self.next_look.store(1, Ordering::Relaxed);
        let (mut run, now) = (self.run(), Instant::now());
        self.share().begin(input.row.app_id, input.row.is_sync(), now);
        run.row = Some(input.row);
        run.limits = limits.clone();
        run.calls = 0;
        run.reused = reused;
        run.began = now;
        run.deadline = input.deadline;
        run.control = control.clone();
        run.stop = None;
        run.logs = Logs::new(limits);
        run.retry_after = None;
        run.world = input.world;
    }

    /// Ends the run and lets go of all it held.
    pub(super) fn finish(&self) -> Remains {
        self.share().end();
        let mut run = self.run();
        let chain = run.row.take().map(|row| row.chain());
        run.world = None;
        run.request = None;
        run.ctx = None;
        run.control = Control::default();
        Remains {
            stop: run.stop.take(),
            logs: std::mem::take(&mut run.logs),
            retry_after: run.retry_after.take(),
            redaction: std::mem::take(&mut run.redaction),
            operations: self.operations.load(Ordering::Relaxed),
            view: run.view.take(),
            chain,
        }
    }

    /// What the run reaches beyond itself.
    pub(super) fn world(&self) -> Option<Arc<World>> {
        self.run().world.clone()
    }

    /// The work that the run is for.
    pub(super) fn row(&self) -> Option<Arc<Row>> {
        self.run().row.clone()
    }

    /// What the run may use.
    pub(super) fn limits(&self) -> Limits {
        self.run().limits.clone()
    }

    /// Another script goes on in this run, for `row`; `reused` as its program says. Refused if `deep_max` scripts wait
    /// already.
    pub(super) fn enter(
        &self,
        ctx: &NativeCallContext,
        row: Arc<Row>,
        reused: bool,
        deep_max: u16,
    ) -> Result<Frame, Box<EvalAltResult>> {
        self.check(ctx)?;
        let mut run = self.run();
        if run.calls >= deep_max {
            return Err(format!("run::call: scripts call one another more than {deep_max} deep").into());
        }
        run.calls += 1;
        let mark = alloc::outside(|| run.view.as_ref().map(View::mark));
        Ok(Frame {
            row: run.row.replace(row),
            reused: std::mem::replace(&mut run.reused, reused),
            request: run.request.take(),
            ctx: run.ctx.take(),
            mark,
        })
    }

    /// The script that was left goes on. What the other one changed is taken back unless it stands.
    pub(super) fn leave(&self, frame: Frame, stands: bool) {
        let mut run = self.run();
        run.calls -= 1;
        let Frame { row, reused, request, ctx, mark } = frame;
        let left = std::mem::replace(&mut run.row, row);
        (run.reused, run.request, run.ctx) = (reused, request, ctx);
        alloc::outside(|| {
            drop(left);
            match (&mut run.view, mark) {
                (Some(view), Some(mark)) if !stands => view.go_back(mark),
                // Nothing had been written when it was entered.
                (Some(view), None) if !stands => view.clear(),
                (Some(_) | None, _) => {}
            }
        });
    }

    /// When the run is out of time.
    pub(super) fn deadline(&self) -> Instant {
        self.run().deadline
    }

    /// Does `work` on what the run sees of its app's values. `what` is the function's name, for errors.
    pub(super) fn with_view<T>(
        &self,
        ctx: &NativeCallContext,
        what: &str,
        work: impl FnOnce(&mut View) -> Result<T, ViewError>,
    ) -> Result<T, Box<EvalAltResult>> {
        self.check(ctx)?;
        let done = {
            let mut run = self.run();
            let run = &mut *run;
            let (Some(world), Some(row)) = (&run.world, &run.row) else {
                return Err(format!("{what}: there are no values here").into());
            };
            // What the view holds is bounded by itself.
            alloc::outside(|| {
                let view = run.view.get_or_insert_with(|| world.store.view(row.app_id, UnixMs::now()));
                work(view)
            })
        };
        done.map_err(|why| match why {
            ViewError::Stale => self.stop(ctx, Stop::Fault(FaultKind::Conflict)),
            ViewError::Store(error) => {
                tracing::error!(%error, "a script's values could not be read");
                self.stop(ctx, Stop::Fault(FaultKind::Platform))
            }
            ViewError::Limit(message) => format!("{what}: {message}").into(),
        })
    }

    /// Counts one operation; true if the run must end. Called tens of millions of times a second.
    #[inline]
    pub(super) fn tick(&self) -> bool {
        // One thread only: a plain load and store is enough, and far cheaper than an atomic addition. The
        // interpreter's own count would not do, for it forgets what callbacks used.
        let count = self.operations.load(Ordering::Relaxed) + 1;
        self.operations.store(count, Ordering::Relaxed);
        (count >= self.next_look.load(Ordering::Relaxed) || alloc::is_over_budget()) && self.look(count)
    }

    /// Looks whether the run must end, and waits if it is the turn of others.
    #[cold]
    fn look(&self, count: u64) -> bool {
        let mut share = self.share();
        if self.ends(count) {
            return true;
        }
        if share.is_long() {
            std::thread::yield_now();
        }
        let now = Instant::now();
        share.is_due(now) && !share.settle(now, || self.ends(count))
    }

    fn ends(&self, count: u64) -> bool {
        let mut run = self.run();
        let over = run.over(count);
        // Once it must end, every further operation says so: some native functions swallow a callback's error.
        let next =
            if over { 0 } else { (count + OPERATIONS_PER_LOOK).min(run.limits.operations.saturating_add(1)) };
        self.next_look.store(next, Ordering::Relaxed);
        over
    }

    /// For native functions that work long or grow much: an error if the run must end.
    pub(super) fn check(&self, ctx: &NativeCallContext) -> Result<(), Box<EvalAltResult>> {
        let over = self.look(self.operations.load(Ordering::Relaxed));
        if over { Err(ended(ctx)) } else { Ok(()) }
    }

    /// Whether the run must end, for whoever waits without the interpreter, and without the processor.
    pub(super) fn is_over(&self) -> bool {
        self.ends(self.operations.load(Ordering::Relaxed))
    }

    /// By whom others are called.
    pub(super) fn messenger(&self) -> Option<Messenger> {
        self.run().messenger.clone()
    }

    /// Ends the run for `stop`, unless it has ended already. The error cannot be caught by the script.
    pub(super) fn stop(&self, ctx: &NativeCallContext, stop: Stop) -> Box<EvalAltResult> {
        self.halt(stop);
        ended(ctx)
    }

    /// Sleeps, but neither past the deadline nor through a cancel.
    pub(super) fn sleep(&self, ctx: &NativeCallContext, wish: Duration) -> Result<(), Box<EvalAltResult>> {
        let until = Instant::now().checked_add(wish);
        self.share().rest();
        loop {
            if self.ends(self.operations.load(Ordering::Relaxed)) {
                return Err(ended(ctx));
            }
            let left = until.map_or(SLEEP_SLICE, |until| until.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(SLEEP_SLICE));
        }
    }

    /// Waits for something else than the processor; others have it meanwhile, and the bench too if there is room.
    pub(super) fn aside<T>(&self, wait: impl FnOnce() -> T) -> T {
        self.share().rest();
        let leave = self.leave.as_ref().filter(|leave| (leave.step_aside)());
        let _back = leave.map(Aside);
        wait()
    }

    /// Whether the thread has become too nice for another run.
    pub(super) fn is_spent(&self) -> bool {
        self.share().is_spent()
    }

    /// Writes to the run's log.
    pub(super) fn log(&self, level: &str, text: &str) {
        let mut run = self.run();
        let offset_ms = u32::try_from(run.began.elapsed().as_millis()).unwrap_or(u32::MAX);
        run.logs.push(level, text, offset_ms);
    }

    /// Remembers a secret that the run obtains: it is taken out of what is kept of the run. False if that would be more
    /// than `most`; then the run must not have it.
    pub(super) fn obtained(&self, secret: &str, most: usize) -> bool {
        self.run().redaction.note(secret, most)
    }

    /// Records when the script wants to be tried again, should it fail.
    pub(super) fn set_retry_after(&self, wish: Duration) {
        self.run().retry_after = Some(wish);
    }

    /// Whether the running program's own variables may have the names of what it is given.
    pub(super) fn is_reused(&self) -> bool {
        self.run().reused
    }

    /// A copy of `ctx` or `request`; made on first use. Stops the run if it does not fit.
    pub(super) fn given(&self, name: &str) -> Result<Dynamic, Box<EvalAltResult>> {
        let mut run = self.run();
        match run.given(name) {
            Ok(map) => {
                let mut value = Dynamic::from_map(map);
                value.set_tag(context::GIVEN_TAG);
                Ok(value)
            }
            Err(why) => {
                run.stop.get_or_insert(why);
                self.next_look.store(0, Ordering::Relaxed);
                Err(EvalAltResult::ErrorTerminated(Dynamic::UNIT, rhai::Position::NONE).into())
            }
        }
    }

    /// Ends the run for `stop` at its next operation, unless it has ended already.
    pub(super) fn halt(&self, stop: Stop) {
        self.run().stop.get_or_insert(stop);
        self.next_look.store(0, Ordering::Relaxed);
    }

    fn share(&self) -> MutexGuard<'_, Share> {
        self.share.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lock. A panic of native code while it was held leaves nothing half done that the next run does not reset.
    fn run(&self) -> MutexGuard<'_, Run> {
        self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Run {
    /// Whether the run must end, and remembers why.
    fn over(&mut self, count: u64) -> bool {
        if self.stop.is_some() {
            return true;
        }
        let kind = if alloc::is_over_budget() {
            FaultKind::Memory
        } else if count > self.limits.operations {
            FaultKind::Operations
        } else if let Some(reason) = self.control.cancelled() {
            match reason {
                Cancel::Operator => FaultKind::Cancelled,
                Cancel::Drain => FaultKind::Drain,
            }
        } else if Instant::now() >= self.deadline {
            FaultKind::Timeout
        } else {
            return false;
        };
        self.stop = Some(Stop::Fault(kind));
        true
    }

    fn given(&mut self, name: &str) -> Result<Map, Stop> {
        let Some(row) = &self.row else { return Ok(Map::new()) };
        if self.request.is_none() {
            self.request = Some(context::request(row)?);
        }
        let request = self.request.clone().unwrap_or_default();
        if name == context::REQUEST {
            return Ok(request);
        }
        if self.ctx.is_none() {
            self.ctx = Some(context::ctx(row)?);
        }
        let mut ctx = self.ctx.clone().unwrap_or_default();
        ctx.insert(context::REQUEST.into(), request.into());
        Ok(ctx)
    }
}

/// The error that no `try` of a script catches.
fn ended(ctx: &NativeCallContext) -> Box<EvalAltResult> {
    EvalAltResult::ErrorTerminated(Dynamic::UNIT, ctx.call_position()).into()
}
