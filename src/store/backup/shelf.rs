//! The shelf: backups as files in a directory, how many of them stay, and copies on another medium.
//!
//! A file is on the shelf when it has its final name; it gets that when all of it is on the card. Files that are
//! not ours are left alone, in our directory and in that of the copies.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use uuid::Uuid;

use super::BackupError;
use super::format::{self, Manifest, Metered};
use super::make::{self, ExportError};
use super::space::{self, Roomy};
use crate::model::UnixMs;
use crate::store::{Sealer, Store};

const PREFIX: &str = "picloud-";
const SUFFIX: &str = ".picloud.zst";
const HASH_SUFFIX: &str = ".sha256";
const PARTIAL_SUFFIX: &str = ".partial";
/// What is assumed of a first backup.
const FIRST_BYTES: u64 = 1024 * 1024;

/// Where backups are and how many stay.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where they are; made if missing.
    pub directory: PathBuf,
    /// Where the store is: a copy must be on another file system.
    pub data_dir: PathBuf,
    /// So many stay.
    pub keep: usize,
    /// Bytes of them; over it the oldest goes. The newest always stays.
    pub bytes_max: u64,
    /// Bytes of the card that stay free.
    pub kept_free_bytes: u64,
    /// Where each is copied to, on a mounted medium.
    pub copy_to: Option<PathBuf>,
}

/// What became of a copy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Copied {
    /// The directory.
    pub path: String,
    /// Whether it is there.
    pub ok: bool,
    /// Why not.
    pub error: Option<String>,
}

/// A backup on the shelf.
#[derive(Clone, Debug, Serialize)]
pub struct Kept {
    /// What it says about itself.
    #[serde(flatten)]
    pub manifest: Manifest,
    /// The file's name.
    pub file: String,
    /// The file's bytes.
    pub bytes: u64,
    /// SHA-256 of the whole file, in hexadecimal, as of when it was made.
    pub sha256: Option<String>,
    /// Its copy, if one is wanted.
    pub copy: Option<Copied>,
}

/// A backup to be read.
#[derive(Debug)]
pub struct Download {
    /// What it is.
    pub kept: Kept,
    /// The file, at its beginning.
    pub file: File,
}

impl Download {
    /// Refuses it if it is not what was written.
    ///
    /// # Errors
    /// `Unsound`, or `Failed` if it cannot be read.
    pub fn check_hash(&mut self) -> Result<(), BackupError> {
        self.kept.sha256.as_deref().map_or(Ok(()), |wanted| check_hash(&mut self.file, wanted))
    }
}

/// A handle on the shelf, cheap to clone. Its calls block.
#[derive(Clone)]
pub struct Backups {
    shelf: Arc<Shelf>,
}

struct Shelf {
    settings: Settings,
    making: AtomicBool,
    exporting: AtomicBool,
    /// Why copies failed, by backup.
    copy_errors: Mutex<BTreeMap<Uuid, String>>,
}

/// Something that only one may do at a time.
struct Turn<'a>(&'a AtomicBool);

impl<'a> Turn<'a> {
    fn take(flag: &'a AtomicBool, what: &'static str) -> Result<Turn<'a>, BackupError> {
        if flag.swap(true, Relaxed) { Err(BackupError::Busy(what)) } else { Ok(Turn(flag)) }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        self.0.store(false, Relaxed);
    }
}

impl Backups {
    /// A shelf; nothing is touched yet.
    pub fn new(settings: Settings) -> Backups {
        let (making, exporting) = (AtomicBool::new(false), AtomicBool::new(false));
        Backups { shelf: Arc::new(Shelf { settings, making, exporting, copy_errors: Mutex::default() }) }
    }

    /// Makes a backup, copies it, and drops those that are too many. Returns once it is on the card. With a `sealer`,
    /// its key goes along: whoever has the file can open the secrets in it.
    ///
    /// # Errors
    /// `Busy` while another is made, `Full`, or what went wrong. A copy that fails is no error of the backup.
    pub fn make(&self, store: &Store, now: UnixMs, sealer: Option<&Sealer>) -> Result<Kept, BackupError> {
        let _turn = Turn::take(&self.shelf.making, "another backup")?;
        let Settings { directory, keep, bytes_max, kept_free_bytes, .. } = &self.shelf.settings;
        make_directory(directory)?;
        remove_leftovers(directory);
        let newest = files(directory).into_iter().next();
        let expected = newest.map_or(FIRST_BYTES, |newest| newest.bytes.saturating_add(newest.bytes / 4));
        space::require(directory, expected, *kept_free_bytes)?;
        let id = store.new_id();
        let kept = write(store, id, now, sealer, &self.shelf.settings)?;
        self.copy(&kept);
        retain(directory, *keep, *bytes_max, id);
        Ok(self.with_copy(kept))
    }

    /// The right to write a fresh backup somewhere else, without touching the card.
    ///
    /// # Errors
    /// `Busy` while another has it.
    pub fn export(&self) -> Result<Export, BackupError> {
        if self.shelf.exporting.swap(true, Relaxed) {
            return Err(BackupError::Busy("another export"));
        }
        Ok(Export { shelf: self.shelf.clone() })
    }

    /// All backups, newest first. Files that cannot be read as one are passed over.
    pub fn list(&self) -> Vec<Kept> {
        files(&self.shelf.settings.directory).into_iter().map(|kept| self.with_copy(kept)).collect()
    }

    /// One of them.
    ///
    /// # Errors
    /// `NotFound`.
    pub fn find(&self, id: Uuid) -> Result<Kept, BackupError> {
        let found = files(&self.shelf.settings.directory).into_iter().find(|kept| kept.manifest.id == id);
        found.map(|kept| self.with_copy(kept)).ok_or_else(|| BackupError::NotFound(id.to_string()))
    }

    /// Opens one of them.
    ///
    /// # Errors
    /// `NotFound`, or what went wrong.
    pub fn open(&self, id: Uuid) -> Result<Download, BackupError> {
        let kept = self.find(id)?;
        let path = self.shelf.settings.directory.join(&kept.file);
        let file = File::open(&path).map_err(|error| BackupError::io("read", &path, &error))?;
        Ok(Download { kept, file })
    }

    /// Removes one of them, but not its copy.
    ///
    /// # Errors
    /// `NotFound`, or what went wrong.
    pub fn remove(&self, id: Uuid) -> Result<(), BackupError> {
        let kept = self.find(id)?;
        let directory = &self.shelf.settings.directory;
        remove(directory, &kept.file).map_err(|error| BackupError::io("remove from", directory, &error))
    }

    /// Removes what an interrupted backup left.
    pub fn clean(&self) {
        remove_leftovers(&self.shelf.settings.directory);
    }

    /// Copies a backup to the other medium, if there should be one.
    fn copy(&self, kept: &Kept) {
        let Some(target) = &self.shelf.settings.copy_to else { return };
        let copied = self.copy_file(kept, target);
        let mut errors = self.shelf.copy_errors.lock().unwrap_or_else(PoisonError::into_inner);
        errors.clear();
        if let Err(error) = copied {
            tracing::warn!(backup = %kept.manifest.id, path = %target.display(), %error, "a backup was not copied");
            errors.insert(kept.manifest.id, error.to_string());
        }
    }

    fn copy_file(&self, kept: &Kept, target: &Path) -> Result<(), BackupError> {
        let Settings { directory, data_dir, keep, bytes_max, .. } = &self.shelf.settings;
        check_mounted(target, data_dir)?;
        // On a system that is read only that is all there is without a stick.
        make_directory(target).map_err(|error| {
            BackupError::Failed(format!("nothing that takes it is mounted at {}: {error}", target.display()))
        })?;
        remove_leftovers(target);
        // Room for the new one first; an older copy always stays until it is there.
        retain(target, keep.saturating_sub(1).max(1), bytes_max.saturating_sub(kept.bytes), kept.manifest.id);
        let (from, partial) = (directory.join(&kept.file), target.join(partial(&kept.file)));
        let copied = copy_bytes(&from, &partial);
        let copied = copied.map_err(|error| space::refusal("write to", target, &error)).and_then(|hash| {
            if kept.sha256.as_ref().is_some_and(|wanted| *wanted != hash) {
                return Err(BackupError::Failed("the copy differs from the backup".into()));
            }
            publish(target, &kept.file, &hash).map_err(|error| space::refusal("write to", target, &error))
        });
        if copied.is_err() {
            let _ = fs::remove_file(&partial);
        }
        copied?;
        retain(target, *keep, *bytes_max, kept.manifest.id);
        Ok(())
    }

    fn with_copy(&self, mut kept: Kept) -> Kept {
        kept.copy = self.shelf.settings.copy_to.as_ref().map(|target| {
            let there = fs::metadata(target.join(&kept.file)).is_ok_and(|found| found.len() == kept.bytes);
            let errors = self.shelf.copy_errors.lock().unwrap_or_else(PoisonError::into_inner);
            let error = errors.get(&kept.manifest.id).cloned();
            let error = (!there).then(|| error.unwrap_or_else(|| "it is not there".to_owned()));
            Copied { path: target.display().to_string(), ok: there, error }
        });
        kept
    }
}

/// The right to export, given back when it goes.
pub struct Export {
    shelf: Arc<Shelf>,
}

impl Export {
    /// What a file of this backup is called.
    pub fn file_name(&self, id: Uuid, now: UnixMs) -> String {
        file_name(id, now)
    }

    /// Writes a backup into `out`, with the key of `sealer` if there is one. Blocks.
    ///
    /// # Errors
    /// If the store or `out` fails; what was written by then is no backup.
    pub fn run(
        &self,
        store: &Store,
        id: Uuid,
        now: UnixMs,
        sealer: Option<&Sealer>,
        out: impl Write,
    ) -> Result<Manifest, ExportError> {
        make::export(store, id, now, sealer, out).map(|(_, manifest)| manifest)
    }
}

impl Drop for Export {
    fn drop(&mut self) {
        self.shelf.exporting.store(false, Relaxed);
    }
}

/// The name says when it was made, to the second, and has the end of the id.
fn file_name(id: Uuid, now: UnixMs) -> String {
    let id = id.simple().to_string();
    let when: String =
        now.to_string().chars().take(19).filter(|letter| letter.is_ascii_alphanumeric()).collect();
    format!("{PREFIX}{when}Z-{}{SUFFIX}", &id[24..])
}

fn partial(name: &str) -> String {
    format!("{name}{PARTIAL_SUFFIX}")
}

fn hash_name(name: &str) -> String {
    format!("{name}{HASH_SUFFIX}")
}

fn make_directory(path: &Path) -> Result<(), BackupError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|error| BackupError::io("make", path, &error))
}

fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes a backup of `store` and puts it on the shelf.
fn write(
    store: &Store,
    id: Uuid,
    now: UnixMs,
    sealer: Option<&Sealer>,
    settings: &Settings,
) -> Result<Kept, BackupError> {
    let (directory, name) = (&settings.directory, file_name(id, now));
    let path = directory.join(partial(&name));
    let refused = |error: io::Error| space::refusal("write to", directory, &error);
    let written = create(&path).map_err(refused).and_then(|file| {
        let out = Roomy::new(Metered::new(file), directory, settings.kept_free_bytes);
        let (out, manifest) = make::export(store, id, now, sealer, out).map_err(|error| match error {
            ExportError::Out(error) => refused(error),
            error @ ExportError::Store(_) => error.into(),
        })?;
        let (file, sha256, bytes) = out.into_inner().finish();
        file.sync_all().and_then(|()| publish(directory, &name, &sha256)).map_err(refused)?;
        Ok(Kept { manifest, file: name, bytes, sha256: Some(sha256), copy: None })
    });
    if written.is_err() {
        // It may not even have been made.
        let _ = fs::remove_file(&path);
    }
    written
}

/// Gives a finished file its name. Its hash comes first: a backup on the shelf always has one.
fn publish(directory: &Path, name: &str, sha256: &str) -> io::Result<()> {
    let mut hash = create(&directory.join(hash_name(name)))?;
    // As sha256sum(1) writes it for a binary file.
    writeln!(hash, "{sha256} *{name}")?;
    hash.sync_all()?;
    fs::rename(directory.join(partial(name)), directory.join(name))?;
    sync_directory(directory)
}

/// Makes what was renamed in a directory survive a power cut.
pub(crate) fn sync_directory(directory: &Path) -> io::Result<()> {
    // A bare file name has an empty parent.
    let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
    match File::open(directory)?.sync_all() {
        // Some file systems of sticks cannot: their renames are as safe as they get.
        Err(error) if [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported].contains(&error.kind()) => {
            Ok(())
        }
        synced => synced,
    }
}

/// Copies a file and gives the hash of what was written.
fn copy_bytes(from: &Path, to: &Path) -> io::Result<String> {
    let mut out = Metered::new(create(to)?);
    io::copy(&mut File::open(from)?, &mut out)?;
    let (file, hash, _) = out.finish();
    file.sync_all()?;
    Ok(hash)
}

/// Refuses a place that is on the card itself: a stick that is not there would otherwise fill it.
fn check_mounted(target: &Path, data_dir: &Path) -> Result<(), BackupError> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev());
    let there = target.ancestors().find_map(|path| device(path).ok());
    let own = device(data_dir).map_err(|error| BackupError::io("look at", data_dir, &error))?;
    match there {
        Some(there) if there != own => Ok(()),
        _ => Err(BackupError::Failed(format!(
            "nothing is mounted at {}: it would be on the card itself",
            target.display()
        ))),
    }
}

/// The backups in a directory, newest first.
fn files(directory: &Path) -> Vec<Kept> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    let mut found: Vec<Kept> = entries.flatten().filter_map(|entry| read(&entry.path())).collect();
    found.sort_by_key(|kept| std::cmp::Reverse(kept.manifest.id));
    found
}

fn read(path: &Path) -> Option<Kept> {
    let name = path.file_name()?.to_str().filter(|name| is_ours(name, SUFFIX))?;
    let mut file = File::open(path).ok()?;
    let (manifest, bytes) = (format::manifest(&mut file).ok()?, file.metadata().ok()?.len());
    let sha256 = read_hash(&path.with_file_name(hash_name(name)));
    Some(Kept { manifest, file: name.to_owned(), bytes, sha256, copy: None })
}

/// Refuses a file that is not the one whose hash stands beside it; without one, any is taken.
///
/// # Errors
/// `Unsound`, or `Failed` if it cannot be read.
pub fn check_hash_beside(path: &Path, file: &mut File) -> Result<(), BackupError> {
    let name = path.file_name().and_then(OsStr::to_str).unwrap_or_default();
    match read_hash(&path.with_file_name(hash_name(name))) {
        Some(wanted) => check_hash(file, &wanted),
        None => Ok(()),
    }
}

fn check_hash(file: &mut File, wanted: &str) -> Result<(), BackupError> {
    if format::sha256(file)? == wanted {
        return Ok(());
    }
    let why = "the file is damaged: its sha256 is not the one that was written beside it";
    Err(BackupError::Unsound(why.into()))
}

fn read_hash(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(1024).read_to_string(&mut text).ok()?;
    let hash = text.split_whitespace().next()?;
    let is_hash = hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit());
    is_hash.then(|| hash.to_ascii_lowercase())
}

fn is_ours(name: &str, suffix: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(suffix)
}

fn remove(directory: &Path, name: &str) -> io::Result<()> {
    fs::remove_file(directory.join(name))?;
    match fs::remove_file(directory.join(hash_name(name))) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => sync_directory(directory),
    }
}

/// Removes the oldest backups that are too many; never the newest, and never the one that was just made, even if
/// the clock has gone back.
fn retain(directory: &Path, keep: usize, bytes_max: u64, made: Uuid) {
    let mut bytes = 0_u64;
    for (index, kept) in files(directory).into_iter().enumerate() {
        bytes = bytes.saturating_add(kept.bytes);
        let stays = index == 0 || kept.manifest.id == made || (index < keep && bytes <= bytes_max);
        if stays {
            continue;
        }
        match remove(directory, &kept.file) {
            Ok(()) => {
                tracing::info!(backup = %kept.manifest.id, file = kept.file, "an old backup was removed")
            }
            Err(error) => tracing::warn!(%error, file = kept.file, "an old backup cannot be removed"),
        }
    }
}

/// Removes what interrupted backups left: parts, and hashes of what never got its name.
fn remove_leftovers(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path = entry.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str) else { continue };
        let orphan = name.strip_suffix(HASH_SUFFIX).is_some_and(|file| !directory.join(file).exists());
        if is_ours(name, &partial(SUFFIX)) || (is_ours(name, &hash_name(SUFFIX)) && orphan) {
            // If it cannot be removed now, the next backup tries again.
            let _ = fs::remove_file(&path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_when_and_which() {
        let id = Uuid::from_u128(0x0192_e4a0_7e5b_7000_8000_0000_1234_abcd);
        let name = file_name(id, UnixMs(1_767_225_600_123));
        assert_eq!(name, "picloud-20260101T000000Z-1234abcd.picloud.zst");
        assert!(is_ours(&name, SUFFIX) && !is_ours("picture.picloud.zst", SUFFIX));
    }

    #[test]
    fn a_place_that_is_not_there_is_on_the_device_of_what_is_above_it() {
        let here = std::env::temp_dir();
        assert!(check_mounted(&here.join("no/such/place"), &here).is_err());
        assert!(check_mounted(Path::new("/proc/no"), &here).is_ok());
    }
}
