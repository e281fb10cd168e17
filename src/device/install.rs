//! `picloud device install`: root writes an update into the slot that does not run, and lets U-Boot try it.
//!
//! It trusts nothing that the daemon says or left: the whole bundle is checked again, twice, since it is read again while
//! it is written. The slot that runs is never touched, and U-Boot is told last, when the new system was read back and
//! the way back is on the card. Killed at any instant, the device goes on with what it had.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::bundle::{self, Keys, Manifest};
use super::disk::{self, Target};
use super::record::{self, Before, Phase, Progress, Vitals, lock_path};
use super::{Boot, Error, Image, Place, Slot, State, files, network};

/// How often U-Boot may try the new slot.
const TRIES: u32 = 3;
/// Bytes of /data that stay free when the data were copied.
const KEPT_FREE_BYTES: u64 = 32 * 1024 * 1024;
/// Progress is told when so many bytes are done.
const TELL_EVERY_BYTES: u64 = 8 * 1024 * 1024;
/// The request that the daemon leaves, below its directory for the device.
pub(super) const REQUEST: &str = "update.bundle";
/// What it says about it.
pub(super) const WISHES: &str = "update.json";

/// What a helper asks of the running daemon; the command line's client does it.
pub struct Daemon<'a> {
    /// Whether it takes requests; else why not.
    pub ready: &'a dyn Fn() -> Result<(), NotReady>,
    /// A durable write, and what it has.
    pub vitals: &'a dyn Fn() -> Result<Vitals, String>,
    /// A checked backup into this file.
    pub export: &'a dyn Fn(&Path) -> Result<(), String>,
}

/// Why a daemon takes no requests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotReady {
    /// It may still come.
    Yet(String),
    /// It was started often enough: the page that tells why stands in its place.
    Ever(String),
}

/// What may stand beside a request.
#[derive(Default, Deserialize)]
struct Wishes {
    #[serde(default)]
    force: bool,
}

/// What to install.
#[derive(Debug)]
pub struct Order {
    /// A file that root names; else the daemon's request.
    pub file: Option<PathBuf>,
    /// Also what is older than what runs.
    pub force: bool,
    /// The schema of the data.
    pub schema: u32,
}

/// Installs an update. When this returns well, the next boot is the new slot's.
///
/// # Errors
/// Why not. U-Boot was told nothing, and a request is gone: it would fail again.
pub fn install(place: &Place, order: &Order, daemon: &Daemon<'_>) -> Result<Manifest, Error> {
    files::make_directory(&place.run(), 0o755)?;
    let lock_path = lock_path(place);
    let lock = File::options().create(true).truncate(false).write(true).open(&lock_path);
    let lock = lock.map_err(|why| Error::io("open", &lock_path, why))?;
    lock.try_lock().map_err(|_| Error::Busy)?;
    let boot = Boot::read(place)?;
    let mut work = Work { place, boot, progress: Progress::idle(Some(boot.slot)), told: 0 };
    let is_request = order.file.is_none();
    let begun = if is_request { record::begin_request(place) } else { Ok(()) };
    let done = begun.and_then(|()| work.run(order, daemon));
    if let Err(why) = &done {
        // The error itself matters more than that it could not be told.
        let _ = work.fail(why);
        if is_request {
            let _ = forget_request(place);
        }
    }
    if is_request {
        // What U-Boot was told holds; at worst the next update may be interrupted less often.
        let _ = record::end_request(place);
    }
    done
}

/// Removes the daemon's request.
pub(super) fn forget_request(place: &Place) -> Result<(), Error> {
    let requests = place.daemon().join("device");
    files::remove_for_good(&requests.join(WISHES))?;
    files::remove_for_good(&requests.join(REQUEST))
}

struct Work<'a> {
    place: &'a Place,
    boot: Boot,
    progress: Progress,
    told: u64,
}

impl Work<'_> {
    fn run(&mut self, order: &Order, daemon: &Daemon<'_>) -> Result<Manifest, Error> {
        let disk = disk::disk(self.place)?;
        let state = State::read(&disk)?;
        // Also before the reboot into a slot that was chosen just now. What the command line says is older: a slot
        // may have been confirmed or given up since.
        let unproved = self.boot.is_on_probation() && state.slot != self.boot.slot;
        if let Some(pending) = state.pending.or(unproved.then_some(self.boot.slot)) {
            return Err(Error::Probation(pending));
        }
        let image = Image::here(self.place)?;
        let keys = Keys::of(&self.place.path("usr/lib/picloud/update-keys"))?;
        let requests = self.place.daemon().join("device");
        let path = order.file.clone().unwrap_or_else(|| requests.join(REQUEST));
        let wishes = match order.file {
            None => files::read_json::<Wishes>(&requests.join(WISHES))?.unwrap_or_default(),
            Some(_) => Wishes::default(),
        };
        let force = order.force || wishes.force;
        let accept = |update: &Manifest| image.accept(update, force, order.schema);
        let bytes = open(&path)?.metadata().map_err(|why| Error::io("look at", &path, why))?.len();
        self.begin(Phase::Checking, bytes)?;
        let mut seen = 0;
        let looked_at = Watched {
            inner: open(&path)?,
            told: &mut |count| {
                seen += count;
                self.advance(seen);
            },
        };
        let update = bundle::read(looked_at, &keys, accept, &mut io::sink())?;
        (self.progress.version, self.progress.build) =
            (Some(update.version.clone()), Some(update.build.clone()));
        let vitals = self.look_at_daemon(&update, order, daemon)?;
        let state = self.write(&path, &disk, state, &keys, &update)?;
        self.save(daemon, vitals.is_some() && update.schema != order.schema)?;
        let online = network::is_up(self.place);
        let had = vitals.unwrap_or_default();
        let mut before = Before::new(&image, self.boot.slot, &update, had, online);
        before.write(self.place)?;
        let pending = Some(self.boot.slot.other());
        State { pending, tries: TRIES, ..state }.write(&disk)?;
        // It is done: what cannot be told now is made good by the next boot.
        before.switched = true;
        let _ = before.write(self.place);
        if order.file.is_none() {
            let _ = forget_request(self.place);
        }
        self.progress.pending = pending;
        let _ = self.begin(Phase::Rebooting, 0);
        Ok(update)
    }

    /// What the daemon has, and whether there will be room for a copy of it; `None` of one that was given up.
    fn look_at_daemon(
        &self,
        update: &Manifest,
        order: &Order,
        daemon: &Daemon<'_>,
    ) -> Result<Option<Vitals>, Error> {
        let vitals = match (daemon.vitals)() {
            Ok(vitals) => vitals,
            // Root may bring what mends it. Data in the same form need no copy; in another one, it is said that there is none.
            Err(_) if order.file.is_some() && is_given_up(daemon) => {
                return if update.schema == order.schema || order.force {
                    Ok(None)
                } else {
                    Err(Error::NoCopy)
                };
            }
            Err(why) => return Err(Error::Daemon { doing: "say how it is", why }),
        };
        let free = files::free_bytes(&self.place.data())?;
        let needed = vitals.store_bytes.saturating_add(KEPT_FREE_BYTES);
        // Without another schema nothing has to go back.
        if free < needed && update.schema != order.schema {
            return Err(Error::Full { free, needed });
        }
        Ok(Some(vitals))
    }

    /// Writes the slot and reads it back; gives the state, by which the slot that runs boots meanwhile.
    fn write(
        &mut self,
        path: &Path,
        disk: &Path,
        state: State,
        keys: &Keys,
        update: &Manifest,
    ) -> Result<State, Error> {
        let runs = self.boot.slot;
        let partition = disk::partition(disk, runs.other());
        self.begin(Phase::Writing, update.slot_bytes)?;
        let mut tell = |at| self.advance(at);
        let mut target = Target::open(&partition, update.slot_bytes, &mut tell)?;
        let state = hold(disk, runs, state)?;
        // The file may have changed since it was checked.
        let same = |again: &Manifest| {
            let changed = || bundle::BundleError::Damaged("it changed while it was installed".into());
            if again == update { Ok(()) } else { Err(changed()) }
        };
        bundle::read(open(path)?, keys, same, &mut target)?;
        target.finish()?;
        self.begin(Phase::Verifying, update.slot_bytes)?;
        let found = disk::hash(&partition, update.slot_bytes, &mut |at| self.advance(at))?;
        if found == update.sha256.to_ascii_lowercase() {
            Ok(state)
        } else {
            Err(Error::BadCard { path: partition, running: runs })
        }
    }

    /// Keeps a copy of the data, as late as possible: what is accepted after it would be lost if they had to go back.
    fn save(&mut self, daemon: &Daemon<'_>, must_be: bool) -> Result<(), Error> {
        self.begin(Phase::Saving, 0)?;
        files::make_directory(&self.place.data().join("update"), 0o700)?;
        let copy = Before::copy(self.place);
        match (daemon.export)(&copy) {
            Err(why) if must_be => Err(Error::Daemon { doing: "make a copy of its data", why }),
            // With the same schema the slot that runs can open what the new one leaves: the copy is for people.
            Err(_) => files::remove_for_good(&copy),
            Ok(()) => Ok(()),
        }
    }

    fn begin(&mut self, phase: Phase, bytes_total: u64) -> Result<(), Error> {
        self.told = 0;
        self.progress = Progress {
            phase,
            bytes: 0,
            bytes_total,
            at: crate::model::UnixMs::now(),
            ..self.progress.clone()
        };
        self.progress.tell(self.place)
    }

    fn advance(&mut self, bytes: u64) {
        if bytes >= self.told + TELL_EVERY_BYTES {
            self.told = bytes;
            self.progress.bytes = bytes;
            // The update matters more than that somebody sees it.
            let _ = self.progress.tell(self.place);
        }
    }

    fn fail(&mut self, why: &Error) -> Result<(), Error> {
        self.progress.error = Some(why.to_string());
        self.begin(Phase::Failed, 0)
    }
}

/// Lets the slot that runs boot as long as the other one is half written, also where U-Boot had to choose it by itself.
fn hold(disk: &Path, slot: Slot, state: State) -> Result<State, Error> {
    let held = State { slot, tries: 0, ..state.clone() };
    if held != state {
        held.write(disk)?;
    }
    Ok(held)
}

fn is_given_up(daemon: &Daemon<'_>) -> bool {
    matches!((daemon.ready)(), Err(NotReady::Ever(_)))
}

fn open(path: &Path) -> Result<File, Error> {
    files::open(path).map_err(|why| match why.kind() {
        io::ErrorKind::NotFound => Error::Nothing(format!("there is no update at {}", path.display())),
        _ => Error::io("read", path, why),
    })
}

/// Tells how many bytes went by.
struct Watched<'a, R> {
    inner: R,
    told: &'a mut dyn FnMut(u64),
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        (self.told)(u64::try_from(count).unwrap_or(u64::MAX));
        Ok(count)
    }
}
