//! Room on the card: how much is free, when that is too little, and the reserve that gets the store over it.
//!
//! Below a low-water mark nothing new is accepted, so that what was accepted can still be ended: an end needs
//! pages too. Other programs fill cards as well, so the mark alone does not do: a reserve file of real blocks is
//! given up when a write finds no room, and that write is made once more. It is made again when there is room.
//!
//! Nothing here wakes up by itself: the file system is asked when somebody wants to know, and not more often
//! than every 200 ms. The writer, its card and the management API ask.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

/// The file system is asked at most this often.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// The reserve's name, beside the store.
pub(crate) const RESERVE_FILE: &str = "picloud.reserve";
/// Blocks of stat(2) are counted in this many bytes, whatever the file system's own are.
const STAT_BLOCK_BYTES: u64 = 512;

/// How much of the card must stay free. The default asks for nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// Below so many free bytes nothing new is accepted.
    pub low_bytes: u64,
    /// Below so many free inodes nothing new is accepted, where the file system counts them.
    pub inodes_low: u64,
    /// Bytes kept for the moment in which a write finds no room; 0 keeps none.
    pub reserve_bytes: u64,
}

/// Why nothing new is accepted: the card is full.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Full {
    dir: PathBuf,
    shortage: Shortage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shortage {
    /// Bytes that are free, and from how many on there is room again.
    Bytes(u64, u64),
    /// The same of inodes.
    Inodes(u64, u64),
    /// A write was refused, whatever the file system says is free.
    Refused,
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let dir = self.dir.display();
        match self.shortage {
            Shortage::Bytes(free, from) => {
                write!(f, "the card is full: {dir} has {free} bytes free, and needs {from}")?;
            }
            Shortage::Inodes(free, from) => {
                write!(
                    f,
                    "the card is full: {dir} has room for {free} more files, and needs room for {from}"
                )?;
            }
            Shortage::Refused => write!(f, "the card is full: a write to {dir} found no room")?,
        }
        f.write_str("; delete dead letters, old backups, copies of old schemas (picloud.redb.schema-*) or other files on it")
    }
}

/// What is free for a daemon without privileges.
#[derive(Clone, Copy, Debug, Default)]
struct Free {
    bytes: u64,
    /// None where the file system has no limit of them.
    inodes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reserve {
    Kept,
    Missing,
    /// None is wanted, or the file system cannot promise blocks.
    None,
}

#[derive(Debug)]
struct State {
    asked_at: Option<Instant>,
    free: Free,
    full: Option<Full>,
    reserve: Reserve,
}

/// The room in one directory.
#[derive(Debug)]
pub struct Space {
    dir: PathBuf,
    bounds: Bounds,
    state: Mutex<State>,
}

impl Space {
    /// Watches the file system that holds `dir`, which exists.
    pub fn new(dir: &Path, bounds: Bounds) -> Space {
        let reserve = found_reserve(&dir.join(RESERVE_FILE), bounds.reserve_bytes);
        let state = State { asked_at: None, free: Free::default(), full: None, reserve };
        Space { dir: dir.to_owned(), bounds, state: Mutex::new(state) }
    }

    /// Room without end, for a card that is no file.
    pub fn boundless() -> Space {
        Space::new(Path::new(""), Bounds::default())
    }

    /// Whether the card is full, as of at most 200 ms before `now`; if so, in words for the operator.
    pub fn full(&self, now: Instant) -> Option<Full> {
        let mut state = self.lock();
        self.look(&mut state, now);
        state.full.clone()
    }

    /// Bytes free, as of at most 200 ms before `now`.
    pub fn free_bytes(&self, now: Instant) -> u64 {
        let mut state = self.lock();
        self.look(&mut state, now);
        state.free.bytes
    }

    /// Bytes that are set aside, or would be.
    pub(crate) fn reserve_bytes(&self) -> u64 {
        self.bounds.reserve_bytes
    }

    /// Whether the card was full when somebody asked last.
    pub(crate) fn is_known_full(&self) -> bool {
        self.lock().full.is_some()
    }

    /// A write found no room: gives the reserve up, if there is one. Its blocks are free once the file, which has
    /// no name any more, is cut or closed.
    pub(crate) fn write_found_none(&self) -> Option<File> {
        let mut state = self.lock();
        let reserve = (state.reserve == Reserve::Kept).then(|| self.take_reserve()).and_then(Result::ok);
        if reserve.is_some() {
            state.reserve = Reserve::Missing;
        }
        self.become_full(&mut state, Shortage::Refused);
        // The next one who asks hears how it is after this.
        state.asked_at = None;
        reserve
    }

    fn take_reserve(&self) -> io::Result<File> {
        let path = self.reserve_path();
        let file = OpenOptions::new().write(true).open(&path)?;
        fs::remove_file(&path)?;
        Ok(file)
    }

    /// Bytes that the store's file may take at once and leave the card with room.
    pub(crate) fn room_bytes(&self) -> u64 {
        let missing = self.lock().reserve == Reserve::Missing;
        let reserve = if missing { self.bounds.reserve_bytes } else { 0 };
        let kept = with_slack(self.bounds.low_bytes).saturating_add(reserve);
        self.ask().map_or(0, |free| free.bytes.saturating_sub(kept))
    }

    fn look(&self, state: &mut State, now: Instant) {
        if state.asked_at.is_some_and(|at| now.saturating_duration_since(at) < ASK_EVERY) {
            return;
        }
        state.asked_at = Some(now);
        // A file system that cannot be asked will say so when it is written to.
        let Ok(free) = self.ask() else { return };
        state.free = free;
        match self.shortage(state) {
            Some(shortage) => self.become_full(state, shortage),
            None if state.reserve == Reserve::Missing && !self.make_reserve(state) => {}
            None => {
                if state.full.take().is_some() {
                    tracing::info!(free_bytes = free.bytes, "the card has room again: new work is accepted");
                }
            }
        }
    }

    /// What there is too little of. Who was full needs an eighth more, or each call would change its mind.
    fn shortage(&self, state: &State) -> Option<Shortage> {
        let Bounds { low_bytes, inodes_low, reserve_bytes } = self.bounds;
        let was_full = state.full.is_some();
        let mark = |low: u64| if was_full { with_slack(low) } else { low };
        let reserve = if was_full && state.reserve == Reserve::Missing { reserve_bytes } else { 0 };
        let bytes_mark = mark(low_bytes).saturating_add(reserve);
        if state.free.bytes < bytes_mark {
            let needed = with_slack(low_bytes).saturating_add(reserve);
            return Some(Shortage::Bytes(state.free.bytes, needed));
        }
        let inodes = state.free.inodes.filter(|inodes| *inodes < mark(inodes_low));
        inodes.map(|inodes| Shortage::Inodes(inodes, with_slack(inodes_low)))
    }

    fn become_full(&self, state: &mut State, shortage: Shortage) {
        let full = Full { dir: self.dir.clone(), shortage };
        if state.full.is_none() {
            tracing::warn!("{full}; until then whatever must be durable is refused");
        }
        state.full = Some(full);
    }

    /// Sets the reserve aside, if it leaves room. False if the card is full and that did not work: then what looks
    /// free cannot be had.
    fn make_reserve(&self, state: &mut State) -> bool {
        let bytes = self.bounds.reserve_bytes;
        if state.free.bytes < with_slack(self.bounds.low_bytes).saturating_add(bytes) {
            return state.full.is_none();
        }
        match set_aside(&self.reserve_path(), bytes) {
            Ok(()) => state.reserve = Reserve::Kept,
            Err(error) if is_no_room(&error) => return state.full.is_none(),
            Err(error) => {
                tracing::warn!(%error, "no reserve is kept on the card");
                state.reserve = Reserve::None;
            }
        }
        true
    }

    fn ask(&self) -> io::Result<Free> {
        let told = statvfs(&self.dir)?;
        let inodes = (told.f_files > 0).then_some(told.f_favail);
        Ok(Free { bytes: told.f_bavail.saturating_mul(told.f_frsize), inodes })
    }

    fn reserve_path(&self) -> PathBuf {
        self.dir.join(RESERVE_FILE)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an error says that there is no room, or none left for this user.
pub(crate) fn is_no_room(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn with_slack(mark: u64) -> u64 {
    mark.saturating_add(mark / 8)
}

/// The reserve that an earlier process left, if it is what is wanted now; another one goes.
fn found_reserve(path: &Path, bytes: u64) -> Reserve {
    let Ok(found) = fs::symlink_metadata(path) else {
        return if bytes == 0 { Reserve::None } else { Reserve::Missing };
    };
    let allocated = found.blocks().saturating_mul(STAT_BLOCK_BYTES);
    if bytes > 0 && found.is_file() && found.len() == bytes && allocated >= bytes {
        return Reserve::Kept;
    }
    match fs::remove_file(path) {
        Ok(()) if bytes > 0 => Reserve::Missing,
        // What cannot be removed is not ours to use.
        Ok(()) | Err(_) => Reserve::None,
    }
}

/// Makes a file of real blocks, or none at all.
fn set_aside(path: &Path, bytes: u64) -> io::Result<()> {
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    allocate(&file, 0, bytes).inspect_err(|_| {
        // Half a reserve only takes room.
        let _ = fs::remove_file(path);
    })
}

/// Gives a span of a file its blocks, and makes the file as long as that if it is shorter.
pub(crate) fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::empty(), from, bytes)?)
}

/// The same, but the file's length stays: what lies behind its end waits there.
pub(crate) fn keep(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    Ok(fallocate(file, FallocateFlags::KEEP_SIZE, from, bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { low_bytes: 800, inodes_low: 80, reserve_bytes: 100 };

    #[track_caller]
    fn check(reserve: Reserve, was_full: bool, free: (u64, Option<u64>), expected: Option<Shortage>) {
        let space = Space::new(Path::new("/nowhere/at/all"), BOUNDS);
        let full = was_full.then(|| Full { dir: "/d".into(), shortage: Shortage::Refused });
        let free = Free { bytes: free.0, inodes: free.1 };
        let state = State { asked_at: None, free, full, reserve };
        assert_eq!(space.shortage(&state), expected);
    }

    #[test]
    fn full_begins_at_the_mark_and_ends_an_eighth_above_it() {
        let (kept, missing) = (Reserve::Kept, Reserve::Missing);
        check(kept, false, (800, Some(80)), None);
        check(kept, false, (799, Some(80)), Some(Shortage::Bytes(799, 900)));
        check(kept, true, (899, Some(80)), Some(Shortage::Bytes(899, 900)));
        check(kept, true, (900, Some(90)), None);
        check(kept, false, (800, Some(79)), Some(Shortage::Inodes(79, 90)));
        check(kept, true, (900, Some(89)), Some(Shortage::Inodes(89, 90)));
        check(kept, false, (800, None), None);
        check(missing, false, (800, None), None);
        check(missing, true, (999, None), Some(Shortage::Bytes(999, 1000)));
        check(missing, true, (1000, None), None);
    }

    #[test]
    fn the_reserve_is_made_given_up_and_made_again() {
        let dir = std::env::temp_dir().join(format!("picloud-space-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let bounds = Bounds { low_bytes: 1, inodes_low: 0, reserve_bytes: 64 * 1024 };
        let space = Space::new(&dir, bounds);
        let (reserve, now) = (dir.join(RESERVE_FILE), Instant::now());
        assert_eq!(space.full(now), None);
        let made = fs::metadata(&reserve).unwrap();
        assert_eq!((made.len(), made.mode() & 0o777), (64 * 1024, 0o600));
        assert!(made.blocks() * STAT_BLOCK_BYTES >= made.len(), "its blocks are real");
        assert!(space.write_found_none().is_some() && !reserve.exists());
        assert!(space.write_found_none().is_none(), "there is one only once");
        assert_eq!(space.full(now), None, "there is room, and the next question says so");
        assert!(reserve.exists());
        let kept = Space::new(&dir, bounds);
        assert_eq!(kept.lock().reserve, Reserve::Kept);
        let without = Space::new(&dir, Bounds { reserve_bytes: 0, ..bounds });
        assert!(!reserve.exists() && without.write_found_none().is_none());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_shortage_says_what_where_and_what_to_do() {
        let says = |shortage| Full { dir: "/data".into(), shortage }.to_string();
        for (shortage, expected) in [
            (Shortage::Bytes(1, 2), "/data has 1 bytes free, and needs 2;"),
            (Shortage::Inodes(1, 2), "/data has room for 1 more files, and needs room for 2;"),
            (Shortage::Refused, "a write to /data found no room;"),
        ] {
            let text = says(shortage);
            assert!(text.contains(expected) && text.contains("delete"), "{text}");
        }
    }
}
