//! Room on the card: asked before something large is written, and again while it is.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::BackupError;

/// While writing, the room is looked at after so many bytes.
const LOOK_EVERY_BYTES: u64 = 1024 * 1024;

/// Bytes that may still be written below `path` (statvfs(3), `f_bavail`).
fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Refuses unless `bytes` fit into `directory` and leave `kept_free_bytes`, without which the store takes no work.
pub(super) fn require(directory: &Path, bytes: u64, kept_free_bytes: u64) -> Result<(), BackupError> {
    let free = free_bytes(directory).map_err(|error| BackupError::io("look at", directory, &error))?;
    let needed = bytes.saturating_add(kept_free_bytes);
    if free >= needed {
        return Ok(());
    }
    Err(BackupError::Full { path: directory.display().to_string(), free, needed: Some(needed) })
}

/// The refusal that an error of writing below `directory` is, if it says that there is no room.
pub(super) fn refusal(doing: &str, directory: &Path, error: &io::Error) -> BackupError {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
    if !full.contains(&error.kind()) {
        return BackupError::io(doing, directory, error);
    }
    let free = free_bytes(directory).unwrap_or_default();
    let path = directory.display().to_string();
    BackupError::Full { path, free, needed: None }
}

/// Writes as long as there is room, and stops before the card is full.
pub(super) struct Roomy<W> {
    inner: W,
    directory: PathBuf,
    kept_free_bytes: u64,
    since_look: u64,
}

impl<W: Write> Roomy<W> {
    pub(super) fn new(inner: W, directory: &Path, kept_free_bytes: u64) -> Roomy<W> {
        Roomy { inner, directory: directory.to_owned(), kept_free_bytes, since_look: 0 }
    }

    pub(super) fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for Roomy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.since_look >= LOOK_EVERY_BYTES {
            self.since_look = 0;
            if free_bytes(&self.directory)? < self.kept_free_bytes {
                return Err(io::ErrorKind::StorageFull.into());
            }
        }
        let count = self.inner.write(bytes)?;
        self.since_look += u64::try_from(count).unwrap_or(u64::MAX);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}
