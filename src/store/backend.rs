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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
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
}

/// A file on the card.
#[derive(Debug)]
pub struct Card {
    file: FileBackend,
    /// The same file, for what redb's backend does not do.
    raw: File,
    meter: Arc<CardMeter>,
    sync_delay: Duration,
    space: Arc<Space>,
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
        Ok(Card { file: FileBackend::new(file)?, raw, meter, space, sync_delay })
    }

    /// Does it once more if there was no room and the reserve made some.
    fn with_reserve(&self, work: impl Fn() -> io::Result<()>) -> io::Result<()> {
        match work() {
            Err(error) if space::is_no_room(&error) && self.space.write_found_none() => {
                self.claim_reserve();
                work()
            }
            result => result,
        }
    }

    /// Takes the reserve's blocks into the file before anyone else can have them: into its holes, from the front as
    /// the store fills it, and behind its end, where it will grow.
    fn claim_reserve(&self) {
        let Ok(len) = self.file.len() else { return };
        self.claim(0, len.saturating_add(self.space.reserve_bytes()));
    }

    /// Gives a span of the file its blocks, without making it longer, until there are no more.
    fn claim(&self, from: u64, to: u64) {
        let mut at = from;
        while at < to && space::keep(&self.raw, at, CLAIM_BYTES.min(to - at)).is_ok() {
            at += CLAIM_BYTES;
        }
    }

    /// Shortens the file. It grows again at the next start, which must find room on a card that is full even now:
    /// then the blocks stay, behind its end.
    fn shorten(&self, len: u64) -> io::Result<()> {
        let had = space::allocated_bytes(&self.raw)?;
        self.file.set_len(len)?;
        if self.space.is_known_full() {
            self.claim(len, had.max(len).min(len.saturating_add(self.space.reserve_bytes())));
        }
        Ok(())
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
        self.file.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let before = self.file.len()?;
        if len < before {
            return self.shorten(len);
        }
        self.with_reserve(|| self.file.set_len(len))?;
        self.allocate(before, len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let began = Instant::now();
        let result = self.file.sync_data();
        if !self.sync_delay.is_zero() {
            thread::sleep(self.sync_delay);
        }
        self.meter.syncs.fetch_add(1, Relaxed);
        self.meter.sync_us.fetch_add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), Relaxed);
        if let Err(error) = &result {
            if space::is_no_room(error) {
                self.space.write_found_none();
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
