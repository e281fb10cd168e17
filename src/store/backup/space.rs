//! Room on the card: asked before something large is written, and again while it is.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use super::BackupError;

/// What must stay free for the store itself.
const KEPT_FREE_BYTES: u64 = 32 * 1024 * 1024;
/// While writing, the room is looked at after so many bytes.
const LOOK_EVERY_BYTES: u64 = 1024 * 1024;

/// Bytes that may still be written below `path` (statvfs(3), `f_bavail`).
///
/// # Errors
/// If there is no such path.
pub fn free_bytes(path: &Path) -> io::Result<u64> {
    let found = rustix::fs::statvfs(path)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Refuses unless `bytes` fit into `directory`, with what must stay free.
pub(super) fn require(directory: &Path, bytes: u64) -> Result<(), BackupError> {
    let free = free_bytes(directory).map_err(|error| BackupError::io("look at", directory, &error))?;
    let needed = bytes.saturating_add(KEPT_FREE_BYTES);
    if free >= needed {
        return Ok(());
    }
    Err(BackupError::Full { path: directory.display().to_string(), needed, free })
}

/// The refusal that an error of writing below `directory` is, if it says that there is no room.
pub(super) fn refusal(doing: &str, directory: &Path, error: &io::Error) -> BackupError {
    let full = [io::ErrorKind::StorageFull, io::ErrorKind::QuotaExceeded, io::ErrorKind::FileTooLarge];
    if !full.contains(&error.kind()) {
        return BackupError::io(doing, directory, error);
    }
    let free = free_bytes(directory).unwrap_or_default();
    let path = directory.display().to_string();
    BackupError::Full { path, needed: KEPT_FREE_BYTES.max(free.saturating_add(1)), free }
}

/// Writes as long as there is room, and stops before the card is full.
pub(super) struct Roomy<W> {
    inner: W,
    directory: PathBuf,
    since_look: u64,
}

impl<W: Write> Roomy<W> {
    pub(super) fn new(inner: W, directory: &Path) -> Roomy<W> {
        Roomy { inner, directory: directory.to_owned(), since_look: 0 }
    }

    pub(super) fn into_inner(self) -> W {
        self.inner
    }
}

impl<W: Write> Write for Roomy<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.since_look >= LOOK_EVERY_BYTES {
            self.since_look = 0;
            if free_bytes(&self.directory)? < KEPT_FREE_BYTES {
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
