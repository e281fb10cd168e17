//! The writer's side of the KV: accepted changes wait here, and go down together with what they belong to.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use redb::{ReadableTable, Table, WriteTransaction};
use uuid::Uuid;

use super::file::{expiry_key, key_of, raw_key};
use super::front::Fronts;
use super::{Change, Entry, Reactions, Usage};
use crate::model::{Chain, KvKey, Row, UnixMs};
use crate::store::catalog::Catalog;
use crate::store::compact::Revisions;
use crate::store::events::{self, Clerk};
use crate::store::queue::Accepted;
use crate::store::tables::{KV, KV_EXPIRY, KV_USAGE};
use crate::store::{Error, codec};

/// More bytes than this waiting are flushed.
const HEAVY_BYTES: usize = 4 * 1024 * 1024;
/// Expired values, or values of a removed app, that one commit clears away.
const SWEEP_MAX: usize = 500;
/// Between two looks for them, in milliseconds.
const SWEEP_EVERY_MS: i64 = 5_000;

/// Changes that were posted and are not in the file yet, and what the apps keep there.
#[derive(Default)]
pub(crate) struct Desk {
    staged: Vec<Staged>,
    /// Where in it the latest change of a key is.
    latest: HashMap<(Uuid, KvKey), usize>,
    rows: Vec<Arc<Row>>,
    bytes: usize,
    /// Rows that were counted for what waits.
    queued: u64,
    usage: BTreeMap<Uuid, Usage>,
    /// What this commit writes: of each app the keys, and the numbers of their commits.
    written: BTreeMap<Uuid, Vec<(KvKey, u64)>>,
    applied: u64,
    swept_at: Option<UnixMs>,
    more_to_sweep: bool,
}

struct Staged {
    app: Uuid,
    commit: u64,
    change: Change,
    /// Triggers run for it: nothing may take its place.
    watched: Option<Watched>,
}

#[derive(Clone)]
struct Watched {
    reactions: Arc<Reactions>,
    cause: Option<Chain>,
}

impl Desk {
    /// Of an opened file.
    pub(crate) fn open(txn: &WriteTransaction) -> Result<Desk, Error> {
        let mut usage = BTreeMap::new();
        for entry in txn.open_table(KV_USAGE)?.iter()? {
            let (app, bytes) = entry?;
            usage.insert(Uuid::from_u128(app.value()), codec::decode(bytes.value())?);
        }
        Ok(Desk { usage, ..Desk::default() })
    }

    /// What each app keeps.
    pub(crate) fn usage(&self) -> &BTreeMap<Uuid, Usage> {
        &self.usage
    }

    /// Whether anything waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.staged.is_empty() && self.rows.is_empty()
    }

    /// Whether so much waits that it is to be flushed.
    pub(crate) fn is_heavy(&self) -> bool {
        self.bytes >= HEAVY_BYTES
    }

    /// Loses all that waits.
    #[cfg(test)]
    pub(crate) fn lose(&mut self) {
        self.staged.clear();
        self.latest.clear();
    }

    /// Takes what was accepted. Of two changes of one key, that nothing waits for, the later stands for both.
    pub(crate) fn stage(&mut self, accepted: Accepted) {
        let Accepted { commit, effects, reactions, queued } = accepted;
        let app = effects.app_id;
        self.queued += queued;
        self.rows.extend(effects.rows);
        for change in effects.changes {
            let is_watched = reactions.to_change(app, &change).next().is_some();
            let watched = is_watched.then(|| Watched { reactions: reactions.clone(), cause: effects.cause });
            self.put(Staged { app, commit, change, watched });
        }
    }

    fn put(&mut self, staged: Staged) {
        self.bytes += usize::try_from(staged.change.weight()).unwrap_or(0) + size_of::<Staged>();
        let at = self.latest.entry((staged.app, staged.change.key.clone())).or_insert(self.staged.len());
        match self.staged.get_mut(*at) {
            Some(before) if before.watched.is_none() && staged.watched.is_none() => {
                self.bytes = self.bytes.saturating_sub(
                    usize::try_from(before.change.weight()).unwrap_or(0) + size_of::<Staged>(),
                );
                *before = staged;
            }
            Some(_) | None => {
                *at = self.staged.len();
                self.staged.push(staged);
            }
        }
    }

    /// Writes everything that waits. Gives the rows that come of it, and the bytes of values written.
    pub(crate) fn write(
        &mut self,
        txn: &WriteTransaction,
        catalog: &Catalog,
        clerk: &Clerk<'_>,
    ) -> Result<(Vec<Arc<Row>>, u64), Error> {
        let mut rows = std::mem::take(&mut self.rows);
        let mut kept_bytes = 0;
        self.applied += std::mem::take(&mut self.queued);
        if !self.staged.is_empty() {
            let mut tables = Tables { kv: txn.open_table(KV)?, expiry: txn.open_table(KV_EXPIRY)? };
            for staged in std::mem::take(&mut self.staged) {
                kept_bytes += staged.change.weight();
                let old = tables.apply(&staged, self.usage.entry(staged.app).or_default())?;
                if let Some(watched) = &staged.watched {
                    let event = events::KvEvent {
                        change: &staged.change,
                        old: old.as_ref().filter(|old| old.expires_at.is_none_or(|at| at > clerk.now)),
                        version: staged.commit,
                        cause: watched.cause,
                    };
                    for trigger in watched.reactions.to_change(staged.app, &staged.change) {
                        rows.extend(clerk.kv(trigger, catalog, &event).map(Arc::new));
                    }
                }
                let written = self.written.entry(staged.app).or_default();
                written.push((staged.change.key, staged.commit));
            }
            self.write_usage(txn)?;
        }
        self.latest.clear();
        self.bytes = 0;
        Ok((rows, kept_bytes))
    }

    fn write_usage(&self, txn: &WriteTransaction) -> Result<(), Error> {
        let mut table = txn.open_table(KV_USAGE)?;
        for app in self.written.keys() {
            let usage = self.usage.get(app).copied().unwrap_or_default();
            table.insert(app.as_u128(), codec::encode(&usage).as_slice())?;
        }
        Ok(())
    }

    /// Whether it is time to look for values that nobody can see any more.
    pub(crate) fn wants_sweep(&self, now: UnixMs) -> bool {
        self.more_to_sweep
            || self.swept_at.is_none_or(|at| !(0..SWEEP_EVERY_MS).contains(&now.0.saturating_sub(at.0)))
    }

    /// Clears away some values that have expired by `now`, or whose app is gone. A run that began before they did may
    /// have seen them: to it, this is a commit like others.
    pub(crate) fn sweep(
        &mut self,
        txn: &WriteTransaction,
        catalog: &Catalog,
        fronts: &Fronts,
        now: UnixMs,
    ) -> Result<(), Error> {
        self.swept_at = Some(now);
        let expired = self.sweep_expired(txn, fronts, now)?;
        let gone = self.usage.keys().copied().find(|app| !catalog.apps.contains_key(app));
        let left = match gone {
            Some(app) => self.sweep_app(txn, fronts, app)?,
            None => false,
        };
        self.more_to_sweep = expired || left;
        Ok(())
    }

    /// True if there may be more.
    fn sweep_expired(&mut self, txn: &WriteTransaction, fronts: &Fronts, now: UnixMs) -> Result<bool, Error> {
        let upto = expiry_key(now, &[]);
        let (mut due, mut count) = (BTreeMap::<Uuid, Vec<KvKey>>::new(), 0);
        for entry in txn.open_table(KV_EXPIRY)?.range::<&[u8]>(..upto.as_slice())?.take(SWEEP_MAX) {
            count += 1;
            let raw = entry?.0;
            let key = raw.value().get(8..).unwrap_or_default();
            let Some((app, text)) = key.split_first_chunk::<16>() else { continue };
            due.entry(Uuid::from_bytes(*app)).or_default().push(key_of(text)?);
        }
        for (app, keys) in due {
            self.forget(txn, fronts, app, keys)?;
        }
        if count > 0 {
            self.write_usage(txn)?;
        }
        Ok(count == SWEEP_MAX)
    }

    fn sweep_app(&mut self, txn: &WriteTransaction, fronts: &Fronts, app: Uuid) -> Result<bool, Error> {
        let mut keys = Vec::new();
        for entry in txn.open_table(KV)?.range::<&[u8]>(app.as_bytes().as_slice()..)?.take(SWEEP_MAX) {
            match entry?.0.value().strip_prefix(app.as_bytes()) {
                Some(key) => keys.push(key_of(key)?),
                None => break,
            }
        }
        let found = keys.len();
        let forgotten = self.forget(txn, fronts, app, keys)?;
        let left = found == SWEEP_MAX || forgotten < found;
        if left {
            self.write_usage(txn)?;
        } else {
            self.usage.remove(&app);
            txn.open_table(KV_USAGE)?.remove(app.as_u128())?;
        }
        Ok(left)
    }

    /// Removes values of an app, but for those that somebody has just changed: their turn comes later. Gives how many.
    fn forget(
        &mut self,
        txn: &WriteTransaction,
        fronts: &Fronts,
        app: Uuid,
        mut keys: Vec<KvKey>,
    ) -> Result<usize, Error> {
        let commit = fronts.clear_away(app, &mut keys);
        let mut tables = Tables { kv: txn.open_table(KV)?, expiry: txn.open_table(KV_EXPIRY)? };
        let usage = self.usage.entry(app).or_default();
        for key in &keys {
            tables.forget(app, key, usage)?;
        }
        let forgotten = keys.len();
        let written = self.written.entry(app).or_default();
        written.extend(keys.into_iter().map(|key| (key, commit)));
        Ok(forgotten)
    }

    /// After the commit: runs read these from the file from now on.
    pub(crate) fn publish(&mut self, fronts: &Fronts, revisions: &Revisions) {
        fronts.renew();
        fronts.applied(std::mem::take(&mut self.applied));
        for (app, written) in std::mem::take(&mut self.written) {
            revisions.touch(app, written.iter().map(|(key, _)| key));
            let usage = self.usage.get(&app).copied().unwrap_or_default();
            let keys = written.iter().map(|(key, commit)| (key, *commit));
            fronts.app(app).lock().written(keys, usage);
        }
    }
}

struct Tables<'t> {
    kv: Table<'t, &'static [u8], &'static [u8]>,
    expiry: Table<'t, &'static [u8], &'static [u8]>,
}

impl Tables<'_> {
    /// Makes one change. Gives what was there.
    fn apply(&mut self, staged: &Staged, usage: &mut Usage) -> Result<Option<Entry>, Error> {
        let change = &staged.change;
        let raw = raw_key(staged.app, change.key.as_str());
        let entry = change.value.clone().map(|value| Entry {
            commit: staged.commit,
            expires_at: change.expires_at,
            value,
        });
        let old = match &entry {
            Some(entry) => self.kv.insert(raw.as_slice(), codec::encode(entry).as_slice())?,
            None => self.kv.remove(raw.as_slice())?,
        };
        let old: Option<Entry> = old.map(|old| codec::decode(old.value())).transpose()?;
        usage.commit = usage.commit.max(staged.commit);
        usage.count(change.key.as_str(), old.as_ref(), entry.as_ref());
        let (before, after) =
            (old.as_ref().and_then(|old| old.expires_at), entry.as_ref().and_then(|entry| entry.expires_at));
        if before != after {
            if let Some(at) = before {
                self.expiry.remove(expiry_key(at, &raw).as_slice())?;
            }
            if let Some(at) = after {
                self.expiry.insert(expiry_key(at, &raw).as_slice(), [].as_slice())?;
            }
        }
        Ok(old)
    }

    /// Removes a value that nobody can see any more.
    fn forget(&mut self, app: Uuid, key: &KvKey, usage: &mut Usage) -> Result<(), Error> {
        let raw = raw_key(app, key.as_str());
        let old =
            self.kv.remove(raw.as_slice())?.map(|old| codec::decode::<Entry>(old.value())).transpose()?;
        usage.count(key.as_str(), old.as_ref(), None);
        if let Some(at) = old.and_then(|old| old.expires_at) {
            self.expiry.remove(expiry_key(at, &raw).as_slice())?;
        }
        Ok(())
    }
}

impl Usage {
    fn count(&mut self, key: &str, old: Option<&Entry>, new: Option<&Entry>) {
        let weigh = |entry: &Entry| u64::try_from(key.len() + entry.value.len()).unwrap_or(u64::MAX);
        self.keys = (self.keys + u64::from(new.is_some())).saturating_sub(u64::from(old.is_some()));
        self.bytes = (self.bytes + new.map_or(0, weigh)).saturating_sub(old.map_or(0, weigh));
    }
}
