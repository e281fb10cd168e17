//! The writer: the one thread that changes the file.
//!
//! It takes every command that waits into one transaction. Commands that somebody was promised the durability
//! of wake it at once and make the commit an fsync; the rest only gathers in memory until the next such commit
//! or the flush interval, so that a relaxed request that ends within it never touches the outbox table at all.
//! What a row's end changes and its log record always go down together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redb::Database;
use uuid::Uuid;

use super::ages::Ages;
use super::apply::{Applier, Ask};
use super::backend::CardMeter;
use super::budget::{Budget, BudgetView};
use super::catalog::Catalog;
use super::changes::Changes;
use super::compact::Compaction;
use super::log::EncodedRecord;
use super::open::{self, Settings};
use super::pace::Pace;
use super::read::Snapshot;
use super::space::Space;
use super::wear::Odometer;
use super::{ChangeError, Error, Ids, retention};
use crate::model::{DeadLetter, Row, UnixMs};

/// Called once, after the commit that kept the promise, or with the reason why there will be none.
pub(crate) type Reply = Box<dyn FnOnce(Result<(), Error>) + Send>;
/// Makes a change; says whom to tell, and whether it wrote. An error is the card's.
pub(crate) type Change = Box<dyn FnOnce(&mut Changes<'_>) -> (Reply, Result<bool, Error>) + Send>;

/// More waiting commands than this wake the writer although nobody waits for it.
const COMMANDS_WAKE: usize = 256;
/// With more than this waiting the card cannot keep up, and relaxed rows must wait like strict ones.
const COMMANDS_BUSY: usize = 4 * 1024;
/// The same in bytes.
const BYTES_BUSY: usize = 16 * 1024 * 1024;
/// With more than this waiting nothing is run any more: what waits for a stalled card must not fill the memory.
const BYTES_BEHIND: usize = 48 * 1024 * 1024;
/// Quiet time after which the file is left so that even a power cut needs no repair at the next start.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(3);

/// How a row's attempt changed the row.
#[derive(Debug)]
pub enum End {
    /// It is over: the row goes, the record stays.
    Done(EncodedRecord),
    /// It is tried again: the row as it shall stand, with its new due time.
    Retry(Arc<Row>),
    /// It is over without success: the row becomes a dead letter.
    Dead(Box<DeadLetter>, EncodedRecord),
    /// The house cut it short: the row stays as it was, and the attempt does not count.
    Release,
}

pub(crate) enum Command {
    Enqueue { row: Arc<Row>, claimed: bool, reply: Reply },
    EnqueueRelaxed(Arc<Row>),
    Claim { ids: Vec<Uuid>, reply: Reply },
    Settle { id: Uuid, end: End },
    Change(Change),
    Settled(Reply),
    Probe(Reply),
}

/// A row that an earlier process left.
#[derive(Clone, Copy, Debug)]
pub struct Recovered {
    /// Which.
    pub execution_id: Uuid,
    /// When it may run.
    pub due_at: UnixMs,
    /// The longest that it may still have to wait, whatever the clock says.
    pub wait_max: Duration,
    /// Whether that process may have begun it.
    pub began: bool,
    /// How often a process died while it ran.
    pub crashes: u16,
    /// Whether a caller waited for it.
    pub sync: bool,
}

/// Called with each new set-up.
pub type CatalogHook = Box<dyn Fn(&Arc<Catalog>) + Send>;

/// What the writer calls, on its own thread.
pub struct Hooks {
    /// After a commit that changed the set-up, before anyone is told: builds what is derived from it.
    pub catalog: CatalogHook,
    /// After a commit that put rows into the outbox on an operator's behalf.
    pub enqueued: Box<dyn Fn(Vec<Arc<Row>>) + Send>,
    /// Once, when the card failed: nothing will be accepted any more.
    pub broken: Box<dyn Fn(&Error) + Send>,
}

/// Counters of the store, for metrics.
#[derive(Debug, Default)]
pub struct Load {
    /// How often the file was made small again.
    pub compactions: AtomicU64,
    /// Transactions committed.
    pub commits: AtomicU64,
    /// Those that ended in an fsync.
    pub durable_commits: AtomicU64,
    /// Commands taken.
    pub commands: AtomicU64,
    /// Those that changed something.
    pub changes: AtomicU64,
    /// Rows in the outbox table.
    pub outbox_rows: AtomicU64,
    /// Bytes of them.
    pub outbox_bytes: AtomicU64,
    /// Bytes of the execution log on the card.
    pub log_bytes: AtomicU64,
    /// Dead letters kept.
    pub dead_letters: AtomicU64,
    /// Bytes of them.
    pub dead_letters_bytes: AtomicU64,
    /// Dead letters dropped because there were too many or they were too old.
    pub dead_letters_dropped: AtomicU64,
    /// Whether there are so many that somebody should look.
    pub dead_letters_alert: AtomicBool,
    /// Bytes of all versions of all scripts.
    pub versions_bytes: AtomicU64,
    /// Rows and changes refused because the card was full.
    pub storage_full_refusals: AtomicU64,
    /// Bytes that the store was asked to keep, before compression.
    pub logical_bytes: AtomicU64,
}

/// A handle on the store, cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    pub(crate) catalog: ArcSwap<Catalog>,
    db: Mutex<Option<Arc<Database>>>,
    pub(crate) ids: Ids,
    pub(crate) load: Load,
    pub(crate) meter: Arc<CardMeter>,
    pub(crate) space: Arc<Space>,
    pub(crate) odometer: Odometer,
    pub(crate) budget: Budget,
    broken: AtomicBool,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Default)]
struct Queue {
    commands: Vec<Command>,
    /// About how many bytes they hold.
    bytes: usize,
    /// Somebody waits.
    urgent: bool,
    /// So many wait for a promise.
    waiting: usize,
    /// The writer gathers until so many wait; 0 if it does not.
    wanted: usize,
    /// The writer sleeps without a time to wake.
    dormant: bool,
    closing: bool,
    closed: bool,
}

impl Store {
    /// Opens the file and starts the writer. Blocks for as long as the file needs.
    pub fn open(settings: &Settings) -> Result<(Store, Vec<Recovered>, Startable), Error> {
        // A file whose pages contradict each other makes redb panic; for the operator that is a damaged file.
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(|_| {}));
        let opened = catch_unwind(AssertUnwindSafe(|| open::open(settings)));
        std::panic::set_hook(loud);
        let opened = opened.unwrap_or_else(|_| {
            let path = settings.path.display().to_string();
            Err(Error::Open { path, why: "the file is damaged; move it away and restore a backup".into() })
        })?;
        Store::assemble(opened, settings)
    }

    /// Puts the writer together around an opened file; nothing runs yet.
    pub(crate) fn assemble(
        opened: open::Opened,
        settings: &Settings,
    ) -> Result<(Store, Vec<Recovered>, Startable), Error> {
        let db = Arc::new(opened.db);
        let load = Load::default();
        load.outbox_rows.store(u64::try_from(opened.recovered.len()).unwrap_or(u64::MAX), Relaxed);
        load.outbox_bytes.store(opened.outbox_bytes, Relaxed);
        load.dead_letters.store(opened.letters.rows, Relaxed);
        load.dead_letters_bytes.store(opened.letters.bytes, Relaxed);
        load.versions_bytes.store(opened.sources.bytes, Relaxed);
        load.log_bytes.store(opened.tail.stored_bytes(), Relaxed);
        let shared = Arc::new(Shared {
            queue: Mutex::default(),
            wake: Condvar::new(),
            catalog: ArcSwap::from_pointee(opened.catalog.clone()),
            db: Mutex::new(Some(db.clone())),
            ids: Ids::after(opened.latest_id),
            load,
            meter: opened.meter,
            space: opened.space,
            odometer: Odometer::after(opened.wear, Instant::now()),
            budget: settings.budget(Instant::now()),
            broken: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let applier = Applier::new(
            shared.clone(),
            opened.catalog,
            opened.tail,
            opened.letters,
            opened.sources,
            settings,
        );
        let store = Store { shared };
        let latest = (!opened.latest_id.is_nil()).then(|| retention::stamp(opened.latest_id));
        let startable = Startable {
            store: store.clone(),
            db,
            applier,
            compaction: Compaction::new(settings.path.clone(), opened.cards),
            ages: Ages::from(latest, UnixMs::now()),
        };
        Ok((store, opened.recovered, startable))
    }

    /// The set-up as of the last commit.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.shared.catalog.load_full()
    }

    /// A new id, later than all that the file knows, whatever the clock says.
    pub fn new_id(&self) -> Uuid {
        self.shared.ids.at(UnixMs::now())
    }

    /// Accepts a row durably; `claimed` if its attempt begins as soon as it is. `reply` is called once it is
    /// durable, on the writer's thread: it must be quick.
    pub fn enqueue(
        &self,
        row: Arc<Row>,
        claimed: bool,
        reply: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        self.post(Command::Enqueue { row, claimed, reply: Box::new(reply) }, true);
    }

    /// Accepts a row that may be lost in a power cut until the next flush. False if the card is too far behind:
    /// then it must be accepted durably or not at all.
    pub fn enqueue_relaxed(&self, row: Arc<Row>) -> bool {
        let mut queue = self.lock();
        if queue.is_busy() || queue.closing || queue.closed {
            return false;
        }
        self.post_locked(&mut queue, Command::EnqueueRelaxed(row), false);
        true
    }

    /// Whether the card is so far behind that nothing more should be run before it has caught up.
    pub fn is_behind(&self) -> bool {
        self.lock().bytes >= BYTES_BEHIND
    }

    /// Counts, durably, that these async rows begin an attempt. Unless it is `urgent`, it waits for a commit that
    /// is made anyway, or for the flush.
    pub fn claim(
        &self,
        ids: Vec<Uuid>,
        urgent: bool,
        reply: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) {
        self.post(Command::Claim { ids, reply: Box::new(reply) }, urgent);
    }

    /// Ends an attempt. Nobody waits for it: it is on the card with the next flush.
    pub fn settle(&self, row: &Row, end: End) {
        self.post(Command::Settle { id: row.execution_id, end }, false);
    }

    /// Takes a claim back: the row's attempt did not begin.
    pub fn release(&self, id: Uuid) {
        self.post(Command::Settle { id, end: End::Release }, false);
    }

    /// Changes the set-up. `reply` is called once the change is durable, or refused, on the writer's thread.
    pub fn change<T: Send + 'static>(
        &self,
        make: impl FnOnce(&mut Changes<'_>) -> Result<T, ChangeError> + Send + 'static,
        reply: impl FnOnce(Result<T, ChangeError>) + Send + 'static,
    ) {
        let change = move |changes: &mut Changes<'_>| {
            let made = make(changes);
            let wrote = match &made {
                Ok(_) => Ok(true),
                Err(ChangeError::Store(error)) => Err(error.clone()),
                Err(
                    ChangeError::NotFound { .. }
                    | ChangeError::Conflict(_)
                    | ChangeError::Invalid { .. }
                    | ChangeError::StorageFull(_),
                ) => Ok(false),
            };
            let tell: Reply =
                Box::new(move |committed| reply(committed.map_err(ChangeError::from).and(made)));
            (tell, wrote)
        };
        self.post(Command::Change(Box::new(change)), true);
    }

    /// Calls back once everything posted before is visible to a new [`Snapshot`]. Costs no fsync.
    pub fn settled(&self, reply: impl FnOnce(Result<(), Error>) + Send + 'static) {
        self.post(Command::Settled(Box::new(reply)), true);
    }

    /// Calls back once the writer came by: proof that it lives.
    pub fn probe(&self, reply: impl FnOnce(Result<(), Error>) + Send + 'static) {
        self.post(Command::Probe(Box::new(reply)), true);
    }

    /// What the file holds now, as of the last commit.
    pub fn read(&self) -> Result<Snapshot, Error> {
        let db = self.shared.db.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Snapshot::new(db.ok_or(Error::Closed)?.as_ref())
    }

    /// Counters.
    pub fn load(&self) -> &Load {
        &self.shared.load
    }

    /// What the card has taken.
    pub fn card(&self) -> &CardMeter {
        &self.shared.meter
    }

    /// How the write budget stands now.
    pub fn budget(&self) -> BudgetView {
        self.shared.budget.spend(self.shared.meter.bytes_written.load(Relaxed), Instant::now());
        self.shared.budget.view()
    }

    /// The room on the card.
    pub fn space(&self) -> &Space {
        &self.shared.space
    }

    /// Whether the card failed.
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Relaxed)
    }

    /// Commits what waits, durably, and closes the file. Commands that come later are refused.
    pub fn close(&self) {
        self.lock().closing = true;
        self.shared.wake.notify_all();
        let thread = self.shared.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // A writer that panicked has aborted the process; there is no error to pass on.
            let _ = thread.join();
        }
    }

    fn post(&self, command: Command, urgent: bool) {
        let mut queue = self.lock();
        if queue.closed {
            drop(queue);
            return command.refuse(&Error::Closed);
        }
        self.post_locked(&mut queue, command, urgent);
    }

    fn post_locked(&self, queue: &mut Queue, command: Command, urgent: bool) {
        queue.bytes += command.weight();
        queue.waiting += usize::from(command.is_promise());
        queue.commands.push(command);
        let wake = (urgent && !queue.urgent)
            || queue.dormant
            || queue.commands.len() == COMMANDS_WAKE
            || queue.waiting == queue.wanted;
        queue.urgent |= urgent;
        queue.dormant = false;
        if wake {
            self.shared.wake.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An opened store whose writer does not run yet.
pub struct Startable {
    store: Store,
    pub(crate) db: Arc<Database>,
    pub(crate) applier: Applier,
    compaction: Compaction,
    ages: Ages,
}

impl Startable {
    /// Starts the writer's thread.
    pub fn start(self, hooks: Hooks) -> std::io::Result<()> {
        let shared = self.store.shared.clone();
        (hooks.catalog)(&shared.catalog.load_full());
        let writer = Writer {
            shared: shared.clone(),
            db: self.db,
            applier: self.applier,
            hooks,
            pace: Pace::default(),
            compaction: self.compaction,
            ages: self.ages,
            started_at: Instant::now(),
        };
        let thread = thread::Builder::new().name("store-writer".into()).spawn(move || writer.run())?;
        *shared.thread.lock().unwrap_or_else(PoisonError::into_inner) = Some(thread);
        Ok(())
    }
}

impl Queue {
    fn is_busy(&self) -> bool {
        self.commands.len() >= COMMANDS_BUSY || self.bytes >= BYTES_BUSY
    }
}

impl Command {
    /// About how many bytes wait with it.
    fn weight(&self) -> usize {
        match self {
            Command::Enqueue { row, .. } | Command::EnqueueRelaxed(row) => row.weight(),
            Command::Settle { end: End::Done(record) | End::Dead(_, record), .. } => record.weight(),
            Command::Settle { end: End::Retry(_) | End::Release, .. }
            | Command::Claim { .. }
            | Command::Change(_)
            | Command::Settled(_)
            | Command::Probe(_) => 0,
        }
    }

    /// Whether its caller is likely to come back as soon as it is answered.
    fn is_promise(&self) -> bool {
        matches!(self, Command::Enqueue { .. } | Command::Change(_))
    }

    /// Whether it is only a question.
    fn asks_only(&self) -> bool {
        matches!(self, Command::Settled(_) | Command::Probe(_))
    }

    /// Tells whoever waits that it will not happen.
    pub(crate) fn refuse(self, error: &Error) {
        match self {
            Command::Enqueue { reply, .. } | Command::Claim { reply, .. } => reply(Err(error.clone())),
            Command::Settled(reply) | Command::Probe(reply) => reply(Err(error.clone())),
            // The closure holds whom to tell; its reply is dropped with it, which the waiter sees.
            Command::Change(_) | Command::EnqueueRelaxed(_) | Command::Settle { .. } => {}
        }
    }
}

struct Writer {
    shared: Arc<Shared>,
    db: Arc<Database>,
    applier: Applier,
    hooks: Hooks,
    pace: Pace,
    compaction: Compaction,
    ages: Ages,
    started_at: Instant,
}

impl Writer {
    fn run(mut self) {
        let mut commands = Vec::new();
        let mut last_active = Instant::now();
        loop {
            let closing = self.take(&mut commands, last_active);
            // Who only looks does not put the checkpoint off.
            let changes = commands.iter().filter(|command| !command.asks_only()).count();
            let idle = changes == 0;
            self.shared.load.changes.fetch_add(u64::try_from(changes).unwrap_or(0), Relaxed);
            if !idle {
                last_active = Instant::now();
            }
            let due = self.applier.waiting_since().is_some_and(|since| since.elapsed() >= self.flush_after());
            let checkpoint =
                idle && self.applier.wants_checkpoint() && last_active.elapsed() >= CHECKPOINT_AFTER;
            if let Err(error) = self.apply(&mut commands, due || closing, checkpoint || closing) {
                return self.break_down(&error);
            }
            if closing && self.closed() {
                return self.release_db();
            }
            if let Err(error) = self.compact(checkpoint && !closing) {
                return self.break_down(&error);
            }
        }
    }

    /// Begins to compact the file if it is worth it and the box is `idle`, and lets a finished copy take over.
    fn compact(&mut self, idle: bool) -> Result<(), Error> {
        if idle {
            let store = Store { shared: self.shared.clone() };
            let load = &self.shared.load;
            let live = [&load.outbox_bytes, &load.log_bytes, &load.dead_letters_bytes, &load.versions_bytes]
                .map(|bytes| bytes.load(Relaxed));
            // The thread only wakes the writer; what it made is with the compaction.
            self.compaction.consider(&self.db, live.iter().sum(), move || store.probe(|_| ()));
        }
        let Some(db) = self.compaction.finish(&self.db)? else { return Ok(()) };
        *self.shared.db.lock().unwrap_or_else(PoisonError::into_inner) = Some(db.clone());
        self.db = db;
        self.shared.load.compactions.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Waits for something to do and takes the whole queue. True if the store is to close.
    fn take(&self, commands: &mut Vec<Command>, last_active: Instant) -> bool {
        let mut queue = self.lock();
        let came_meanwhile = queue.waiting;
        loop {
            if queue.urgent || queue.closing || queue.commands.len() >= COMMANDS_WAKE {
                break;
            }
            let flush = self.applier.waiting_since().map(|since| since + self.flush_after());
            let flush = flush.or_else(|| {
                (!queue.commands.is_empty()).then(|| Instant::now() + self.shared.budget.flush_interval() / 4)
            });
            let checkpoint = self.applier.wants_checkpoint().then(|| last_active + CHECKPOINT_AFTER);
            let Some(wake_at) = flush.into_iter().chain(checkpoint).min() else {
                queue.dormant = true;
                queue = self.shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
                queue.dormant = false;
                continue;
            };
            let Some(left) = wake_at.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
            else {
                break;
            };
            // A sleep towards a checkpoint only must end with the first command: its flush is due earlier.
            queue.dormant = flush.is_none();
            let (locked, waited) =
                self.shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner);
            queue = locked;
            queue.dormant = false;
            if waited.timed_out() {
                break;
            }
        }
        queue = self.gather(queue, came_meanwhile);
        queue.urgent = false;
        (queue.bytes, queue.waiting) = (0, 0);
        std::mem::swap(&mut queue.commands, commands);
        queue.closing
    }

    /// Waits a little for callers who are likely to come, if the card is slow.
    fn gather<'q>(&self, mut queue: MutexGuard<'q, Queue>, came: usize) -> MutexGuard<'q, Queue> {
        let Some(gather) = self.pace.gather(came).filter(|_| queue.waiting > 0) else { return queue };
        let end = Instant::now() + gather.at_most;
        let mut quiet_end = Instant::now() + gather.quiet;
        queue.wanted = gather.crowd;
        while queue.waiting < gather.crowd && !queue.closing {
            let (before, left) =
                (queue.waiting, end.min(quiet_end).saturating_duration_since(Instant::now()));
            if left.is_zero() {
                break;
            }
            queue = self.shared.wake.wait_timeout(queue, left).unwrap_or_else(PoisonError::into_inner).0;
            if queue.waiting > before {
                quiet_end = Instant::now() + gather.quiet;
            }
        }
        queue.wanted = 0;
        queue
    }

    /// A command may sit in the queue for a quarter of the interval before it is seen.
    fn flush_after(&self) -> Duration {
        self.shared.budget.flush_interval() / 4 * 3
    }

    fn apply(&mut self, commands: &mut Vec<Command>, flush: bool, checkpoint: bool) -> Result<(), Error> {
        self.shared.load.commands.fetch_add(u64::try_from(commands.len()).unwrap_or(0), Relaxed);
        let promises = commands.iter().filter(|command| command.is_promise()).count();
        let began = Instant::now();
        let now = self.ages.now(UnixMs::now(), self.started_at.elapsed());
        let applied = catch_unwind(AssertUnwindSafe(|| {
            self.applier.apply(&self.db, commands, Ask { flush, checkpoint, now }, &self.hooks)
        }));
        self.shared.budget.spend(self.shared.meter.bytes_written.load(Relaxed), Instant::now());
        if promises > 0 {
            self.pace.committed(promises, began.elapsed());
        }
        match applied {
            Ok(result) => result,
            // redb must not be unwound through a live write transaction: better to start anew.
            Err(_) => std::process::abort(),
        }
    }

    fn break_down(self, error: &Error) {
        self.shared.broken.store(true, Relaxed);
        let waiting = {
            let mut queue = self.lock();
            queue.closed = true;
            std::mem::take(&mut queue.commands)
        };
        (self.hooks.broken)(error);
        for command in waiting {
            command.refuse(error);
        }
        self.release_db();
    }

    /// Takes no more commands, if all that came are applied.
    fn closed(&self) -> bool {
        let mut queue = self.lock();
        queue.closed = queue.commands.is_empty();
        queue.closed
    }

    /// Lets the file go; its last holder closes it cleanly.
    fn release_db(mut self) {
        self.compaction.stop();
        drop(self.shared.db.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
