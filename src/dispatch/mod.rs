//! Dispatch: from an accepted row to its end.
//!
//! A sync row goes straight to the workshop, before or after its commit as it was promised, and its answer to
//! the one who waits in the [`Inbox`]. Async rows pass the [`dispatcher`], which claims them when there is room,
//! times their retries and counts their crashes. One function routes every outcome. This room knows nothing of
//! HTTP: a failed run is a [`Fault`], and what status that is, is for others to say.

mod clock;
mod dispatcher;
mod holds;
mod inbox;
mod outcome;
mod policy;
mod scheduler;
mod ticks;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{broadcast, oneshot};
use uuid::Uuid;

pub use clock::ClockRule;
pub use inbox::{Inbox, Waiter};
pub use policy::{Next, Policy};
pub use scheduler::{ClockView, CronTally};

use crate::model::{CatchUp, ExecutionRecord, Overlap, Row, Trigger, TriggerOn, UnixMs};
use crate::script::{Executor, Fault, FaultKind, Finished, Job, Lane, Response, Verdict};
use crate::store::{self, Catalog, Recovered, Store};
use dispatcher::{Dispatcher, Tag};
use scheduler::Scheduler;

/// What callers are told while nothing runs.
const SAFE_MODE: &str = "this PiCloud is in safe mode: it was restarted too often, and runs no scripts until its operator says `picloud resume`";

/// Records that a slow reader of the log tail may fall behind.
const TAIL_LENGTH: usize = 1024;

/// What a waiter gets.
#[derive(Debug)]
pub struct Answer {
    /// The script's answer, or why there is none.
    pub result: Result<Response, Fault>,
}

/// Where an execution is before its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for a bench.
    Queued,
    /// It is on one.
    Running,
    /// It failed and waits for its next attempt.
    Retrying,
}

impl State {
    /// The word for it in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            State::Queued => "queued",
            State::Running => "running",
            State::Retrying => "retrying",
        }
    }
}

/// How long a caller waits beside its script.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promise {
    /// The row is on the card before its script starts, and what that changes before the caller hears of it.
    Strict,
    /// What the script changes is on the card before the caller hears of it.
    Auto,
    /// Everything rides the next flush.
    Relaxed,
}

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct Tally {
    /// Executions that ended, by status: success, error, timeout, budget_exceeded.
    pub ended: [AtomicU64; 4],
    /// Attempts that will be repeated.
    pub retries: AtomicU64,
    /// Executions that ended as dead letters.
    pub dead: AtomicU64,
}

/// A handle on dispatch, cheap to clone.
#[derive(Clone)]
pub struct Dispatch {
    inner: Arc<Inner>,
}

struct Inner {
    store: Store,
    inbox: Inbox,
    executor: Executor,
    dispatcher: Dispatcher,
    scheduler: Scheduler,
    policy: Policy,
    tail: broadcast::Sender<Arc<ExecutionRecord<'static>>>,
    tally: Tally,
    /// What is to be started once the operator says so; nothing runs before.
    resting: Mutex<Option<Resting>>,
    is_resting: AtomicBool,
}

/// A start that was put off.
struct Resting {
    recovered: Vec<Recovered>,
    clock: ClockRule,
}

impl Dispatch {
    /// Puts the parts together; [`Dispatch::start`] sets them going.
    pub fn new(store: Store, executor: Executor, policy: Policy, first_inbox_id: u64) -> Dispatch {
        let (inbox, dispatcher) = (Inbox::new(first_inbox_id), Dispatcher::default());
        let (tail, _) = broadcast::channel(TAIL_LENGTH);
        Dispatch {
            inner: Arc::new(Inner {
                store,
                inbox,
                executor,
                dispatcher,
                scheduler: Scheduler::default(),
                policy,
                tail,
                tally: Tally::default(),
                resting: Mutex::default(),
                is_resting: AtomicBool::new(false),
            }),
        }
    }

    /// Starts the dispatcher's thread, hands it what an earlier process left, and lets schedules strike by a clock
    /// that the rule admits.
    pub fn start(&self, recovered: &[Recovered], clock: ClockRule) -> std::io::Result<()> {
        self.inner.scheduler.began(recovered.iter().filter_map(|found| found.trigger_id));
        self.recover(recovered);
        dispatcher::start(self.clone())?;
        scheduler::start(self, clock)
    }

    /// Runs nothing until [`Dispatch::resume`]: rows are accepted and kept, calls are refused, no schedule strikes.
    pub fn rest(&self, recovered: &[Recovered], clock: ClockRule) {
        *self.resting() = Some(Resting { recovered: recovered.to_vec(), clock });
        self.inner.is_resting.store(true, Relaxed);
        self.inner.dispatcher.rest(true);
    }

    /// Starts what was put off. False if nothing was.
    pub fn resume(&self) -> std::io::Result<bool> {
        let mut resting = self.resting();
        let Some(Resting { recovered, clock }) = resting.take() else { return Ok(false) };
        self.inner.dispatcher.rest(false);
        self.inner.is_resting.store(false, Relaxed);
        self.start(&recovered, clock).map(|()| true)
    }

    /// Whether nothing runs until an operator says so.
    pub fn is_resting(&self) -> bool {
        self.inner.is_resting.load(Relaxed)
    }

    fn resting(&self) -> MutexGuard<'_, Option<Resting>> {
        self.inner.resting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the dispatcher look up. [`Dispatch::looked_up`] tells whether it did.
    pub fn call_up(&self) {
        self.inner.dispatcher.call_up();
    }

    /// Whether the dispatcher looked up since `then`, or has nothing to do yet, or no more.
    pub fn looked_up(&self, then: Instant) -> bool {
        self.inner.dispatcher.looked_up(then)
    }

    /// Whether the dispatcher ended though nobody asked it to: it will not come back.
    pub fn is_dead(&self) -> bool {
        self.inner.dispatcher.is_dead()
    }

    /// The set-up is this now: what its triggers hold back, and when they strike. Called before any row of theirs.
    pub fn set_up(&self, catalog: &Catalog) {
        let now = &catalog.triggers;
        let Some(before) = self.inner.scheduler.replace(now) else { return };
        let is_other = |trigger: &&Arc<Trigger>| {
            before.get(&trigger.id).is_none_or(|before| !Arc::ptr_eq(before, trigger))
        };
        for trigger in now.values().filter(is_other) {
            let held = before.get(&trigger.id).map_or((false, false), |before| holds(before));
            self.hold(trigger.id, held, holds(trigger));
        }
        for trigger in before.values().filter(|trigger| !now.contains_key(&trigger.id)) {
            self.hold(trigger.id, holds(trigger), (false, false));
        }
    }

    fn hold(&self, trigger: Uuid, before: (bool, bool), now: (bool, bool)) {
        let dispatcher = &self.inner.dispatcher;
        match (before.0, now.0) {
            (false, true) => dispatcher.pause(trigger),
            (true, false) => dispatcher.resume(trigger),
            (true, true) | (false, false) => {}
        }
        if before.1 != now.1 {
            dispatcher.set_serial(trigger, now.1);
        }
    }

    /// How the clock stands that schedules strike by.
    pub fn clock(&self) -> ClockView {
        self.inner.scheduler.clock()
    }

    /// What schedules came to.
    pub fn cron(&self) -> &CronTally {
        &self.inner.scheduler.tally
    }

    /// The id of a new execution, later than all others.
    pub fn new_id(&self) -> Uuid {
        self.inner.store.new_id()
    }

    /// Runs a row that somebody waits for: registers the waiter, then enqueues, then runs.
    pub fn call(&self, mut row: Row, promise: Promise) -> Waiter {
        let waiter = self.inner.inbox.register();
        row.reply_to = Some(waiter.id());
        if self.is_refused(&row) {
            return waiter;
        }
        let row = Arc::new(row);
        if promise != Promise::Strict && self.inner.store.enqueue_relaxed(row.clone()) {
            self.run_for(Lane::Sync, row, promise);
            return waiter;
        }
        let this = self.clone();
        self.inner.store.enqueue(row.clone(), false, move |accepted| match accepted {
            Ok(()) => this.run(Lane::Sync, row),
            Err(error) => this.not_accepted(&row, &error),
        });
        waiter
    }

    /// Runs a row that never was in the outbox. Its end is recorded all the same.
    pub fn call_directly(&self, mut row: Row) -> Waiter {
        let waiter = self.inner.inbox.register();
        row.reply_to = Some(waiter.id());
        if !self.is_refused(&row) {
            self.run(Lane::Sync, Arc::new(row));
        }
        waiter
    }

    /// Accepts a row that nobody waits for. Resolves once it is durable; from then on it will be run.
    pub async fn accept(&self, row: Row) -> Result<(), store::Error> {
        if self.inner.store.is_behind() {
            return Err(store::Error::Behind);
        }
        let row = Arc::new(row);
        let (app, claimed) = (row.app_id, self.inner.dispatcher.reserve(&row));
        let (tell, told) = oneshot::channel();
        let this = self.clone();
        self.inner.store.enqueue(row.clone(), claimed, move |accepted| {
            match (&accepted, claimed) {
                (Ok(()), true) => this.run(Lane::Async, row),
                (Ok(()), false) => this.inner.dispatcher.ready(row),
                (Err(_), true) => this.inner.dispatcher.release(app),
                (Err(_), false) => {}
            }
            // Nobody listens if the caller left; the row is accepted all the same.
            let _ = tell.send(accepted);
        });
        told.await.unwrap_or(Err(store::Error::Closed))
    }

    /// Takes rows that are in the outbox already.
    pub fn enqueued(&self, rows: Vec<Arc<Row>>) {
        self.inner.scheduler.began(rows.iter().filter_map(|row| row.trigger_id));
        for row in rows {
            match Duration::from_millis(row.wait_ms) {
                Duration::ZERO => self.inner.dispatcher.ready(row),
                wait => self.inner.dispatcher.later(row, wait),
            }
        }
    }

    /// Ends an execution wherever it is. False if it is not under way.
    pub fn cancel(&self, execution: Uuid) -> bool {
        if self.inner.executor.cancel(execution) {
            return true;
        }
        let Some(entry) = self.inner.dispatcher.withdraw(execution) else { return false };
        let row = entry.row.map_or_else(|| self.load(execution), |row| Ok(Some(row)));
        let Ok(Some(row)) = row else {
            self.inner.dispatcher.finished(execution, entry.tag.app);
            if row.is_err() {
                self.inner.dispatcher.orphan(entry.tag, UnixMs::now(), Duration::ZERO);
            }
            return false;
        };
        let cancelled = Finished::refused(Fault::new(FaultKind::Cancelled, "cancelled by an operator"));
        self.conclude_async(&row, cancelled);
        true
    }

    /// Where a row that has not ended is.
    pub fn state(&self, row: &Row) -> State {
        match (self.inner.executor.is_running(row.execution_id), row.attempts) {
            (true, _) => State::Running,
            (false, 0) => State::Queued,
            (false, _) => State::Retrying,
        }
    }

    /// Follows executions as they end.
    pub fn tail(&self) -> broadcast::Receiver<Arc<ExecutionRecord<'static>>> {
        self.inner.tail.subscribe()
    }

    /// Who waits for what.
    pub fn inbox(&self) -> &Inbox {
        &self.inner.inbox
    }

    /// The workshop.
    pub fn executor(&self) -> &Executor {
        &self.inner.executor
    }

    /// Counters.
    pub fn tally(&self) -> &Tally {
        &self.inner.tally
    }

    /// Async rows that wait: ready now, for their time, and for their trigger.
    pub fn waiting(&self) -> (usize, usize, usize) {
        self.inner.dispatcher.waiting()
    }

    /// Stops claiming, then lets runs end until `until`, then cuts them short; their rows stay for the next start.
    pub fn close(&self, until: Instant) {
        self.inner.scheduler.close();
        for id in self.inner.dispatcher.close() {
            self.inner.store.release(id);
        }
        self.inner.executor.close(until);
    }

    fn run(&self, lane: Lane, row: Arc<Row>) {
        self.run_for(lane, row, Promise::Auto);
    }

    fn run_for(&self, lane: Lane, row: Arc<Row>, promise: Promise) {
        let mut conclusion = Conclusion { dispatch: self.clone(), row: Some(row.clone()), promise };
        if let Some(fault) = self.inner.policy.too_deep(&row) {
            conclusion.conclude(Finished::refused(fault));
            return;
        }
        let done = Box::new(move |finished| conclusion.conclude(finished));
        self.inner.executor.submit(lane, Job { row, done, queued_at: Instant::now() });
    }

    /// Refuses a row while nothing runs, or the card is too far behind to take its record.
    fn is_refused(&self, row: &Row) -> bool {
        if self.is_resting() {
            let fault = Fault {
                reason: Some("safe_mode"),
                ..Fault::new(FaultKind::Overloaded, SAFE_MODE.to_owned())
            };
            self.refuse(row, fault);
            return true;
        }
        let behind = self.inner.store.is_behind();
        if behind {
            self.not_accepted(row, &store::Error::Behind);
        }
        behind
    }

    fn not_accepted(&self, row: &Row, error: &store::Error) {
        self.refuse(row, not_taken(error, row));
    }

    fn refuse(&self, row: &Row, fault: Fault) {
        if let Some(id) = row.reply_to {
            self.inner.inbox.take(id).deliver(Answer { result: Err(fault) });
        }
    }

    fn load(&self, execution: Uuid) -> Result<Option<Arc<Row>>, store::Error> {
        let row = self.inner.store.read().and_then(|snapshot| snapshot.row(execution));
        row.map(|row| row.map(Arc::new))
            .inspect_err(|error| tracing::error!(%execution, %error, "a row could not be read"))
    }

    /// Decides about each row an earlier process left: run again, or dead because it took the process down.
    fn recover(&self, recovered: &[Recovered]) {
        if !recovered.is_empty() {
            tracing::info!(rows = recovered.len(), "unfinished work of an earlier run was found");
        }
        let mut sorted = recovered.to_vec();
        // What an interrupted run may have caused is tried after all that it cannot have.
        // A row whose turn did not come since it was interrupted stays under suspicion, or it would run beside
        // the one that takes the process down, and share its fate.
        let now = UnixMs::now();
        let suspect = |found: &Recovered| found.began || (found.crashes > 0 && found.due_at <= now);
        sorted.sort_by_key(|found| (suspect(found), found.execution_id));
        for found in sorted {
            if !suspect(&found) {
                let Recovered {
                    execution_id: id, app_id: app, trigger_id: trigger, due_at, wait_max, ..
                } = found;
                self.inner.dispatcher.orphan(Tag { id, app, trigger }, due_at, wait_max);
                continue;
            }
            let Ok(Some(row)) = self.load(found.execution_id) else { continue };
            match self.inner.policy.after_crash(&row) {
                None => self.inner.dispatcher.suspect(row),
                Some(reason) => self.bury_crashed(&row, reason),
            }
        }
    }
}

/// Routes the end of a run, even if the workshop lost it: a dropped conclusion is a fault of ours.
struct Conclusion {
    dispatch: Dispatch,
    row: Option<Arc<Row>>,
    promise: Promise,
}

impl Conclusion {
    fn conclude(&mut self, finished: Finished) -> Verdict {
        let Some(row) = self.row.take() else { return Verdict::Ended };
        let verdict = self.dispatch.conclude(&row, finished, self.promise);
        // Kept, should the run be lost after all.
        self.row = (verdict == Verdict::Again).then_some(row);
        verdict
    }
}

impl Drop for Conclusion {
    fn drop(&mut self) {
        if let Some(row) = self.row.take() {
            let lost = Fault::new(FaultKind::Platform, "the run was lost");
            self.dispatch.conclude(&row, Finished::refused(lost), self.promise);
        }
    }
}

/// The fault for what the store does not take.
fn not_taken(error: &store::Error, row: &Row) -> Fault {
    if let Some(reason) = error.refusal() {
        return Fault { reason: Some(reason), ..Fault::new(FaultKind::Overloaded, error.to_string()) };
    }
    tracing::error!(execution = %row.execution_id, %error, "what a row brings could not be accepted");
    Fault::new(FaultKind::Platform, "internal error")
}

/// Whether a trigger holds its rows back: all of them, and all but one.
fn holds(trigger: &Trigger) -> (bool, bool) {
    let serial = match &trigger.on {
        TriggerOn::Cron { overlap: Overlap::Queue, .. } => true,
        // What is caught up with runs one after the other, too.
        TriggerOn::Cron { overlap: Overlap::Skip, catch_up, .. } => *catch_up == CatchUp::All,
        TriggerOn::Cron { overlap: Overlap::Parallel, .. }
        | TriggerOn::Kv { .. }
        | TriggerOn::Queue { .. }
        | TriggerOn::DeadLetter { .. }
        | TriggerOn::Startup => false,
    };
    (!trigger.enabled, serial)
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
