//! Everything that a file holds, read table by table, and what must be true of it whatever happened before.

use std::collections::{BTreeMap, BTreeSet};

use redb::{
    Database, Key, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    TableHandle, Value,
};
use uuid::Uuid;

use crate::model::{DeadLetter, Row};
use crate::store::codec;
use crate::store::kv::{self, Usage};
use crate::store::log::{self, BlockHead};
use crate::store::tables::{
    self, APPS, DEAD_LETTERS, DOMAINS, KEYS, KV, KV_EXPIRY, KV_USAGE, LOG, LOG_INDEX, META, META_CLAIMED,
    META_DEAD_BYTES, META_SCHEMA, META_VERSIONS_BYTES, META_WEAR, OUTBOX, ROUTES, SCRIPTS, TableKey,
    TableVisitor, USERS, VERSIONS,
};
use crate::store::wear::Wear;
use crate::store::{Error, SCHEMA};

type Shelf<K> = BTreeMap<K, Vec<u8>>;
type Record = (u128, Vec<u8>);

/// Tables that are read below.
const TABLES: usize = 19;

/// The tables of a file.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) apps: Shelf<u128>,
    pub(super) domains: Shelf<u128>,
    pub(super) scripts: Shelf<u128>,
    pub(super) routes: Shelf<u128>,
    pub(super) keys: Shelf<u128>,
    /// Nothing in a history changes them; sessions are none.
    pub(super) users: Shelf<u128>,
    pub(super) versions: Shelf<(u128, u32)>,
    pub(super) outbox: Shelf<u128>,
    pub(super) letters: Shelf<u128>,
    pub(super) blocks: BTreeMap<u64, (BlockHead, Vec<Record>)>,
    pub(super) claimed: BTreeSet<u128>,
    /// By app and key, as they are stored.
    pub(super) values: Shelf<Vec<u8>>,
    /// When which of them expire.
    expiry: BTreeSet<Vec<u8>>,
    pub(super) usage: BTreeMap<u128, Usage>,
}

/// What the tables weigh.
#[derive(Debug, PartialEq)]
pub(super) struct Weights {
    pub(super) outbox_rows: usize,
    pub(super) outbox_bytes: usize,
    pub(super) letters: usize,
    pub(super) letters_bytes: usize,
    pub(super) log_bytes: usize,
    pub(super) versions_bytes: usize,
}

impl Found {
    /// Reads all there is, and checks what must be so whatever happened before.
    pub(super) fn read(db: &Database) -> Result<Found, String> {
        let txn = db.begin_read().map_err(|error| error.to_string())?;
        check_tables(&txn)?;
        let found = Found::read_any(db)?;
        check_meta(read_meta(&txn)?, &found.weights())?;
        found.check().map(|()| found)
    }

    /// Reads a file of any schema.
    pub(super) fn read_any(db: &Database) -> Result<Found, String> {
        let txn = db.begin_read().map_err(|error| error.to_string())?;
        let mut meta = read_meta(&txn)?;
        let claimed = meta.remove(META_CLAIMED).unwrap_or_default();
        let claimed = claimed.as_chunks::<16>().0.iter().map(|id| u128::from_be_bytes(*id)).collect();
        Ok(Found {
            apps: read(&txn, APPS)?,
            domains: read(&txn, DOMAINS)?,
            scripts: read(&txn, SCRIPTS)?,
            routes: read(&txn, ROUTES)?,
            keys: read(&txn, KEYS)?,
            users: read_since(&txn, USERS)?,
            versions: read(&txn, VERSIONS)?,
            outbox: read(&txn, OUTBOX)?,
            letters: read(&txn, DEAD_LETTERS)?,
            blocks: read_log(&txn)?,
            claimed,
            values: read_bytes(&txn, KV)?,
            expiry: read_bytes(&txn, KV_EXPIRY)?.into_keys().collect(),
            usage: read_usage(&txn)?,
        })
    }

    /// All records, the first to end first.
    pub(super) fn records(&self) -> Vec<&Record> {
        self.blocks.values().flat_map(|(_, records)| records).collect()
    }

    pub(super) fn weights(&self) -> Weights {
        let weigh = |shelf: &Shelf<u128>| shelf.values().map(Vec::len).sum();
        let log_bytes =
            self.blocks.values().map(|(head, _)| usize::try_from(head.stored_bytes).unwrap()).sum();
        Weights {
            outbox_rows: self.outbox.len(),
            outbox_bytes: weigh(&self.outbox),
            letters: self.letters.len(),
            letters_bytes: weigh(&self.letters),
            log_bytes,
            versions_bytes: self.versions.values().map(Vec::len).sum(),
        }
    }

    /// What no history may lead to.
    fn check(&self) -> Result<(), String> {
        let mut ended = BTreeSet::new();
        for (id, _) in self.records() {
            if !ended.insert(*id) {
                return Err(format!("{} ended twice", Uuid::from_u128(*id)));
            }
            if self.outbox.contains_key(id) {
                return Err(format!("{} is both due and done", Uuid::from_u128(*id)));
            }
        }
        for bytes in self.letters.values() {
            let letter: DeadLetter = codec::decode(bytes).map_err(|error| error.to_string())?;
            if self.outbox.contains_key(&letter.row.execution_id.as_u128()) {
                return Err(format!("{} is both due and dead", letter.row.execution_id));
            }
        }
        for (id, bytes) in &self.outbox {
            let row: Row = codec::decode(bytes).map_err(|error| error.to_string())?;
            if row.execution_id.as_u128() != *id || row.attempts < row.crashes {
                return Err(format!("{} contradicts itself: {row:?}", Uuid::from_u128(*id)));
            }
        }
        self.check_values()
    }

    /// What is noted of the values is what they are.
    fn check_values(&self) -> Result<(), String> {
        let (mut expiry, mut kept) = (BTreeSet::new(), BTreeMap::<u128, (u64, u64)>::new());
        for (raw, bytes) in &self.values {
            expiry.extend(kv::expiry_of(raw, bytes).map_err(|error| error.to_string())?);
            let entry: kv::Entry = codec::decode(bytes).map_err(|error| error.to_string())?;
            let (app, key) = raw.split_first_chunk::<16>().ok_or("a value has no app")?;
            let (keys, weight) = kept.entry(u128::from_be_bytes(*app)).or_default();
            *keys += 1;
            *weight += u64::try_from(key.len() + entry.value.len()).unwrap();
        }
        if expiry != self.expiry {
            return Err(format!("{} values expire, {} are noted", expiry.len(), self.expiry.len()));
        }
        let noted = self.usage.iter().map(|(app, usage)| (*app, (usage.keys, usage.bytes)));
        let noted: BTreeMap<_, _> = noted.filter(|(_, usage)| *usage != (0, 0)).collect();
        if noted == kept { Ok(()) } else { Err(format!("apps keep {kept:?}, noted is {noted:?}")) }
    }
}

#[derive(Default)]
struct Names(BTreeSet<String>);

impl TableVisitor for Names {
    fn table<K: TableKey>(&mut self, table: TableDefinition<'static, K, &'static [u8]>) -> Result<(), Error> {
        self.0.insert(table.name().to_owned());
        Ok(())
    }
}

/// A table that the reference does not know would be one that no cut was tried on.
fn check_tables(txn: &ReadTransaction) -> Result<(), String> {
    let names: BTreeSet<String> =
        txn.list_tables().map_err(|error| error.to_string())?.map(|table| table.name().to_owned()).collect();
    let mut known = Names::default();
    tables::each_table(&mut known).map_err(|error| error.to_string())?;
    let Names(known) = known;
    if known.len() != TABLES {
        return Err(format!("the reference knows {TABLES} tables, the store has {}", known.len()));
    }
    if names == known { Ok(()) } else { Err(format!("the tables are {names:?}, not {known:?}")) }
}

/// The small facts are those that the reference knows, and right.
fn check_meta(mut meta: BTreeMap<String, Vec<u8>>, weights: &Weights) -> Result<(), String> {
    meta.remove(META_CLAIMED);
    if let Some(wear) = meta.remove(META_WEAR) {
        codec::decode::<Wear>(&wear).map_err(|error| error.to_string())?;
    }
    let mut noted = |key| meta.remove(key).map_or(Ok(0), |bytes| number(&bytes));
    let (letters, sources) = (noted(META_DEAD_BYTES)?, noted(META_VERSIONS_BYTES)?);
    if (weights.letters_bytes, weights.versions_bytes) != (letters, sources) {
        return Err(format!("letters and sources are noted with {letters}, {sources} bytes: {weights:?}"));
    }
    if meta.remove(META_SCHEMA) != Some(SCHEMA.to_le_bytes().to_vec()) || !meta.is_empty() {
        return Err(format!("the schema is another, or the reference does not know {:?}", meta.keys()));
    }
    Ok(())
}

fn number(bytes: &[u8]) -> Result<usize, String> {
    let bytes = <[u8; 8]>::try_from(bytes).map_err(|_| "a counter is not eight bytes".to_owned())?;
    usize::try_from(u64::from_le_bytes(bytes)).map_err(|error| error.to_string())
}

fn read_meta(txn: &ReadTransaction) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let table = txn.open_table(META).map_err(|error| error.to_string())?;
    let mut all = BTreeMap::new();
    for entry in table.iter().map_err(|error| error.to_string())? {
        let (key, bytes) = entry.map_err(|error| error.to_string())?;
        all.insert(key.value().to_owned(), bytes.value().to_vec());
    }
    Ok(all)
}

fn read<K>(txn: &ReadTransaction, table: TableDefinition<'_, K, &'static [u8]>) -> Result<Shelf<K>, String>
where
    K: Key + Ord + 'static + for<'a> Value<SelfType<'a> = K>,
{
    let table = txn.open_table(table).map_err(|error| error.to_string())?;
    let mut all = BTreeMap::new();
    for entry in table.iter().map_err(|error| error.to_string())? {
        let (key, bytes) = entry.map_err(|error| error.to_string())?;
        all.insert(key.value(), bytes.value().to_vec());
    }
    Ok(all)
}

/// A table that files of older releases do not have.
fn read_since(
    txn: &ReadTransaction,
    table: TableDefinition<'_, u128, &'static [u8]>,
) -> Result<Shelf<u128>, String> {
    match txn.open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => Ok(Shelf::new()),
        _ => read(txn, table),
    }
}

/// A table whose keys are bytes; empty in files of releases that did not have it.
fn read_bytes(
    txn: &ReadTransaction,
    table: TableDefinition<'_, &'static [u8], &'static [u8]>,
) -> Result<Shelf<Vec<u8>>, String> {
    let table = match txn.open_table(table) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(Shelf::new()),
        opened => opened.map_err(|error| error.to_string())?,
    };
    let mut all = BTreeMap::new();
    for entry in table.iter().map_err(|error| error.to_string())? {
        let (key, bytes) = entry.map_err(|error| error.to_string())?;
        all.insert(key.value().to_vec(), bytes.value().to_vec());
    }
    Ok(all)
}

fn read_usage(txn: &ReadTransaction) -> Result<BTreeMap<u128, Usage>, String> {
    match txn.open_table(KV_USAGE) {
        Err(TableError::TableDoesNotExist(_)) => return Ok(BTreeMap::new()),
        opened => drop(opened.map_err(|error| error.to_string())?),
    }
    let decode = |(app, bytes): (u128, Vec<u8>)| Ok((app, codec::decode(&bytes)?));
    let decoded: Result<_, Error> = read(txn, KV_USAGE)?.into_iter().map(decode).collect();
    decoded.map_err(|error| error.to_string())
}

fn read_log(txn: &ReadTransaction) -> Result<BTreeMap<u64, (BlockHead, Vec<Record>)>, String> {
    let (index, blocks) = (read(txn, LOG_INDEX)?, read(txn, LOG)?);
    if !index.keys().eq(blocks.keys()) {
        return Err(format!("the index of the log has {:?}, the log has {:?}", index.keys(), blocks.keys()));
    }
    if index.keys().zip(index.keys().skip(1)).any(|(number, next)| number + 1 != *next) {
        return Err(format!("the log has gaps: {:?}", index.keys()));
    }
    let mut log = BTreeMap::new();
    for ((number, head), packed) in index.into_iter().zip(blocks.into_values()) {
        let head: BlockHead = codec::decode(&head).map_err(|error| error.to_string())?;
        let raw = log::unpack(&head, &packed).map_err(|error| error.to_string())?;
        let records = log::entries(&raw).map_err(|error| error.to_string())?;
        let records: Vec<Record> = records.into_iter().map(|(id, bytes)| (id, bytes.to_vec())).collect();
        check_head(&head, raw.len(), packed.len(), &records)
            .map_err(|why| format!("block {number}: {why}"))?;
        log.insert(number, (head, records));
    }
    Ok(log)
}

fn check_head(head: &BlockHead, raw: usize, stored: usize, records: &[Record]) -> Result<(), String> {
    let ids = || records.iter().map(|(id, _)| *id);
    let same = usize::try_from(head.count) == Ok(records.len())
        && usize::try_from(head.raw_bytes) == Ok(raw)
        && usize::try_from(head.stored_bytes) == Ok(stored)
        && Some(head.id_min) == ids().min()
        && Some(head.id_max) == ids().max();
    if same { Ok(()) } else { Err(format!("its index entry is wrong: {head:?}")) }
}
