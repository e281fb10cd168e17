//! What is wrong with a bundle, one answer for each kind.

use std::io;

use super::make::Unmade;
use super::read::{MANIFEST, SIGNATURE, SLOT};

/// Why a file is no update for this device. Each says what to do.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// It is something else.
    #[error(
        "this is no update: it is no tar archive that begins with {MANIFEST}; take a file named *.picloud-update"
    )]
    NotATar,
    /// It ends too early.
    #[error("the update is cut off in {0}: fetch it again")]
    Truncated(&'static str),
    /// There is no signature.
    #[error("the update is not signed: {SIGNATURE} does not follow {MANIFEST}; take a signed one")]
    Unsigned,
    /// None of the keys fits.
    #[error(
        "the update is not signed by any of the {keys} keys that this device trusts, or it was changed; take it from where the image came from"
    )]
    WrongKey {
        /// How many were tried.
        keys: usize,
    },
    /// Part of it is missing or something else stands there.
    #[error("the update has {found:?} where {wanted} should be; it was not made by `picloud device bundle`")]
    Order {
        /// What should be there.
        wanted: &'static str,
        /// What is.
        found: String,
    },
    /// A part has more or fewer bytes than it may.
    #[error("{part} of the update has {bytes} bytes, and {wanted}; fetch it again")]
    Size {
        /// Which part.
        part: &'static str,
        /// How many it has.
        bytes: u64,
        /// How many it should have.
        wanted: String,
    },
    /// Its facts cannot be read.
    #[error("{MANIFEST} of the update says something that this version does not understand: {0}")]
    Manifest(String),
    /// It is for another kind of device.
    #[error("the update is for {found}, and this device is {own}")]
    Incompatible {
        /// What it is for.
        found: String,
        /// What this is.
        own: String,
    },
    /// It is older than what runs.
    #[error("the update is {found}, which is older than {own} that runs; force it to go back to it")]
    Older {
        /// Its version and build.
        found: String,
        /// That of this device.
        own: String,
    },
    /// It is what runs.
    #[error("{0} is what runs already; force it to install it again")]
    Same(String),
    /// There are versions that must come first.
    #[error("the update needs {min_from} to run, and this is {own}: install {min_from} first")]
    TooFar {
        /// The oldest that it may follow.
        min_from: String,
        /// What runs.
        own: String,
    },
    /// It could not open what is stored.
    #[error(
        "the update keeps its data in schema {found}, and here they have {own}, which it could not read: it cannot be installed, also not by force"
    )]
    OlderSchema {
        /// Its schema.
        found: u32,
        /// The schema of the data.
        own: u32,
    },
    /// It does not fit.
    #[error("the update has a system of {bytes} bytes, and a slot of this device has room for {room}")]
    TooLarge {
        /// What it needs.
        bytes: u64,
        /// What there is.
        room: u64,
    },
    /// The system in it is not the one that was signed.
    #[error("{SLOT} of the update is damaged: its SHA-256 is not the one that was signed; fetch it again")]
    WrongHash,
    /// It cannot be unpacked.
    #[error("{SLOT} of the update is damaged: {0}; fetch it again")]
    Damaged(String),
    /// Something follows it.
    #[error("the update goes on after its end; fetch it again")]
    TrailingGarbage,
    /// The keys of this device are missing.
    #[error("this device trusts no key for updates: {0}; write the card anew")]
    NoKeys(String),
    /// It could not be read.
    #[error("cannot read the update: {0}")]
    Read(io::Error),
    /// What is unpacked could not be written.
    #[error("cannot write the new system: {0}")]
    Write(io::Error),
    /// A bundle could not be made.
    #[error(transparent)]
    Unmade(#[from] Unmade),
}
