//! Which file is the store: the steps from an old one to a restored one, and back if that does not serve.
//!
//! `restore.json` is written before each step, so that a cut at any instant leaves a state from which the next start
//! goes on or back; never is there no store:
//!
//! ```text
//! restoring   picloud.redb.new is complete; picloud.redb goes to .before-restore, .new to picloud.redb
//! trial       picloud.redb is the restored one and has not served yet; if the process dies, back to the old one
//! served      it has: the old one goes
//! rolled_back the old one is back
//! ```
//!
//! Nobody is answered by a store on trial before it counts as served, so that nothing accepted is rolled back.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::shelf::sync_directory;
use super::{BackupError, Build, Keep, space};
use crate::model::UnixMs;
use crate::store::backend::Card;
use crate::store::space::{RESERVE_FILE, is_no_room};
use crate::store::{ChangeError, Error, Space, Store};

/// The file's name in the data directory.
const STORE_FILE: &str = "picloud.redb";

/// A link in the data directory leads out of it, and is not opened: O_NOFOLLOW of open(2).
#[allow(clippy::as_conversions, reason = "bits of a flag, not a number")]
const NO_FOLLOW: i32 = rustix::fs::OFlags::NOFOLLOW.bits() as i32;

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// There was none.
    #[default]
    None,
    /// The restored store is about to be opened.
    Restoring,
    /// It is open and has not served yet.
    Trial,
    /// It served.
    Served,
    /// It did not; the old one is back.
    RolledBack,
}

/// The last restore.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// How far it is.
    pub state: State,
    /// Which backup.
    pub backup: Option<Uuid>,
    /// When that was made.
    pub backup_created_at: Option<UnixMs>,
    /// When the state began.
    pub at: Option<UnixMs>,
    /// Why it was rolled back.
    pub why: Option<String>,
    /// Whether there was a store before, to which one can go back.
    #[serde(default)]
    pub had_store: bool,
}

/// How the house is to open.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// As ever.
    Ordinary,
    /// The store is on trial.
    OnTrial,
}

/// The data directory, as far as restores go.
#[derive(Clone, Debug)]
pub struct Premises {
    data_dir: PathBuf,
    kept_free_bytes: u64,
}

impl Premises {
    /// Those of a data directory on whose card so many bytes stay free.
    pub fn new(data_dir: &Path, kept_free_bytes: u64) -> Premises {
        Premises { data_dir: data_dir.to_owned(), kept_free_bytes }
    }

    /// How to make a new store here.
    pub fn build(&self, keep: Keep) -> Build {
        Build { target: self.new_store(), keep, kept_free_bytes: self.kept_free_bytes }
    }

    /// The store.
    pub fn store(&self) -> PathBuf {
        self.data_dir.join(STORE_FILE)
    }

    /// The restored store, before it is the store.
    pub fn new_store(&self) -> PathBuf {
        self.data_dir.join("picloud.redb.new")
    }

    /// The store as it was.
    pub fn old_store(&self) -> PathBuf {
        self.data_dir.join("picloud.redb.before-restore")
    }

    /// What a process locks whose directory this is.
    pub fn lock_file(&self) -> PathBuf {
        self.data_dir.join("picloud.lock")
    }

    /// What is known of the last restore.
    pub fn journal(&self) -> PathBuf {
        self.data_dir.join("restore.json")
    }

    fn uploads(&self) -> PathBuf {
        self.data_dir.join("restore")
    }

    /// Makes the data directory this process's own, until the file that this gives is closed. Nothing in it may be
    /// moved by anyone else.
    ///
    /// # Errors
    /// [`Error::InUse`], or what is wrong with the directory.
    pub fn lock(&self) -> Result<File, Error> {
        let path = self.lock_file();
        let failed = |error: io::Error| Error::Open {
            path: self.store().display().to_string(),
            why: error.to_string(),
        };
        fs::create_dir_all(&self.data_dir).map_err(failed)?;
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600).custom_flags(NO_FOLLOW);
        let file = options.open(&path).map_err(failed)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(Error::InUse(self.store().display().to_string())),
            // Where files cannot be locked, the database's own lock has to do.
            Ok(()) | Err(TryLockError::Error(_)) => Ok(file),
        }
    }

    /// The last restore. A journal that cannot be read is none: what it was about is told by the files.
    pub fn report(&self) -> Report {
        let text = fs::read(self.journal()).unwrap_or_default();
        serde_json::from_slice(&text).unwrap_or_default()
    }

    /// A new file for an upload, and its path. `bytes` is how long it says it is.
    ///
    /// # Errors
    /// `Full`, or what went wrong.
    pub fn upload(&self, bytes: u64) -> Result<(PathBuf, File), BackupError> {
        space::require(&self.data_dir, bytes, self.kept_free_bytes)?;
        let directory = self.uploads();
        let refused = |error: io::Error| space::refusal("write to", &directory, &error);
        fs::create_dir_all(&directory).map_err(refused)?;
        let path = directory.join("upload.partial");
        let open =
            OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(&path);
        Ok((path.clone(), open.map_err(refused)?))
    }

    /// Writes a part of an upload, unless the card gets full.
    ///
    /// # Errors
    /// `Full`, or what went wrong.
    pub fn write_upload(&self, file: &mut File, part: &[u8]) -> Result<(), BackupError> {
        space::require(&self.data_dir, u64::try_from(part.len()).unwrap_or(u64::MAX), self.kept_free_bytes)?;
        file.write_all(part).map_err(|error| space::refusal("write to", &self.uploads(), &error))
    }

    /// Removes uploads.
    pub fn remove_uploads(&self) {
        // What cannot be removed now is overwritten by the next one.
        let _ = fs::remove_dir_all(self.uploads());
    }

    /// Refuses if another process has the store open.
    ///
    /// # Errors
    /// [`Error::InUse`].
    pub fn check_unused(&self) -> Result<(), BackupError> {
        let path = self.store();
        let Ok(file) = OpenOptions::new().read(true).write(true).open(&path) else { return Ok(()) };
        let in_use = || BackupError::Store(Error::InUse(path.display().to_string()));
        let card = Card::new(file, Arc::default(), Arc::new(Space::boundless()), Duration::ZERO)
            .map_err(|_| in_use())?;
        card.is_free().then_some(()).ok_or_else(in_use)
    }

    /// The new store is complete: from here on a start goes on with it.
    ///
    /// # Errors
    /// If that cannot be written down. Nothing was changed then.
    pub fn begin(&self, backup: Uuid, created_at: UnixMs, now: UnixMs) -> Result<Report, BackupError> {
        let report = Report {
            state: State::Restoring,
            backup: Some(backup),
            backup_created_at: Some(created_at),
            at: Some(now),
            why: None,
            had_store: self.store().exists(),
        };
        // What cannot be begun must not be begun by the next start either: without the new store there is nothing
        // to go on with, whatever the journal says.
        self.write(&report).inspect_err(|_| {
            drop(self.remove(&self.new_store()));
            drop(self.remove(&self.partial()));
            drop(sync_directory(&self.data_dir));
        })?;
        Ok(report)
    }

    /// Puts the new store in the place of the old one, and says that it is on trial. May be repeated.
    ///
    /// # Errors
    /// If a file cannot be renamed. The next start goes on.
    pub fn swap_in(&self, now: UnixMs) -> Result<(), BackupError> {
        if self.new_store().exists() {
            if self.store().exists() {
                self.rename(&self.store(), &self.old_store())?;
            }
            self.rename(&self.new_store(), &self.store())?;
        }
        self.write(&Report { state: State::Trial, at: Some(now), ..self.report() })
    }

    /// What a start has to do first: goes on with a restore, or back if its store died on trial.
    ///
    /// # Errors
    /// If a file cannot be renamed or removed.
    pub fn settle(&self, now: UnixMs) -> Result<Start, BackupError> {
        let report = self.report();
        match report.state {
            State::None | State::RolledBack | State::Served => self.tidy(report.state)?,
            State::Restoring if !self.can_go_on(&report) => {
                self.roll_back("the restored store is gone", now)?
            }
            State::Restoring => {
                tracing::info!("a restore was interrupted and goes on");
                self.swap_in(now)?;
                return Ok(Start::OnTrial);
            }
            State::Trial if !report.had_store => return Ok(Start::OnTrial),
            State::Trial => self.roll_back("PiCloud ended before the restored store had served", now)?,
        }
        self.remove_uploads();
        Ok(Start::Ordinary)
    }

    /// Whether there is a restored store, in its own place or in that of the old one.
    fn can_go_on(&self, report: &Report) -> bool {
        let swapped = self.store().exists() && (self.old_store().exists() || !report.had_store);
        self.new_store().exists() || swapped
    }

    /// Removes what a restore that is over left. If the journal was lost on the way, no store is.
    fn tidy(&self, state: State) -> Result<(), BackupError> {
        if !self.store().exists() && self.old_store().exists() {
            self.rename(&self.old_store(), &self.store())?;
        }
        if !self.store().exists() {
            return Ok(());
        }
        self.remove(&self.new_store())?;
        if state == State::Served { self.remove(&self.old_store()) } else { Ok(()) }
    }

    /// Takes the old store back, if there was one. May be repeated.
    ///
    /// # Errors
    /// If a file cannot be renamed. The next start goes on.
    pub fn roll_back(&self, why: &str, now: UnixMs) -> Result<(), BackupError> {
        if self.old_store().exists() {
            self.rename(&self.old_store(), &self.store())?;
        }
        tracing::error!(why, "the restore was taken back; the store from before it is open again");
        let why = Some(why.to_owned());
        self.write(&Report { state: State::RolledBack, at: Some(now), why, ..self.report() })
    }

    /// The house closes in good order while the store is on trial: the next start tries it again.
    ///
    /// # Errors
    /// If that cannot be written down; then the next start goes back.
    pub fn postpone(&self, now: UnixMs) -> Result<(), BackupError> {
        self.write(&Report { state: State::Restoring, at: Some(now), ..self.report() })
    }

    fn served(&self, now: UnixMs) -> Result<(), BackupError> {
        self.write(&Report { state: State::Served, at: Some(now), ..self.report() })?;
        // The next start removes what could not be removed now.
        if let Err(error) = self.remove(&self.old_store()) {
            tracing::warn!(%error, "the store from before the restore stays beside it until the next start");
        }
        self.remove_uploads();
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> Result<(), BackupError> {
        let renamed = fs::rename(from, to).and_then(|()| sync_directory(&self.data_dir));
        renamed.map_err(|error| BackupError::io("rename", from, &error))
    }

    fn remove(&self, path: &Path) -> Result<(), BackupError> {
        match fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(BackupError::io("remove", path, &error))
            }
            _ => Ok(()),
        }
    }

    fn partial(&self) -> PathBuf {
        self.data_dir.join("restore.json.partial")
    }

    /// Replaces the journal as a whole. On a full card the store's reserve makes room for it: a restore that is half
    /// done must go on, or back.
    fn write(&self, report: &Report) -> Result<(), BackupError> {
        let text = serde_json::to_vec(report).map_err(io::Error::from);
        let written = text.and_then(|text| match self.try_write(&text) {
            Err(error) if is_no_room(&error) => {
                // Without a reserve the second attempt says what the first one did.
                let _ = fs::remove_file(self.data_dir.join(RESERVE_FILE));
                self.try_write(&text)
            }
            written => written,
        });
        written.map_err(|error| space::refusal("write to", &self.data_dir, &error))
    }

    fn try_write(&self, text: &[u8]) -> io::Result<()> {
        let (path, partial) = (self.journal(), self.partial());
        // A new file: what somebody left under that name, a link even, is not followed.
        match fs::remove_file(&partial) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&partial, &path)?;
        sync_directory(&self.data_dir)
    }
}

/// A restored store that has to prove itself, or an ordinary one that has not. Cheap to clone.
#[derive(Clone)]
pub struct Trial {
    over: Arc<AtomicBool>,
    /// Only one ends it.
    ending: Arc<Mutex<()>>,
    premises: Premises,
    store: Store,
}

impl Trial {
    /// The trial of `store`, if it `start`ed on one.
    pub fn new(start: Start, premises: Premises, store: Store) -> Trial {
        let over = Arc::new(AtomicBool::new(start == Start::Ordinary));
        Trial { over, ending: Arc::default(), premises, store }
    }

    /// Whether nobody may be answered before [`Trial::end`].
    pub fn is_on(&self) -> bool {
        !self.over.load(Relaxed)
    }

    /// The store serves: makes one durable commit as the proof, and lets the old store go. Blocks.
    ///
    /// # Errors
    /// If the commit or the journal fails. The trial goes on.
    pub fn end(&self, now: UnixMs) -> Result<(), BackupError> {
        let _ending = self.ending.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.is_on() {
            return Ok(());
        }
        let (tell, told) = mpsc::channel();
        self.store.change(|_| Ok(()), move |made| drop(tell.send(made)));
        match told.recv().unwrap_or(Err(ChangeError::Store(Error::Closed))) {
            Ok(()) => {}
            // A full card refuses it: the store works, and says so itself.
            Err(ChangeError::Store(error)) if error.is_refusal() => {}
            Err(ChangeError::Store(error)) => return Err(BackupError::Store(error)),
            Err(other) => return Err(BackupError::Failed(other.to_string())),
        }
        self.premises.served(now)?;
        self.over.store(true, Relaxed);
        tracing::info!("the restored store serves; the one from before it is removed");
        Ok(())
    }
}

#[cfg(test)]
#[path = "swap_tests.rs"]
mod tests;
