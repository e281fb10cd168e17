//! Files that are there whole or not at all.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, symlink};
use std::path::Path;

/// Writes a file whole: under another name, down to the card, and then in the place of the old one. What has not changed
/// is not written, because a card wears.
pub(super) fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    write_as(path, bytes, Some(mode))
}

/// The same on a file system that knows no rights, which refuses to be told some.
pub(super) fn write_on_fat(path: &Path, bytes: &[u8]) -> io::Result<()> {
    write_as(path, bytes, None)
}

fn write_as(path: &Path, bytes: &[u8], mode: Option<u32>) -> io::Result<()> {
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if read(path, length).is_ok_and(|stands| stands == bytes) {
        return mode.map_or(Ok(()), |mode| fs::set_permissions(path, Permissions::from_mode(mode)));
    }
    let new = beside(path, ".new");
    // What a power cut left may belong to somebody else or be a link.
    remove(&new)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode.unwrap_or(0o600)).open(&new)?;
    file.write_all(bytes)?;
    // The mask of the process may have taken rights away.
    mode.map_or(Ok(()), |mode| file.set_permissions(Permissions::from_mode(mode)))?;
    file.sync_all()?;
    rename(&new, path)
}

/// Renames a file down to the card.
pub(super) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_parent(to)
}

/// Makes a symbolic link in the place of what is there.
pub(super) fn link(target: &str, path: &Path) -> io::Result<()> {
    if fs::read_link(path).is_ok_and(|stands| stands == Path::new(target)) {
        return Ok(());
    }
    let new = beside(path, ".new");
    remove(&new)?;
    symlink(target, &new)?;
    fs::rename(&new, path)
}

/// Reads a file of at most so many bytes; a larger one is an error.
pub(super) fn read(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(most.saturating_add(1)).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > most) {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => Err(why),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a directory with its parents, and gives it these rights.
pub(super) fn directory(path: &Path, mode: u32) -> io::Result<()> {
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// Overwrites a file and removes it, so that nothing finds again what was in it by looking at free blocks. A card may
/// still keep old copies.
pub(super) fn wipe(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).open(path) {
        Ok(file) => file,
        Err(why) if why.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(why) => return Err(why),
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or_default();
    file.write_all(&vec![b' '; length])?;
    file.sync_all()?;
    drop(file);
    fs::remove_file(path)?;
    sync_parent(path)
}

fn beside(path: &Path, ending: &str) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}
