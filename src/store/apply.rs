//! One batch of commands, one transaction, one commit; then the news.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::{Duration, Instant};

use redb::{Database, Durability, Table, WriteTransaction};
use uuid::Uuid;

use super::Error;
use super::catalog::Catalog;
use super::changes::{self, Changes, Room, Terms};
use super::codec;
use super::events::Clerk;
use super::handle::{Hooks, Shared, Store};
use super::kv::Desk;
use super::log::LogTail;
use super::open::Settings;
use super::queue::{Accepted, Change, Command, End, Reply};
use super::retention::{DeadLetters, Sources};
use super::space::Space;
use super::tables::{META, META_CLAIMED, OUTBOX};
use crate::model::{DeadLetter, Row, UnixMs};

/// A durable commit takes the gathered log along from this size on; a smaller rest waits for the flush.
const LOG_RIDES_FROM: usize = 16 * 1024;

#[cfg(test)]
mod sabotage;
#[cfg(test)]
pub(crate) use sabotage::Sabotage;

/// What has been posted and is not in the file yet, and the counters that bound the file.
pub(crate) struct Applier {
    shared: Arc<Shared>,
    space: Arc<Space>,
    catalog: Catalog,
    tail: LogTail,
    /// Relaxed rows that have not ended.
    unflushed: BTreeMap<u128, Arc<Row>>,
    /// Rows in the table that ended; they go together with their records.
    ended: Vec<Ended>,
    /// Async rows whose attempt may have begun.
    claimed: BTreeSet<u128>,
    claimed_changed: bool,
    /// Since when something is not as durable as it will be.
    waiting_since: Option<Instant>,
    /// A commit was made that a power cut would make the next start repair.
    unclean: bool,
    outbox_rows: u64,
    outbox_bytes: u64,
    outbox_rows_max: u64,
    outbox_bytes_max: u64,
    desk: Desk,
    timeout_async: Duration,
    letters: DeadLetters,
    sources: Sources,
    #[cfg(test)]
    pub(crate) sabotage: Sabotage,
    #[cfg(test)]
    sabotaged: Vec<Arc<Row>>,
}

/// A row that ended; of which app, if it was async.
type Ended = (u128, Option<Uuid>);

/// What the writer wants of a batch besides its commands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    /// Everything that is only in memory goes down, if anything is.
    pub(crate) flush: bool,
    /// The file is left so that the next start needs no repair.
    pub(crate) checkpoint: bool,
    /// The wall clock.
    pub(crate) now: UnixMs,
}

/// The commands of a batch that need a transaction.
#[derive(Default)]
struct Batch {
    enqueues: Vec<(Arc<Row>, Vec<u8>, Reply)>,
    claims: Vec<Reply>,
    retries: Vec<Arc<Row>>,
    dead: Vec<DeadLetter>,
    changes: Vec<Change>,
    settled: Vec<Reply>,
    /// Somebody waits for the changes that runs made, or work comes of them.
    effects: bool,
    told: Vec<Reply>,
}

impl Applier {
    pub(crate) fn new(
        shared: Arc<Shared>,
        desk: Desk,
        catalog: Catalog,
        tail: LogTail,
        letters: DeadLetters,
        sources: Sources,
        settings: &Settings,
    ) -> Applier {
        Applier {
            outbox_rows: shared.load.outbox_rows.load(Relaxed),
            outbox_bytes: shared.load.outbox_bytes.load(Relaxed),
            outbox_rows_max: settings.outbox_rows_max,
            outbox_bytes_max: settings.outbox_bytes_max,
            desk,
            timeout_async: settings.timeout_async,
            letters,
            sources,
            space: shared.space.clone(),
            shared,
            catalog,
            tail,
            unflushed: BTreeMap::new(),
            ended: Vec::new(),
            claimed: BTreeSet::new(),
            claimed_changed: false,
            waiting_since: None,
            unclean: false,
            #[cfg(test)]
            sabotage: Sabotage::None,
            #[cfg(test)]
            sabotaged: Vec::new(),
        }
    }

    /// Since when something waits for a durable commit.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        self.waiting_since
    }

    /// Whether a commit that needs no repair is owed.
    pub(crate) fn wants_checkpoint(&self) -> bool {
        self.unclean
    }

    /// Bytes of all values that are kept.
    pub(crate) fn kv_bytes(&self) -> u64 {
        self.desk.usage().values().map(|usage| usage.bytes).sum()
    }

    /// Applies all of `commands` and tells those who wait. An error is the card's: the store is over.
    pub(crate) fn apply(
        &mut self,
        db: &Database,
        commands: &mut Vec<Command>,
        ask: Ask,
        hooks: &Hooks,
    ) -> Result<(), Error> {
        let mut batch = Batch::default();
        for command in commands.drain(..) {
            self.stage(command, &mut batch);
        }
        let result = self.commit(db, &mut batch, ask, hooks);
        if let Err(error) = &result {
            batch.refuse(error);
        }
        result
    }

    /// Takes a command into memory, and into `batch` if it needs the file.
    fn stage(&mut self, command: Command, batch: &mut Batch) {
        match command {
            Command::EnqueueRelaxed(row) => {
                self.waiting_since.get_or_insert_with(Instant::now);
                self.unflushed.insert(row.execution_id.as_u128(), row);
            }
            Command::Enqueue { row, claimed, reply } => self.stage_enqueue(row, claimed, reply, batch),
            Command::Claim { ids, reply } => {
                self.claimed.extend(ids.iter().map(|id| id.as_u128()));
                self.claimed_changed = true;
                batch.claims.push(reply);
            }
            Command::Settle { id, of, end, effects, told } => {
                self.stage_end((id.as_u128(), of), end, batch);
                if let Some(effects) = effects {
                    self.stage_effects(*effects, told, batch);
                }
            }
            Command::Apply { effects, told } => self.stage_effects(*effects, Some(told), batch),
            Command::Change(change) => batch.changes.push(change),
            Command::Settled(reply) => batch.settled.push(reply),
            Command::Probe(reply) => reply(Ok(())),
        }
    }

    fn stage_enqueue(&mut self, row: Arc<Row>, claimed: bool, reply: Reply, batch: &mut Batch) {
        let bytes = codec::encode(row.as_ref());
        let weight = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        let (rows, held) = (self.outbox_rows + 1, self.outbox_bytes + weight);
        if rows > self.outbox_rows_max || held > self.outbox_bytes_max {
            return reply(Err(Error::OutboxFull { rows: self.outbox_rows, bytes: self.outbox_bytes }));
        }
        let store = Store { shared: self.shared.clone() };
        if let Err(full) = store.check_share(row.app_id, u64::from(!row.is_sync())) {
            return reply(Err(full));
        }
        if let Some(full) = self.space.full(Instant::now()) {
            self.shared.load.storage_full_refusals.fetch_add(1, Relaxed);
            return reply(Err(Error::StorageFull(full)));
        }
        (self.outbox_rows, self.outbox_bytes) = (rows, held);
        self.shared.shares.enter(&row);
        if claimed {
            self.claimed.insert(row.execution_id.as_u128());
            self.claimed_changed = true;
        }
        batch.enqueues.push((row, bytes, reply));
    }

    /// Takes what a run changed. It goes down with the next durable commit that anybody waits for.
    fn stage_effects(&mut self, effects: Accepted, told: Option<Reply>, batch: &mut Batch) {
        self.waiting_since.get_or_insert_with(Instant::now);
        batch.effects |= told.is_some() || effects.queued > 0;
        batch.told.extend(told);
        self.desk.stage(effects);
    }

    fn stage_end(&mut self, (id, of): Ended, end: End, batch: &mut Batch) {
        self.waiting_since.get_or_insert_with(Instant::now);
        self.claimed_changed |= self.claimed.remove(&id);
        let record = match end {
            End::Done(record) => record,
            End::Retry(row) => return batch.retries.push(row),
            End::Release => return,
            End::Dead(letter, record) => {
                batch.dead.push(*letter);
                record
            }
        };
        self.tail.push(&record);
        self.count_kept(u64::try_from(record.weight()).unwrap_or(0));
        self.shared.fronts.release_unique(Uuid::from_u128(id));
        if self.unflushed.remove(&id).is_none() {
            self.ended.push((id, of));
        }
    }

    fn commit(&mut self, db: &Database, batch: &mut Batch, ask: Ask, hooks: &Hooks) -> Result<(), Error> {
        let checkpoint = ask.checkpoint;
        let heavy = self.tail.is_heavy() || self.desk.is_heavy();
        let flush = checkpoint || (ask.flush && self.waiting_since.is_some()) || heavy;
        let promised =
            !batch.enqueues.is_empty() || !batch.claims.is_empty() || !batch.dead.is_empty() || batch.effects;
        let visible = !batch.settled.is_empty() && self.waiting_since.is_some();
        if !flush && !promised && !visible && batch.changes.is_empty() && batch.retries.is_empty() {
            batch.settled.drain(..).for_each(|reply| reply(Ok(())));
            return Ok(());
        }
        #[cfg(test)]
        self.sabotage(db, batch, flush || visible)?;
        let mut txn = db.begin_write()?;
        let mut catalog = self.catalog.clone();
        let Made { replies, enqueued, wrote: changed, dead_freed, sources } =
            self.make_changes(&txn, &mut catalog, std::mem::take(&mut batch.changes))?;
        // Pages that a commit frees are used again only after a durable one, and a full card has no others.
        let durable = flush || promised || changed || !batch.retries.is_empty() || self.space.is_known_full();
        #[cfg(test)]
        let durable = durable && self.sabotage != Sabotage::NoSync;
        let all = flush || visible || batch.effects;
        // An end without what its run changed, or the other way round, would be half of it.
        let ends = all || !batch.dead.is_empty() || self.tail.waiting_bytes() >= LOG_RIDES_FROM;
        let mut enqueued = enqueued;
        #[cfg(test)]
        enqueued.append(&mut self.sabotaged);
        #[cfg(test)]
        let effects = if self.sabotage == Sabotage::EffectsLeftBehind { all } else { ends };
        #[cfg(not(test))]
        let effects = ends;
        enqueued.extend(self.write_effects(&txn, &catalog, effects, ask.now)?);
        self.write_handlers(&txn, &catalog, &batch.dead, &mut enqueued)?;
        self.count_enqueued(&enqueued);
        self.write(&txn, batch, (all, ends), durable, ask.now)?;
        let letters = dead_freed > 0 || !batch.dead.is_empty() || (flush && self.letters.wants_look(ask.now));
        if letters {
            let kept_bytes =
                self.letters.write(&txn, std::mem::take(&mut batch.dead), dead_freed, ask.now)?;
            self.count_kept(kept_bytes);
        }
        let looks_at_sources = sources != (0, 0) || (checkpoint && self.sources.wants_look(ask.now));
        if looks_at_sources {
            changes::drop_sessions_that_are_over(&txn, &mut catalog, ask.now)?;
            self.sources.write(&txn, &catalog, sources, ask.now)?;
        }
        self.note_wear(&txn, checkpoint, durable)?;
        txn.set_durability(if durable { Durability::Immediate } else { Durability::None })?;
        txn.set_quick_repair(checkpoint);
        txn.commit()?;
        self.shared.revisions.letters.fetch_add(u64::from(letters), SeqCst);
        self.shared.revisions.setup.fetch_add(u64::from(changed || looks_at_sources), SeqCst);
        self.committed(durable, flush, checkpoint);
        let swapped = !catalog.is_same(&self.catalog);
        self.catalog = catalog;
        self.desk.publish(&self.shared.fronts, &self.shared.revisions);
        self.tell(batch, replies, enqueued, swapped, hooks);
        Ok(())
    }

    /// Makes the changes; says whom to tell, which rows came of them, and whether any of them wrote.
    fn make_changes(
        &self,
        txn: &WriteTransaction,
        catalog: &mut Catalog,
        changes: Vec<Change>,
    ) -> Result<Made, Error> {
        let full = if changes.is_empty() { None } else { self.space.full(Instant::now()) };
        let terms =
            Terms { timeout_async: self.timeout_async, room: self.room(), shares: &self.shared.shares };
        let mut desk = Changes::new(txn, catalog, &self.shared.ids, terms, full);
        let mut wrote = false;
        let mut replies = Vec::with_capacity(changes.len());
        for change in changes {
            let (reply, changed) = change(&mut desk);
            wrote |= changed?;
            replies.push(reply);
        }
        self.shared.load.storage_full_refusals.fetch_add(desk.refused_full, Relaxed);
        self.count_kept(desk.kept_bytes.get());
        let sources = (desk.source_bytes_added, desk.source_bytes_freed);
        Ok(Made { replies, dead_freed: desk.dead_bytes_freed, sources, enqueued: desk.enqueued, wrote })
    }

    fn room(&self) -> Room {
        Room {
            rows: self.outbox_rows_max.saturating_sub(self.outbox_rows),
            bytes: self.outbox_bytes_max.saturating_sub(self.outbox_bytes),
        }
    }

    /// The rows of triggers that wait for these dead letters, as far as there is room: the letters stay in any case.
    fn write_handlers(
        &self,
        txn: &WriteTransaction,
        catalog: &Catalog,
        dead: &[DeadLetter],
        enqueued: &mut Vec<Arc<Row>>,
    ) -> Result<(), Error> {
        let clerk = Clerk { ids: &self.shared.ids, now: UnixMs::now(), timeout: self.timeout_async };
        let mut room = self.room();
        if dead.is_empty() {
            return Ok(());
        }
        enqueued.iter().for_each(|row| room.take(1, weight(&codec::encode(row.as_ref()))));
        for letter in dead {
            for row in clerk.dead_letter(catalog, letter) {
                let bytes = codec::encode(&row);
                if !room.has(1, weight(&bytes)) {
                    tracing::warn!(dead_letter = %letter.id, script = %row.script_name, "the outbox is full: a dead letter is not handled");
                    continue;
                }
                room.take(1, weight(&bytes));
                txn.open_table(OUTBOX)?.insert(row.execution_id.as_u128(), bytes.as_slice())?;
                enqueued.push(Arc::new(row));
            }
        }
        Ok(())
    }

    /// What runs changed, and the rows that come of it. All of it goes down, or nothing: later changes rest on earlier.
    fn write_effects(
        &mut self,
        txn: &WriteTransaction,
        catalog: &Catalog,
        ends: bool,
        now: UnixMs,
    ) -> Result<Vec<Arc<Row>>, Error> {
        let mut rows = Vec::new();
        if ends && !self.desk.is_empty() {
            let clerk = Clerk { ids: &self.shared.ids, now: UnixMs::now(), timeout: self.timeout_async };
            let (made, kept_bytes) = self.desk.write(txn, catalog, &clerk)?;
            self.count_kept(kept_bytes);
            let mut outbox = txn.open_table(OUTBOX)?;
            for row in &made {
                outbox.insert(row.execution_id.as_u128(), codec::encode(row.as_ref()).as_slice())?;
            }
            rows = made;
        }
        // Where somebody always waits for the next commit, there may never be a flush.
        if ends && self.desk.wants_sweep(now) {
            self.desk.sweep(txn, catalog, &self.shared.fronts, now)?;
        }
        Ok(rows)
    }

    /// Puts everything that this commit carries into its tables.
    fn write(
        &mut self,
        txn: &WriteTransaction,
        batch: &mut Batch,
        (all, ends): (bool, bool),
        durable: bool,
        now: UnixMs,
    ) -> Result<(), Error> {
        let mut outbox = txn.open_table(OUTBOX)?;
        for (row, bytes, _) in &batch.enqueues {
            self.count_kept(weight(bytes));
            outbox.insert(row.execution_id.as_u128(), bytes.as_slice())?;
        }
        for row in batch.retries.drain(..) {
            let bytes = codec::encode(row.as_ref());
            self.outbox_bytes += weight(&bytes);
            self.count_kept(weight(&bytes));
            if let Some(old) = outbox.insert(row.execution_id.as_u128(), bytes.as_slice())? {
                self.outbox_bytes = self.outbox_bytes.saturating_sub(weight(old.value()));
            }
        }
        if all {
            self.write_unflushed(&mut outbox)?;
        }
        if ends {
            self.remove_ended(&mut outbox)?;
            self.tail.hold(self.space.full(Instant::now()).is_some());
            self.tail.write(txn, &self.shared.budget, now)?;
        }
        drop(outbox);
        if durable && self.claimed_changed {
            let ids: Vec<u8> = self.claimed.iter().flat_map(|id| id.to_be_bytes()).collect();
            txn.open_table(META)?.insert(META_CLAIMED, ids.as_slice())?;
            self.claimed_changed = false;
        }
        Ok(())
    }

    /// Relaxed rows that are still unfinished at a flush go down after all.
    fn write_unflushed(&mut self, outbox: &mut Table<'_, u128, &'static [u8]>) -> Result<(), Error> {
        for (id, row) in std::mem::take(&mut self.unflushed) {
            let bytes = codec::encode(row.as_ref());
            self.outbox_rows += 1;
            self.outbox_bytes += weight(&bytes);
            self.count_kept(weight(&bytes));
            outbox.insert(id, bytes.as_slice())?;
        }
        Ok(())
    }

    fn remove_ended(&mut self, outbox: &mut Table<'_, u128, &'static [u8]>) -> Result<(), Error> {
        for (id, of) in self.ended.drain(..) {
            if let Some(bytes) = outbox.remove(id)? {
                of.into_iter().for_each(|app| self.shared.shares.leave(app));
                self.outbox_rows = self.outbox_rows.saturating_sub(1);
                self.outbox_bytes = self.outbox_bytes.saturating_sub(weight(bytes.value()));
            }
        }
        Ok(())
    }

    fn count_enqueued(&mut self, rows: &[Arc<Row>]) {
        for row in rows {
            let weight = weight(&codec::encode(row.as_ref()));
            self.shared.shares.enter(row);
            self.outbox_rows += 1;
            self.outbox_bytes += weight;
            self.count_kept(weight);
        }
    }

    /// What the store was asked to keep, for the write amplification.
    fn count_kept(&self, bytes: u64) {
        self.shared.load.logical_bytes.fetch_add(bytes, Relaxed);
    }

    /// The totals of the wear ride along with a checkpoint, or now and then with a durable commit.
    fn note_wear(&self, txn: &WriteTransaction, checkpoint: bool, durable: bool) -> Result<(), Error> {
        let (shared, now) = (&self.shared, Instant::now());
        if checkpoint || (durable && shared.odometer.is_due(now)) {
            shared.odometer.note(txn, &shared.meter, &shared.load, now)?;
        }
        Ok(())
    }

    fn committed(&mut self, durable: bool, flush: bool, checkpoint: bool) {
        let load = &self.shared.load;
        load.commits.fetch_add(1, Relaxed);
        if durable {
            load.durable_commits.fetch_add(1, Relaxed);
            self.unclean = !checkpoint;
        }
        // A commit that was only made visible still owes its fsync; so does what no commit took along yet.
        let nothing_waits = self.unflushed.is_empty()
            && self.ended.is_empty()
            && self.tail.waiting_bytes() == 0
            && self.desk.is_empty();
        if flush || (durable && nothing_waits) {
            self.waiting_since = None;
        }
        load.dead_letters.store(self.letters.rows, Relaxed);
        load.dead_letters_bytes.store(self.letters.bytes, Relaxed);
        load.dead_letters_dropped.store(self.letters.dropped, Relaxed);
        load.dead_letters_alert.store(self.letters.alert(), Relaxed);
        load.versions_bytes.store(self.sources.bytes, Relaxed);
        load.outbox_rows.store(self.outbox_rows, Relaxed);
        load.outbox_bytes.store(self.outbox_bytes, Relaxed);
        load.log_bytes.store(self.tail.stored_bytes(), Relaxed);
    }

    fn tell(
        &self,
        batch: &mut Batch,
        changes: Vec<Reply>,
        enqueued: Vec<Arc<Row>>,
        swapped: bool,
        hooks: &Hooks,
    ) {
        // Ticks change every second, what the house is set up to do does not: others build on it.
        if swapped {
            let catalog = Arc::new(self.catalog.clone());
            self.shared.catalog.store(catalog.clone());
            (hooks.catalog)(&catalog);
        }
        batch.enqueues.drain(..).for_each(|(_, _, reply)| reply(Ok(())));
        let told = batch.told.drain(..);
        let told = told.chain(batch.claims.drain(..)).chain(changes).chain(batch.settled.drain(..));
        told.for_each(|reply| reply(Ok(())));
        if !enqueued.is_empty() {
            (hooks.enqueued)(enqueued);
        }
    }
}

impl Batch {
    fn refuse(&mut self, error: &Error) {
        let enqueues = self.enqueues.drain(..).map(|(_, _, reply)| reply);
        let waiting =
            enqueues.chain(self.claims.drain(..)).chain(self.settled.drain(..)).chain(self.told.drain(..));
        waiting.for_each(|reply| reply(Err(error.clone())));
    }
}

/// What came of a batch's changes.
struct Made {
    replies: Vec<Reply>,
    enqueued: Vec<Arc<Row>>,
    wrote: bool,
    dead_freed: u64,
    /// Bytes of sources, written and removed.
    sources: (u64, u64),
}

fn weight(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}
