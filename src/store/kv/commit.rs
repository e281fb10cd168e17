//! Accepting what a run changed: it stands, it has room, it gets its number, and is posted in that order.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use uuid::Uuid;

use super::view::full;
use super::{Base, Effects, Reactions, View};
use crate::model::{Row, UnixMs};
use crate::store::queue::{Accepted, Command, Reply};
use crate::store::{End, Error, Store};

/// How a run's end goes down.
pub struct Settlement {
    /// What becomes of its row.
    pub end: End,
    /// Told when all of it is durable; without it the commit waits for the flush.
    pub told: Option<Reply>,
}

/// Why a run's changes are not accepted. Nothing of them is.
#[derive(Debug)]
pub enum Refused {
    /// What the run read was changed meanwhile: it must be made again.
    Conflict,
    /// The app would keep more than it may.
    KvFull(String),
    /// There is no room for what it queues, the card is full, or the store is closed.
    Store(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        Refused::Store(error)
    }
}

impl Store {
    /// What a run sees of an app's KV at `now`.
    pub fn view(&self, app: Uuid, now: UnixMs) -> View {
        View::new(self.clone(), self.shared.fronts.app(app), now)
    }

    /// Ends the attempt of a row, together with what its run changed. `settlement` is only asked for when the
    /// changes are accepted.
    pub fn settle_with(
        &self,
        row: &Row,
        effects: Effects,
        settlement: impl FnOnce() -> Settlement,
    ) -> Result<(), Refused> {
        self.accept(effects, |effects| {
            let Settlement { end, told } = settlement();
            let of = (!row.is_sync()).then_some(row.app_id);
            Command::Settle { id: row.execution_id, of, end, effects: Some(effects), told }
        })
        .map(drop)
    }

    /// Commits changes that no run made; `told` is called once they are durable, on the writer's thread. Gives the
    /// number of the commit, which is the version of what it sets.
    pub fn commit(
        &self,
        effects: Effects,
        told: impl FnOnce(Result<(), Error>) + Send + 'static,
    ) -> Result<u64, Refused> {
        if self.lock().frozen {
            return Err(Refused::Store(Error::Reopening));
        }
        self.accept(effects, |effects| Command::Apply { effects, told: Box::new(told) })
    }

    fn accept(&self, effects: Effects, post: impl FnOnce(Box<Accepted>) -> Command) -> Result<u64, Refused> {
        let shared = &self.shared;
        let reactions = shared.reactions();
        let queued = count_rows(&effects, &reactions);
        self.check_queue(&effects, queued)?;
        let front = shared.fronts.app(effects.app_id);
        let mut state = front.lock();
        let base = self.base()?;
        if state.check(effects.app_id, &effects.reads, &base)?.is_err() || self.has_twin(&effects) {
            return Err(Refused::Conflict);
        }
        let more = effects.changes.iter().map(super::Change::weight).sum();
        let (bytes, most) = (state.bytes_with(more), self.kv_bytes_max(effects.app_id));
        if more > 0 && bytes > most {
            return Err(Refused::KvFull(full(bytes, most)));
        }
        let mut queue = self.lock();
        // What came before it began to close still goes down; it would never end if more came.
        if queue.closing || queue.closed {
            return Err(Refused::Store(Error::Closed));
        }
        let commit = shared.fronts.next_commit();
        state.accept(commit, &effects.changes);
        for row in &effects.rows {
            if let Some(key) = &row.unique {
                shared.fronts.claim_unique(effects.app_id, key, row.execution_id);
            }
        }
        shared.fronts.queued.fetch_add(queued, Relaxed);
        let command = post(Box::new(Accepted { commit, effects, reactions, queued }));
        let urgent = queued > 0 || command.is_told();
        self.post_locked(&mut queue, command, urgent);
        Ok(commit)
    }

    /// Whether a row that it queues has a unique key that another got meanwhile.
    fn has_twin(&self, effects: &Effects) -> bool {
        let taken = |key: &String| self.shared.fronts.unique(effects.app_id, key).is_some();
        effects.rows.iter().any(|row| row.unique.as_ref().is_some_and(taken))
    }

    /// Whether the card and the outbox take this.
    fn check_queue(&self, effects: &Effects, queued: u64) -> Result<(), Error> {
        let adds = queued > 0 || effects.changes.iter().any(|change| change.value.is_some());
        if let Some(full) = self.shared.space.full(Instant::now()).filter(|_| adds) {
            self.shared.load.storage_full_refusals.fetch_add(1, Relaxed);
            return Err(Error::StorageFull(full));
        }
        let (rows, bytes) =
            (self.shared.load.outbox_rows.load(Relaxed), self.shared.load.outbox_bytes.load(Relaxed));
        let with = rows + self.shared.fronts.queued.load(Relaxed) + queued;
        if queued > 0 && (with > self.shared.bounds.outbox_rows || bytes > self.shared.bounds.outbox_bytes) {
            return Err(Error::OutboxFull { rows, bytes });
        }
        self.check_share(effects.app_id, queued)
    }

    /// The KV of the file as of its last commit.
    pub(super) fn base(&self) -> Result<Arc<Base>, Error> {
        let db = || self.shared.db();
        self.shared.fronts.base(db)
    }

    /// Bytes that an app may keep.
    pub fn kv_bytes_max(&self, app: Uuid) -> u64 {
        let own = self.shared.catalog.load().apps.get(&app).and_then(|app| app.limits.kv_bytes);
        own.unwrap_or(self.shared.bounds.kv_bytes)
    }

    /// Values and bytes that an app keeps, as of the last commit of the file.
    pub fn kv_usage(&self, app: Uuid) -> (u64, u64) {
        let usage = self.shared.fronts.app(app).lock().usage();
        (usage.keys, usage.bytes)
    }
}

/// Rows that this leads to, those of triggers included.
fn count_rows(effects: &Effects, reactions: &Reactions) -> u64 {
    let of_triggers = effects
        .changes
        .iter()
        .map(|change| reactions.to_change(effects.app_id, change).count())
        .sum::<usize>();
    u64::try_from(effects.rows.len() + of_triggers).unwrap_or(u64::MAX)
}
