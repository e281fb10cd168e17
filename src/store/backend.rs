//! The seam to the card: redb's file backend, with every write and sync counted.
//!
//! Cards wear by what is written to them, so what we write is a metric. The power-cut tests put a card of
//! their own behind the same seam.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// What a card has taken since the daemon started.
#[derive(Debug, Default)]
pub struct CardMeter {
    /// Calls of fdatasync.
    pub syncs: AtomicU64,
    /// Time spent in them, in microseconds.
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
    meter: Arc<CardMeter>,
}

impl Card {
    /// Counts what goes to `file` on `meter`.
    pub fn new(file: File, meter: Arc<CardMeter>) -> Result<Card, redb::DatabaseError> {
        Ok(Card { file: FileBackend::new(file)?, meter })
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
        self.file.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        let began = Instant::now();
        let result = self.file.sync_data();
        self.meter.syncs.fetch_add(1, Relaxed);
        self.meter.sync_us.fetch_add(u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX), Relaxed);
        result
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.meter.writes.fetch_add(1, Relaxed);
        self.meter.bytes_written.fetch_add(u64::try_from(data.len()).unwrap_or(u64::MAX), Relaxed);
        self.file.write(offset, data)
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
