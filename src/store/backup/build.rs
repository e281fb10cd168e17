//! A store from a backup: everything is checked before anybody opens it.
//!
//! The rows go into a new file with the schema that the backup has; then it is opened as any file is, so that an
//! older schema is migrated by the same steps, and every row is read once.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redb::{
    Database, Durability, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
    WriteTransaction,
};
use uuid::Uuid;
use zeroize::Zeroizing;

use super::format::{self, Manifest};
use super::{BackupError, space};
use crate::model::{
    App, DeadLetter, Domain, ExecutionRecord, Key, Route, Row, Script, Secret, Session, Trigger, User,
    Version,
};
use crate::store::backend::Card;
use crate::store::codec::{self, Stored};
use crate::store::log::{self, BlockHead};
use crate::store::migrate::{self, STEPS};
use crate::store::tables::{
    self, KEYS, LOG, LOG_INDEX, META, META_CLAIMED, META_DEAD_BYTES, META_DEVICE_KEY, META_SCHEMA,
    META_VERSIONS_BYTES, META_WEAR, SECRETS, TableKey, TableVisitor,
};
use crate::store::wear::Wear;
use crate::store::{DEVICE_KEY_BYTES, Error, SCHEMA, Sealer, Space, Store, kv, open, secrets};

/// Rows that are held before they are written.
const BATCH_BYTES: usize = 2 * 1024 * 1024;
/// Pages kept in memory while the new file is made.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// A store to be made of a backup.
#[derive(Debug)]
pub struct Build {
    /// The file to make; what is there goes.
    pub target: PathBuf,
    /// What of the device goes on.
    pub keep: Keep,
    /// Bytes of the card that stay free.
    pub kept_free_bytes: u64,
}

/// What belongs to the device and not to what it holds: it outlives a restore.
#[derive(Debug, Default)]
pub struct Keep {
    /// Keys that open the restored store even if the backup does not know them.
    pub keys: Vec<Key>,
    /// What the card has taken; `None` if nobody knows: then that of the backup is kept.
    pub wear: Option<Wear>,
    /// What secrets are sealed with anew, if the backup says what they were sealed with.
    pub sealer: Option<Sealer>,
}

impl Keep {
    /// What to keep of `store`: its card's wear, and the keys with one of these hashes or ids; and of the device: its
    /// sealer.
    ///
    /// # Errors
    /// If the store is closed.
    pub fn of(
        store: &Store,
        sealer: Sealer,
        hash: Option<[u8; 32]>,
        id: Option<Uuid>,
    ) -> Result<Keep, Error> {
        let catalog = store.catalog();
        let keys = catalog.keys.values().filter(|key| hash == Some(key.hash) || id == Some(key.id));
        let keys = keys.map(|key| key.as_ref().clone()).collect();
        Ok(Keep { keys, wear: Some(store.wear()), sealer: Some(sealer) })
    }
}

/// Checks all of a backup that can be checked without making a store of it.
///
/// # Errors
/// `Unsound` with what is wrong, or `Failed` if it cannot be read.
pub fn check(file: &mut (impl Read + Seek)) -> Result<Manifest, BackupError> {
    let schema = known(&format::manifest(file)?)?;
    format::unpack(file, |table, key, value| {
        // Rows of an older schema are for the steps that lead from it to read.
        if schema == SCHEMA { check_row(table, key, value).map_err(unsound) } else { Ok(()) }
    })
}

impl Build {
    /// Makes the store, checks it and closes it. After an error there is no file.
    ///
    /// # Errors
    /// `Unsound` with what is wrong with the backup; `Full` or `Failed` if the file cannot be made.
    pub fn run(self, file: &mut (impl Read + Seek)) -> Result<Manifest, BackupError> {
        let target = self.target.clone();
        // A store whose pages contradict each other makes redb panic; of a fresh one nobody expects it.
        let built = catch_unwind(AssertUnwindSafe(|| self.build(file)));
        let built = built.unwrap_or_else(|_| Err(BackupError::Failed("the new store is damaged".into())));
        if built.is_err() {
            // It may not have been made yet.
            let _ = fs::remove_file(&target);
        }
        built
    }

    fn build(self, file: &mut (impl Read + Seek)) -> Result<Manifest, BackupError> {
        let manifest = format::manifest(file)?;
        known(&manifest)?;
        let directory = self.target.parent().unwrap_or(Path::new("."));
        // Pages are about two thirds full, and the last commit needs some twice.
        space::require(directory, manifest.raw_bytes.saturating_mul(2), self.kept_free_bytes)?;
        let fresh = fresh_file(&self.target).map_err(|error| space::refusal("write", directory, &error))?;
        let synced = fresh.try_clone().map_err(|error| space::refusal("write", directory, &error))?;
        let (meter, space) = (Arc::default(), Arc::new(Space::boundless()));
        let card = Card::new(fresh, meter, space, Duration::ZERO).map_err(failed)?;
        let mut db =
            Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(card).map_err(failed)?;
        let mut reseal = Reseal { own: self.keep.sealer.clone(), of_backup: None };
        fill(&db, file, directory, self.kept_free_bytes, &mut reseal)?;
        bring_up(&db, &self.target, self.keep)?;
        let snapshot = db.begin_read().map_err(failed)?;
        tables::each_table(&mut CheckRows(&snapshot)).map_err(unsound)?;
        drop(snapshot);
        // What was committed in parts left pages free between them.
        db.compact().map_err(failed)?;
        if !db.check_integrity().map_err(failed)? {
            return Err(BackupError::Failed("the new store did not come out as it was written".into()));
        }
        drop(db);
        synced.sync_all().map_err(|error| space::refusal("write", directory, &error))?;
        Ok(manifest)
    }
}

/// Refuses what this program cannot know; gives the schema. That the tables are those of the manifest shows later.
fn known(manifest: &Manifest) -> Result<u32, BackupError> {
    if manifest.schema > SCHEMA {
        return Err(BackupError::Unsound(format!(
            "the backup is of PiCloud {} with schema {}, and this one reads up to {SCHEMA}: restore it with a newer PiCloud",
            manifest.version, manifest.schema
        )));
    }
    let names = names()?;
    manifest.tables.keys().try_for_each(|table| known_table(&names, table))?;
    Ok(manifest.schema)
}

fn fresh_file(path: &Path) -> std::io::Result<File> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

fn failed(error: impl std::fmt::Display) -> BackupError {
    BackupError::Failed(format!("the new store cannot be written: {error}"))
}

fn unsound(error: Error) -> BackupError {
    match error {
        Error::Damaged { what, why } => {
            BackupError::Unsound(format!("the backup holds a damaged {what}: {why}"))
        }
        Error::NewerSchema { .. } => BackupError::Unsound(error.to_string()),
        other => failed(other),
    }
}

/// Seals secrets anew while they pass by: the key that they were sealed with is among the first rows, and goes no
/// further.
struct Reseal {
    own: Option<Sealer>,
    of_backup: Option<Sealer>,
}

impl Reseal {
    /// Takes the key out of the rows. True if this was it.
    fn takes_key(&mut self, table: &str, key: &[u8], value: &[u8]) -> Result<bool, BackupError> {
        if table != META.name() || key != META_DEVICE_KEY.as_bytes() {
            return Ok(false);
        }
        check_fact(key, value).map_err(unsound)?;
        self.of_backup = value.try_into().ok().map(|key| Sealer::new(Zeroizing::new(key)));
        Ok(true)
    }

    /// The row as this device can open it. What the backup's device could not open stays as it is.
    fn row(&self, table: &str, key: &[u8], value: &[u8]) -> Result<Option<Vec<u8>>, BackupError> {
        let (Some(own), Some(of_backup)) = (&self.own, &self.of_backup) else { return Ok(None) };
        if table != SECRETS.name() {
            return Ok(None);
        }
        let mut secret: Secret = codec::decode(value).map_err(unsound)?;
        let Some((app, name)) = secrets::parse_key(key) else { return Ok(None) };
        let Ok(plain) = of_backup.open(app, &name, &secret.sealed) else { return Ok(None) };
        secret.sealed = own.seal(app, &name, &plain).map_err(failed)?;
        Ok(Some(codec::encode(&secret)))
    }
}

/// Writes the rows as they come; commits now and then, so that memory is bounded.
fn fill(
    db: &Database,
    file: &mut (impl Read + Seek),
    directory: &Path,
    kept_free_bytes: u64,
    reseal: &mut Reseal,
) -> Result<(), BackupError> {
    let mut batch = Batch { kept_free_bytes, ..Batch::default() };
    let mut schema = None;
    let manifest = format::unpack(file, |table, key, value| {
        if table == META.name() && key == META_SCHEMA.as_bytes() {
            schema = <[u8; 4]>::try_from(value).ok().map(u32::from_le_bytes);
        }
        if reseal.takes_key(table, key, value)? {
            return Ok(());
        }
        if batch.table != table || batch.bytes > BATCH_BYTES {
            batch.write(db, directory)?;
            table.clone_into(&mut batch.table);
        }
        batch.bytes += key.len() + value.len();
        let value = reseal.row(table, key, value)?.unwrap_or_else(|| value.to_vec());
        batch.rows.push((key.to_vec(), value));
        Ok(())
    })?;
    batch.write(db, directory)?;
    if schema != Some(manifest.schema) {
        return Err(BackupError::Unsound("the schema in the rows is not that of the manifest".into()));
    }
    Ok(())
}

/// Rows of one table that are not written yet.
#[derive(Default)]
struct Batch {
    table: String,
    rows: Vec<(Vec<u8>, Vec<u8>)>,
    bytes: usize,
    kept_free_bytes: u64,
}

impl Batch {
    fn write(&mut self, db: &Database, directory: &Path) -> Result<(), BackupError> {
        if self.rows.is_empty() {
            return Ok(());
        }
        space::require(directory, u64::try_from(self.bytes).unwrap_or(u64::MAX), self.kept_free_bytes)?;
        let mut txn = db.begin_write().map_err(failed)?;
        // Nothing of it is promised before the last commit.
        txn.set_durability(Durability::None).map_err(failed)?;
        let mut insert = Insert { txn: &txn, batch: self };
        tables::each_table(&mut insert).map_err(unsound)?;
        txn.commit().map_err(failed)?;
        self.rows.clear();
        self.bytes = 0;
        Ok(())
    }
}

struct Insert<'a> {
    txn: &'a WriteTransaction,
    batch: &'a Batch,
}

impl TableVisitor for Insert<'_> {
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error> {
        if definition.name() != self.batch.table {
            return Ok(());
        }
        let mut table = self.txn.open_table(definition)?;
        for (key, value) in &self.batch.rows {
            let key = K::read(key).ok_or_else(|| odd_key(definition.name(), key))?;
            table.insert(key, value.as_slice())?;
        }
        Ok(())
    }
}

/// What an ordinary opening does, and what must go on.
fn bring_up(db: &Database, path: &Path, keep: Keep) -> Result<(), BackupError> {
    // The backup itself is the copy of how it was before.
    migrate::migrate(db, &path.display().to_string(), STEPS, |_| Ok(())).map_err(unsound)?;
    let mut txn = db.begin_write().map_err(failed)?;
    txn.set_quick_repair(true);
    open::make_tables(&txn).map_err(unsound)?;
    add_keys(&txn, keep.keys).map_err(unsound)?;
    if let Some(wear) = keep.wear {
        let mut meta = txn.open_table(META).map_err(failed)?;
        meta.insert(META_WEAR, codec::encode(&wear).as_slice()).map_err(failed)?;
    }
    txn.commit().map_err(failed)
}

/// Adds the keys that are missing, under names that are free.
fn add_keys(txn: &WriteTransaction, keys: Vec<Key>) -> Result<(), Error> {
    let mut table = txn.open_table(KEYS)?;
    let mut known = Vec::new();
    for entry in table.iter()? {
        known.push(codec::decode::<Key>(entry?.1.value())?);
    }
    for mut key in keys {
        if known.iter().any(|other| other.hash == key.hash) {
            continue;
        }
        if known.iter().any(|other| other.id == key.id) {
            key.id = Uuid::now_v7();
        }
        let mut number = 1;
        while known.iter().any(|other| other.name == key.name) {
            number += 1;
            // A number of names larger than that of the keys has a free one among them.
            key.name = format!("kept over a restore {number}")
                .parse()
                .map_err(|why| Error::Damaged { what: "key", why: format!("{why}") })?;
        }
        table.insert(key.id.as_u128(), codec::encode(&key).as_slice())?;
        known.push(key);
    }
    Ok(())
}

struct Names(BTreeSet<String>);

impl TableVisitor for Names {
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error> {
        self.0.insert(definition.name().to_owned());
        Ok(())
    }
}

/// Every table that this program knows.
fn names() -> Result<Names, Error> {
    let mut names = Names(BTreeSet::new());
    tables::each_table(&mut names)?;
    Ok(names)
}

fn known_table(names: &Names, table: &str) -> Result<(), BackupError> {
    if names.0.contains(table) {
        return Ok(());
    }
    let why = format!("the backup holds a table {table:?}, which no PiCloud of its schema has");
    Err(BackupError::Unsound(why))
}

struct CheckRows<'a>(&'a ReadTransaction);

impl TableVisitor for CheckRows<'_> {
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error> {
        for entry in self.0.open_table(definition)?.iter()? {
            let (key, value) = entry?;
            check_row(definition.name(), &K::write(&key.value()), value.value())?;
        }
        if definition.name() == LOG_INDEX.name() { check_log(self.0) } else { Ok(()) }
    }
}

/// Whether a row can be read, and is the one that its key says.
fn check_row(table: &str, key: &[u8], value: &[u8]) -> Result<(), Error> {
    let checked = match table {
        "meta" => check_fact(key, value),
        "apps" => check_id(key, value, |app: &App| app.id),
        "domains" => check_id(key, value, |domain: &Domain| domain.id),
        "scripts" => check_id(key, value, |script: &Script| script.id),
        "versions" => check_version(key, value),
        "routes" => check_id(key, value, |route: &Route| route.id),
        "keys" => check_id(key, value, |key: &Key| key.id),
        "users" => check_id(key, value, |user: &User| user.id),
        "sessions" => check_id(key, value, |session: &Session| session.id),
        "outbox" => check_id(key, value, |row: &Row| row.execution_id),
        "dead_letters" => check_id(key, value, |letter: &DeadLetter| letter.id),
        "triggers" => check_id(key, value, |trigger: &Trigger| trigger.id),
        // When a schedule last struck is looked at by who reads it: without it, it strikes anew.
        "ticks" => Ok(()),
        "kv" => codec::decode::<kv::Entry>(value).and_then(|_| check_kv_key(key)),
        "kv_usage" => codec::decode::<kv::Usage>(value).map(drop),
        "kv_expiry" => check_kv_key(key.get(8..).unwrap_or_default()),
        "secrets" => check_secret(key, value),
        "log_index" => codec::decode::<BlockHead>(value).map(drop),
        // Its blocks are checked with their index.
        "log" => Ok(()),
        other => Err(Error::Damaged { what: "table", why: format!("nobody reads {other:?}") }),
    };
    checked.map_err(|error| match error {
        Error::Damaged { what, why } => {
            Error::Damaged { what, why: format!("{why} (table {table}, key {})", format::hex(key)) }
        }
        other => other,
    })
}

fn check_id<T: Stored>(key: &[u8], value: &[u8], id: impl Fn(&T) -> Uuid) -> Result<(), Error> {
    let found = id(&codec::decode::<T>(value)?);
    if found.as_bytes() == key {
        return Ok(());
    }
    Err(Error::Damaged { what: T::WHAT, why: format!("it says that it is {found}") })
}

fn check_version(key: &[u8], value: &[u8]) -> Result<(), Error> {
    let version: Version = codec::decode(value)?;
    match <(u128, u32)>::read(key) {
        Some((_, number)) if number == version.version => Ok(()),
        _ => Err(Error::Damaged { what: Version::WHAT, why: format!("it says {}", version.version) }),
    }
}

fn check_kv_key(key: &[u8]) -> Result<(), Error> {
    let short = || Error::Damaged { what: "kv key", why: "it names no app".into() };
    kv::key_of(key.get(16..).ok_or_else(short)?).map(drop)
}

fn check_secret(key: &[u8], value: &[u8]) -> Result<(), Error> {
    codec::decode::<Secret>(value)?;
    let nameless = || Error::Damaged { what: Secret::WHAT, why: "its name cannot be read".into() };
    secrets::parse_key(key).map(drop).ok_or_else(nameless)
}

fn check_fact(key: &[u8], value: &[u8]) -> Result<(), Error> {
    let sound = match std::str::from_utf8(key) {
        Ok(META_SCHEMA) => value.len() == 4,
        Ok(META_DEAD_BYTES | META_VERSIONS_BYTES) => value.len() == 8,
        Ok(META_DEVICE_KEY) => value.len() == DEVICE_KEY_BYTES,
        Ok(META_CLAIMED) => value.len().is_multiple_of(16),
        // A fact that nobody asks for does no harm.
        _ => true,
    };
    if sound {
        return Ok(());
    }
    Err(Error::Damaged { what: "fact", why: format!("it has {} bytes", value.len()) })
}

/// Reads every record of the log. A damaged block is passed over, as it was in the store it came from: it is no
/// reason to be left without the rest.
fn check_log(txn: &ReadTransaction) -> Result<(), Error> {
    let blocks = txn.open_table(LOG)?;
    for entry in txn.open_table(LOG_INDEX)?.iter()? {
        let (number, head) = entry?;
        let head: BlockHead = codec::decode(head.value())?;
        let packed = blocks.get(number.value())?;
        if let Err(error) = check_block(&head, packed.as_ref().map_or(&[], |packed| packed.value())) {
            tracing::warn!(block = number.value(), %error, "a block of the restored execution log is damaged");
        }
    }
    Ok(())
}

fn check_block(head: &BlockHead, packed: &[u8]) -> Result<(), Error> {
    for (_, record) in log::entries(&log::unpack(head, packed)?)? {
        codec::decode::<ExecutionRecord<'static>>(record)?;
    }
    Ok(())
}

fn odd_key(table: &str, key: &[u8]) -> Error {
    Error::Damaged { what: "key", why: format!("{} (table {table})", format::hex(key)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_a_check() {
        for table in names().unwrap().0 {
            if let Err(Error::Damaged { what, .. }) = check_row(&table, b"", b"") {
                assert_ne!(what, "table", "nobody checks the rows of {table}");
            }
        }
    }
}
