//! From an older schema to this one: one step at a time, each with its version bump in one commit.
//!
//! A cut between two steps leaves a file of the schema between them, and the next start goes on from there.
//! Before the first step the caller gets the chance to put a copy of the file aside. A file of a newer schema is
//! refused: what it means is not known here.

use std::fs;
use std::path::{Path, PathBuf};

use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, TableError, WriteTransaction};

use super::Error;
use super::backup;
use super::codec::{self, Stored};
use super::space::Space;
use super::tables::{
    APPS, DEAD_LETTERS, DOMAINS, META, META_DEAD_BYTES, META_SCHEMA, META_VERSIONS_BYTES, OUTBOX, VERSIONS,
};
use crate::model::{App, DeadLetter, Domain, Row};

/// Changes the tables of one schema into those of the next. The bump is not its business.
pub(crate) type Step = fn(&WriteTransaction) -> Result<(), Error>;

/// The first leads from schema 1 to 2, and so on.
pub(crate) const STEPS: &[Step] =
    &[rows_know_their_age, rows_know_their_trigger, rows_know_their_client, people_log_in];

/// The schema this program writes. A file with a greater one is refused.
#[allow(clippy::as_conversions, reason = "a handful of steps")]
pub const SCHEMA: u32 = STEPS.len() as u32 + 1;

/// Pages kept in memory while a file is only looked at.
const CACHE_BYTES: usize = 1024 * 1024;

/// Brings a file to this program's schema. `before` is called once, with the file's schema, if there is anything
/// to do. A new file gets its schema with its tables, later.
pub(crate) fn migrate(
    db: &Database,
    path: &str,
    steps: &[Step],
    before: impl FnOnce(u32) -> Result<(), Error>,
) -> Result<(), Error> {
    let known = schema_after(steps.len());
    let Some(found) = schema(db)? else { return Ok(()) };
    if found > known {
        return Err(Error::NewerSchema { path: path.to_owned(), found, known });
    }
    let done = usize::try_from(found.saturating_sub(1)).unwrap_or(usize::MAX);
    let Some(left) = steps.get(done..).filter(|left| !left.is_empty()) else { return Ok(()) };
    before(found)?;
    for (number, step) in (done + 1..).zip(left) {
        let mut txn = db.begin_write()?;
        txn.set_quick_repair(true);
        step(&txn)?;
        set_schema(&txn, schema_after(number))?;
        txn.commit()?;
        tracing::info!(schema = schema_after(number), "the store was brought to the next schema");
    }
    Ok(())
}

/// A copy of the file as it was before this program changes its schema, for whoever wants to go back. The next
/// migration from that schema replaces it.
pub(crate) fn put_copy_aside(path: &Path, schema: u32, space: &Space) -> Result<(), Error> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".schema-{schema}"));
    let copy = PathBuf::from(name);
    let partial = copy.with_extension("partial");
    let failed = |error: std::io::Error| Error::Open {
        path: path.display().to_string(),
        why: format!(
            "before its schema is changed a copy is made, {}, and that failed: {error}; make room and start again",
            copy.display()
        ),
    };
    let copied = || -> std::io::Result<()> {
        if space.room_bytes() < fs::metadata(path)?.len() {
            return Err(std::io::Error::other("the card would be full then"));
        }
        fs::copy(path, &partial)?;
        fs::File::open(&partial)?.sync_all()?;
        fs::rename(&partial, &copy)?;
        backup::sync_directory(path.parent().unwrap_or(Path::new("")))
    };
    copied().inspect_err(|_| drop(fs::remove_file(&partial))).map_err(failed)?;
    tracing::info!("the store has an older schema; it was copied to {} first", copy.display());
    Ok(())
}

fn schema_after(steps: usize) -> u32 {
    u32::try_from(steps).unwrap_or(u32::MAX).saturating_add(1)
}

/// The schema of a file; `None` if it is new.
pub(crate) fn schema(db: &Database) -> Result<Option<u32>, Error> {
    let txn = db.begin_read()?;
    let meta = match txn.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let Some(bytes) = meta.get(META_SCHEMA)? else { return Ok(None) };
    let bytes = <[u8; 4]>::try_from(bytes.value())
        .map_err(|_| Error::Damaged { what: "schema version", why: "it is not four bytes".into() })?;
    match u32::from_le_bytes(bytes) {
        0 => Err(Error::Damaged { what: "schema version", why: "it is 0".into() }),
        found => Ok(Some(found)),
    }
}

/// The schema of a file that nobody has open; `None` if there is no file, or nothing is in it.
///
/// # Errors
/// If it cannot be opened.
pub fn schema_of(path: &Path) -> Result<Option<u32>, Error> {
    if !path.exists() {
        return Ok(None);
    }
    let opened = Database::builder().set_cache_size(CACHE_BYTES).open(path);
    let db =
        opened.map_err(|error| Error::Open { path: path.display().to_string(), why: error.to_string() })?;
    schema(&db)
}

/// Writes down which schema the tables have.
pub(crate) fn set_schema(txn: &WriteTransaction, schema: u32) -> Result<(), Error> {
    txn.open_table(META)?.insert(META_SCHEMA, schema.to_le_bytes().as_slice())?;
    Ok(())
}

/// 1 to 2: rows, also those in dead letters, carry their age and their wait, so that no step of the wall clock
/// makes them old; and the weight of all sources is kept, which bounds them.
fn rows_know_their_age(txn: &WriteTransaction) -> Result<(), Error> {
    rewrite::<Row>(txn, OUTBOX)?;
    let letters = rewrite::<DeadLetter>(txn, DEAD_LETTERS)?;
    let mut sources = 0;
    for entry in txn.open_table(VERSIONS)?.iter()? {
        sources += u64::try_from(entry?.1.value().len()).unwrap_or(u64::MAX);
    }
    let mut meta = txn.open_table(META)?;
    meta.insert(META_DEAD_BYTES, letters.to_le_bytes().as_slice())?;
    meta.insert(META_VERSIONS_BYTES, sources.to_le_bytes().as_slice())?;
    Ok(())
}

/// 2 to 3: rows carry the trigger that made them, and apps their limits and what their scripts may call. The tables of scripts' values are made with
/// all others.
fn rows_know_their_trigger(txn: &WriteTransaction) -> Result<(), Error> {
    rewrite::<App>(txn, APPS)?;
    rewrite::<Row>(txn, OUTBOX)?;
    let letters = rewrite::<DeadLetter>(txn, DEAD_LETTERS)?;
    txn.open_table(META)?.insert(META_DEAD_BYTES, letters.to_le_bytes().as_slice())?;
    Ok(())
}

/// 3 to 4: rows carry where their request came from, and domains where their certificate does.
fn rows_know_their_client(txn: &WriteTransaction) -> Result<(), Error> {
    rewrite::<Domain>(txn, DOMAINS)?;
    rewrite::<Row>(txn, OUTBOX)?;
    let letters = rewrite::<DeadLetter>(txn, DEAD_LETTERS)?;
    txn.open_table(META)?.insert(META_DEAD_BYTES, letters.to_le_bytes().as_slice())?;
    Ok(())
}

/// 4 to 5: there are users and sessions. Their tables are made with all others; an older program, which does not know
/// them, would leave them out of its backups.
fn people_log_in(_: &WriteTransaction) -> Result<(), Error> {
    Ok(())
}

/// Writes each row of a table as it is written today. Gives their bytes.
fn rewrite<T: Stored>(
    txn: &WriteTransaction,
    definition: TableDefinition<'_, u128, &[u8]>,
) -> Result<u64, Error> {
    let mut table = txn.open_table(definition)?;
    let (mut after, mut weight) = (None, 0);
    loop {
        // A cursor does not survive the changes, so each row is looked up from the one before it.
        let from = after.map_or(Some(0), |id: u128| id.checked_add(1));
        let Some(from) = from else { return Ok(weight) };
        let (id, today) = match table.range(from..)?.next() {
            None => return Ok(weight),
            Some(entry) => {
                let (id, bytes) = entry?;
                (id.value(), codec::encode(&codec::decode::<T>(bytes.value())?))
            }
        };
        table.insert(id, today.as_slice())?;
        weight += u64::try_from(today.len()).unwrap_or(u64::MAX);
        after = Some(id);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use redb::backends::InMemoryBackend;

    use super::*;

    fn empty(schema: u32) -> Database {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = db.begin_write().unwrap();
        set_schema(&txn, schema).unwrap();
        txn.commit().unwrap();
        db
    }

    fn mark(txn: &WriteTransaction, step: &str) -> Result<(), Error> {
        txn.open_table(META)?.insert(step, [].as_slice())?;
        Ok(())
    }

    const FAILS: Step = |_| Err(Error::Closed);
    const THREE: &[Step] = &[|txn| mark(txn, "1"), |txn| mark(txn, "2"), |txn| mark(txn, "3")];

    #[track_caller]
    fn check(db: &Database, steps: &[Step], after: u32, made: &[&str], copied: Option<u32>) {
        let copy = Cell::new(None);
        let _ = migrate(db, "file", steps, |schema| {
            copy.set(Some(schema));
            Ok(())
        });
        assert_eq!((schema(db).unwrap(), copy.get()), (Some(after), copied));
        let meta = db.begin_read().unwrap().open_table(META).unwrap();
        let found: Vec<&str> =
            ["1", "2", "3"].into_iter().filter(|step| meta.get(*step).unwrap().is_some()).collect();
        assert_eq!(found, made);
    }

    #[test]
    fn each_step_is_made_once_and_in_order() {
        check(&empty(1), THREE, 4, &["1", "2", "3"], Some(1));
        check(&empty(3), THREE, 4, &["3"], Some(3));
        check(&empty(4), THREE, 4, &[], None);
    }

    #[test]
    fn what_was_interrupted_goes_on_where_it_stopped() {
        let db = empty(1);
        check(&db, &[THREE[0], FAILS, THREE[2]], 2, &["1"], Some(1));
        check(&db, THREE, 4, &["1", "2", "3"], Some(2));
    }

    #[test]
    fn without_its_copy_nothing_is_changed() {
        let db = empty(1);
        migrate(&db, "file", THREE, |_| Err(Error::Closed)).unwrap_err();
        assert_eq!(schema(&db).unwrap(), Some(1));
    }

    #[test]
    fn a_newer_file_is_refused_and_a_new_one_is_left() {
        let refused = migrate(&empty(5), "file", THREE, |_| Ok(())).unwrap_err();
        assert!(matches!(refused, Error::NewerSchema { found: 5, known: 4, .. }), "{refused}");
        let new = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        migrate(&new, "file", THREE, |_| Ok(())).unwrap();
        assert_eq!(schema(&new).unwrap(), None);
        assert!(matches!(schema(&empty(0)), Err(Error::Damaged { .. })));
    }
}
