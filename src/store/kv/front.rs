//! What was accepted and may not be in the file yet, app by app; and who changed what of late.
//!
//! A slot stays for a while after its change has reached the file, without its value, because its commit number tells
//! runs whether what they read still stands. How far back that goes is the `floor`.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::Database;
use uuid::Uuid;

use super::file::beginning;
use super::{Base, Change, Entry, Usage};
use crate::model::{KvKey, KvPrefix};
use crate::store::Error;

/// Slots of one app whose change is in the file; with more, all of those go.
const SLOTS_MAX: usize = 8 * 1024;

/// All apps.
#[derive(Default)]
pub(crate) struct Fronts {
    apps: Mutex<HashMap<Uuid, Arc<Front>>>,
    base: Mutex<Option<Arc<Base>>>,
    unique: Mutex<Unique>,
    latest: AtomicU64,
    /// Rows that were posted with effects and are not counted in the outbox yet.
    pub(super) queued: AtomicU64,
}

/// Rows that have a unique key now.
#[derive(Default)]
struct Unique {
    rows: HashMap<(Uuid, String), Uuid>,
    keys: HashMap<Uuid, (Uuid, String)>,
}

/// One app.
pub(crate) struct Front {
    app: Uuid,
    state: Mutex<State>,
}

/// Entries of a list, and whether there are more after them.
pub(super) type Page = (Vec<(KvKey, Entry)>, bool);

/// What is known of one app.
pub(crate) struct State {
    /// The number of the latest commit.
    latest: u64,
    /// Commits up to this one may have left no slot.
    floor: u64,
    slots: BTreeMap<KvKey, Slot>,
    /// As of the last commit of the file.
    usage: Usage,
    /// Bytes of what has been accepted since: of each key the latest.
    pending_bytes: u64,
}

struct Slot {
    commit: u64,
    /// `None` once it is in the file.
    pending: Option<Change>,
}

impl Slot {
    /// Bytes that wait with it.
    fn weight(&self) -> u64 {
        self.pending.as_ref().map_or(0, Change::weight)
    }
}

/// A value, and the commit that it was seen at.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// The commit that last touched the key; 0 if none did that is still known.
    pub(crate) commit: u64,
    /// What it holds.
    pub(crate) entry: Option<Entry>,
}

/// What a run has read: it may commit only if all of it still stands.
#[derive(Debug, Default)]
pub(crate) struct Reads {
    /// All reads are as of this commit.
    at: Option<u64>,
    keys: HashMap<KvKey, u64>,
    spans: Vec<Span>,
}

/// Keys that were listed: also one that comes newly between them counts.
#[derive(Debug)]
struct Span {
    prefix: KvPrefix,
    after: Option<KvKey>,
    /// `None`: to the end.
    last: Option<KvKey>,
}

/// Somebody changed what was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Stale;

impl Fronts {
    /// Of an opened file.
    pub(crate) fn of(usage: &BTreeMap<Uuid, Usage>) -> Fronts {
        let fronts = Fronts::default();
        let latest = usage.values().map(|usage| usage.commit).max().unwrap_or(0);
        fronts.latest.store(latest, Relaxed);
        for (app, usage) in usage {
            fronts.app(*app).lock().usage = *usage;
        }
        fronts
    }

    /// One app's.
    pub(crate) fn app(&self, app: Uuid) -> Arc<Front> {
        let latest = self.latest.load(Relaxed);
        let mut apps = lock(&self.apps);
        let front = apps.entry(app).or_insert_with(|| {
            let state = State {
                latest,
                floor: latest,
                slots: BTreeMap::new(),
                usage: Usage::default(),
                pending_bytes: 0,
            };
            Arc::new(Front { app, state: Mutex::new(state) })
        });
        front.clone()
    }

    /// Rows that were posted with effects are counted in the outbox now.
    pub(super) fn applied(&self, rows: u64) {
        self.queued.fetch_sub(rows, Relaxed);
    }

    /// The next commit number.
    pub(super) fn next_commit(&self) -> u64 {
        self.latest.fetch_add(1, Relaxed) + 1
    }

    /// The writer removes those of these values that wait for nothing; the others leave `keys`. Gives the commit's
    /// number.
    pub(super) fn clear_away(&self, app: Uuid, keys: &mut Vec<KvKey>) -> u64 {
        let front = self.app(app);
        let mut state = front.lock();
        keys.retain(|key| state.slots.get(key).is_none_or(|slot| slot.pending.is_none()));
        let commit = self.next_commit();
        let gone = |key: &KvKey| Change { key: key.clone(), value: None, expires_at: None };
        state.accept(commit, &keys.iter().map(gone).collect::<Vec<_>>());
        commit
    }

    /// The file as of its last commit.
    pub(super) fn base(&self, db: impl FnOnce() -> Option<Arc<Database>>) -> Result<Arc<Base>, Error> {
        let mut base = lock(&self.base);
        if let Some(base) = &*base {
            return Ok(base.clone());
        }
        let opened = Arc::new(Base::open(db().ok_or(Error::Closed)?)?);
        *base = Some(opened.clone());
        Ok(opened)
    }

    /// The file has another commit, or another file took its place.
    pub(crate) fn renew(&self) {
        *lock(&self.base) = None;
    }

    /// The row that has this key now.
    pub(super) fn unique(&self, app: Uuid, key: &str) -> Option<Uuid> {
        lock(&self.unique).rows.get(&(app, key.to_owned())).copied()
    }

    /// Gives a key to a row.
    pub(crate) fn claim_unique(&self, app: Uuid, key: &str, row: Uuid) {
        let mut unique = lock(&self.unique);
        unique.rows.insert((app, key.to_owned()), row);
        unique.keys.insert(row, (app, key.to_owned()));
    }

    /// The row has ended: its key is free.
    pub(crate) fn release_unique(&self, row: Uuid) {
        let mut unique = lock(&self.unique);
        if let Some(key) = unique.keys.remove(&row) {
            unique.rows.remove(&key);
        }
    }
}

impl Front {
    pub(super) fn id(&self) -> Uuid {
        self.app
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// The newest state of a key.
    fn newest(&self, app: Uuid, key: &KvKey, base: &Base) -> Result<Seen, Error> {
        let slot = self.slots.get(key);
        if let Some(Slot { commit, pending: Some(change) }) = slot {
            return Ok(Seen { commit: *commit, entry: entry(*commit, change) });
        }
        let entry = base.get(app, key)?;
        let commit = slot.map(|slot| slot.commit).or(entry.as_ref().map(|entry| entry.commit));
        Ok(Seen { commit: commit.unwrap_or(0), entry })
    }

    /// Reads a key for a run. All its reads are as of one commit; if that cannot be, it is stale.
    pub(super) fn read(
        &self,
        app: Uuid,
        key: &KvKey,
        reads: &mut Reads,
        base: &Base,
    ) -> Result<Result<Seen, Stale>, Error> {
        let seen = self.newest(app, key, base)?;
        if let Some(known) = reads.keys.get(key) {
            return Ok(if *known == seen.commit { Ok(seen) } else { Err(Stale) });
        }
        if self.bring_up(app, seen.commit, reads, base)?.is_err() {
            return Ok(Err(Stale));
        }
        reads.keys.insert(key.clone(), seen.commit);
        Ok(Ok(seen))
    }

    /// Lists keys for a run, expired ones included; the second is whether there are more.
    pub(super) fn list(
        &self,
        app: Uuid,
        (prefix, after): (&KvPrefix, Option<&KvKey>),
        limit: usize,
        reads: &mut Reads,
        base: &Base,
    ) -> Result<Result<Page, Stale>, Error> {
        if self.bring_up(app, self.latest, reads, base)?.is_err() {
            return Ok(Err(Stale));
        }
        let mut found = self.merged(app, prefix, after, limit + 1, base)?;
        let more = found.len() > limit;
        found.truncate(limit);
        let last = found.last().map(|(key, _)| key.clone()).filter(|_| more);
        reads.spans.push(Span { prefix: prefix.clone(), after: after.cloned(), last });
        Ok(Ok((found, more)))
    }

    /// The first `limit` entries of the file and the slots together.
    fn merged(
        &self,
        app: Uuid,
        prefix: &KvPrefix,
        after: Option<&KvKey>,
        limit: usize,
        base: &Base,
    ) -> Result<Vec<(KvKey, Entry)>, Error> {
        let mut file = base.range(app, prefix, after)?.peekable();
        let mut slots = self
            .slots_in(prefix, after)
            .filter_map(|(key, slot)| Some((key, slot.commit, slot.pending.as_ref()?)));
        let mut slot = slots.next();
        let mut found = Vec::new();
        while found.len() < limit {
            if let Some(Err(_)) = file.peek() {
                break;
            }
            let of_file = file.peek().and_then(|entry| entry.as_ref().ok()).map(|(key, _)| key);
            match (slot, of_file) {
                (Some((key, commit, change)), of_file) if of_file.is_none_or(|of_file| key <= of_file) => {
                    if of_file == Some(key) {
                        file.next();
                    }
                    found.extend(entry(commit, change).map(|entry| (key.clone(), entry)));
                    slot = slots.next();
                }
                (_, Some(_)) => found.extend(file.next().transpose()?),
                (_, None) => break,
            }
        }
        match file.next() {
            Some(Err(error)) => Err(error),
            Some(Ok(_)) | None => Ok(found),
        }
    }

    fn slots_in<'s>(
        &'s self,
        prefix: &'s KvPrefix,
        after: Option<&KvKey>,
    ) -> impl Iterator<Item = (&'s KvKey, &'s Slot)> {
        let range = (beginning(prefix, after), Bound::Unbounded);
        self.slots.range::<str, _>(range).take_while(|(key, _)| prefix.takes(key))
    }

    /// Moves the instant of all reads so far to the present, if what was read is later than it and they still stand.
    fn bring_up(
        &self,
        app: Uuid,
        commit: u64,
        reads: &mut Reads,
        base: &Base,
    ) -> Result<Result<(), Stale>, Error> {
        let at = *reads.at.get_or_insert(self.latest);
        if commit <= at && self.floor <= at {
            return Ok(Ok(()));
        }
        let stands = self.check(app, reads, base)?;
        if stands.is_ok() {
            reads.at = Some(self.latest);
        }
        Ok(stands)
    }

    /// Whether all that was read still stands.
    pub(super) fn check(&self, app: Uuid, reads: &Reads, base: &Base) -> Result<Result<(), Stale>, Error> {
        let Some(at) = reads.at.filter(|at| *at != self.latest) else { return Ok(Ok(())) };
        for (key, commit) in &reads.keys {
            if self.newest(app, key, base)?.commit != *commit {
                return Ok(Err(Stale));
            }
        }
        // Whether a key came newly is known only as far back as the slots go.
        let gone = !reads.spans.is_empty() && self.floor > at;
        let changed = |span: &Span| {
            let slots = self.slots_in(&span.prefix, span.after.as_ref());
            let within = slots.take_while(|(key, _)| span.last.as_ref().is_none_or(|last| *key <= last));
            within.into_iter().any(|(_, slot)| slot.commit > at)
        };
        Ok(if gone || reads.spans.iter().any(changed) { Err(Stale) } else { Ok(()) })
    }

    /// Bytes in use if `more` came to it.
    pub(super) fn bytes_with(&self, more: u64) -> u64 {
        self.usage.bytes.saturating_add(self.pending_bytes).saturating_add(more)
    }

    /// Values, and bytes of them, as far as the file knows.
    pub(super) fn usage(&self) -> Usage {
        self.usage
    }

    /// Takes changes as accepted.
    pub(super) fn accept(&mut self, commit: u64, changes: &[Change]) {
        self.latest = commit;
        for change in changes {
            self.pending_bytes += change.weight();
            let slot = Slot { commit, pending: Some(change.clone()) };
            let before = self.slots.insert(change.key.clone(), slot);
            self.pending_bytes -= before.map_or(0, |before| before.weight());
        }
    }

    /// These changes are in the file.
    pub(super) fn written<'k>(&mut self, keys: impl Iterator<Item = (&'k KvKey, u64)>, usage: Usage) {
        for (key, commit) in keys {
            if let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.commit == commit) {
                self.pending_bytes -= slot.weight();
                slot.pending = None;
            }
        }
        self.usage = usage;
        if self.slots.len() > SLOTS_MAX {
            self.forget();
        }
    }

    /// Forgets who changed what is in the file.
    pub(super) fn forget(&mut self) {
        let mut floor = self.floor;
        self.slots.retain(|_, slot| {
            let stays = slot.pending.is_some();
            floor = if stays { floor } else { floor.max(slot.commit) };
            stays
        });
        self.floor = floor;
    }
}

fn entry(commit: u64, change: &Change) -> Option<Entry> {
    let value = change.value.clone()?;
    Some(Entry { commit, expires_at: change.expires_at, value })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
