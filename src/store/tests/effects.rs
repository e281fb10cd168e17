//! What runs change: what they do to a real view, and what the reference makes of the same.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use uuid::Uuid;

use super::found::Found;
use super::world::Item;
use crate::model::{KvKey, KvPrefix, Row, UnixMs};
use crate::store::codec;
use crate::store::kv::{Entry, Put, View, ViewError, key_of, raw_key};

/// Counts the runs of its app that ended well and counted.
pub(super) const COUNTER: &str = "counter";
/// What is listed.
const LISTED: &str = "k/";

/// What a run does, one after the other.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Count,
    Set {
        key: KvKey,
        value: Bytes,
        expires_at: Option<UnixMs>,
    },
    Copy {
        from: KvKey,
        to: KvKey,
    },
    Delete(KvKey),
    /// Writes down how many values there are in the list.
    Tally(KvKey),
    Queue(Arc<Row>),
}

/// All that one run does.
#[derive(Clone, Debug)]
pub(super) struct Acts {
    pub(super) app: Uuid,
    /// When it began.
    pub(super) now: UnixMs,
    pub(super) acts: Vec<Act>,
}

/// What became of what a run changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) enum Fate {
    /// There was nothing.
    #[default]
    Nothing,
    /// It stands, under this number.
    Accepted(u64),
    /// There was no room; the run ended without it.
    Refused,
    /// The disk could not be read; the run ended without it.
    Unread,
}

/// A value with the number of the commit that wrote it; none where it was deleted.
type Kept = Option<Arc<Item<Entry>>>;

/// What one run changed.
#[derive(Clone, Debug, Default)]
pub(super) struct Changed {
    app: u128,
    commit: u64,
    values: BTreeMap<String, Kept>,
    pub(super) rows: Vec<Arc<Row>>,
    counted: u64,
}

/// The values of all apps.
#[derive(Clone, Debug, Default)]
pub(super) struct Values {
    kept: BTreeMap<(u128, String), Arc<Item<Entry>>>,
    /// The latest commit of each app.
    commits: BTreeMap<u128, u64>,
    /// How many runs of each app counted.
    counts: BTreeMap<u128, u64>,
}

pub(super) fn key(text: &str) -> KvKey {
    text.parse().unwrap()
}

impl Acts {
    /// Does it to a view of the store.
    pub(super) fn make(&self, view: &mut View) -> Result<(), ViewError> {
        for act in self.acts.clone() {
            match act {
                Act::Count => {
                    let count = view.get(&key(COUNTER))?.map_or(0, |found| number(&found.value));
                    put(view, key(COUNTER), digits(count + 1), None)?;
                }
                Act::Set { key, value, expires_at } => put(view, key, value, expires_at)?,
                Act::Copy { from, to } => {
                    if let Some(found) = view.get(&from)? {
                        put(view, to, found.value, found.expires_at)?;
                    }
                }
                Act::Delete(key) => drop(view.delete(&key)?),
                Act::Tally(key) => {
                    let prefix: KvPrefix = LISTED.parse().unwrap();
                    let listed = view.list(&prefix, None, 100)?.items.len();
                    put(view, key, digits(u64::try_from(listed).unwrap()), None)?;
                }
                Act::Queue(row) => view.queue_row(row.as_ref().clone())?,
            }
        }
        Ok(())
    }

    /// What it comes to if nobody else changes anything meanwhile; `None` if nothing comes of it.
    pub(super) fn change(&self, values: &Values, commit: u64) -> Option<Changed> {
        let mut changed = Changed { app: self.app.as_u128(), commit, ..Changed::default() };
        for act in self.acts.clone() {
            let get = |changed: &Changed, key: &KvKey| values.get(changed, key.as_str(), self.now);
            match act {
                Act::Count => {
                    let count = get(&changed, &key(COUNTER)).map_or(0, |item| number(&item.value.value));
                    changed.set(&key(COUNTER), digits(count + 1), None);
                    changed.counted += 1;
                }
                Act::Set { key, value, expires_at } => changed.set(&key, value, expires_at),
                Act::Copy { from, to } => {
                    if let Some(item) = get(&changed, &from) {
                        changed.set(&to, item.value.value.clone(), item.value.expires_at);
                    }
                }
                Act::Delete(key) => {
                    if get(&changed, &key).is_some() {
                        changed.values.insert(key.as_str().to_owned(), None);
                    }
                }
                Act::Tally(key) => {
                    let listed = values.listed(&changed, self.now);
                    changed.set(&key, digits(u64::try_from(listed).unwrap()), None);
                }
                Act::Queue(row) => changed.rows.push(row),
            }
        }
        (!changed.values.is_empty() || !changed.rows.is_empty()).then_some(changed)
    }

    pub(super) fn rows(&self) -> impl Iterator<Item = &Arc<Row>> {
        self.acts.iter().filter_map(|act| match act {
            Act::Queue(row) => Some(row),
            Act::Count | Act::Set { .. } | Act::Copy { .. } | Act::Delete(_) | Act::Tally(_) => None,
        })
    }
}

fn put(view: &mut View, key: KvKey, value: Bytes, expires_at: Option<UnixMs>) -> Result<(), ViewError> {
    view.put(Put { key, value, expires_at })
}

fn number(json: &[u8]) -> u64 {
    std::str::from_utf8(json).unwrap().parse().unwrap()
}

fn digits(number: u64) -> Bytes {
    number.to_string().into()
}

impl Changed {
    fn set(&mut self, key: &KvKey, value: Bytes, expires_at: Option<UnixMs>) {
        let entry = Entry { commit: self.commit, expires_at, value };
        self.values.insert(key.as_str().to_owned(), Some(Item::new(entry)));
    }
}

impl Values {
    /// What a file holds, as the beginning of a reference.
    pub(super) fn of(found: &Found) -> Values {
        let mut values = Values::default();
        for (raw, bytes) in &found.values {
            let (app, text) = split(raw);
            let entry: Entry = codec::decode(bytes).unwrap();
            if text == COUNTER {
                values.counts.insert(app, number(&entry.value));
            }
            values.kept.insert((app, text), Item::new(entry));
        }
        values.commits = found.usage.iter().map(|(app, usage)| (*app, usage.commit)).collect();
        values
    }

    /// The number of the latest commit of all.
    pub(super) fn latest(&self) -> u64 {
        self.commits.values().max().copied().unwrap_or(0)
    }

    /// Takes a change in, whole.
    pub(super) fn take(&mut self, changed: &Changed) {
        for (text, kept) in &changed.values {
            let at = (changed.app, text.clone());
            match kept {
                Some(item) => drop(self.kept.insert(at, item.clone())),
                None => drop(self.kept.remove(&at)),
            }
        }
        if !changed.values.is_empty() {
            self.commits.insert(changed.app, changed.commit);
        }
        *self.counts.entry(changed.app).or_default() += changed.counted;
    }

    fn get(&self, changed: &Changed, text: &str, now: UnixMs) -> Kept {
        match changed.values.get(text) {
            Some(own) => own.clone(),
            None => self.kept.get(&(changed.app, text.to_owned())).filter(|item| is_live(item, now)).cloned(),
        }
    }

    fn listed(&self, changed: &Changed, now: UnixMs) -> usize {
        let of_app = self.kept.keys().filter(|(app, _)| *app == changed.app).map(|(_, text)| text);
        let texts: std::collections::BTreeSet<&String> = of_app.chain(changed.values.keys()).collect();
        let listed = texts.into_iter().filter(|text| text.starts_with(LISTED));
        listed.filter(|text| self.get(changed, text, now).is_some()).count()
    }

    /// Where a file that was last written at `now` holds other values, if it does. Those that have expired may be gone,
    /// and those of an app that is gone too.
    pub(super) fn differs(
        &self,
        found: &Found,
        now: UnixMs,
        is_there: impl Fn(u128) -> bool,
    ) -> Option<String> {
        for (raw, bytes) in &found.values {
            let (app, text) = split(raw);
            let wanted = self.kept.get(&(app, text.clone())).map(|item| &item.bytes);
            if wanted != Some(bytes) {
                return Some(format!("the value of {text} of {}: not as it was", Uuid::from_u128(app)));
            }
        }
        let lost = self.kept.iter().find(|((app, text), item)| {
            let raw = raw_key(Uuid::from_u128(*app), text);
            is_there(*app) && is_live(item, now) && !found.values.contains_key(&raw)
        });
        if let Some(((app, text), _)) = lost {
            return Some(format!("the value of {text} of {}: lost", Uuid::from_u128(*app)));
        }
        let wrong = self.commits.iter().find(|(app, commit)| {
            is_there(**app) && found.usage.get(app).map(|usage| usage.commit) != Some(**commit)
        });
        if let Some((app, commit)) = wrong {
            return Some(format!("the latest commit of {} is {commit}", Uuid::from_u128(*app)));
        }
        // Said once more without the reference's own arithmetic: as many as there were runs.
        let counted = |app: &u128| found.values.get(&raw_key(Uuid::from_u128(*app), COUNTER));
        let wrong = self.counts.iter().find(|(app, count)| {
            let entry = counted(app).map(|bytes| codec::decode::<Entry>(bytes).unwrap());
            is_there(**app) && **count != entry.map_or(0, |entry| number(&entry.value))
        });
        wrong.map(|(app, count)| format!("{count} runs of {} counted", Uuid::from_u128(*app)))
    }

    /// Without what a file does not hold any more.
    pub(super) fn without_swept(mut self, found: &Found) -> Values {
        self.kept.retain(|(app, text), _| found.values.contains_key(&raw_key(Uuid::from_u128(*app), text)));
        self.commits.retain(|app, _| found.usage.contains_key(app));
        self.counts.retain(|app, _| found.usage.contains_key(app));
        self
    }
}

fn is_live(item: &Item<Entry>, now: UnixMs) -> bool {
    item.value.expires_at.is_none_or(|at| at > now)
}

fn split(raw: &[u8]) -> (u128, String) {
    let (app, text) = raw.split_first_chunk::<16>().unwrap();
    (u128::from_be_bytes(*app), key_of(text).unwrap().as_str().to_owned())
}
