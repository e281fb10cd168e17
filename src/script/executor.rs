//! The workshop: named threads that run scripts, never more at once than there are benches.
//!
//! Two lanes lead here. Sync runs, which somebody waits for, come first and keep one bench that async runs
//! cannot take; async runs get a turn now and then so that a flood of callers does not starve them. Apps take turns in
//! each lane, and none has all benches. A run that was taken always ends in one call of its `done`, whatever happens
//! to the script or to its thread.
//!
//! Most runs take microseconds, and waking a thread costs as much. So no more benches are woken than there are
//! cores: one that works takes the next run anyway when it is done. For runs that take longer, or sleep, one more
//! bench keeps watch while there is work, and steps in when a run has waited for a moment. Heavy runs share the cores
//! but one between them ([`Places`]) and are not counted as work: another bench gets up at once. A run that calls another
//! server steps aside until that answers: some more threads than benches are kept for that. So a slow server holds up
//! nobody else, and a script that calls its own device finds a bench there.

mod worker;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use uuid::Uuid;

use self::worker::{Worker, relieve};
use super::egress::Messenger;
use super::library::Library;
use super::places::Places;
use super::run::{Cancel, Control, Fault, FaultKind, Outcome, World};
use super::waiting::{Bound, Last, Queue};
use super::watch::Leave;
use super::{Ceilings, Limits};
use crate::model::Row;
use crate::store::{Sealer, Store};

/// A caller waits this much longer than its script may run.
pub const WAIT_SLACK: Duration = Duration::from_secs(2);

/// Which queue a run waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// Somebody waits for the answer.
    Sync,
    /// Nobody does.
    Async,
}

/// A run that ended.
#[derive(Debug)]
pub struct Finished {
    /// What came of it.
    pub outcome: Outcome,
    /// The version that ran; 0 if none did.
    pub version: u32,
    /// How long it waited for a bench.
    pub queue_wait: Duration,
}

impl Finished {
    /// The end of a run that was not made.
    pub fn refused(fault: Fault) -> Finished {
        Finished { outcome: Outcome::refused(fault), version: 0, queue_wait: Duration::ZERO }
    }
}

/// What becomes of the end of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stands.
    Ended,
    /// What it read was changed meanwhile: the run is made again.
    Again,
}

/// A run to be made.
pub struct Job {
    /// What to run, and for what.
    pub row: Arc<Row>,
    /// Told when it ended; called until it says that it has.
    pub done: Box<dyn FnMut(Finished) -> Verdict + Send>,
    /// When it began to wait.
    pub queued_at: Instant,
}

/// Sizes of the workshop.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Scripts that run at once.
    pub benches: usize,
    /// Scripts beyond these that wait for other servers.
    pub aside_max: usize,
    /// Sync runs that may wait for one.
    pub queue_max: usize,
    /// Runs at once of an app that says nothing; `None`: most of the benches.
    pub app_concurrency: Option<usize>,
    /// Bytes of compiled scripts kept.
    pub cache_bytes: usize,
    /// Limits of a run.
    pub limits: Limits,
    /// What a script's own overrides may reach.
    pub ceilings: Ceilings,
    /// Limit of a queued run whose script names none.
    pub timeout_async: Duration,
    /// Plain settings for scripts, by name.
    pub env: BTreeMap<String, String>,
    /// Bytes that all runs together may leave behind before [`LeakHook`] is called.
    pub leaked_bytes_max: u64,
}

/// Called once when scripts have left behind more than the process should carry. Says how many bytes.
pub type LeakHook = Box<dyn Fn(u64) + Send + Sync>;

/// Counters, for metrics.
#[derive(Debug, Default)]
pub struct Tally {
    /// Runs that ended.
    pub runs: AtomicU64,
    /// Runs that were made again because what they read was changed meanwhile.
    pub conflicts: AtomicU64,
    /// Runs refused because the queue was full.
    pub overloaded: AtomicU64,
    /// Runs refused because so many of their app waited that the rest is for others.
    pub app_overloaded: AtomicU64,
    /// Bytes that runs left behind: closures that capture themselves are never freed.
    pub leaked_bytes: AtomicU64,
}

/// A handle on the workshop, cheap to clone.
#[derive(Clone)]
pub struct Executor {
    shared: Arc<Shared>,
}

struct Shared {
    queue: Mutex<Queue>,
    /// Benches that sleep until they are needed.
    wake: Condvar,
    /// The same, of those that stand in while runs are aside.
    wake_spare: Condvar,
    /// The bench that keeps watch.
    watch: Condvar,
    cores: usize,
    benches: usize,
    /// How many benches an app may have that says nothing.
    usual: Bound,
    places: Arc<Places>,
    desks: Vec<Mutex<Option<Running>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    /// Who gives a bench a fresh thread.
    relief: Sender<Worker>,
    world: Arc<World>,
    messenger: Messenger,
    settings: Settings,
    tally: Tally,
    on_leak: LeakHook,
}

struct Running {
    execution: Uuid,
    of: Last,
    control: Control,
    ends_by: Instant,
}

impl Executor {
    /// Starts the threads. Scripts call others by `messenger`, and their secrets are opened by `sealer`.
    pub fn start(
        settings: Settings,
        store: Store,
        (messenger, sealer): (Messenger, Sealer),
        on_leak: LeakHook,
    ) -> std::io::Result<Executor> {
        let benches = settings.benches.max(2);
        let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let (relief, spent) = mpsc::channel();
        let shared = Arc::new_cyclic(|shared: &Weak<Shared>| Shared {
            queue: Mutex::new(Queue::new(benches, settings.aside_max)),
            wake: Condvar::new(),
            wake_spare: Condvar::new(),
            watch: Condvar::new(),
            cores,
            benches,
            usual: settings.app_concurrency.map_or(Bound::usual(benches), Bound::of),
            places: Arc::new(Places::new(
                cores - 1,
                benches + settings.aside_max,
                heavy_hook(shared.clone()),
            )),
            desks: (0..benches + settings.aside_max).map(|_| Mutex::new(None)).collect(),
            threads: Mutex::default(),
            relief,
            world: Arc::new(World {
                library: Library::new(store.clone(), settings.cache_bytes, settings.limits.clone()),
                timeout_async: settings.timeout_async,
                env: settings.env.clone(),
                store,
                sealer,
            }),
            messenger,
            settings,
            tally: Tally::default(),
            on_leak,
        });
        let numbers = 0..shared.desks.len();
        let threads = numbers.map(|number| Worker { shared: shared.clone(), number }.start());
        let threads = threads.collect::<std::io::Result<_>>()?;
        *lock(&shared.threads) = threads;
        thread::Builder::new().name("bench-relief".into()).spawn(move || relieve(spent))?;
        Ok(Executor { shared })
    }

    /// Queues a run. A full queue, or a workshop that closes, ends it at once as refused.
    pub fn submit(&self, lane: Lane, job: Job) {
        let mut queue = lock(&self.shared.queue);
        if let Err((job, away)) = queue.push(lane, job, self.shared.settings.queue_max) {
            drop(queue);
            let tally = &self.shared.tally;
            let full = if away.own_share { &tally.app_overloaded } else { &tally.overloaded };
            full.fetch_add(u64::from(away.kind == FaultKind::Overloaded), Relaxed);
            return job.refuse(away.kind, away.why);
        }
        let wake = self.shared.wants_another(&queue);
        drop(queue);
        if let Some(sleepers) = wake {
            sleepers.notify_one();
        }
    }

    /// Ends a run that waits or runs. False if there is none: it has ended or has not come here.
    pub fn cancel(&self, execution: Uuid) -> bool {
        let waiting = lock(&self.shared.queue).take(execution);
        if let Some(job) = waiting {
            job.refuse(FaultKind::Cancelled, "cancelled by an operator");
            return true;
        }
        self.shared.desks.iter().any(|desk| match &*lock(desk) {
            Some(running) if running.execution == execution => {
                running.control.cancel(Cancel::Operator);
                true
            }
            _ => false,
        })
    }

    /// Whether this execution is on a bench now.
    pub fn is_running(&self, execution: Uuid) -> bool {
        self.shared.desks.iter().any(|desk| lock(desk).as_ref().is_some_and(|r| r.execution == execution))
    }

    /// Runs that wait, and runs on benches.
    pub fn load(&self) -> (usize, usize) {
        let queue = lock(&self.shared.queue);
        let running = self.shared.desks.iter().filter(|desk| lock(desk).is_some()).count();
        (queue.len(), running)
    }

    /// Counters.
    pub fn tally(&self) -> &Tally {
        &self.shared.tally
    }

    /// Scripts that may run at once.
    pub fn benches(&self) -> usize {
        self.shared.benches
    }

    /// Runs that wait for other servers, their benches left to others.
    pub fn aside(&self) -> usize {
        lock(&self.shared.queue).aside()
    }

    /// Runs on benches that have used the processor for long, and share it.
    pub fn heavy(&self) -> usize {
        self.shared.places.heavy()
    }

    /// Whether runs get done: fewer runs than there are benches are past their time. Runs that wait for other servers
    /// hold no bench.
    pub fn is_live(&self, now: Instant) -> bool {
        let is_late = |desk: &&Mutex<Option<Running>>| lock(desk).as_ref().is_some_and(|r| now >= r.ends_by);
        let late = self.shared.desks.iter().filter(is_late).count();
        late.saturating_sub(self.aside()) < self.shared.benches
    }

    /// Takes no more runs and waits until `until` for those it has; then cuts them short and ends the threads.
    pub fn close(&self, until: Instant) {
        lock(&self.shared.queue).closing = true;
        for sleepers in [&self.shared.wake, &self.shared.wake_spare, &self.shared.watch] {
            sleepers.notify_all();
        }
        while Instant::now() < until && self.is_busy() {
            thread::sleep(Duration::from_millis(10));
        }
        let waiting = lock(&self.shared.queue).drain();
        for job in waiting {
            job.refuse(FaultKind::Drain, "PiCloud is stopping");
        }
        let threads = std::mem::take(&mut *lock(&self.shared.threads));
        // A run that was taken reaches its desk only when it is compiled, so one look is not enough.
        while threads.iter().any(|thread| !thread.is_finished()) {
            for desk in &self.shared.desks {
                if let Some(running) = &*lock(desk) {
                    running.control.cancel(Cancel::Drain);
                }
            }
            thread::sleep(Duration::from_millis(2));
        }
        for thread in threads {
            // A bench contains every panic of its script; if it failed all the same, there is nothing to save.
            let _ = thread.join();
        }
    }

    fn is_busy(&self) -> bool {
        let queue = lock(&self.shared.queue);
        queue.taken() + queue.aside() + queue.len() > 0
    }

    /// The limits of a run, and what overrides of them may reach.
    pub fn limits(&self) -> (&Limits, &Ceilings) {
        (&self.shared.settings.limits, &self.shared.settings.ceilings)
    }
}

impl Job {
    fn refuse(self, kind: FaultKind, why: &str) {
        let queue_wait = self.queued_at.elapsed();
        self.end(Finished { outcome: Outcome::refused(Fault::new(kind, why)), version: 0, queue_wait });
    }

    /// Ends it with what changes nothing, which always stands.
    fn end(mut self, finished: Finished) {
        (self.done)(finished);
    }
}

impl Shared {
    /// Where a sleeping bench should get up: to work if a core is free, else to keep watch if none does. A spare one
    /// only while a run is aside: threads that never run anything cost next to nothing.
    fn wants_another(&self, queue: &Queue) -> Option<&Condvar> {
        let wanted = self.working(queue) < self.cores || !queue.watched;
        match wanted {
            true if queue.asleep > 0 => Some(&self.wake),
            true if queue.spare_asleep > 0 && queue.aside() > 0 => Some(&self.wake_spare),
            _ => None,
        }
    }

    /// Wakes one more for what waits, if there is a place for it.
    fn rouse(&self, queue: &Queue) {
        if let Some(sleepers) = self.wants_another(queue).filter(|_| queue.may_take()) {
            sleepers.notify_one();
        }
    }

    /// Benches that run a script or are about to look for one, but for heavy runs: those share what cores they have.
    fn working(&self, queue: &Queue) -> usize {
        let awake = self.desks.len() - queue.asleep - queue.spare_asleep - usize::from(queue.watched);
        awake.saturating_sub(self.places.heavy() + queue.aside())
    }

    /// How many benches this app may have.
    fn bound(&self, app: Uuid) -> Bound {
        let own = self.world.store.catalog().apps.get(&app).and_then(|app| app.limits.concurrency);
        own.map_or(self.usual, |runs| Bound::of(runs.into()))
    }

    /// A bench will not take a short run soon: another one does.
    fn stand_in(&self) {
        self.rouse(&lock(&self.queue));
    }
}

/// How the run on this desk leaves its bench.
fn leave(shared: &Arc<Shared>, number: usize) -> Leave {
    let (aside, back) = (shared.clone(), shared.clone());
    let of = move |shared: &Shared| lock(&shared.desks[number]).as_ref().map(|running| running.of);
    Leave {
        step_aside: Box::new(move || {
            let left = of(&aside).is_some_and(|run| lock(&aside.queue).step_aside(run));
            if left {
                aside.stand_in();
            }
            left
        }),
        step_back: Box::new(move || {
            if let Some(run) = of(&back) {
                lock(&back.queue).step_back(run);
            }
        }),
    }
}

fn heavy_hook(shared: Weak<Shared>) -> Box<dyn Fn() + Send + Sync> {
    Box::new(move || {
        if let Some(shared) = shared.upgrade() {
            shared.stand_in();
        }
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
