//! The reference: what a store holds, as plain maps, and what each command does to it. Written without a look at
//! how the store does it, and compared with a file byte by byte.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use uuid::Uuid;

use super::effects::Values;
use super::found::Found;
use super::setup::SetUp;
use crate::model::{DeadLetter, ExecutionRecord, Row, UnixMs};
use crate::store::codec::{self, Stored};
use crate::store::log::EncodedRecord;
use crate::store::{Settings, encode_record};

/// A stored value, and how it is stored.
#[derive(Debug)]
pub(super) struct Item<T> {
    pub(super) value: T,
    pub(super) bytes: Vec<u8>,
    /// The same once a crash is counted; made once, for all states that it is in.
    crashed: OnceLock<Arc<Item<T>>>,
}

impl<T: Stored> Item<T> {
    pub(super) fn new(value: T) -> Arc<Item<T>> {
        let bytes = codec::encode(&value);
        Arc::new(Item { value, bytes, crashed: OnceLock::new() })
    }
}

impl Item<Row> {
    fn crashed(&self) -> Arc<Item<Row>> {
        let counted = || Row {
            crashes: self.value.crashes + 1,
            attempts: self.value.attempts + 1,
            ..self.value.clone()
        };
        self.crashed.get_or_init(|| Item::new(counted())).clone()
    }
}

pub(super) type Shelf<T> = BTreeMap<u128, Arc<Item<T>>>;

pub(super) fn put<T: Stored>(shelf: &mut Shelf<T>, id: Uuid, value: T) {
    shelf.insert(id.as_u128(), Item::new(value));
}

/// A record that was posted.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) id: u128,
    pub(super) finished_at: UnixMs,
    pub(super) bytes: Vec<u8>,
}

impl Logged {
    /// Of a record as it is stored.
    pub(super) fn of(bytes: &[u8]) -> Logged {
        let record: ExecutionRecord<'static> = codec::decode(bytes).unwrap();
        Logged { id: record.id.as_u128(), finished_at: record.finished_at, bytes: bytes.to_vec() }
    }

    pub(super) fn encoded(&self) -> EncodedRecord {
        encode_record(&codec::decode(&self.bytes).unwrap())
    }
}

/// One state of the store.
#[derive(Clone, Debug, Default)]
pub(super) struct World {
    pub(super) setup: SetUp,
    pub(super) outbox: Shelf<Row>,
    /// Rows whose attempt may have begun.
    pub(super) claimed: BTreeSet<u128>,
    pub(super) letters: Shelf<DeadLetter>,
    /// Records in the order in which they came; the store may have dropped the first of them.
    pub(super) log: Vec<Arc<Logged>>,
    /// All rows that ever ended.
    pub(super) ended: BTreeSet<u128>,
    pub(super) values: Values,
}

/// What a start says about a row it found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Orphan {
    pub(super) id: u128,
    pub(super) began: bool,
    pub(super) crashes: u16,
    pub(super) sync: bool,
    pub(super) due_at: UnixMs,
    pub(super) wait_max: Duration,
}

/// The first thing that a start said and should not have said.
pub(super) fn wrong_orphan(said: &[Orphan], wanted: &[Orphan]) -> String {
    match said.iter().zip(wanted).find(|(said, wanted)| said != wanted) {
        Some((said, wanted)) => format!("the start says {said:?}, not {wanted:?}"),
        None => format!("the start recovered {} rows, not {}", said.len(), wanted.len()),
    }
}

impl World {
    /// What the next start makes of this state: attempts that the end of the process cut short are counted.
    pub(super) fn recovered(mut self) -> (World, Vec<Orphan>) {
        let mut orphans = Vec::new();
        for (id, item) in &mut self.outbox {
            let began = self.claimed.contains(id) || (item.value.is_sync() && item.value.crashes == 0);
            if began {
                *item = item.crashed();
            }
            let row = &item.value;
            let (crashes, sync, due_at) = (row.crashes, row.is_sync(), row.due_at);
            let wait_max = Duration::from_millis(row.wait_ms);
            orphans.push(Orphan { id: *id, began, crashes, sync, due_at, wait_max });
        }
        self.claimed.clear();
        (self, orphans)
    }

    /// The latest instant that it knows of.
    pub(super) fn latest(&self) -> UnixMs {
        let finished = self.log.iter().map(|record| record.finished_at);
        let stamped = self.outbox.keys().chain(self.letters.keys()).map(|id| UnixMs(stamp_ms(*id)));
        finished.chain(stamped).max().unwrap_or_default()
    }

    pub(super) fn redrive(&mut self, letter: u128, execution: Uuid, now: UnixMs) -> bool {
        let Some(item) = self.letters.remove(&letter) else { return false };
        put(&mut self.outbox, execution, revived(item.value.clone(), execution, now));
        true
    }

    /// Adds letters, then drops the oldest that are over the bounds.
    pub(super) fn bury(&mut self, letters: &[DeadLetter], settings: &Settings) {
        letters.iter().for_each(|letter| put(&mut self.letters, letter.id, letter.clone()));
        let too_many = |held: &Shelf<DeadLetter>| {
            let bytes: usize = held.values().map(|letter| letter.bytes.len()).sum();
            u64::try_from(held.len()).unwrap() > settings.dead_letters_max
                || u64::try_from(bytes).unwrap() > settings.dead_letters_bytes_max
        };
        while too_many(&self.letters) {
            self.letters.pop_first();
        }
    }

    /// Where `found` is not this state, if it is not. The log may have lost its beginning, and so may the dead letters
    /// if what is gone was too old.
    pub(super) fn differs(&self, found: &Found, now: UnixMs, age_max: Duration) -> Option<String> {
        let first = found.letters.keys().next().copied().unwrap_or(u128::MAX);
        let over = |id: &u128| *id < first && now.since(UnixMs(stamp_ms(*id))) > age_max;
        let letters = self.letters.iter().filter(|(id, _)| !over(id));
        let letters: Shelf<DeadLetter> = letters.map(|(id, item)| (*id, item.clone())).collect();
        self.log_differs(found)
            .or_else(|| shelf_differs("outbox row", &self.outbox, &found.outbox))
            .or_else(|| shelf_differs("dead letter", &letters, &found.letters))
            .or_else(|| self.setup.differs(found))
            .or_else(|| self.values.differs(found, now, |app| self.setup.apps.contains_key(&app)))
    }

    fn log_differs(&self, found: &Found) -> Option<String> {
        let logged = found.records();
        let Some(dropped) = self.log.len().checked_sub(logged.len()) else {
            return Some(format!("{} records in the log, {} were posted", logged.len(), self.log.len()));
        };
        let wrong = self.log[dropped..]
            .iter()
            .zip(&logged)
            .position(|(posted, (id, bytes))| posted.id != *id || posted.bytes != *bytes)?;
        Some(format!(
            "record {wrong} of {} is of {}, not of {}",
            logged.len(),
            Uuid::from_u128(logged[wrong].0),
            Uuid::from_u128(self.log[dropped + wrong].id)
        ))
    }
}

/// When an id was made.
pub(super) fn stamp_ms(id: u128) -> i64 {
    i64::try_from(id >> 80).unwrap()
}

/// The row that a dead letter becomes again.
pub(super) fn revived(letter: DeadLetter, execution: Uuid, now: UnixMs) -> Row {
    Row {
        execution_id: execution,
        attempts: 0,
        crashes: 0,
        due_at: now,
        accepted_at: now,
        redriven_from: Some(letter.id),
        ..letter.row
    }
}

/// The first entry of a table that is not as it should be.
pub(super) fn shelf_differs<T>(
    what: &str,
    wanted: &Shelf<T>,
    found: &BTreeMap<u128, Vec<u8>>,
) -> Option<String> {
    if wanted.len() == found.len()
        && wanted.iter().zip(found).all(|((id, item), (other, bytes))| id == other && item.bytes == *bytes)
    {
        return None;
    }
    let lost = wanted.keys().find(|id| !found.contains_key(id)).map(|id| ("lost", id));
    let extra = || found.keys().find(|id| !wanted.contains_key(id)).map(|id| ("too many", id));
    let other =
        || wanted.iter().find(|(id, item)| found[id] != item.bytes).map(|(id, _)| ("not as it was", id));
    let (why, id) = lost.or_else(extra).or_else(other)?;
    Some(format!("{what} {}: {why}", Uuid::from_u128(*id)))
}
