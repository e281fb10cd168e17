//! Making the file small again while it serves.
//!
//! redb's own compaction stops everything for as long as it takes. Here a thread copies what the store holds into
//! a new file, from one snapshot after the other: the first pass copies all, each further one only what changed
//! meanwhile. When a pass was quick, the writer makes the last one between two batches, and the new file takes the
//! old one's place. Commits wait for that last pass, which is as short as the one before it: about [`PAUSE_MAX`]
//! and two syncs. Readers never wait: who reads the old file goes on reading it.
//!
//! A cut at any point leaves one of the two files in place, whole, and both hold what was promised.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableHandle,
    WriteTransaction,
};

use super::Error;
use super::open::Cards;
use super::tables::{self, LOG, TableKey, TableVisitor, VERSIONS};

/// A file smaller than this is not worth it.
const FILE_BYTES_MIN: u64 = 8 * 1024 * 1024;
/// The last pass is made when the one before it took no longer.
const PAUSE_MAX: Duration = Duration::from_millis(100);
/// Passes until it is given up: the box is not idle after all.
const PASSES_MAX: usize = 8;
/// Between two looks at the file, each of which may read all of it.
const LOOK_EVERY: Duration = Duration::from_secs(3600);

type Made = Result<Option<Copy>, Error>;

/// The writer's view of it.
pub(crate) struct Compaction {
    path: PathBuf,
    /// `None` on a card that is no file.
    cards: Option<Cards>,
    looked_at: Option<Instant>,
    closing: Arc<AtomicBool>,
    copying: Option<(Receiver<Made>, JoinHandle<()>)>,
}

impl Compaction {
    /// Of this file.
    pub(crate) fn new(path: PathBuf, cards: Option<Cards>) -> Compaction {
        Compaction { path, cards, looked_at: None, closing: Arc::default(), copying: None }
    }

    /// Begins a copy if a quarter of the file is free and the card has room for one; `wake` is called when it is
    /// there. `live_bytes` is what the store knows to be in it: only if that leaves hope is the file itself asked,
    /// and not more often than once an hour.
    pub(crate) fn consider(
        &mut self,
        db: &Arc<Database>,
        live_bytes: u64,
        wake: impl FnOnce() + Send + 'static,
    ) {
        let Some(cards) = self.cards.clone().filter(|_| self.copying.is_none()) else { return };
        let file_bytes = fs::metadata(&self.path).map_or(0, |file| file.len());
        let rested = self.looked_at.is_none_or(|at| at.elapsed() >= LOOK_EVERY);
        if file_bytes < FILE_BYTES_MIN || !is_quarter_free(file_bytes, live_bytes) || !rested {
            return;
        }
        self.looked_at = Some(Instant::now());
        // An error here is the card's, and the next commit meets it too.
        let Ok(used_bytes) = used_bytes(db) else { return };
        if !is_quarter_free(file_bytes, used_bytes) {
            return;
        }
        if cards.space.room_bytes() < used_bytes {
            tracing::info!(file_bytes, used_bytes, "the card has no room to compact the store");
            return;
        }
        let (db, path, closing) = (db.clone(), self.path.clone(), self.closing.clone());
        let (tell, told) = mpsc::channel();
        let copy = move || {
            // Nobody listens any more if the house closes.
            drop(tell.send(Copy::make(&db, &path, &cards, &closing)));
            wake();
        };
        // Without a thread the file stays as it is, and is looked at again.
        let thread = thread::Builder::new().name("store-compact".into()).spawn(copy);
        self.copying = thread.ok().map(|thread| (told, thread));
    }

    /// Lets a finished copy take over from `db`. An error is the card's.
    pub(crate) fn finish(&mut self, db: &Database) -> Result<Option<Arc<Database>>, Error> {
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
        let before_bytes = fs::metadata(&self.path).map_or(0, |file| file.len());
        let db = match copy.take_over(db, &self.path) {
            Ok(db) => db,
            Err(error) => {
                tracing::warn!(%error, "the store could not be compacted");
                return Ok(None);
            }
        };
        sync_directory(&self.path)?;
        let after_bytes = fs::metadata(&self.path).map_or(0, |file| file.len());
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

fn is_quarter_free(file_bytes: u64, used_bytes: u64) -> bool {
    used_bytes <= file_bytes / 4 * 3
}

/// Bytes of pages in use. Reads the file.
fn used_bytes(db: &Database) -> Result<u64, Error> {
    let txn = db.begin_write()?;
    let stats = txn.stats()?;
    txn.abort()?;
    let page_bytes = u64::try_from(stats.page_size()).unwrap_or(u64::MAX);
    Ok(stats.allocated_pages().saturating_mul(page_bytes))
}

/// A copy that was equal to the file a moment ago.
pub(crate) struct Copy {
    pub(crate) db: Database,
    path: PathBuf,
}

impl Copy {
    /// Copies what `source` holds to a file beside `path`, until one pass is quick. `None` if it never was, or the
    /// house closes.
    pub(crate) fn make(
        source: &Database,
        path: &Path,
        cards: &Cards,
        closing: &AtomicBool,
    ) -> Result<Option<Copy>, Error> {
        let new = beside(path);
        remove_leftover(path);
        let made = Copy::pass_until_quick(source, &new, cards, closing);
        if !matches!(made, Ok(Some(_))) {
            remove_leftover(path);
        }
        made
    }

    fn pass_until_quick(
        source: &Database,
        new: &Path,
        cards: &Cards,
        closing: &AtomicBool,
    ) -> Result<Option<Copy>, Error> {
        // Closing it after the bulk trims what its growth left over.
        pass(source, &cards.open(new)?, closing)?;
        let db = cards.open(new)?;
        for _ in 1..PASSES_MAX {
            let began = Instant::now();
            if closing.load(Relaxed) {
                return Ok(None);
            }
            pass(source, &db, closing)?;
            if began.elapsed() <= PAUSE_MAX {
                return Ok(Some(Copy { db, path: new.to_owned() }));
            }
        }
        Ok(None)
    }

    /// The last pass, and the new file in the old one's place. The writer calls it between two batches. An error
    /// leaves the old file where it was.
    pub(crate) fn take_over(self, source: &Database, path: &Path) -> Result<Arc<Database>, Error> {
        let Copy { db, path: new } = self;
        pass(source, &db, &AtomicBool::new(false)).inspect_err(|_| remove_leftover(path))?;
        fs::rename(&new, path)
            .inspect_err(|_| remove_leftover(path))
            .map_err(|error| failed(path, &error))?;
        Ok(Arc::new(db))
    }
}

/// Makes the new name last. Once this failed nobody knows which of the two files a power cut would leave.
pub(crate) fn sync_directory(path: &Path) -> Result<(), Error> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let synced = fs::File::open(directory).and_then(|directory| directory.sync_all());
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

/// Makes `target` hold what `source` holds now, in one durable commit.
pub(crate) fn pass(source: &Database, target: &Database, closing: &AtomicBool) -> Result<(), Error> {
    let from = source.begin_read()?;
    let mut to = target.begin_write()?;
    to.set_quick_repair(true);
    level(&from, &to, closing)?;
    to.commit()?;
    Ok(())
}

/// Makes every table of `to` equal to that of `from`.
pub(crate) fn level(
    from: &ReadTransaction,
    to: &WriteTransaction,
    closing: &AtomicBool,
) -> Result<(), Error> {
    tables::each_table(&mut Level { from, to, closing })
}

struct Level<'a> {
    from: &'a ReadTransaction,
    to: &'a WriteTransaction,
    closing: &'a AtomicBool,
}

impl TableVisitor for Level<'_> {
    fn table<K: TableKey>(
        &mut self,
        definition: TableDefinition<'static, K, &'static [u8]>,
    ) -> Result<(), Error> {
        // What is under these keys never changes, so that a key which is there needs no look at its bytes.
        let written_once = [LOG.name(), VERSIONS.name()].contains(&definition.name());
        let (old, mut new) = (self.from.open_table(definition)?, self.to.open_table(definition)?);
        let mut gone = Ok(());
        new.retain(|key, _| {
            let kept = old.get(key).map(|found| found.is_some());
            kept.unwrap_or_else(|error| {
                gone = Err(error);
                true
            })
        })?;
        gone?;
        for entry in old.iter()? {
            if self.closing.load(Relaxed) {
                return Err(Error::Closed);
            }
            let (key, value) = entry?;
            let there =
                new.get(key.value())?.is_some_and(|found| written_once || found.value() == value.value());
            if !there {
                new.insert(key.value(), value.value())?;
            }
        }
        Ok(())
    }
}
