//! The daemon's part of an update: it takes a bundle in, checks it, and leaves it for root's helper.
//!
//! It has no privileges and needs none. What it took in is no request before all of it was checked and is on the card.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use super::bundle::{self, BundleError, Keys, Manifest};
use super::install::{REQUEST, WISHES};
use super::record::{Phase, Progress, Report, lock_path};
use super::{Error, Image, Place, Slot, fetch, files, reset};

/// What a bundle has besides its slot, and more.
const BUNDLE_EXTRA_BYTES: u64 = 8 * 1024 * 1024;
/// The room is looked at after so many bytes.
const LOOK_EVERY_BYTES: u64 = 8 * 1024 * 1024;

/// Where the daemon works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The device.
    pub place: Place,
    /// The daemon's directory for requests.
    pub directory: PathBuf,
    /// Bytes of the card that stay free.
    pub kept_free_bytes: u64,
    /// The schema of the data.
    pub schema: u32,
}

/// Why an update is not taken in.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// The computer is no appliance.
    #[error("{0}")]
    NoAppliance(String),
    /// Another one is under way.
    #[error("another update is under way ({0}); wait until it has ended, or cancel it")]
    Busy(&'static str),
    /// It cannot be cancelled any more.
    #[error("the update is being installed and cannot be cancelled any more")]
    TooLate,
    /// There is nothing to cancel.
    #[error("there is no update to cancel")]
    NothingToCancel,
    /// Somebody cancelled it.
    #[error("the update was cancelled")]
    Cancelled,
    /// There is no room.
    #[error(
        "the card is full: {free} bytes are free, and {needed} are needed; delete dead letters, old backups or other files on it"
    )]
    Full {
        /// What there is.
        free: u64,
        /// What is needed.
        needed: u64,
    },
    /// It has more bytes than any update for this device.
    #[error("the update has more than {0} bytes, which none for this device has")]
    TooLarge(u64),
    /// It is of no use.
    #[error(transparent)]
    Bad(BundleError),
    /// It cannot be fetched.
    #[error("cannot fetch the update: {0}")]
    Unfetched(String),
    /// A file failed.
    #[error("{0}")]
    Failed(String),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Refused {
        match error {
            Error::NoAppliance => Refused::NoAppliance(error.to_string()),
            Error::Bundle(bad) => Refused::Bad(bad),
            other => Refused::Failed(other.to_string()),
        }
    }
}

/// How updates stand: the answer to `GET /api/v1/updates`.
#[derive(Clone, Debug, Serialize)]
pub struct Standing {
    /// The slot that runs; unknown before the helper of this boot told.
    pub slot: Option<Slot>,
    /// What runs in it.
    pub version: String,
    /// When that was built.
    pub build: String,
    /// The kind of device.
    pub compatible: String,
    /// The slot that is on probation.
    pub pending: Option<Slot>,
    /// How far an update is.
    pub phase: Phase,
    /// Bytes of the phase that are done.
    pub bytes: u64,
    /// Bytes of the phase; 0 if nobody knows.
    pub bytes_total: u64,
    /// The version of the update.
    pub update_version: Option<String>,
    /// Its build.
    pub update_build: Option<String>,
    /// Why it failed.
    pub error: Option<String>,
    /// How the last updates ended, newest first.
    pub reports: Vec<Report>,
}

/// The desk, cheap to clone.
#[derive(Clone)]
pub struct Updates {
    settings: Arc<Settings>,
    desk: Arc<Mutex<Desk>>,
    /// Which update it is about. It changes under the lock, when one begins and when one is cancelled; whoever still
    /// works on another than this one has nothing to say any more.
    generation: Arc<AtomicU64>,
}

#[derive(Default)]
struct Desk {
    job: Option<Job>,
    /// Why the last one that was taken in was not.
    failed: Option<String>,
}

struct Job {
    phase: Phase,
    bytes: u64,
    bytes_total: u64,
}

impl Updates {
    /// The device that is updated.
    pub fn place(&self) -> &Place {
        &self.settings.place
    }

    /// A desk; nothing is touched yet.
    pub fn new(settings: Settings) -> Updates {
        Updates { settings: Arc::new(settings), desk: Arc::default(), generation: Arc::default() }
    }

    /// Removes what is left of updates that were coming when the daemon before this one was killed.
    pub fn tidy(&self) {
        for entry in fs::read_dir(&self.settings.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let is_part =
                name.to_str().is_some_and(|name| name.starts_with("update") && name.ends_with(".part"));
            if is_part && let Err(why) = files::remove(&entry.path()) {
                tracing::warn!("cannot remove {}: {why}", entry.path().display());
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Desk> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.settings.directory.join(name)
    }

    /// Begins to take one in, which has so many bytes if somebody said so. Blocks.
    ///
    /// # Errors
    /// Why not now, or not here.
    pub fn begin(&self, phase: Phase, bytes: Option<u64>) -> Result<Upload, Refused> {
        let image = Image::here(&self.settings.place)?;
        let bytes_max = image.slot_bytes.saturating_add(BUNDLE_EXTRA_BYTES);
        if bytes.is_some_and(|bytes| bytes > bytes_max) {
            return Err(Refused::TooLarge(bytes_max));
        }
        let mut desk = self.lock();
        if desk.job.is_some() {
            return Err(Refused::Busy("another is taken in"));
        }
        if self.path(REQUEST).exists() {
            return Err(Refused::Busy("one waits to be installed"));
        }
        if self.is_installing() {
            return Err(Refused::Busy("one is being installed"));
        }
        let progress = Progress::read(&self.settings.place);
        if progress.is_some_and(|told| matches!(told.phase, Phase::Rebooting | Phase::Probation)) {
            return Err(Refused::Busy("a new slot has to prove itself"));
        }
        self.require(bytes.unwrap_or_default())?;
        files::make_directory(&self.settings.directory, 0o700)?;
        let generation = self.next_generation();
        let path = self.part(generation);
        let file = files::create(&path, 0o600)
            .map_err(|why| Refused::Failed(format!("{}: {why}", path.display())))?;
        let bytes_total = bytes.unwrap_or_default();
        *desk = Desk { job: Some(Job { phase, bytes: 0, bytes_total }), failed: None };
        drop(desk);
        Ok(Upload { updates: self.clone(), generation, image, bytes_max, file, path, seen: 0, looked_at: 0 })
    }

    /// Fetches one in the background.
    ///
    /// # Errors
    /// Why not now, or not here. What goes wrong later is told by [`Updates::standing`].
    pub fn fetch(&self, url: &str, force: bool) -> Result<(), Refused> {
        let url = fetch::parse(url)?;
        let upload = self.begin(Phase::Downloading, None)?;
        let (updates, generation) = (self.clone(), upload.generation);
        let fetched = move || {
            let done = fetch::fetch(&url, upload).and_then(|upload| upload.finish(force));
            if let Err(why) = done {
                tracing::warn!("an update was not taken in: {why}");
                let mut desk = updates.lock();
                if updates.is_about(generation) {
                    desk.failed = Some(why.to_string());
                }
            }
        };
        let began = std::thread::Builder::new().name("update".into()).spawn(fetched);
        began.map(drop).map_err(|why| Refused::Failed(why.to_string()))
    }

    /// Cancels what is not installed yet, at once; whoever takes it in notices when the next part comes. Blocks.
    ///
    /// # Errors
    /// If there is nothing, or it is too late.
    pub fn cancel(&self) -> Result<(), Refused> {
        Image::here(&self.settings.place)?;
        let mut desk = self.lock();
        if desk.job.take().is_some() {
            let part = self.part(self.generation.load(SeqCst));
            self.next_generation();
            return Ok(files::remove_for_good(&part)?);
        }
        if self.is_installing() {
            return Err(Refused::TooLate);
        }
        let request = self.path(REQUEST);
        if !request.exists() {
            return Err(Refused::NothingToCancel);
        }
        Ok(files::remove_for_good(&request).and_then(|()| files::remove_for_good(&self.path(WISHES)))?)
    }

    /// Asks for a factory reset. Blocks.
    ///
    /// # Errors
    /// If the computer is no appliance, or the request cannot be written.
    pub fn request_reset(&self) -> Result<(), Refused> {
        Ok(reset::request_reset(&self.settings.place, &self.settings.directory)?)
    }

    /// How updates stand. Blocks.
    ///
    /// # Errors
    /// If the computer is no appliance.
    pub fn standing(&self) -> Result<Standing, Refused> {
        let place = &self.settings.place;
        let image = Image::here(place)?;
        let mut told = Progress::read(place).unwrap_or_else(|| Progress::idle(None));
        let installing = self.is_installing();
        if !installing
            && (told.phase.is_installing() || told.phase == Phase::Checking)
            && told.phase != Phase::Rebooting
        {
            told.phase = Phase::Failed;
            told.error = Some(
                "the helper that installed it ended before it was done; the slot that runs is as it was"
                    .into(),
            );
        }
        let desk = self.lock();
        let (phase, bytes, bytes_total) = match &desk.job {
            Some(job) => (job.phase, job.bytes, job.bytes_total),
            None if !installing && self.path(REQUEST).exists() => (Phase::Waiting, 0, 0),
            // The helper has begun, and not said so yet.
            None if installing && !(told.phase.is_installing() || told.phase == Phase::Checking) => {
                (Phase::Waiting, 0, 0)
            }
            None if desk.failed.is_some() => (Phase::Failed, 0, 0),
            None => (told.phase, told.bytes, told.bytes_total),
        };
        let of_helper = desk.job.is_none() && phase == told.phase;
        Ok(Standing {
            slot: told.slot,
            version: image.version,
            build: image.build,
            compatible: image.compatible,
            pending: told.pending,
            phase,
            bytes,
            bytes_total,
            update_version: told.version.filter(|_| of_helper),
            update_build: told.build.filter(|_| of_helper),
            error: desk.failed.clone().or(told.error.filter(|_| of_helper)),
            reports: Report::published(place),
        })
    }

    /// Whether root's helper is at work now: it holds a lock, so its death is noticed.
    fn is_installing(&self) -> bool {
        let lock = File::open(lock_path(&self.settings.place));
        lock.is_ok_and(|lock| matches!(lock.try_lock_shared(), Err(fs::TryLockError::WouldBlock)))
    }

    fn require(&self, bytes: u64) -> Result<(), Refused> {
        let directory = self.settings.directory.ancestors().find(|path| path.exists());
        let free = files::free_bytes(directory.unwrap_or(&self.settings.directory))?;
        let needed = bytes.saturating_add(self.settings.kept_free_bytes);
        if free >= needed { Ok(()) } else { Err(Refused::Full { free, needed }) }
    }

    /// Where an update is while it comes. Each has a name of its own, which one that was cancelled cannot take away.
    fn part(&self, generation: u64) -> PathBuf {
        self.path(&format!("update-{generation}.part"))
    }

    /// Only with the lock.
    fn next_generation(&self) -> u64 {
        self.generation.fetch_add(1, SeqCst) + 1
    }

    fn is_about(&self, generation: u64) -> bool {
        self.generation.load(SeqCst) == generation
    }
}

/// A bundle that is taken in. If it goes before it is finished, nothing of it is left.
pub struct Upload {
    updates: Updates,
    generation: u64,
    image: Image,
    bytes_max: u64,
    file: File,
    path: PathBuf,
    seen: u64,
    looked_at: u64,
}

impl Upload {
    /// Says how many bytes will come, once that is known.
    ///
    /// # Errors
    /// If they are too many.
    pub(super) fn expect(&self, bytes: u64) -> Result<(), Refused> {
        if bytes > self.bytes_max {
            return Err(Refused::TooLarge(self.bytes_max));
        }
        self.updates.require(bytes)?;
        self.with_job(|job| job.bytes_total = bytes)
    }

    /// Whether it goes on. Never waits.
    ///
    /// # Errors
    /// If somebody cancelled it.
    pub fn goes_on(&self) -> Result<(), Refused> {
        if self.updates.is_about(self.generation) { Ok(()) } else { Err(Refused::Cancelled) }
    }

    fn with_job<T>(&self, act: impl FnOnce(&mut Job) -> T) -> Result<T, Refused> {
        let mut desk = self.updates.lock();
        self.goes_on()?;
        desk.job.as_mut().map(act).ok_or(Refused::Cancelled)
    }

    /// Takes the next part. Blocks.
    ///
    /// # Errors
    /// Why it goes no further.
    pub fn write(&mut self, part: &[u8]) -> Result<(), Refused> {
        self.seen = self.seen.saturating_add(u64::try_from(part.len()).unwrap_or(u64::MAX));
        if self.seen > self.bytes_max {
            return Err(Refused::TooLarge(self.bytes_max));
        }
        if self.seen >= self.looked_at {
            self.looked_at = self.seen + LOOK_EVERY_BYTES;
            self.updates.require(LOOK_EVERY_BYTES)?;
        }
        self.with_job(|job| job.bytes = self.seen)?;
        self.file.write_all(part).map_err(|why| self.failed(&why))
    }

    fn failed(&self, why: &io::Error) -> Refused {
        match why.kind() {
            // Then its file is gone.
            _ if self.goes_on().is_err() => Refused::Cancelled,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                Refused::Full { free: 0, needed: LOOK_EVERY_BYTES }
            }
            _ => Refused::Failed(format!("cannot write {}: {why}", self.path.display())),
        }
    }

    /// Checks all of it and leaves it for root's helper. Blocks, for seconds.
    ///
    /// # Errors
    /// What is wrong with it. Nothing is left of it then.
    pub fn finish(self, force: bool) -> Result<Manifest, Refused> {
        let place = &self.updates.settings.place;
        self.with_job(|job| {
            (job.phase, job.bytes, job.bytes_total) = (Phase::Checking, 0, self.seen);
        })?;
        self.file.sync_all().map_err(|why| self.failed(&why))?;
        let keys = Keys::of(&place.path("usr/lib/picloud/update-keys")).map_err(Refused::Bad)?;
        let bundle = File::open(&self.path).map_err(|why| self.failed(&why))?;
        let schema = self.updates.settings.schema;
        let accept = |update: &Manifest| self.image.accept(update, force, schema);
        let mut sink = Unless(&self);
        let update = bundle::read(bundle, &keys, accept, &mut sink).map_err(|bad| match bad {
            BundleError::Write(_) => Refused::Cancelled,
            bad => Refused::Bad(bad),
        })?;
        // Nobody cancels it between the last look and its name, and no other wishes for something else.
        let mut desk = self.updates.lock();
        self.goes_on()?;
        let wishes = self.updates.path(WISHES);
        match force {
            true => files::write_json(&wishes, &serde_json::json!({ "force": true }), 0o600)?,
            false => files::remove_for_good(&wishes)?,
        }
        let request = self.updates.path(REQUEST);
        let left = fs::rename(&self.path, &request).and_then(|()| files::sync_parent(&request));
        left.map_err(|why| self.failed(&why))?;
        desk.job = None;
        drop(desk);
        tracing::info!(version = update.version, build = update.build, "an update waits to be installed");
        Ok(update)
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // After it was finished it has another name.
        let _ = files::remove(&self.path);
        let mut desk = self.updates.lock();
        if self.goes_on().is_ok() {
            desk.job = None;
        }
    }
}

/// Swallows what is unpacked, unless somebody cancels.
struct Unless<'a>(&'a Upload);

impl Write for Unless<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.goes_on().map(|()| bytes.len()).map_err(|why| io::Error::other(why.to_string()))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
