//! Opening the file: the schema is checked, tables are made, and what a crash interrupted is counted.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database, ReadableTable, StorageBackend, TableDefinition, WriteTransaction};
use uuid::Uuid;

use super::backend::{Card, CardMeter};
use super::birth;
use super::budget::Budget;
use super::catalog::Catalog;
use super::codec::{self, Stored};
use super::compact;
use super::kv::Desk;
use super::log::LogTail;
use super::migrate::{self, SCHEMA, STEPS};
use super::retention::{DeadLetters, Sources};
use super::space::{Bounds, Space};
use super::tables::{
    self, APPS, DEAD_LETTERS, DOMAINS, KEYS, META, META_CLAIMED, OUTBOX, ROUTES, SCRIPTS, SESSIONS, TRIGGERS,
    TableKey, TableVisitor, USERS,
};
use super::wear::{self, Wear};
use super::{Error, Recovered};
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
    /// Added to each sync of the card, to see how a slower card would do; for measuring only.
    pub sync_delay: Duration,
    /// Bytes that may be written each day before relaxed changes wait longer and the log is kept shorter; 0: any.
    pub write_budget_bytes_per_day: u64,
    /// Rows the outbox may hold.
    pub outbox_rows_max: u64,
    /// Bytes the outbox may hold, about.
    pub outbox_bytes_max: u64,
    /// Async rows that one app may have in it, where the app says nothing.
    pub app_queue_rows_max: u64,
    /// Bytes of execution records kept, compressed.
    pub log_bytes_max: u64,
    /// Age up to which execution records are kept.
    pub log_age_max: Duration,
    /// Dead letters kept; over it the oldest goes.
    pub dead_letters_max: u64,
    /// Bytes of dead letters kept; over it the oldest goes.
    pub dead_letters_bytes_max: u64,
    /// Age up to which dead letters are kept.
    pub dead_letters_age_max: Duration,
    /// From so many dead letters on somebody should look; 0: never.
    pub dead_letters_alert_at: u64,
    /// Bytes of all versions of all scripts; over it the oldest that is not active goes.
    pub versions_bytes_max: u64,
    /// Age up to which versions that are not active are kept.
    pub versions_age_max: Duration,
    /// Bytes of values that one app keeps, where it says nothing itself.
    pub kv_bytes_max: u64,
    /// Limit of a run that a trigger begins and whose script names none.
    pub timeout_async: Duration,
    /// How much of the card must stay free.
    pub space: Bounds,
}

impl Settings {
    /// The write budget, whose day begins now.
    pub(crate) fn budget(&self, now: Instant) -> Budget {
        Budget::new(self.write_budget_bytes_per_day, self.flush_interval, now)
    }
}

/// What opening found.
pub(crate) struct Opened {
    pub(crate) db: Database,
    pub(crate) catalog: Catalog,
    pub(crate) tail: LogTail,
    pub(crate) recovered: Vec<Recovered>,
    pub(crate) outbox_bytes: u64,
    pub(crate) desk: Desk,
    /// Rows with a unique key: the row, its app, the key.
    pub(crate) unique: Vec<(Uuid, Uuid, String)>,
    pub(crate) letters: DeadLetters,
    pub(crate) sources: Sources,
    pub(crate) latest_id: Uuid,
    pub(crate) wear: Wear,
    pub(crate) meter: Arc<CardMeter>,
    pub(crate) space: Arc<Space>,
    /// How to open another file; `None` on a card that is none.
    pub(crate) cards: Option<Cards>,
}

/// How files of the store are opened.
#[derive(Clone)]
pub(crate) struct Cards {
    cache_bytes: usize,
    sync_delay: Duration,
    meter: Arc<CardMeter>,
    pub(crate) space: Arc<Space>,
}

impl Cards {
    /// The card that holds this file.
    fn card(&self, path: &Path) -> Result<Card, Error> {
        let failed = |why: String| Error::Open { path: path.display().to_string(), why };
        let file = open_private(path).map_err(|error| failed(error.to_string()))?;
        let card = Card::new(file, self.meter.clone(), self.space.clone(), self.sync_delay);
        card.map_err(|error| failed(error.to_string()))
    }

    /// Opens or makes a database in this file.
    pub(crate) fn open(&self, path: &Path) -> Result<Database, Error> {
        open_database(self.card(path)?, self.cache_bytes, path)
    }
}

fn open_database(card: impl StorageBackend, cache_bytes: usize, path: &Path) -> Result<Database, Error> {
    let db = Database::builder().set_cache_size(cache_bytes).create_with_backend(card);
    db.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => Error::InUse(path.display().to_string()),
        other => Error::Open { path: path.display().to_string(), why: other.to_string() },
    })
}

/// Opens or makes the file. Returns once it is consistent and the crash count of interrupted rows is durable.
pub(crate) fn open(settings: &Settings) -> Result<Opened, Error> {
    let failed = |why: String| Error::Open { path: settings.path.display().to_string(), why };
    if let Some(parent) = settings.path.parent() {
        fs::create_dir_all(parent).map_err(|error| failed(error.to_string()))?;
    }
    compact::remove_leftover(&settings.path);
    let meter = Arc::new(CardMeter::default());
    let space = Arc::new(Space::new(settings.path.parent().unwrap_or(Path::new(".")), settings.space));
    let cards = Cards {
        cache_bytes: settings.cache_bytes,
        sync_delay: settings.sync_delay,
        meter: meter.clone(),
        space: space.clone(),
    };
    // Says how it is, sets the reserve aside if there is room, and lets the card keep its blocks if there is none.
    space.full(Instant::now());
    let opened = open_on(cards.card(&settings.path)?, settings, meter, |schema| {
        migrate::put_copy_aside(&settings.path, schema, &space)
    });
    let full = space.full(Instant::now());
    match (opened, full) {
        (Ok(opened), _) => Ok(Opened { space, cards: Some(cards), ..opened }),
        (Err(Error::Open { why, .. } | Error::Card(why)), Some(full)) => {
            Err(failed(format!("{why}: {full}, and start again")))
        }
        (Err(error), _) => Err(error),
    }
}

/// The same on any card: the power-cut tests have their own.
pub(crate) fn open_on(
    card: impl StorageBackend,
    settings: &Settings,
    meter: Arc<CardMeter>,
    before_migration: impl FnOnce(u32) -> Result<(), Error>,
) -> Result<Opened, Error> {
    birth::clear_unfinished(&card)
        .map_err(|error| Error::Open { path: settings.path.display().to_string(), why: error.to_string() })?;
    let db = open_database(card, settings.cache_bytes, &settings.path)?;
    migrate::migrate(&db, &settings.path.display().to_string(), STEPS, before_migration)?;
    let mut txn = db.begin_write()?;
    // The first commit after a start leaves a file that the next start opens without a repair.
    txn.set_quick_repair(true);
    make_tables(&txn)?;
    migrate::set_schema(&txn, SCHEMA)?;
    let Orphans { recovered, unique, outbox_bytes } = recover_outbox(&txn)?;
    let catalog = read_catalog(&txn)?;
    let tail = LogTail::open(&txn, settings)?;
    let desk = Desk::open(&txn)?;
    let letters = DeadLetters::open(&txn, settings)?;
    let sources = Sources::open(&txn, settings)?;
    let latest_id = latest_id(&txn, &catalog, &tail)?;
    let wear = wear::read(&txn)?;
    txn.commit()?;
    Ok(Opened {
        db,
        catalog,
        tail,
        recovered,
        outbox_bytes,
        desk,
        unique,
        letters,
        sources,
        latest_id,
        wear,
        space: Arc::new(Space::boundless()),
        cards: None,
        meter,
    })
}

/// The store holds what only its owner may read.
fn open_private(path: &Path) -> std::io::Result<fs::File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)
}

/// Makes the tables that are not there yet.
pub(crate) fn make_tables(txn: &WriteTransaction) -> Result<(), Error> {
    struct Make<'a>(&'a WriteTransaction);
    impl TableVisitor for Make<'_> {
        fn table<K: TableKey>(
            &mut self,
            definition: TableDefinition<'static, K, &'static [u8]>,
        ) -> Result<(), Error> {
            self.0.open_table(definition)?;
            Ok(())
        }
    }
    tables::each_table(&mut Make(txn))
}

/// Every row in the outbox is an orphan: the process that would have ended it is gone. Rows whose run may have
/// begun get that crash counted here, durably, before anything runs.
fn recover_outbox(txn: &WriteTransaction) -> Result<Orphans, Error> {
    let mut meta = txn.open_table(META)?;
    let claimed = match meta.get(META_CLAIMED)? {
        None => BTreeSet::new(),
        Some(bytes) => bytes.value().as_chunks::<16>().0.iter().map(|id| u128::from_be_bytes(*id)).collect(),
    };
    let mut outbox = txn.open_table(OUTBOX)?;
    let (mut recovered, mut unique) = (Vec::new(), Vec::new());
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
        unique.extend(row.unique.take().map(|key| (row.execution_id, row.app_id, key)));
        recovered.push(Recovered {
            execution_id: row.execution_id,
            app_id: row.app_id,
            trigger_id: row.trigger_id,
            due_at: row.due_at,
            wait_max: Duration::from_millis(row.wait_ms),
            began,
            crashes: row.crashes,
            sync: row.is_sync(),
        });
    }
    for (id, bytes) in crashed {
        outbox.insert(id, bytes.as_slice())?;
    }
    if !claimed.is_empty() {
        meta.insert(META_CLAIMED, [].as_slice())?;
    }
    Ok(Orphans { recovered, unique, outbox_bytes: bytes_total })
}

/// What an earlier process left in the outbox.
struct Orphans {
    recovered: Vec<Recovered>,
    unique: Vec<(Uuid, Uuid, String)>,
    outbox_bytes: u64,
}

/// The latest id in the file: new ones come after it.
fn latest_id(txn: &WriteTransaction, catalog: &Catalog, tail: &LogTail) -> Result<Uuid, Error> {
    let mut latest = tail.latest_id();
    for table in [OUTBOX, DEAD_LETTERS] {
        let last = txn.open_table(table)?.last()?.map(|(id, _)| id.value());
        latest = latest.max(last.unwrap_or(0));
    }
    let in_catalog = [
        catalog.apps.keys().next_back(),
        catalog.domains.keys().next_back(),
        catalog.scripts.keys().next_back(),
        catalog.routes.keys().next_back(),
        catalog.triggers.keys().next_back(),
        catalog.keys.keys().next_back(),
        catalog.users.keys().next_back(),
        catalog.sessions.keys().next_back(),
    ];
    Ok(in_catalog.into_iter().flatten().copied().fold(Uuid::from_u128(latest), |latest, id| latest.max(id)))
}

fn read_catalog(txn: &WriteTransaction) -> Result<Catalog, Error> {
    Ok(Catalog {
        apps: read_table(txn, APPS)?,
        domains: read_table(txn, DOMAINS)?,
        scripts: read_table(txn, SCRIPTS)?,
        routes: read_table(txn, ROUTES)?,
        triggers: read_table(txn, TRIGGERS)?,
        keys: read_table(txn, KEYS)?,
        users: read_table(txn, USERS)?,
        sessions: read_table(txn, SESSIONS)?,
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
