//! The writer: the one thread that changes the file.
//!
//! It takes every command that waits into one transaction. Commands that somebody was promised the durability
//! of wake it at once and make the commit an fsync; the rest only gathers in memory until the next such commit
//! or the flush interval, so that a relaxed request that ends within it never touches the outbox table at all.
//! What a row's end changes and its log record always go down together.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use redb::Database;

use super::Error;
use super::ages::Ages;
use super::apply::{Applier, Ask};
use super::compact::Compaction;
use super::handle::{Hooks, Shared, Store};
use super::pace::Pace;
use super::queue::{COMMANDS_WAKE, Command, Queue};
use crate::model::UnixMs;

/// Quiet time after which the file is left so that even a power cut needs no repair at the next start.
const CHECKPOINT_AFTER: Duration = Duration::from_secs(3);

/// The writer's thread.
pub(super) struct Writer {
    pub(super) shared: Arc<Shared>,
    pub(super) db: Arc<Database>,
    pub(super) applier: Applier,
    pub(super) hooks: Hooks,
    pub(super) pace: Pace,
    pub(super) compaction: Compaction,
    pub(super) ages: Ages,
    pub(super) started_at: Instant,
}

impl Writer {
    /// Until the store is closed, or the card fails.
    pub(super) fn run(mut self) {
        let mut commands = Vec::new();
        let mut last_active = Instant::now();
        loop {
            let closing = self.take(&mut commands, last_active);
            super::wedge::here("writer");
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
            let live = live.iter().sum::<u64>() + self.applier.kv_bytes();
            self.compaction.consider(&self.db, live, move || store.probe(|_| ()));
        }
        let Some(db) = self.compaction.finish(&self.db)? else { return Ok(()) };
        *self.shared.db.lock().unwrap_or_else(PoisonError::into_inner) = Some(db.clone());
        // The old file's room is free once nobody reads it any more.
        self.shared.fronts.renew();
        self.db = db;
        self.shared.load.compactions.fetch_add(1, Relaxed);
        Ok(())
    }

    /// Waits for something to do and takes the whole queue. True if the store is to close.
    fn take(&self, commands: &mut Vec<Command>, last_active: Instant) -> bool {
        let mut queue = self.lock();
        let came_meanwhile = queue.waiting;
        // Set once: whoever wakes the writer for another reason must not put the first command's turn off.
        let mut seen_by = None;
        loop {
            if queue.urgent || queue.closing || queue.commands.len() >= COMMANDS_WAKE {
                break;
            }
            let flush = self.applier.waiting_since().map(|since| since + self.flush_after());
            let quarter = self.shared.budget.flush_interval() / 4;
            let flush = flush.or_else(|| {
                (!queue.commands.is_empty()).then(|| *seen_by.get_or_insert_with(|| Instant::now() + quarter))
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
        self.shared.fronts.renew();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
