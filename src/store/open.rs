//! Opening the file: the schema is checked, tables are made, and what a crash interrupted is counted.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{
    Database, ReadableTable, ReadableTableMetadata, StorageBackend, TableDefinition, WriteTransaction,
};
use uuid::Uuid;

use super::backend::{Card, CardMeter};
use super::birth;
use super::catalog::Catalog;
use super::codec::{self, Stored};
use super::log::LogTail;
use super::tables::{
    APPS, DEAD_LETTERS, DOMAINS, KEYS, LOG, LOG_INDEX, META, META_CLAIMED, META_DEAD_BYTES, META_SCHEMA,
    OUTBOX, ROUTES, SCHEMA, SCRIPTS, VERSIONS,
};
use super::{Error, writer::Recovered};
use crate::model::Row;

/// Bounds of the store.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The file.
    pub path: PathBuf,
    /// Bytes of pages kept in memory.
    pub cache_bytes: usize,
    /// The longest that a relaxed change stays in memory only.
    pub flush_interval: Duration,
    /// Rows the outbox may hold.
    pub outbox_rows_max: u64,
    /// Bytes the outbox may hold, about.
    pub outbox_bytes_max: u64,
    /// Bytes of execution records kept, compressed.
    pub log_bytes_max: u64,
    /// Age up to which execution records are kept.
    pub log_age_max: Duration,
    /// Dead letters kept; over it the oldest goes.
    pub dead_letters_max: u64,
    /// Bytes of dead letters kept; over it the oldest goes.
    pub dead_letters_bytes_max: u64,
}

/// What opening found.
pub(crate) struct Opened {
    pub(crate) db: Database,
    pub(crate) catalog: Catalog,
    pub(crate) tail: LogTail,
    pub(crate) recovered: Vec<Recovered>,
    pub(crate) outbox_bytes: u64,
    pub(crate) dead_letters: u64,
    pub(crate) dead_letters_bytes: u64,
    pub(crate) meter: Arc<CardMeter>,
}

/// Opens or makes the file. Returns once it is consistent and the crash count of interrupted rows is durable.
pub(crate) fn open(settings: &Settings) -> Result<Opened, Error> {
    let failed = |why: String| Error::Open { path: settings.path.display().to_string(), why };
    if let Some(parent) = settings.path.parent() {
        fs::create_dir_all(parent).map_err(|error| failed(error.to_string()))?;
    }
    let file = open_private(&settings.path).map_err(|error| failed(error.to_string()))?;
    let meter = Arc::new(CardMeter::default());
    let card = Card::new(file, meter.clone()).map_err(|error| failed(error.to_string()))?;
    open_on(card, settings, meter)
}

/// The same on any card: the power-cut tests have their own.
pub(crate) fn open_on(
    card: impl StorageBackend,
    settings: &Settings,
    meter: Arc<CardMeter>,
) -> Result<Opened, Error> {
    birth::clear_unfinished(&card)
        .map_err(|error| Error::Open { path: settings.path.display().to_string(), why: error.to_string() })?;
    let db = Database::builder().set_cache_size(settings.cache_bytes).create_with_backend(card);
    let db = db.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse(settings.path.display().to_string()),
        other => Error::Open { path: settings.path.display().to_string(), why: other.to_string() },
    })?;
    let mut txn = db.begin_write()?;
    // The first commit after a start leaves a file that the next start opens without a repair.
    txn.set_quick_repair(true);
    check_schema(&txn, &settings.path)?;
    make_tables(&txn)?;
    let (recovered, outbox_bytes) = recover_outbox(&txn)?;
    let catalog = read_catalog(&txn)?;
    let tail = LogTail::open(&txn, settings)?;
    let dead_letters = txn.open_table(DEAD_LETTERS)?.len()?;
    let dead_letters_bytes = match txn.open_table(META)?.get(META_DEAD_BYTES)? {
        None => 0,
        Some(bytes) => <[u8; 8]>::try_from(bytes.value()).map(u64::from_le_bytes).map_err(|_| {
            Error::Damaged { what: "weight of the dead letters", why: "it is not eight bytes".into() }
        })?,
    };
    txn.commit()?;
    Ok(Opened { db, catalog, tail, recovered, outbox_bytes, dead_letters, dead_letters_bytes, meter })
}

/// The store holds what only its owner may read.
fn open_private(path: &Path) -> std::io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

fn check_schema(txn: &WriteTransaction, path: &Path) -> Result<(), Error> {
    let mut meta = txn.open_table(META)?;
    let found = match meta.get(META_SCHEMA)? {
        None => None,
        Some(bytes) => {
            let bytes = <[u8; 4]>::try_from(bytes.value())
                .map_err(|_| Error::Damaged { what: "schema version", why: "it is not four bytes".into() })?;
            Some(u32::from_le_bytes(bytes))
        }
    };
    match found {
        Some(found) if found > SCHEMA => {
            Err(Error::NewerSchema { path: path.display().to_string(), found, known: SCHEMA })
        }
        Some(_) => Ok(()),
        None => {
            meta.insert(META_SCHEMA, SCHEMA.to_le_bytes().as_slice())?;
            Ok(())
        }
    }
}

fn make_tables(txn: &WriteTransaction) -> Result<(), Error> {
    for table in [APPS, DOMAINS, SCRIPTS, ROUTES, KEYS, OUTBOX, DEAD_LETTERS] {
        txn.open_table(table)?;
    }
    txn.open_table(VERSIONS)?;
    txn.open_table(LOG)?;
    txn.open_table(LOG_INDEX)?;
    Ok(())
}

/// Every row in the outbox is an orphan: the process that would have ended it is gone. Rows whose run may have
/// begun get that crash counted here, durably, before anything runs.
fn recover_outbox(txn: &WriteTransaction) -> Result<(Vec<Recovered>, u64), Error> {
    let mut meta = txn.open_table(META)?;
    let claimed = match meta.get(META_CLAIMED)? {
        None => BTreeSet::new(),
        Some(bytes) => bytes.value().as_chunks::<16>().0.iter().map(|id| u128::from_be_bytes(*id)).collect(),
    };
    let mut outbox = txn.open_table(OUTBOX)?;
    let mut recovered = Vec::new();
    let mut crashed = Vec::new();
    let mut bytes_total = 0;
    for entry in outbox.iter()? {
        let (id, bytes) = entry?;
        bytes_total += u64::try_from(bytes.value().len()).unwrap_or(u64::MAX);
        let mut row: Row = codec::decode(bytes.value())?;
        // A sync row may have begun as soon as it was accepted; once recovered, it is claimed like the others.
        let began = claimed.contains(&id.value()) || (row.is_sync() && row.crashes == 0);
        if began {
            row.crashes = row.crashes.saturating_add(1);
            row.attempts = row.attempts.saturating_add(1);
            crashed.push((id.value(), codec::encode(&row)));
        }
        let (execution_id, due_at, crashes, sync) =
            (row.execution_id, row.due_at, row.crashes, row.is_sync());
        recovered.push(Recovered { execution_id, due_at, began, crashes, sync });
    }
    for (id, bytes) in crashed {
        outbox.insert(id, bytes.as_slice())?;
    }
    if !claimed.is_empty() {
        meta.insert(META_CLAIMED, [].as_slice())?;
    }
    Ok((recovered, bytes_total))
}

fn read_catalog(txn: &WriteTransaction) -> Result<Catalog, Error> {
    Ok(Catalog {
        apps: read_table(txn, APPS)?,
        domains: read_table(txn, DOMAINS)?,
        scripts: read_table(txn, SCRIPTS)?,
        routes: read_table(txn, ROUTES)?,
        keys: read_table(txn, KEYS)?,
    })
}

type Shelf<T> = Arc<std::collections::BTreeMap<Uuid, Arc<T>>>;

fn read_table<T: Stored>(
    txn: &WriteTransaction,
    table: TableDefinition<'_, u128, &[u8]>,
) -> Result<Shelf<T>, Error> {
    let mut all = std::collections::BTreeMap::new();
    for entry in txn.open_table(table)?.iter()? {
        let (id, bytes) = entry?;
        all.insert(Uuid::from_u128(id.value()), Arc::new(codec::decode(bytes.value())?));
    }
    Ok(Arc::new(all))
}
