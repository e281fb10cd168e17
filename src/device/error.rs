//! Why a helper did not do what it was asked for, in words that say what to do.

use std::io;
use std::path::{Path, PathBuf};

use super::bundle::BundleError;
use super::state::Slot;

/// Why not.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The computer was not booted from a card image.
    #[error(
        "this computer was not booted from a PiCloud card image, so there is nothing to update or to reset as a whole: update the package picloud instead"
    )]
    NoAppliance,
    /// The kernel was not started by the appliance's U-Boot.
    #[error("the kernel's command line has no picloud.slot=A or B, so nobody knows which slot runs")]
    NoSlot,
    /// The slot that runs has not proved itself.
    #[error(
        "slot {0} is on probation after an update, and nothing is installed before it has proved itself or was given up; wait some minutes"
    )]
    Probation(Slot),
    /// Another helper is at work.
    #[error("another update is being installed; wait until it is done")]
    Busy,
    /// There is nothing to do.
    #[error("{0}")]
    Nothing(String),
    /// The bundle is of no use.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The slot does not fit what is to be written.
    #[error("{path} has {bytes} bytes, and the update needs {needed}", path = path.display())]
    SlotTooSmall {
        /// The partition.
        path: PathBuf,
        /// What it has.
        bytes: u64,
        /// What is to be written.
        needed: u64,
    },
    /// The card does not give back what was written.
    #[error(
        "{path} does not hold what was written to it: the card is failing; back up, and replace it. Slot {running} still runs",
        path = path.display()
    )]
    BadCard {
        /// The partition.
        path: PathBuf,
        /// What runs.
        running: Slot,
    },
    /// There is no room for a copy of the data.
    #[error(
        "the card is full: {free} bytes are free, and a copy of the data before the update may need {needed}; delete dead letters, old backups or other files on it"
    )]
    Full {
        /// What there is.
        free: u64,
        /// What is needed.
        needed: u64,
    },
    /// The data would change their form, and nobody can make a copy of them.
    #[error(
        "PiCloud does not run, so that there would be no copy of the data, which this update brings into another form: going back would leave them behind. Copy /data/picloud/picloud.redb to another computer, and use --force"
    )]
    NoCopy,
    /// The daemon did not do its part.
    #[error("the running PiCloud did not {doing}: {why}")]
    Daemon {
        /// What it was asked for.
        doing: &'static str,
        /// What it said.
        why: String,
    },
    /// A file or a disk failed.
    #[error("cannot {doing} {path}: {why}", path = path.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        why: io::Error,
    },
}

impl Error {
    pub(super) fn io(doing: &'static str, path: &Path, why: io::Error) -> Error {
        Error::Io { doing, path: path.to_owned(), why }
    }
}
