//! What a run sees of its app's KV, and what it changes, until its end.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::file::beginning;
use super::front::{Front, Reads, Seen, Stale};
use super::{CHANGED_BYTES_MAX, CHANGES_MAX, Change, Effects, Entry, LIST_MAX, QUEUED_BYTES_MAX, QUEUED_MAX};
use crate::model::{Chain, KV_VALUE_BYTES_MAX, KvKey, KvPrefix, Name, Row, Trigger, UnixMs};
use crate::store::{Error, Store};

/// One run's view: a snapshot overlaid with what the run wrote. Nothing of it is anywhere else until it is committed.
pub struct View {
    store: Store,
    front: Arc<Front>,
    now: UnixMs,
    reads: Reads,
    written: Written,
}

/// What a run wrote.
#[derive(Clone, Debug, Default)]
struct Written {
    changes: BTreeMap<KvKey, Change>,
    bytes: usize,
    /// Bytes that they bring to the KV.
    weight: u64,
    rows: Vec<Arc<Row>>,
    rows_bytes: usize,
}

/// A state of what a run wrote, to go back to.
#[derive(Debug)]
pub struct Mark(Written);

/// A value that a run found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// JSON.
    pub value: Bytes,
    /// The number of the commit that wrote it; `None` if this run did.
    pub version: Option<u64>,
    /// From when on it is not there any more.
    pub expires_at: Option<UnixMs>,
}

/// A part of a list.
#[derive(Debug)]
pub struct Listed {
    /// In the order of their keys.
    pub items: Vec<(KvKey, Found)>,
    /// The list goes on after this key; `None` at the end.
    pub next: Option<KvKey>,
}

/// A value to be set.
#[derive(Clone, Debug)]
pub struct Put {
    /// Which.
    pub key: KvKey,
    /// JSON.
    pub value: Bytes,
    /// From when on it is not there any more.
    pub expires_at: Option<UnixMs>,
}

/// Why the KV does not do what a run asks.
#[derive(Debug, thiserror::Error)]
pub enum ViewError {
    /// What the run has read so far is not the present any more: it must be made again.
    #[error("what was read was changed meanwhile")]
    Stale,
    /// The house is broken.
    #[error(transparent)]
    Store(#[from] Error),
    /// A run may not change so much.
    #[error("{0}")]
    Limit(String),
}

impl From<Stale> for ViewError {
    fn from(_: Stale) -> ViewError {
        ViewError::Stale
    }
}

type Viewed<T> = Result<T, ViewError>;

impl View {
    pub(crate) fn new(store: Store, front: Arc<Front>, now: UnixMs) -> View {
        View { store, front, now, reads: Reads::default(), written: Written::default() }
    }

    /// The app.
    pub fn app(&self) -> Uuid {
        self.front.id()
    }

    /// When the run began; what expires by then is not there.
    pub fn now(&self) -> UnixMs {
        self.now
    }

    /// The value of a key.
    pub fn get(&mut self, key: &KvKey) -> Viewed<Option<Found>> {
        if let Some(change) = self.written.changes.get(key) {
            return Ok(own(change));
        }
        let seen = self.read(key)?;
        Ok(seen.entry.and_then(|entry| self.live(entry)))
    }

    fn read(&mut self, key: &KvKey) -> Viewed<Seen> {
        let state = self.front.lock();
        let base = self.store.base()?;
        Ok(state.read(self.front.id(), key, &mut self.reads, &base)??)
    }

    fn live(&self, entry: Entry) -> Option<Found> {
        let live = entry.expires_at.is_none_or(|at| at > self.now);
        live.then_some(Found {
            value: entry.value,
            version: Some(entry.commit),
            expires_at: entry.expires_at,
        })
    }

    /// Whether a key stands as `version` says: 0 is a key that is not there.
    pub fn is_version(&mut self, key: &KvKey, version: u64) -> Viewed<bool> {
        let found = self.get(key)?;
        Ok(found.map_or(version == 0, |found| found.version == Some(version)))
    }

    /// Sets a value.
    pub fn put(&mut self, put: Put) -> Viewed<()> {
        if put.value.len() > KV_VALUE_BYTES_MAX {
            let bytes = put.value.len();
            return Err(ViewError::Limit(format!(
                "the value of \"{}\" has {bytes} bytes as JSON; at most {KV_VALUE_BYTES_MAX} are kept",
                put.key
            )));
        }
        let Put { key, value, expires_at } = put;
        self.write(Change { key, value: Some(value), expires_at })
    }

    /// Deletes a value; whether it was there.
    pub fn delete(&mut self, key: &KvKey) -> Viewed<bool> {
        if self.get(key)?.is_none() {
            return Ok(false);
        }
        self.write(Change { key: key.clone(), value: None, expires_at: None })?;
        Ok(true)
    }

    fn write(&mut self, change: Change) -> Viewed<()> {
        let weigh = |change: &Change| change.key.as_str().len() + change.value.as_ref().map_or(0, Bytes::len);
        let old = self.written.changes.get(&change.key);
        let bytes = self.written.bytes - old.map_or(0, weigh) + weigh(&change);
        let weight = self.written.weight - old.map_or(0, Change::weight) + change.weight();
        if old.is_none() && self.written.changes.len() >= CHANGES_MAX {
            return Err(ViewError::Limit(format!("one run changes at most {CHANGES_MAX} values")));
        }
        if bytes > CHANGED_BYTES_MAX {
            return Err(ViewError::Limit(format!(
                "one run changes at most {CHANGED_BYTES_MAX} bytes of values"
            )));
        }
        if change.value.is_some() {
            self.check_room(weight)?;
        }
        (self.written.bytes, self.written.weight) = (bytes, weight);
        self.written.changes.insert(change.key.clone(), change);
        Ok(())
    }

    /// Says no early; the commit looks again.
    fn check_room(&self, more: u64) -> Viewed<()> {
        let most = self.store.kv_bytes_max(self.front.id());
        let bytes = self.front.lock().bytes_with(more);
        if bytes > most { Err(ViewError::Limit(full(bytes, most))) } else { Ok(()) }
    }

    /// Values whose keys begin with `prefix`, after the key `after`, in order; at most [`LIST_MAX`].
    pub fn list(&mut self, prefix: &KvPrefix, after: Option<&KvKey>, limit: usize) -> Viewed<Listed> {
        let limit = limit.min(LIST_MAX);
        let (found, more) = {
            let state = self.front.lock();
            let base = self.store.base()?;
            // Own deletes make room for as many others.
            let wanted = limit + self.written.changes.len();
            state.list(self.front.id(), (prefix, after), wanted, &mut self.reads, &base)??
        };
        let seen_to = found.last().map(|(key, _)| key.clone()).filter(|_| more);
        let mut all: BTreeMap<KvKey, Found> = BTreeMap::new();
        for (key, entry) in found {
            all.extend(self.live(entry).map(|found| (key, found)));
        }
        let range = (beginning(prefix, after), Bound::Unbounded);
        let mine = self.written.changes.range::<str, _>(range);
        for (key, change) in mine.take_while(|(key, _)| prefix.takes(key)) {
            if seen_to.as_ref().is_some_and(|last| key > last) {
                break;
            }
            match own(change) {
                Some(found) => drop(all.insert(key.clone(), found)),
                None => drop(all.remove(key)),
            }
        }
        let cut = all.len() > limit;
        let items: Vec<(KvKey, Found)> = all.into_iter().take(limit).collect();
        let next = if cut { items.last().map(|(key, _)| key.clone()) } else { seen_to };
        Ok(Listed { items, next })
    }

    /// The trigger that takes messages of this queue.
    pub fn queue(&self, name: &Name) -> Option<Arc<Trigger>> {
        let shared = &self.store.shared;
        shared.reactions().to_message(self.front.id(), name).cloned()
    }

    /// The row that has this unique key now: one that is under way, or one that this run queues.
    pub fn unique(&self, key: &str) -> Option<Uuid> {
        let mine = self.written.rows.iter().find(|row| row.unique.as_deref() == Some(key));
        let mine = mine.map(|row| row.execution_id);
        mine.or_else(|| self.store.shared.fronts.unique(self.front.id(), key))
    }

    /// Queues work, to be accepted with all else that the run changes.
    pub fn queue_row(&mut self, row: Row) -> Viewed<()> {
        if self.written.rows.len() >= QUEUED_MAX {
            return Err(ViewError::Limit(format!("one run queues at most {QUEUED_MAX} messages and runs")));
        }
        let bytes = self.written.rows_bytes + row.weight();
        if bytes > QUEUED_BYTES_MAX {
            return Err(ViewError::Limit(format!("one run queues at most {QUEUED_BYTES_MAX} bytes")));
        }
        self.written.rows_bytes = bytes;
        self.written.rows.push(Arc::new(row));
        Ok(())
    }

    /// The present state of what the run wrote.
    pub fn mark(&self) -> Mark {
        Mark(self.written.clone())
    }

    /// Takes back what was written since.
    pub fn go_back(&mut self, mark: Mark) {
        self.written = mark.0;
    }

    /// Takes back everything that was written.
    pub fn clear(&mut self) {
        self.written = Written::default();
    }

    /// What is to be committed; `None` if the run changed nothing.
    pub fn into_effects(self, cause: Option<Chain>) -> Option<Effects> {
        let Written { changes, rows, .. } = self.written;
        if changes.is_empty() && rows.is_empty() {
            return None;
        }
        let changes = changes.into_values().collect();
        Some(Effects { app_id: self.front.id(), cause, reads: self.reads, changes, rows })
    }
}

fn own(change: &Change) -> Option<Found> {
    let value = change.value.clone()?;
    Some(Found { value, version: None, expires_at: change.expires_at })
}

pub(super) fn full(bytes: u64, most: u64) -> String {
    format!(
        "the app's values would have {bytes} bytes; it may keep {most}: delete some, or raise its kv_bytes limit"
    )
}
