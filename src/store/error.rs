//! What can go wrong in the store, and which of it ends the house.

use super::space::Full;

/// The house is broken, or the file cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The file was written by a newer PiCloud.
    #[error(
        "{path} was written by a newer PiCloud (schema {found}; this one reads up to {known}): start the newer version again, or restore a backup made by this one"
    )]
    NewerSchema {
        /// The file.
        path: String,
        /// Its schema.
        found: u32,
        /// The newest schema this program knows.
        known: u32,
    },
    /// Another process has the file open.
    #[error("{0} is in use by another process: is a PiCloud already running on this data directory?")]
    InUse(String),
    /// The file or its directory cannot be opened.
    #[error("cannot open {path}: {why}")]
    Open {
        /// The file.
        path: String,
        /// The cause.
        why: String,
    },
    /// Bytes in the store are not what was written.
    #[error("the store holds a damaged {what}: {why}; restore a backup")]
    Damaged {
        /// Which kind of row.
        what: &'static str,
        /// What the decoder said.
        why: String,
    },
    /// Reading or writing the file failed.
    #[error(
        "the store failed: {0}; what was accepted is in the file: start PiCloud again, and look at the card (df, dmesg) if it fails again"
    )]
    Card(String),
    /// An earlier error or a shutdown has closed the store.
    #[error("the store is closed")]
    Closed,
    /// The card takes writes more slowly than they come.
    #[error("the card is too slow for what is asked of it")]
    Behind,
    /// A restored store is about to take this one's place: what it accepted now would be gone.
    #[error("PiCloud is about to reopen with a restored store; try again in a moment")]
    Reopening,
    /// The outbox holds as much as it may.
    #[error("the outbox is full: {rows} rows, {bytes} bytes")]
    OutboxFull {
        /// Rows in it.
        rows: u64,
        /// About how many bytes they hold.
        bytes: u64,
    },
    /// One app has as much queued work as it may.
    #[error(
        "the app has {rows} rows of queued work and may have {rows_max}: wait until some have ended, cancel some, or raise its limit queue_rows"
    )]
    AppQueueFull {
        /// Async rows of it.
        rows: u64,
        /// Its limit.
        rows_max: u64,
    },
    /// There is too little room on the card to accept anything.
    #[error("{0}")]
    StorageFull(Full),
}

impl Error {
    /// A word for programs if this says no to one command only and the store goes on; `None` if it is broken.
    pub fn refusal(&self) -> Option<&'static str> {
        match self {
            Error::Behind => Some("card_behind"),
            Error::Reopening => Some("reopening"),
            Error::OutboxFull { .. } => Some("outbox_full"),
            Error::AppQueueFull { .. } => Some("queue_full"),
            Error::StorageFull(_) => Some("storage_full"),
            Error::NewerSchema { .. }
            | Error::InUse(_)
            | Error::Open { .. }
            | Error::Damaged { .. }
            | Error::Card(_)
            | Error::Closed => None,
        }
    }

    /// Whether this says no to one command only, and the store goes on.
    pub fn is_refusal(&self) -> bool {
        self.refusal().is_some()
    }
}

macro_rules! card_errors {
    ($($source:ty),*) => {
        $(impl From<$source> for Error {
            fn from(error: $source) -> Error {
                Error::Card(error.to_string())
            }
        })*
    };
}
card_errors!(
    redb::StorageError,
    redb::TableError,
    redb::TransactionError,
    redb::CommitError,
    redb::SetDurabilityError
);

/// Why a change of the catalog was not made. Nothing was written.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ChangeError {
    /// What should change is not there.
    #[error("{what} not found: {id}")]
    NotFound {
        /// The noun.
        what: &'static str,
        /// What was asked for.
        id: String,
    },
    /// Something else is in the way.
    #[error("{0}")]
    Conflict(String),
    /// The field's value cannot be.
    #[error("{field}: {why}")]
    Invalid {
        /// The field of the request.
        field: &'static str,
        /// What is allowed.
        why: String,
    },
    /// It would add something, and there is too little room on the card.
    #[error("{0}")]
    StorageFull(Full),
    /// The house is broken.
    #[error(transparent)]
    Store(#[from] Error),
}

macro_rules! card_change_errors {
    ($($source:ty),*) => {
        $(impl From<$source> for ChangeError {
            fn from(error: $source) -> ChangeError {
                ChangeError::Store(error.into())
            }
        })*
    };
}
card_change_errors!(redb::StorageError, redb::TableError);
