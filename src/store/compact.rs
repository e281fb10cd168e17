//! Making the file small again while it serves.
//!
//! redb's own compaction stops everything for as long as it takes. Here a thread copies what the store holds into
//! a new file, from one snapshot after the other: the first pass copies all, each further one only what changed
//! meanwhile. When a pass was quick, the writer makes the last one between two batches, and the new file takes the
//! old one's place. Commits wait for that last pass, which does what the quick one did: it reads the outbox, and of
//! the rest what changed, in about [`PAUSE_MAX`], and syncs twice. Readers never wait: who reads the old file goes
//! on reading it.
//!
//! A file of redb grows by doubling, so that half of it is often free and would be so again at once. It is worth
//! a copy when the copy, doubled, is still a quarter smaller.
//!
//! A cut at any point leaves one of the two files in place, whole, and both hold what was promised.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{
    AtomicBool, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::{
    Database, ReadOnlyTable, ReadTransaction, ReadableDatabase, ReadableTable, ReadableTableMetadata, Table,
    TableDefinition, TableHandle, WriteTransaction,
};

use uuid::Uuid;

use super::Error;
use super::backup;
use super::kv;
use super::open::Cards;
use super::tables::{
    self, DEAD_LETTERS, KV, KV_EXPIRY, KV_USAGE, LOG, LOG_INDEX, META, OUTBOX, TICKS, TableKey, TableVisitor,
};
use crate::model::KvKey;

/// A file smaller than this is not worth it.
const FILE_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// The last pass is made when the one before it took no longer.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Passes until it is given up: the box is not idle after all.
const PASSES_MAX: usize = 8;
/// Between two looks at the file, each of which may read all of it. Twice as long after each that gained nothing.
const LOOK_EVERY: Duration = Duration::from_secs(3600);
/// Up to this.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(24 * 3600);

/// How often tables changed that are large and rarely change; counted after the commit.
#[derive(Debug, Default)]
pub(crate) struct Revisions {
    /// Apps, domains, scripts, versions, routes and keys.
    pub(crate) setup: AtomicU64,
    /// Dead letters.
    pub(crate) letters: AtomicU64,
    /// Values that changed while a copy is made; `None` if nobody asks.
    touched: Mutex<Option<Touched>>,
}

/// Keys of the KV's table; too many to be worth it are not kept.
#[derive(Debug, Default)]
struct Touched {
    keys: BTreeSet<Vec<u8>>,
    too_many: bool,
}

/// More touched keys than this are not remembered: the pass then compares all of them.
const TOUCHED_MAX: usize = 100_000;

/// What a pass saw of them. It is read before the pass takes its snapshot, so that what it misses is counted later.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    setup: u64,
    letters: u64,
}

impl Revisions {
    fn read(&self) -> Seen {
        Seen { setup: self.setup.load(SeqCst), letters: self.letters.load(SeqCst) }
    }

    /// Counts values that a commit changed.
    pub(crate) fn touch<'k>(&self, app: Uuid, keys: impl Iterator<Item = &'k KvKey>) {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(touched) = &mut *touched else { return };
        for key in keys {
            touched.too_many |= touched.keys.len() >= TOUCHED_MAX;
            if !touched.too_many {
                touched.keys.insert(kv::raw_key(app, key.as_str()));
            }
        }
    }

    /// The values that changed since the pass before, which are remembered from now on. `None`: nobody knows.
    fn take_touched(&self) -> Option<BTreeSet<Vec<u8>>> {
        let mut touched = self.touched.lock().unwrap_or_else(PoisonError::into_inner);
        touched.replace(Touched::default()).filter(|touched| !touched.too_many).map(|touched| touched.keys)
    }

    /// No copy is made any more.
    fn forget_touched(&self) {
        *self.touched.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

type Made = Result<Option<Copy>, Error>;

/// The writer's view of it.
pub(crate) struct Compaction {
    path: PathBuf,
    /// `None` on a card that is no file.
    cards: Option<Cards>,
    looked_at: Option<Instant>,
    rest: Duration,
    revisions: Arc<Revisions>,
    closing: Arc<AtomicBool>,
    copying: Option<(Receiver<Made>, JoinHandle<()>)>,
}

impl Compaction {
    /// Of this file.
    pub(crate) fn new(path: PathBuf, cards: Option<Cards>, revisions: Arc<Revisions>) -> Compaction {
        let (closing, copying) = (Arc::default(), None);
        Compaction { path, cards, looked_at: None, rest: LOOK_EVERY, revisions, closing, copying }
    }

    /// Begins a copy if that is worth it and the card has room for one; `wake` is called when it is there. `live_bytes`
    /// is what the store knows to be in it: only if that leaves hope is the file itself asked, at most once an hour.
    pub(crate) fn consider(
        &mut self,
        db: &Arc<Database>,
        live_bytes: u64,
        wake: impl FnOnce() + Send + 'static,
    ) {
        let Some(cards) = self.cards.clone().filter(|_| self.copying.is_none()) else { return };
        let file_bytes = length(&self.path);
        let rested = self.looked_at.is_none_or(|at| at.elapsed() >= self.rest);
        if file_bytes < FILE_BYTES_MIN || !is_worth_it(file_bytes, live_bytes) || !rested {
            return;
        }
        self.looked_at = Some(Instant::now());
        // Until it has gained something.
        self.rest = self.rest.saturating_mul(2).min(LOOK_EVERY_MAX);
        let (db, path) = (db.clone(), self.path.clone());
        let (closing, revisions) = (self.closing.clone(), self.revisions.clone());
        let (tell, told) = mpsc::channel();
        let copy = move || {
            // Nobody listens any more if the house closes.
            drop(tell.send(Copy::make(&db, &path, &cards, &revisions, &closing)));
            drop(db);
            wake();
        };
        // Without a thread the file stays as it is, and is looked at again.
        let thread = thread::Builder::new().name("store-compact".into()).spawn(copy);
        self.copying = thread.ok().map(|thread| (told, thread));
    }

    /// Lets a finished copy take over from `db`. An error is the card's.
    pub(crate) fn finish(&mut self, db: &Database) -> Result<Option<Arc<Database>>, Error> {
        let was_copying = self.copying.is_some();
        let finished = self.take_finished(db);
        if was_copying && self.copying.is_none() {
            self.revisions.forget_touched();
        }
        finished
    }

    fn take_finished(&mut self, db: &Database) -> Result<Option<Arc<Database>>, Error> {
        let made = match self.copying.as_ref().map(|(told, _)| told.try_recv()) {
            None | Some(Err(TryRecvError::Empty)) => return Ok(None),
            Some(Ok(made)) => made,
            // The thread panicked, which is in the log; the store itself was only read.
            Some(Err(TryRecvError::Disconnected)) => Ok(None),
        };
        self.copying = None;
        let copy = match made {
            Ok(Some(copy)) => copy,
            Ok(None) => return Ok(None),
            Err(error) => {
                tracing::warn!(%error, "the store could not be compacted");
                return Ok(None);
            }
        };
        let before_bytes = length(&self.path);
        if length(&copy.path) > before_bytes / 4 * 3 {
            remove_leftover(&self.path);
            return Ok(None);
        }
        let db = match copy.take_over(db, &self.path, &self.revisions) {
            Ok(db) => db,
            Err(error) => {
                tracing::warn!(%error, "the store could not be compacted");
                return Ok(None);
            }
        };
        sync_directory(&self.path)?;
        self.rest = LOOK_EVERY;
        let after_bytes = length(&self.path);
        tracing::info!(before_bytes, after_bytes, "the store was compacted");
        Ok(Some(db))
    }

    /// Gives a copy under way up.
    pub(crate) fn stop(&mut self) {
        self.closing.store(true, Relaxed);
        if let Some((_, thread)) = self.copying.take() {
            // Whatever became of it, nobody wants it any more.
            drop(thread.join());
            remove_leftover(&self.path);
        }
    }
}

fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |file| file.len())
}

/// Whether a copy of what is used, once it has grown, is a quarter smaller than the file.
fn is_worth_it(file_bytes: u64, used_bytes: u64) -> bool {
    used_bytes.saturating_mul(2) <= file_bytes / 4 * 3
}

/// Bytes of pages in use. Reads the file.
fn used_bytes(snapshot: &ReadTransaction) -> Result<u64, Error> {
    struct Used<'a>(&'a ReadTransaction, u64);
    impl TableVisitor for Used<'_> {
        fn table<K: TableKey>(
            &mut self,
            definition: TableDefinition<'static, K, &'static [u8]>,
        ) -> Result<(), Error> {
            let stats = self.0.open_table(definition)?.stats()?;
            self.1 += stats.stored_bytes() + stats.metadata_bytes() + stats.fragmented_bytes();
            Ok(())
        }
    }
    let mut used = Used(snapshot, 0);
    tables::each_table(&mut used)?;
    Ok(used.1)
}

/// A copy that was equal to the file a moment ago.
pub(crate) struct Copy {
    db: Database,
    path: PathBuf,
    seen: Option<Seen>,
}

impl Copy {
    /// Copies what `source` holds to a file beside `path`, until one pass is quick. `None` if it is not worth it, no
    /// pass was quick, the card has no room, or the house closes.
    fn make(
        source: &Database,
        path: &Path,
        cards: &Cards,
        revisions: &Revisions,
        closing: &AtomicBool,
    ) -> Made {
        let (file_bytes, used_bytes) = (length(path), used_bytes(&source.begin_read()?)?);
        if !is_worth_it(file_bytes, used_bytes) {
            return Ok(None);
        }
        if cards.space.room_bytes() < used_bytes.saturating_mul(2) {
            tracing::info!(file_bytes, used_bytes, "the card has no room to compact the store");
            return Ok(None);
        }
        remove_leftover(path);
        let made = Copy::pass_until_quick(source, &beside(path), cards, revisions, closing);
        if !matches!(made, Ok(Some(_))) {
            remove_leftover(path);
        }
        made
    }

    fn pass_until_quick(
        source: &Database,
        new: &Path,
        cards: &Cards,
        revisions: &Revisions,
        closing: &AtomicBool,
    ) -> Made {
        let mut seen = None;
        // Closing it after the bulk trims what its growth left over.
        pass(source, &cards.open(new)?, revisions, &mut seen, closing)?;
        let db = cards.open(new)?;
        for _ in 1..PASSES_MAX {
            let began = Instant::now();
            if closing.load(Relaxed) {
                return Ok(None);
            }
            pass(source, &db, revisions, &mut seen, closing)?;
            if began.elapsed() <= PAUSE_MAX {
                return Ok(Some(Copy { db, path: new.to_owned(), seen }));
            }
        }
        Ok(None)
    }

    /// The last pass, and the new file in the old one's place. The writer calls it between two batches. An error
    /// leaves the old file where it was.
    fn take_over(
        self,
        source: &Database,
        path: &Path,
        revisions: &Revisions,
    ) -> Result<Arc<Database>, Error> {
        let Copy { db, path: new, mut seen } = self;
        pass(source, &db, revisions, &mut seen, &AtomicBool::new(false))
            .inspect_err(|_| remove_leftover(path))?;
        fs::rename(&new, path)
            .inspect_err(|_| remove_leftover(path))
            .map_err(|error| failed(path, &error))?;
        Ok(Arc::new(db))
    }
}

/// Makes the new name last. Once this failed nobody knows which of the two files a power cut would leave.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    let synced = backup::sync_directory(path.parent().unwrap_or(Path::new("")));
    synced.map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &std::io::Error) -> Error {
    Error::Card(format!("{}: {error}", path.display()))
}

/// The name of a copy under way.
fn beside(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".compact");
    PathBuf::from(name)
}

/// What an interrupted copy left; nobody ever reads it.
pub(crate) fn remove_leftover(path: &Path) {
    // There is rarely one, and one that stays is only in the way.
    let _ = fs::remove_file(beside(path));
}

/// Makes `target` hold what `source` holds now, in one durable commit. `seen` is what the pass before this saw.
pub(crate) fn pass(
    source: &Database,
    target: &Database,
    revisions: &Revisions,
    seen: &mut Option<Seen>,
    closing: &AtomicBool,
) -> Result<(), Error> {
    let (before, now) = (seen.take(), revisions.read());
    // Before the snapshot: what is committed in between is both in it and remembered for the next pass.
    let touched = revisions.take_touched().filter(|_| before.is_some());
    let from = source.begin_read()?;
    let mut to = target.begin_write()?;
    to.set_quick_repair(true);
    tables::each_table(&mut Level { from: &from, to: &to, before, now, touched, closing })?;
    to.commit()?;
    *seen = Some(now);
    Ok(())
}

/// Makes every table of `to` equal to that of `from`.
struct Level<'a> {
    from: &'a ReadTransaction,
    to: &'a WriteTransaction,
    before: Option<Seen>,
    now: Seen,
    /// Values that changed since the pass before; `None` after none.
    touched: Option<BTreeSet<Vec<u8>>>,
    closing: &'a AtomicBool,
}

impl Level<'_> {
    /// Whether the table is as the pass before this left it.
    fn is_level(&self, table: &str) -> bool {
        let Some(before) = self.before else { return false };
        let changing = [META.name(), OUTBOX.name(), LOG.name(), LOG_INDEX.name(), TICKS.name()];
        if changing.contains(&table) || [KV.name(), KV_EXPIRY.name(), KV_USAGE.name()].contains(&table) {
            return false;
        }
        if table == DEAD_LETTERS.name() {
            before.letters == self.now.letters
        } else {
            before.setup == self.now.setup
        }
    }

    fn go_on(&self) -> Result<(), Error> {
        if self.closing.load(Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }

    /// The log loses blocks at the front and gains them at the end, and none ever changes.
    fn log<K: TableKey>(&self, old: &Old<K>, new: &mut New<'_, K>) -> Result<(), Error> {
        loop {
            let gone = match new.first()? {
                Some((key, _)) => old.get(key.value())?.is_none(),
                None => false,
            };
            if !gone {
                break;
            }
            new.pop_first()?;
        }
        for entry in old.iter()?.rev() {
            self.go_on()?;
            let (key, value) = entry?;
            if new.get(key.value())?.is_some() {
                break;
            }
            new.insert(key.value(), value.value())?;
        }
        Ok(())
    }

    /// Values that changed, and their places among those that expire.
    fn values(&self, touched: &BTreeSet<Vec<u8>>) -> Result<(), Error> {
        let (old, mut new) = (self.from.open_table(KV)?, self.to.open_table(KV)?);
        let mut expiry = self.to.open_table(KV_EXPIRY)?;
        for key in touched {
            self.go_on()?;
            let now = old.get(key.as_slice())?;
            let before = match &now {
                Some(now) => new.insert(key.as_slice(), now.value())?,
                None => new.remove(key.as_slice())?,
            };
            if let Some(at) = before.map(|before| kv::expiry_of(key, before.value())).transpose()?.flatten() {
                expiry.remove(at.as_slice())?;
            }
            if let Some(at) = now.map(|now| kv::expiry_of(key, now.value())).transpose()?.flatten() {
                expiry.insert(at.as_slice(), [].as_slice())?;
            }
        }
        Ok(())
    }

    fn rows<K: TableKey>(&self, old: &Old<K>, new: &mut New<'_, K>) -> Result<(), Error> {
        let mut broken = Ok(());
        new.retain(|key, _| {
            let kept = self.go_on().and_then(|()| Ok(old.get(key)?.is_some()));
            kept.unwrap_or_else(|error| {
                broken = Err(error);
                true
            })
        })?;
        broken?;
        for entry in old.iter()? {
            self.go_on()?;
            let (key, value) = entry?;
            let same = new.get(key.value())?.is_some_and(|found| found.value() == value.value());
            if !same {
                new.insert(key.value(), value.value())?;
            }
        }
        Ok(())
    }
}

type Old<K> = ReadOnlyTable<K, &'static [u8]>;
type New<'t, K> = Table<'t, K, &'static [u8]>;

impl TableVisitor for Level<'_> {
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error> {
        if self.is_level(definition.name()) {
            return Ok(());
        }
        if let Some(touched) = &self.touched
            && [KV.name(), KV_EXPIRY.name()].contains(&definition.name())
        {
            // The one brings the other along.
            return if definition.name() == KV.name() { self.values(touched) } else { Ok(()) };
        }
        let (old, mut new) = (self.from.open_table(definition)?, self.to.open_table(definition)?);
        if [LOG.name(), LOG_INDEX.name()].contains(&definition.name()) {
            self.log(&old, &mut new)
        } else {
            self.rows(&old, &mut new)
        }
    }
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::super::open;
    use super::*;

    fn file() -> Database {
        let db = Database::builder().create_with_backend(InMemoryBackend::new()).unwrap();
        let txn = db.begin_write().unwrap();
        open::make_tables(&txn).unwrap();
        txn.commit().unwrap();
        db
    }

    fn change(db: &Database, make: impl FnOnce(&WriteTransaction)) {
        let txn = db.begin_write().unwrap();
        make(&txn);
        txn.commit().unwrap();
    }

    /// All rows of all tables.
    fn rows(db: &Database) -> Vec<(String, Vec<u8>, Vec<u8>)> {
        struct All<'a>(&'a ReadTransaction, Vec<(String, Vec<u8>, Vec<u8>)>);
        impl TableVisitor for All<'_> {
            fn table<K: TableKey>(
                &mut self,
                definition: TableDefinition<'static, K, &'static [u8]>,
            ) -> Result<(), Error> {
                for entry in self.0.open_table(definition)?.iter()? {
                    let (key, value) = entry?;
                    self.1.push((definition.name().into(), K::write(&key.value()), value.value().to_vec()));
                }
                Ok(())
            }
        }
        let snapshot = db.begin_read().unwrap();
        let mut all = All(&snapshot, Vec::new());
        tables::each_table(&mut all).unwrap();
        all.1
    }

    #[test]
    fn each_pass_takes_what_changed() {
        let (old, new, revisions, mut seen) = (file(), file(), Revisions::default(), None);
        let mut check = |what: &dyn Fn(&WriteTransaction)| {
            change(&old, what);
            revisions.setup.fetch_add(1, SeqCst);
            revisions.letters.fetch_add(1, SeqCst);
            pass(&old, &new, &revisions, &mut seen, &AtomicBool::new(false)).unwrap();
            assert_eq!(rows(&new), rows(&old));
        };
        check(&|txn| {
            for number in 0..9 {
                txn.open_table(LOG).unwrap().insert(number, [7; 99].as_slice()).unwrap();
                txn.open_table(OUTBOX).unwrap().insert(u128::from(number), [1].as_slice()).unwrap();
                txn.open_table(DEAD_LETTERS).unwrap().insert(u128::from(number), [2].as_slice()).unwrap();
            }
            txn.open_table(META).unwrap().insert("a", [3].as_slice()).unwrap();
        });
        check(&|txn| {
            txn.open_table(LOG).unwrap().retain(|number, _| number > 4).unwrap();
            txn.open_table(LOG).unwrap().insert(9, [8].as_slice()).unwrap();
            txn.open_table(OUTBOX).unwrap().insert(3, [9].as_slice()).unwrap();
            txn.open_table(OUTBOX).unwrap().remove(4).unwrap();
            txn.open_table(DEAD_LETTERS).unwrap().remove(4).unwrap();
            txn.open_table(META).unwrap().insert("a", [4].as_slice()).unwrap();
        });
        check(&|txn| txn.open_table(LOG).unwrap().retain(|_, _| false).unwrap());
        check(&|txn| drop(txn.open_table(LOG).unwrap().insert(30, [1].as_slice()).unwrap()));
    }

    #[test]
    fn a_table_whose_revision_stands_is_not_read_again() {
        let (old, new, revisions, mut seen) = (file(), file(), Revisions::default(), None);
        let mut go = || pass(&old, &new, &revisions, &mut seen, &AtomicBool::new(false)).unwrap();
        go();
        change(&old, |txn| {
            txn.open_table(DEAD_LETTERS).unwrap().insert(1, [2].as_slice()).unwrap();
        });
        go();
        assert!(rows(&new).is_empty());
        revisions.letters.fetch_add(1, SeqCst);
        go();
        assert_eq!(rows(&new).len(), 1);
    }

    #[test]
    fn a_copy_must_be_worth_its_wear() {
        for (file, used, worth) in [(80, 0, true), (80, 30, true), (80, 31, false), (80, 80, false)] {
            assert_eq!(is_worth_it(file, used), worth, "{used} of {file}");
        }
    }
}
