//! The handle by which the other rooms use the store.
//!
//! It posts commands and reads snapshots; what becomes of a command is the writer's business.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use redb::Database;
use uuid::Uuid;

use super::ages::Ages;
use super::apply::Applier;
use super::backend::CardMeter;
use super::budget::{Budget, BudgetView};
use super::catalog::Catalog;
use super::changes::Changes;
use super::compact::{Compaction, Revisions};
use super::kv::{Fronts, Reactions};
use super::open::{self, Settings};
use super::pace::Pace;
use super::queue::{Command, End, Queue, Reply};
use super::read::Snapshot;
use super::shares::Shares;
use super::space::Space;
use super::wear::Odometer;
use super::writer::Writer;
use super::{ChangeError, Error, Ids, retention};
use crate::model::{Row, UnixMs};

/// A row that an earlier process left.
#[derive(Clone, Copy, Debug)]
pub struct Recovered {
    /// Which.
    pub execution_id: Uuid,
    /// Whose.
    pub app_id: Uuid,
    /// What made it, if a trigger did.
    pub trigger_id: Option<Uuid>,
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
    /// Rows refused because their app had as much queued work as it may.
    pub queue_full_refusals: AtomicU64,
    /// Bytes that the store was asked to keep, before compression.
    pub logical_bytes: AtomicU64,
}

/// A handle on the store, cheap to clone.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

/// What the handles and the writer share.
pub(crate) struct Shared {
    path: PathBuf,
    pub(super) queue: Mutex<Queue>,
    pub(super) wake: Condvar,
    pub(crate) catalog: ArcSwap<Catalog>,
    pub(super) db: Mutex<Option<Arc<Database>>>,
    pub(crate) ids: Ids,
    pub(crate) fronts: Fronts,
    reactions: ArcSwap<Reactions>,
    pub(crate) bounds: Bounds,
    pub(crate) shares: Shares,
    pub(crate) revisions: Arc<Revisions>,
    pub(crate) load: Load,
    pub(crate) meter: Arc<CardMeter>,
    pub(crate) space: Arc<Space>,
    pub(crate) odometer: Odometer,
    pub(crate) budget: Budget,
    pub(super) broken: AtomicBool,
    pub(super) thread: Mutex<Option<JoinHandle<()>>>,
}

/// Bounds that hold where work is accepted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) outbox_rows: u64,
    pub(crate) outbox_bytes: u64,
    pub(crate) kv_bytes: u64,
}

impl Shared {
    /// Which triggers wait for what now.
    pub(crate) fn reactions(&self) -> Arc<Reactions> {
        let catalog = self.catalog.load();
        let reactions = self.reactions.load_full();
        if reactions.is_of(&catalog.triggers) {
            return reactions;
        }
        let made = Arc::new(Reactions::of(&catalog.triggers));
        self.reactions.store(made.clone());
        made
    }

    /// The file, unless it is closed.
    pub(crate) fn db(&self) -> Option<Arc<Database>> {
        self.db.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
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
            path: settings.path.clone(),
            queue: Mutex::default(),
            wake: Condvar::new(),
            catalog: ArcSwap::from_pointee(opened.catalog.clone()),
            db: Mutex::new(Some(db.clone())),
            revisions: Arc::default(),
            ids: Ids::after(opened.latest_id),
            fronts: Fronts::of(opened.desk.usage()),
            reactions: ArcSwap::default(),
            shares: Shares::of(&opened.recovered, settings.app_queue_rows_max),
            bounds: Bounds {
                outbox_rows: settings.outbox_rows_max,
                outbox_bytes: settings.outbox_bytes_max,
                kv_bytes: settings.kv_bytes_max,
            },
            load,
            meter: opened.meter,
            space: opened.space,
            odometer: Odometer::after(opened.wear, Instant::now()),
            budget: settings.budget(Instant::now()),
            broken: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        for (row, app, key) in opened.unique {
            shared.fronts.claim_unique(app, &key, row);
        }
        let applier = Applier::new(
            shared.clone(),
            opened.desk,
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
            compaction: Compaction::new(settings.path.clone(), opened.cards, store.shared.revisions.clone()),
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
        // The writer asks again; a flood that is refused need not reach it.
        let has_room = self.shared.load.outbox_rows.load(Relaxed) < self.shared.bounds.outbox_rows;
        if has_room && let Err(full) = self.check_share(row.app_id, u64::from(!row.is_sync())) {
            return reply(Err(full));
        }
        let queue = self.lock();
        if queue.frozen {
            drop(queue);
            return reply(Err(Error::Reopening));
        }
        self.post_to(queue, Command::Enqueue { row, claimed, reply: Box::new(reply) }, true);
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
        self.lock().is_behind()
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
        let of = (!row.is_sync()).then_some(row.app_id);
        self.post(Command::Settle { id: row.execution_id, of, end, effects: None, told: None }, false);
    }

    /// Takes a claim back: the row's attempt did not begin.
    pub fn release(&self, id: Uuid) {
        self.post(Command::Settle { id, of: None, end: End::Release, effects: None, told: None }, false);
    }

    /// Changes the set-up. `reply` is called once the change is durable, or refused, on the writer's thread.
    pub fn change<T: Send + 'static>(
        &self,
        make: impl FnOnce(&mut Changes<'_>) -> Result<T, ChangeError> + Send + 'static,
        reply: impl FnOnce(Result<T, ChangeError>) + Send + 'static,
    ) {
        let queue = self.lock();
        if queue.frozen {
            drop(queue);
            return reply(Err(ChangeError::Store(Error::Reopening)));
        }
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
        self.post_to(queue, Command::Change(Box::new(change)), true);
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
        Snapshot::new(self.shared.db().ok_or(Error::Closed)?)
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

    /// Length of the file; 0 on a card that is none.
    pub fn file_bytes(&self) -> u64 {
        std::fs::metadata(&self.shared.path).map_or(0, |file| file.len())
    }

    /// Whether the card failed.
    pub fn is_broken(&self) -> bool {
        self.shared.broken.load(Relaxed)
    }

    /// Accepts nothing new from here on, because another store takes this one's place; or again, if it does not.
    /// Whoever was accepted before has been told when this returns. Accepted work goes on. Blocks.
    pub fn freeze(&self, frozen: bool) {
        self.lock().frozen = frozen;
        let (tell, told) = mpsc::channel();
        self.probe(move |came| drop(tell.send(came)));
        // A closed store accepts nothing either.
        drop(told.recv());
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
        self.post_to(self.lock(), command, urgent);
    }

    fn post_to(&self, mut queue: MutexGuard<'_, Queue>, command: Command, urgent: bool) {
        if queue.closed {
            drop(queue);
            return command.refuse(&Error::Closed);
        }
        self.post_locked(&mut queue, command, urgent);
    }

    pub(super) fn post_locked(&self, queue: &mut Queue, command: Command, urgent: bool) {
        if queue.push(command, urgent) {
            self.shared.wake.notify_one();
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// For tests that are the writer themselves.
#[cfg(test)]
impl Store {
    /// Takes what was posted since.
    pub(crate) fn take_posted(&self) -> Vec<Command> {
        std::mem::take(&mut self.lock().commands)
    }

    /// Another file takes the place of this one.
    pub(crate) fn exchange(&self, db: Arc<Database>) {
        *self.shared.db.lock().unwrap_or_else(PoisonError::into_inner) = Some(db);
        self.shared.fronts.renew();
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
    #[cfg(test)]
    pub(crate) fn revisions(&self) -> Arc<Revisions> {
        self.store.shared.revisions.clone()
    }

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
