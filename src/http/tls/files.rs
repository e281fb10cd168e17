//! Keys and certificates on the card: whole or not at all, also after a power cut, and for nobody else to read.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use crate::store::backup::sync_directory;

/// Bytes of a file that is read: chains are a few KiB.
pub(super) const FILE_BYTES_MAX: usize = 256 * 1024;

/// Makes a directory that only its owner enters; does nothing where it is.
pub(super) fn make_directory(path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
}

/// Writes a file of mode 0600 in the place of what is there.
pub(super) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    match fs::remove_file(&partial) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    written.and_then(|()| fs::rename(&partial, path)).inspect_err(|_| drop(fs::remove_file(&partial)))?;
    sync_directory(path.parent().unwrap_or(Path::new("")))
}

/// Reads a file of a sensible size; `None` if there is none. It may hold a key, so it is wiped when it goes.
pub(super) fn read(path: &Path) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let file = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    // With room for all of it from the start, no copy of a key is left behind by growing.
    let mut bytes = Zeroizing::new(Vec::with_capacity(FILE_BYTES_MAX + 1));
    let most = u64::try_from(FILE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    file.take(most).read_to_end(&mut bytes)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(Some(bytes))
}

/// Removes a file; does nothing where there is none.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Err(_) => Ok(()),
        Ok(()) => sync_directory(path.parent().unwrap_or(Path::new(""))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_replaced_whole_and_nobody_else_reads_them() {
        let dir = std::env::temp_dir().join(format!("picloud-files-{}", std::process::id()));
        make_directory(&dir).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let path = dir.join("a.pem");
        assert!(read(&path).unwrap().is_none());
        for text in ["first", "second"] {
            write(&path, text.as_bytes()).unwrap();
            assert_eq!(read(&path).unwrap().unwrap().as_slice(), text.as_bytes());
        }
        assert_eq!((mode(&dir), mode(&path)), (0o700, 0o600));
        fs::write(&path, vec![b'x'; FILE_BYTES_MAX + 1]).unwrap();
        read(&path).unwrap_err();
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 0, "nothing is left");
        fs::remove_dir(&dir).unwrap();
    }
}
