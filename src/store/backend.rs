//! The seam to the card: redb's file backend, with every write and sync counted.
//!
//! Cards wear by what is written to them, so what we write is a metric. The power-cut tests put a card of
//! their own behind the same seam.
//!
//! redb gives up at the first error, so a write that finds no room is made once more on the reserve's blocks
//! before redb hears of it. A failed sync is never repeated: the system takes what it could not write for
//! written, and the second sync would succeed without it (fsync(2), NOTES).

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};
use rustix::fs::{Advice, fadvise};

use super::space::{self, Space};

/// Blocks are taken over in steps, because a step that does not fit may leave nothing behind.
const CLAIM_BYTES: u64 = 256 * 1024;

/// What a card has taken since the daemon started.
#[derive(Debug, Default)]
pub struct CardMeter {
    /// Calls of fdatasync.
    pub syncs: AtomicU64,
    /// Time spent in them, with what was added to each, in microseconds.
    pub sync_us: AtomicU64,
    /// Writes.
    pub writes: AtomicU64,
    /// Bytes written.
    pub bytes_written: AtomicU64,
    /// When the sync began that is under way.
    syncing: Mutex<Option<Instant>>,
}

impl CardMeter {
    /// For how long the card has been at a sync.
    pub fn syncing_for(&self) -> Option<Duration> {
        self.syncing().map(|began| began.elapsed())
    }

    fn syncing(&self) -> MutexGuard<'_, Option<Instant>> {
        self.syncing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A file on the card.
#[derive(Debug)]
pub struct Card {
    file: FileBackend,
    /// Its length as redb knows it.
    len: AtomicU64,
    /// The same file, for what redb's backend does not do.
    raw: File,
    meter: Arc<CardMeter>,
    sync_delay: Duration,
    space: Arc<Space>,
    /// Whether it has taken blocks in advance, because the card is full.
    prepared: AtomicBool,
}

impl Card {
    /// Counts what goes to `file` on `meter`; it may use up the reserve of `space`. Each sync takes `sync_delay`
    /// longer than it needs, as on a slower card.
    pub fn new(
        file: File,
        meter: Arc<CardMeter>,
        space: Arc<Space>,
        sync_delay: Duration,
    ) -> Result<Card, redb::DatabaseError> {
        let raw = file.try_clone().map_err(redb::StorageError::from)?;
        let prepared = AtomicBool::new(false);
        let file = FileBackend::new(file)?;
        let len = AtomicU64::new(file.len().map_err(redb::StorageError::from)?);
        Ok(Card { file, len, raw, meter, space, sync_delay, prepared })
    }

    /// Does it once more if there was no room and the reserve made some.
    fn with_reserve(&self, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        let failed = match work() {
            Err(error) if space::is_no_room(&error) => error,
            result => return result,
        };
        match self.space.write_found_none() {
            Some(reserve) => {
                self.claim_blocks(Some(&reserve));
                drop(reserve);
                work()
            }
            None => Err(failed),
        }
    }

    /// Takes blocks into the file's holes, from the front as the store fills it, and behind its end, where it will
    /// grow. Where there are none, `reserve` is cut step by step, so that others who wait for room get little of it.
    fn claim_blocks(&self, reserve: Option<&File>) {
        let Ok(len) = self.file.len() else { return };
        let (mut at, end) = (0, len.saturating_add(self.space.reserve_bytes()));
        let mut left = reserve.map_or(0, |_| self.space.reserve_bytes());
        while at < end {
            if space::keep(&self.raw, at, CLAIM_BYTES).is_ok() {
                at += CLAIM_BYTES;
                continue;
            }
            let Some(reserve) = reserve.filter(|_| left > 0) else { return };
            left = left.saturating_sub(CLAIM_BYTES);
            if reserve.set_len(left).is_err() {
                return;
            }
        }
    }

    /// Once the card is known to be full, and may have some room left: the store takes what it may need, before
    /// others have taken it all.
    fn prepare_for_less(&self) {
        let full = self.space.is_known_full();
        if full != self.prepared.swap(full, Relaxed) && full {
            self.claim_blocks(None);
        }
    }

    /// Gives the file's new end its blocks, so that writes inside of the file do not find the card full later:
    /// all of them if that leaves room for others, else half of what there is, for the store fills its file from
    /// the front.
    fn allocate(&self, from: u64, to: u64) -> io::Result<()> {
        let (wanted, room) = (to.saturating_sub(from), self.space.room_bytes());
        let bytes = if wanted <= room { wanted } else { room / 2 };
        if bytes == 0 {
            return Ok(());
        }
        match space::allocate(&self.raw, from, bytes) {
            // A card that fails has failed; anything else only means that the blocks come later.
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => Err(error),
            Ok(()) | Err(_) => Ok(()),
        }
    }

    /// Whether no process has the file open. Where that cannot be told, it is.
    pub(crate) fn is_free(&self) -> bool {
        self.file.try_lock_range(Bound::Unbounded, Bound::Unbounded).unwrap_or(true)
    }
}

impl StorageBackend for Card {
    fn len(&self) -> io::Result<u64> {
        Ok(self.len.load(Relaxed))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    /// While the card is full the file gives nothing back, or its next growth might find no room, be it at the next
    /// start. redb then sees the length that it asked for; a start finds a longer file, as after a crash in between,
    /// and goes on with that.
    fn set_len(&self, len: u64) -> io::Result<()> {
        let real = self.file.len()?;
        if len > real {
            self.with_reserve(|| self.file.set_len(len))?;
            self.allocate(real, len)?;
        } else if !self.space.is_known_full() {
            self.with_reserve(|| self.file.set_len(len))?;
        }
        self.len.store(len, Relaxed);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.prepare_for_less();
        let began = Instant::now();
        *self.meter.syncing() = Some(began);
        let result = self.file.sync_data();
        if !self.sync_delay.is_zero() {
            thread::sleep(self.sync_delay);
        }
        *self.meter.syncing() = None;
        self.meter.syncs.fetch_add(1, Relaxed);
        self.meter.sync_us.fetch_add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), Relaxed);
        if let Err(error) = &result {
            if space::is_no_room(error) {
                drop(self.space.write_found_none());
            }
            // What the system now takes for written must not be read back as if it were: the next start is to
            // see the card, and not this memory of it. If it cannot be forgotten, nothing more can be done.
            let _ = fadvise(&self.raw, 0, None, Advice::DontNeed);
        }
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.meter.writes.fetch_add(1, Relaxed);
        self.meter.bytes_written.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Relaxed);
        self.with_reserve(|| self.file.write(offset, data))
    }

    fn close(&self) -> io::Result<()> {
        self.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.file.query_lock_range(start, end)
    }
}
