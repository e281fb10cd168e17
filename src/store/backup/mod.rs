//! Backups of the store and the way back: the one room besides the writer that knows where the file is.
//!
//! `format` is a backup as bytes, `make` writes one from a snapshot while the store goes on, `shelf` keeps them in
//! a directory, `build` makes a store of one after checking all of it, and `swap` puts that in the place of the old
//! one such that a cut at any instant leaves one of the two. The HTTP desk, the schedule and the command line call
//! here. Nothing here is done on the writer's thread.

mod build;
mod format;
mod make;
mod shelf;
mod space;
mod swap;

pub use build::{Build, Keep, check};
pub use format::Manifest;
pub use make::ExportError;
pub(crate) use shelf::sync_directory;
pub use shelf::{Backups, Copied, Download, Export, Kept, Settings, check_hash_beside};
pub use swap::{Premises, Report, Start, State, Trial};

use std::io;

use super::Error;

/// Why there is no backup, or no restored store. Nothing was changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum BackupError {
    /// Another backup or restore is under way.
    #[error("{0} is under way; try again when it is done")]
    Busy(&'static str),
    /// There is not enough room on the card.
    #[error("the card is full: {path} has {free} bytes free{}; delete dead letters, old backups or other files on it", needs(*.needed))]
    Full {
        /// The directory.
        path: String,
        /// Bytes that there are.
        free: u64,
        /// Bytes that were asked for, with what must stay free; `None` if a write found out.
        needed: Option<u64>,
    },
    /// There is no such backup.
    #[error("backup not found: {0}")]
    NotFound(String),
    /// The file is no backup that can be restored; says what is wrong and where.
    #[error("{0}")]
    Unsound(String),
    /// Reading or writing a file failed.
    #[error("{0}")]
    Failed(String),
    /// The store is broken or closed.
    #[error(transparent)]
    Store(#[from] Error),
}

fn needs(bytes: Option<u64>) -> String {
    bytes.map(|bytes| format!(", and {bytes} are needed")).unwrap_or_default()
}

impl BackupError {
    /// What the system said about `path`.
    fn io(doing: &str, path: &std::path::Path, error: &io::Error) -> BackupError {
        BackupError::Failed(format!("cannot {doing} {}: {error}", path.display()))
    }
}
