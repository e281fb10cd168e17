//! Files that are there as a whole or not at all, also after a power cut.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Error;

/// Most bytes of a file of ours that is read whole.
const FILE_BYTES_MAX: u64 = 1024 * 1024;

/// Writes a value as JSON, by way of another name. `mode` is that of chmod(2).
pub(super) fn write_json(path: &Path, value: &impl Serialize, mode: u32) -> Result<(), Error> {
    let mut text = serde_json::to_vec_pretty(value).map_err(|why| Error::io("write", path, why.into()))?;
    text.push(b'\n');
    write(path, &text, mode)
}

/// Writes bytes, by way of another name.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), Error> {
    let written = || {
        let partial = path.with_added_extension("partial");
        let mut file = create(&partial, mode)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&partial, path)?;
        sync_parent(path)
    };
    written().map_err(|why| Error::io("write", path, why))
}

/// A new file in the place of one that may be there; `mode` whatever the umask says.
pub(super) fn create(path: &Path, mode: u32) -> io::Result<File> {
    remove(path)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(mode))?;
    Ok(file)
}

/// Reads JSON; `None` if there is no file.
pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, Error> {
    let file = match open(path) {
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened.map_err(|why| Error::io("read", path, why))?,
    };
    let mut text = Vec::new();
    file.take(FILE_BYTES_MAX).read_to_end(&mut text).map_err(|why| Error::io("read", path, why))?;
    serde_json::from_slice(&text).map(Some).map_err(|why| Error::io("understand", path, why.into()))
}

/// Opens a file that somebody else may have put there: it must be one, and no link to another.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is no file")) }
}

/// Removes a file, if it is there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        _ => Ok(()),
    }
}

/// The same for a file that must not come back after a power cut.
pub(super) fn remove_for_good(path: &Path) -> Result<(), Error> {
    let gone = remove(path).and_then(|()| match path.parent() {
        Some(parent) if parent.exists() => sync_parent(path),
        _ => Ok(()),
    });
    gone.map_err(|why| Error::io("remove", path, why))
}

/// Makes a directory and those above it.
pub(super) fn make_directory(path: &Path, mode: u32) -> Result<PathBuf, Error> {
    let made = DirBuilder::new().recursive(true).mode(mode).create(path);
    made.map(|()| path.to_owned()).map_err(|why| Error::io("make", path, why))
}

/// Lets the owner of a directory have a file.
pub(super) fn give_to_owner_of(directory: &Path, file: &Path) -> Result<(), Error> {
    let given = || {
        let (theirs, own) = (fs::metadata(directory)?, fs::metadata(file)?);
        let same = (theirs.uid(), theirs.gid()) == (own.uid(), own.gid());
        if same { Ok(()) } else { chown(file, Some(theirs.uid()), Some(theirs.gid())) }
    };
    given().map_err(|why| Error::io("hand over", file, why))
}

/// Makes what was renamed survive a power cut.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Bytes that may still be written below a directory (statvfs(3), `f_bavail`).
pub(super) fn free_bytes(directory: &Path) -> Result<u64, Error> {
    let found = rustix::fs::statvfs(directory).map_err(|why| Error::io("look at", directory, why.into()))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}
